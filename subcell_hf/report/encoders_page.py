"""The encoders of a run side by side, as one page: maps and most similar cells, scale and scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.pages.rendering import render_page
from subcell_hf.report import summaries
from subcell_hf.report.columns import page_columns
from subcell_hf.report.picture_sheets import PictureSheets, pack_pictures, read_pictures
from subcell_hf.report.projection import comparable_embeddings, project_cells
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.foreign_tables import read_foreign_table
from subcell_hf.tables.cell_pictures import CellPicture
from subcell_hf.tables.embedding_table import CELL_ID, FIELD_OF_VIEW, check_cells
from subcell_hf.tables.nearest_rows import find_nearest_rows
from subcell_hf.tables.right_use import uses_of
from subcell_hf.tables.run_record import encoder_folders, orientations_of, read_run
from subcell_hf.tables.search.stored_cells import SearchedCells, open_table, read_embeddings

ENCODERS_PAGE = "index.html"
COMPARISON_FOLDER = "comparison"
"""In the folder of the runs: where the scores of the page are read from, if they are there."""

NEIGHBOURS = 6
MAX_CELLS = 1000
"""Cells on the maps of the page, at most; neighbours are found among them."""

_MAX_PICTURE_BYTES = 9_000_000
_QUERIES = 12
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class _EncoderView:
    """What one encoder makes of the cells of the page.

    Attributes:
        name: Of the encoder.
        width: Numbers per cell.
        standardized: Whether the numbers were standardized before they were compared.
        run: Content of its `run.json`.
        positions: `[cells, 2]` on its map.
        method: Of the map, in words.
        neighbours: `[cells, k]` numbers of the most similar cells, in order.
        cells: Metadata of the cells.
    """

    name: str
    width: int
    standardized: bool
    run: Mapping[str, Any]
    positions: npt.NDArray[np.float32]
    method: str
    neighbours: npt.NDArray[np.int64]
    cells: pd.DataFrame

    def facts(self) -> dict[str, Any]:
        """What the table of the page says of the encoder."""
        models = self.run.get("models") or [{}]
        source = models[0].get("encoder") or self.run.get("input", {}).get("model") or ""
        orientations = orientations_of(self.run)
        return {
            "name": self.name,
            "width": self.width,
            "source": source if orientations == 1 else f"{source} (mean of {orientations} orientations)",
            "licence": models[0].get("licence") or "",
            "channels": ", ".join(dict.fromkeys(name for model in models for name in model.get("channels", ()))),
            "deviations": [sentence for use in uses_of(self.run) for sentence in use.deviations()],
        }


def write_encoders_page(
    output_folder: Path | str, *, title: str | None = None, max_cells: int = MAX_CELLS, seed: int = 0
) -> Path:
    """Write `index.html` into the folder of a run of several encoders.

    Cells are compared as in the report of each encoder, see `comparable_embeddings`. Of each table only ids and what
    belongs to the cells of the page are held.

    Args:
        output_folder: Holds `encoders.json`, and a folder for each encoder.
        title: Headline; default: the folder's name.
        max_cells: Cells on the maps, at most; those with a picture come first.
        seed: Of the choice of cells and of the maps.

    Returns:
        Path of the page.

    Raises:
        InputError: If the folder holds no encoders, or they have no cell in common.
    """
    folder = Path(output_folder)
    folders = encoder_folders(folder)
    if not folders:
        raise InputError(f"{folder} holds no encoders. Give the output folder of `subcell embed` with several --model.")
    tables = {name: open_table(own) for name, own in folders.items()}
    ids = _shared_cells(tables)
    if not len(ids):
        raise InputError(f"The encoders in {folder} have no cell in common. See skipped.csv of each.")
    pictures: dict[str, CellPicture] = next(filter(None, (read_pictures(own, ids) for own in folders.values())), {})
    order = np.random.default_rng(seed).permutation(len(ids))
    without = ~ids.isin(list(pictures))
    order = order[np.argsort(without[order], kind="stable")]
    shown = [str(cell_id) for cell_id in ids[order[: max(max_cells, 1)]]]
    sheets = pack_pictures(pictures, [cell_id for cell_id in shown if cell_id in pictures], _MAX_PICTURE_BYTES)
    shown = sheets.cell_ids or shown  # a cell without a picture says little here
    views = [_view(name, tables[name], read_run(own), shown, seed) for name, own in folders.items()]
    page = render_page(
        _TEMPLATES,
        "encoders.html.j2",
        title=title or folder.resolve().name,
        encoders=[view.facts() for view in views],
        cells=len(ids),
        shown=len(shown),
        neighbours=views[0].neighbours.shape[1],
        methods=list(dict.fromkeys(view.method for view in views)),
        standardized=[view.name for view in views if view.standardized],
        agreement=[[_agreement(one, other) for other in views] for one in views],
        uses=[use for view in views for use in uses_of(view.run)],
        scores=_scores(folder / COMPARISON_FOLDER),
        stains=summaries.stains_of(views[0].run),
        queries=min(_QUERIES, len(shown)),
        data=_page_data(views, sheets, shown),
    )
    path = folder / ENCODERS_PAGE
    with write_atomically(path) as file:
        file.write(page.encode())
    return path


def _shared_cells(tables: Mapping[str, SearchedCells]) -> pd.Index:
    """Cells that every encoder has embedded, in the order of the first."""
    each = map(_ids_of, tables.values())
    shared = next(each)
    for ids in each:
        shared = shared[shared.isin(ids)]
    return shared


def _ids_of(table: SearchedCells) -> pd.Index:
    cells = table.cells((CELL_ID, FIELD_OF_VIEW))
    check_cells(cells, table.name)
    return pd.Index(cells[CELL_ID])


def _view(name: str, table: SearchedCells, run: Mapping[str, Any], shown: Sequence[str], seed: int) -> _EncoderView:
    """Read of one encoder's table what the page shows."""
    rows = _ids_of(table).get_indexer(pd.Index(shown))
    values, standardized = comparable_embeddings(read_embeddings(table, rows), table.provenance)
    on_map = project_cells(values, seed)
    count = min(NEIGHBOURS, len(shown) - 1)
    nearest = np.zeros((len(shown), 0), np.int64)
    if count > 0:
        nearest = find_nearest_rows(values, count + 1, "cosine")[0][:, 1:]
    cells = table.cells(rows=rows.tolist())
    return _EncoderView(name, table.width, standardized, run, on_map.positions, on_map.method, nearest, cells)


