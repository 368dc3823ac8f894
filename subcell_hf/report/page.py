"""A run as one page that a browser shows without a network: counts, cells, locations, a map, quality, run facts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.pages.rendering import render_page
from subcell_hf.report import summaries
from subcell_hf.report.columns import number_text, page_columns
from subcell_hf.report.novelty import summarize_novelty
from subcell_hf.report.picture_sheets import PictureSheets, pack_pictures, read_pictures
from subcell_hf.report.projection import comparable_embeddings, project_cells
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.tables.cell_pictures import CellPicture
from subcell_hf.tables.embedding_table import check_cells
from subcell_hf.tables.right_use import uses_of
from subcell_hf.tables.run_record import encoder_folders, read_run
from subcell_hf.tables.search.exact import NearestCells, directions_of
from subcell_hf.tables.search.stored_cells import SearchedCells, open_table, read_embeddings

REPORT_FILE = "report.html"
MAX_CELLS = 20_000
"""Maximum number of cells on the map and in the table of the page; counts include all cells."""

_MAX_PICTURE_BYTES = 9_000_000
_MAX_DATA_BYTES = 4_500_000
_FEWEST_CELLS = 500
_SIMILAR_CELLS = 6
_TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    output_folder: Path | str,
    *,
    title: str | None = None,
    max_cells: int = MAX_CELLS,
    seed: int = 0,
    output: Path | None = None,
) -> Path:
    """Write `report.html` into a folder that `subcell embed` wrote.

    The page holds everything it needs, allows itself no network, and stays below 15 MB: a table of more than
    `max_cells` cells is shown by those that have a picture and others drawn at random, which the page says. Of such a
    table only the embeddings of these cells are held.

    Args:
        output_folder: Holds `embeddings.parquet`, and maybe `pictures.parquet`, `run.json` and `skipped.csv`.
        title: Headline; default: the folder's name.
        max_cells: Cells on the map and in the table, at most.
        seed: Of the choice of cells and of the map; same seed, same page.
        output: File to write; default: `report.html` in the folder.

    Returns:
        Path of the page.

    Raises:
        InputError: If there is no table, or one without cells, or a file is damaged.
    """
    folder = Path(output_folder)
    if folder.is_file():
        raise InputError(f"{folder} is a file, expected the folder that contains it. Give {folder.parent}.")
    table = open_table(folder)
    if not table.count:
        raise InputError(f"{folder} contains a table without cells. See its skipped.csv.")
    cells = table.cells()
    check_cells(cells, table.name)
    pictures = read_pictures(folder, set(cells["cell_id"]))
    montage = summaries.choose_montage(cells, set(pictures))
    sheets = pack_pictures(pictures, _picture_order(pictures, montage, seed), _MAX_PICTURE_BYTES)
    rows, data = _page_cells(cells, sheets, max_cells, seed)
    embeddings, standardized = comparable_embeddings(read_embeddings(table, rows), table.provenance)
    cell_map = project_cells(embeddings, seed)
    data["x"], data["y"] = (np.round(axis * 10_000).astype(int).tolist() for axis in cell_map.positions.T)
    data["pictures"] = sheets.as_json()
    data["similar"] = _similar_cells(embeddings, np.flatnonzero(np.array(data["tiles"]) >= 0))
    place = {cell_id: n for n, (cell_id, tile) in enumerate(zip(data["ids"], data["tiles"], strict=True)) if tile >= 0}
    for row in montage:
        row["numbers"] = [place[cell_id] for cell_id in row.pop("cell_ids") if cell_id in place]
    page = render_page(
        _TEMPLATES,
        "report.html.j2",
        **_facts_of_run(folder, table, cells),
        title=title or folder.resolve().name,
        montage=[row for row in montage if row["numbers"]],
        strip=_strip(montage),
        map_method=cell_map.method,
        standardized=standardized,
        shown=len(rows),
        pictured=len(sheets.cell_ids),
        heads=sheets.heads if any(sheets.attention) else 0,
        outlined=any(sheets.outlines),
        data=data,
        number_text=number_text,
    )
    path = output or folder / REPORT_FILE
    with write_atomically(path) as file:
        file.write(page.encode())
    return path


def _facts_of_run(folder: Path, table: SearchedCells, cells: pd.DataFrame) -> dict[str, Any]:
    """What the page says of all cells, of what was skipped, and of how the table was made."""
    run = read_run(folder)
    skipped_header, skipped_rows = summaries.read_skipped(folder)
    return {
        "cells": table.count,
        "counts": summaries.count_cells(cells),
        "bars": summaries.count_locations(cells),
        "agreement": summaries.agreement_with_known(cells),
        "histograms": summaries.histograms(cells),
        "novelty": summarize_novelty(cells, summaries.novelty_calibration(table.provenance)),
        "stains": summaries.stains_of(run),
        "width": table.width,
        "classes": len(table.classes),
        "skipped_header": skipped_header,
        "skipped_rows": skipped_rows[: summaries.MAX_SKIPPED_ROWS],
        "skipped_count": len(skipped_rows),
        "uses": uses_of(run),
        "siblings": _siblings(folder),
        "run_groups": summaries.run_facts(run, table.provenance),
        "command": summaries.command_of(run),
    }


def _siblings(folder: Path) -> dict[str, str]:
    """Name of each encoder of the same run of several → address of its report, relative to this one; empty for this."""
    here = folder.resolve()
    runs = encoder_folders(here.parent)
    if here not in runs.values():
        return {}
    return {name: "" if own == here else f"../{name}/{REPORT_FILE}" for name, own in runs.items()}


def _picture_order(pictures: Mapping[str, CellPicture], montage: list[dict[str, Any]], seed: int) -> list[str]:
    """Cells of the montage first, the others at random, so that none is preferred where room runs out."""
    first = [cell_id for row in montage for cell_id in row["cell_ids"]]
    others = sorted(set(pictures) - set(first))
    return first + [others[i] for i in np.random.default_rng(seed).permutation(len(others))]


def _page_cells(
    every: pd.DataFrame, sheets: PictureSheets, max_cells: int, seed: int
) -> tuple[npt.NDArray[np.int64], dict[str, Any]]:
    """Rows of the cells to show, and what the page knows of them; fewer where names are so long that it would swell."""
    while True:
        rows = _choose_rows(every, sheets.cell_ids, max_cells, seed)
        cells = every.iloc[rows].reset_index(drop=True)
        tile = {cell_id: number for number, cell_id in enumerate(sheets.cell_ids)}
        data = {
            "ids": [str(cell_id) for cell_id in cells["cell_id"]],
            "columns": page_columns(cells),
            "tiles": [tile.get(cell_id, -1) for cell_id in cells["cell_id"]],
        }
        if len(json.dumps(data)) <= _MAX_DATA_BYTES or len(rows) <= _FEWEST_CELLS:
            return rows, data
        max_cells = len(rows) // 2


def _choose_rows(cells: pd.DataFrame, pictured: list[str], max_cells: int, seed: int) -> npt.NDArray[np.int64]:
    """All rows, or those with a picture and others drawn at random, in the table's order."""
    if len(cells) <= max_cells:
        return np.arange(len(cells))
    without = ~cells["cell_id"].isin(pictured).to_numpy()
    shuffled = np.random.default_rng(seed).permutation(len(cells))
    first = shuffled[np.argsort(without[shuffled], kind="stable")]
    return np.sort(first[:max_cells])


def _similar_cells(embeddings: npt.NDArray[np.float32], pictured: npt.NDArray[np.int64]) -> list[list[int]]:
    """For each cell the most similar others that have a picture, by the cosine of their embeddings."""
    directions = directions_of(embeddings)
    similar: list[list[int]] = []
    for start in range(0, len(directions), 4096):
        nearest = NearestCells(directions[start : start + 4096], _SIMILAR_CELLS + 1)
        nearest.add(0, directions[pictured])
        found = pictured[nearest.rows]  # [cells, similar cells], maybe with the cell itself
        similar += [
            [int(n) for n in near if n != cell][:_SIMILAR_CELLS] for cell, near in enumerate(found, start=start)
        ]
    return similar


def _strip(montage: list[dict[str, Any]]) -> list[int]:
    """Cells for the head of the page: first the first of every row, then the second of every row, and so on."""
    rounds = max((len(row["numbers"]) for row in montage), default=0)
    numbers = [row["numbers"][turn] for turn in range(rounds) for row in montage if turn < len(row["numbers"])]
    return numbers[:24]
