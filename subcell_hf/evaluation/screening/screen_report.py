"""The files of a screen: tables, numbers and a page."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from subcell_hf.errors import counted
from subcell_hf.evaluation.screening.screen import ScreenResult
from subcell_hf.evaluation.screening.screen_pictures import (
    CurvePicture,
    curve_sizes,
    draw_cells,
    draw_curve,
    draw_locations,
    draw_plates,
)
from subcell_hf.evaluation.screening.screen_text import methods_text, warnings_of
from subcell_hf.pages.rendering import render_page
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.parquet_files import WRITING
from subcell_hf.tables.cell_pictures import CellPicture

HITS_FILE, WELLS_FILE, RESULTS_FILE, PAGE_FILE = "hits.csv", "wells.csv", "results.json", "screen.html"
PROFILES_FILE = "profiles.parquet"

_TEMPLATES = Path(__file__).parents[1] / "templates"
_MOST_CURVES = 60
_SHOWN = {
    "treatment": "treatment",
    "q_value": "q",
    "effect": "effect (95 % interval)",
    "ec50": "EC50 (95 % interval)",
    "replicate_similarity": "replicates",
    "count_ratio": "cells",
    "q_count": "q of cells",
    "q_energy": "q of energy distance",
}


Pictures = Mapping[tuple[str, str], Sequence[CellPicture]]
"""Plate and well → pictures of its cells."""


def write_screen_report(
    result: ScreenResult, folder: Path, notes: Sequence[str] = (), pictures: Pictures | None = None
) -> dict[str, Any]:
    """Write tables, numbers and page; the same result gives the same bytes.

    Args:
        result: Of `evaluate_screen`.
        folder: Folder to write; files of an earlier call are replaced.
        notes: Further sentences for the page, such as what plate maps lack.
        pictures: Pictures of cells for the page; see `read_well_pictures`.

    Returns:
        Content of `results.json`, which is written last.
    """
    tables = {"hits": result.hits, "wells": result.wells, "plates": result.plates}
    optional = {
        "locations": pd.DataFrame() if result.locations is None else result.locations.table,
        "mechanisms": result.mechanisms,
        "batch_correction": pd.DataFrame() if result.batches is None else result.batches.scores,
    }
    for name, table in optional.items():
        if len(table):
            tables[name] = table
        else:
            (folder / f"{name}.csv").unlink(missing_ok=True)
            (folder / f"{name}.parquet").unlink(missing_ok=True)
    for name, table in tables.items():
        _write(folder / f"{name}.csv", _csv(table).encode())
        _write_parquet(folder / f"{name}.parquet", table)
    _write_parquet(folder / PROFILES_FILE, _profiles(result))
    warnings = [*notes, *warnings_of(result)]
    results = {
        **result.summary,
        "positions": [vars(test) for test in result.positions],
        "positions_corrected": [vars(test) for test in result.corrected_positions],
        "batch_correction": None if result.batches is None else result.batches.sentence,
        "plates_to_repeat": {row.plate: row.repeat for row in result.plates.itertuples() if row.repeat},
        "warnings": warnings,
        "methods": methods_text(result),
    }
    _write(folder / PAGE_FILE, _page(result, results, tables, pictures or {}).encode())
    text = json.dumps(_plain(results), indent=1, ensure_ascii=False, allow_nan=False)
    _write(folder / RESULTS_FILE, (text + "\n").encode())
    return results


def _page(result: ScreenResult, results: dict[str, Any], tables: dict[str, pd.DataFrame], pictures: Pictures) -> str:
    """The page."""
    hits = result.hits
    active = hits[hits["active"]]
    notes = {row.plate: f"repeat: {row.repeat}" for row in result.plates.itertuples() if row.repeat}
    plates, scales = draw_plates(result.wells, notes)
    curves = [
        draw_curve(row["treatment"], result.points[row["treatment"]], result.curves.get(row["treatment"]), _ec50(row))
        for row in active.to_dict("records")
        if row["treatment"] in result.points
    ]
    columns = {name: title for name, title in _SHOWN.items() if name in hits.columns and hits[name].notna().any()}
    nearest = [row for row in result.mechanisms.to_dict("records") if row["rank"] == 1]
    return render_page(
        _TEMPLATES,
        "screen.html.j2",
        results=results,
        columns=columns,
        active=[_cells(row, columns) for row in active.to_dict("records")],
        explained=[_cells(row, columns) for row in hits[hits["explained_by_count"] == 1].to_dict("records")],
        others=[_cells(row, columns) for row in _others(hits).to_dict("records")],
        curves=curves[:_MOST_CURVES],
        more_curves=max(0, len(curves) - _MOST_CURVES),
        cells=draw_cells(hits, result.wells, pictures),
        locations=[] if result.locations is None else draw_locations(result.locations.table)[:_MOST_CURVES],
        location_curves=_location_curves(result)[:_MOST_CURVES],
        sizes=curve_sizes(),
        plates=plates,
        scales=scales,
        quality=[{k: _short(v) for k, v in row.items()} for row in result.plates.to_dict("records")],
        batches=[] if result.batches is None else _batch_rows(result.batches.scores),
        mechanisms=nearest,
        files={name: sorted(_endings(name)) for name in tables},
        hits_csv=_csv(hits).encode(),
    )


def _location_curves(result: ScreenResult) -> list[CurvePicture]:
    """Dose responses of the probability of locations, the largest changes of each treatment first."""
    if result.locations is None:
        return []
    curves, points = result.locations.curves, result.locations.points
    return [
        draw_curve(f"{row['treatment']}: {row['location']}", points[key], curves[key], _ec50(row))
        for row in result.locations.table.to_dict("records")
        if (key := (row["treatment"], row["location"])) in curves
    ]


def _others(hits: pd.DataFrame) -> pd.DataFrame:
    return hits[~hits["active"] & (hits["explained_by_count"] != 1)]


def _endings(name: str) -> list[str]:
    return [f"{name}.csv", f"{name}.parquet"]


def _batch_rows(scores: pd.DataFrame) -> list[dict[str, str]]:
    return [{name: _short(value) for name, value in row.items()} for row in scores.to_dict("records")]


def _cells(row: dict[str, Any], columns: dict[str, str]) -> list[str]:
    """Texts of a row of the table of hits."""
    cells = []
    for name in columns:
        if name == "effect":
            cells.append(_interval(row["effect"], row["effect_low"], row["effect_high"]))
        elif name == "ec50":
            cells.append(_interval(row["ec50"], row["ec50_low"], row["ec50_high"]))
        else:
            cells.append(_short(row[name]))
    return cells


def _ec50(row: dict[str, Any]) -> str:
    if math.isnan(row["ec50"]):
        return "EC50 not identified"
    return f"EC50 {_interval(row['ec50'], row['ec50_low'], row['ec50_high'])}"


def _interval(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.3g}" if math.isnan(low) else f"{value:.3g} ({low:.2g} to {high:.2g})"


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "–"
    return f"{value:.2g}" if abs(value) < 0.1 else f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def _profiles(result: ScreenResult) -> pd.DataFrame:
    """The compared profiles as pycytominer writes them."""
    processed = result.processed
    metadata = pd.DataFrame(
        {
            "Metadata_Plate": result.wells["plate"],
            "Metadata_Well": result.wells["well"],
            "Metadata_treatment": result.wells["treatment"],
            "Metadata_dose": result.wells["dose"],
            "Metadata_role": result.wells["role"],
        }
    )
    return pd.concat([metadata, pd.DataFrame(processed.features, columns=list(processed.names))], axis=1)


def _csv(table: pd.DataFrame) -> str:
    text = io.StringIO()
    table.to_csv(text, index=False, float_format="%.10g", lineterminator="\n")
    return text.getvalue()


def _write(path: Path, content: bytes) -> None:
    with write_atomically(path) as file:
        file.write(content)


def _write_parquet(path: Path, table: pd.DataFrame) -> None:
    with write_atomically(path) as file:
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), file, **WRITING)


def _plain(value: Any) -> Any:
    """Data that JSON holds; numbers that do not exist are null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def describe_hits(result: ScreenResult) -> str:
    """The outcome in one sentence."""
    hits, treatments = result.summary["hits"], counted(result.summary["treatments"], "treatment")
    rate = f"{result.summary['level']:.0%}"
    said = f"{hits} of {treatments} are active (false discovery rate {rate})"
    explained = result.summary["explained_by_count"]
    return f"{said}; {explained} more differ as the number of cells explains." if explained else f"{said}."