def _agreement(one: _EncoderView, other: _EncoderView) -> float:
    """Mean share of the neighbours of a cell that are its neighbours for the other encoder, too."""
    pairs = zip(one.neighbours, other.neighbours, strict=True)
    shares = [len(np.intersect1d(mine, theirs)) / len(mine) for mine, theirs in pairs if len(mine)]
    return float(np.mean(shares)) if shares else float("nan")


def _scores(folder: Path) -> list[list[str]]:
    """The table of a comparison, its heading first; empty where there is none."""
    path = folder / "table.csv"
    if not path.is_file():
        return []
    table = read_foreign_table(path)
    columns = list(table.columns)
    return [columns, *map(list, zip(*(table.text(column) for column in columns), strict=True))]


def _page_data(views: Sequence[_EncoderView], sheets: PictureSheets, shown: Sequence[str]) -> dict[str, Any]:
    """What the script of the page knows of the cells; locations are those of the first encoder that predicts some."""
    cells = next((view.cells for view in views if "top_location_1" in view.cells.columns), views[0].cells)
    tile = {cell_id: number for number, cell_id in enumerate(sheets.cell_ids)}
    return {
        "ids": list(map(str, shown)),
        "columns": page_columns(cells),
        "tiles": [tile.get(cell_id, -1) for cell_id in shown],
        "pictures": sheets.as_json(),
        "encoders": [
            {
                "name": view.name,
                "x": np.round(view.positions[:, 0] * 10_000).astype(int).tolist(),
                "y": np.round(view.positions[:, 1] * 10_000).astype(int).tolist(),
                "neighbours": view.neighbours.tolist(),
            }
            for view in views
        ],
    }
