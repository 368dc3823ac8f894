"""What the page says of the whole run: counts, locations, montage, quality, run facts, skipped inputs."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subcell_hf.ontology import CHANNEL_DISPLAY_RGB, CHANNEL_STAINS, location_colours
from subcell_hf.report.columns import label_of
from subcell_hf.storage.input_lists import SKIPPED_FILE

MONTAGE_CELLS = 12
MONTAGE_ROWS = 31
MAX_SKIPPED_ROWS = 200
_BINS = 32
_DISTRIBUTIONS = ("top_probability_1", "set_size", "novelty_p_value")
_MOST_PER_FIELD = 3
_LISTED = 8
_MINOR = ("arguments", "settings", "input", "embed_settings")
_GROUPS_WITHOUT_LOCATIONS = ("gene", "antibody", "field_of_view")


def count_cells(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Number and name of what there is: cells, fields, antibodies, genes, predicted locations."""
    counted = [{"number": len(cells), "name": "cell" if len(cells) == 1 else "cells"}]
    for column, one, many in (
        ("field_of_view", "field of view", "fields of view"),
        ("plate", "plate", "plates"),
        ("antibody", "antibody", "antibodies"),
        ("gene", "gene", "genes"),
        ("top_location_1", "predicted location", "predicted locations"),
    ):
        if column in cells.columns:
            number = int(cells[column].replace("", None).nunique())
            if number:
                counted.append({"number": number, "name": one if number == 1 else many})
    return counted


def count_locations(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """How many cells have each location as their first, the most frequent first; empty without a classifier."""
    if "top_location_1" not in cells.columns:
        return []
    groups = cells.groupby("top_location_1")["top_probability_1"]
    counts, medians = groups.size(), groups.median()
    colours, largest = location_colours(), int(counts.max()) if len(counts) else 1
    return [
        {
            "name": name,
            "cells": int(counts[name]),
            "share": float(counts[name] / len(cells)),
            "width": float(counts[name] / largest),
            "median": float(medians[name]),
            "colour": colours.get(name, "#888888"),
        }
        for name in sorted(counts.index, key=lambda name: (-int(counts[name]), name))
    ]


def agreement_with_known(cells: pd.DataFrame) -> dict[str, int] | None:
    """For how many cells of known location the first predicted one is among the known; None where none is known."""
    if "top_location_1" not in cells.columns or "locations" not in cells.columns:
        return None
    known = cells["locations"].fillna("").astype(str)
    asked = known != ""
    if not asked.any():
        return None
    pairs = zip(known[asked], cells["top_location_1"][asked], strict=True)
    right = sum(found in [name.strip() for name in names.split(";")] for names, found in pairs)
    return {"cells": int(asked.sum()), "right": right}


def choose_montage(cells: pd.DataFrame, pictured: set[str]) -> list[dict[str, Any]]:
    """Rows of cells that represent a location, whole and certain ones first; else for a gene, antibody or field.

    Args:
        cells: All cells.
        pictured: Ids of those that have a picture.

    Returns:
        Rows with `name`, `colour` (None without locations), `cells` (how many there are) and `cell_ids` (up to 12).
    """
    located = "top_location_1" in cells.columns
    candidates = ("top_location_1",) if located else _GROUPS_WITHOUT_LOCATIONS
    column = next((name for name in candidates if name in cells.columns and (cells[name] != "").any()), None)
    if column is None:
        return []
    counts = cells[column].replace("", None).value_counts()
    shown = cells[cells["cell_id"].isin(pictured)]
    if located:
        shown = shown.sort_values("top_probability_1", ascending=False, kind="stable")
    if "qc_cut_by_border" in shown.columns and pd.api.types.is_bool_dtype(shown["qc_cut_by_border"]):
        shown = shown.sort_values("qc_cut_by_border", kind="stable")
    return [
        {
            "name": str(name),
            "colour": location_colours().get(name, "#888888") if located else None,
            "cells": int(counts[name]),
            "cell_ids": _spread(shown[shown[column] == name]),
        }
        for name in sorted(counts.index, key=lambda name: (-int(counts[name]), name))[:MONTAGE_ROWS]
    ]


def _spread(cells: pd.DataFrame) -> list[str]:
    """The first cells in their order, but no more than a few of one field while others are left."""
    rank_in_field = cells.groupby("field_of_view").cumcount() // _MOST_PER_FIELD
    order = np.argsort(rank_in_field.to_numpy(), kind="stable")
    return [str(cell_id) for cell_id in cells["cell_id"].to_numpy()[order][:MONTAGE_CELLS]]


def histograms(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Distribution of the first probability, what is calibrated, and every quality column, over all cells.

    Returns:
        For numbers: `label`, `bars` (height of 32 bins, 1 the highest), `low`, `high`, `median`, `unknown` (cells
        without a value), and `constant` where all values are the same. For texts and bools: `label` and `levels`.
    """
    names = [name for name in cells.columns if name in _DISTRIBUTIONS or name.startswith("qc_")]
    return [_histogram(name, cells[name]) for name in names]


def _histogram(name: str, values: pd.Series) -> dict[str, Any]:
    head = {"name": name, "label": label_of(name)}
    if pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
        if pd.api.types.is_bool_dtype(values):
            values = values.map({True: "yes", False: "no"})
        counts = values.fillna("").astype(str).replace("", "none").value_counts().head(8)
        levels = [
            {"name": str(level), "cells": int(count), "share": float(count / len(values))}
            for level, count in counts.items()
        ]
        return {**head, "levels": levels, "bars": [], "unknown": 0}
    numbers = values.to_numpy(np.float64)
    finite = numbers[np.isfinite(numbers)]
    facts: dict[str, Any] = {**head, "unknown": len(numbers) - len(finite), "bars": []}
    if len(finite):
        facts |= {"low": finite.min(), "high": finite.max(), "median": float(np.median(finite))}
        facts["constant"] = bool(finite.min() == finite.max())
        if not facts["constant"]:
            counts, _ = np.histogram(finite, bins=_BINS)
            facts["bars"] = (counts / counts.max()).tolist()
    return facts


def novelty_calibration(provenance: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """How the novelty of a table is calibrated, see `summarize_novelty`; None where it is not."""
    found = [model.get("novelty") for model in provenance.get("models", ()) if isinstance(model, Mapping)]
    return found[0] if len(found) == 1 else None


def read_skipped(folder: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of `skipped.csv`; empty where there is none."""
    path = folder / SKIPPED_FILE
    if not path.is_file():
        return [], []
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    return (rows[0], rows[1:]) if rows else ([], [])


def run_facts(run: Mapping[str, Any], provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Everything a run knows of itself.

    Returns:
        Groups with `name`, `facts` (pairs of name and value), and `minor`, True for what few readers ask for: models
        first, then the rest in the order of the file.
    """
    facts = {**{key: value for key, value in provenance.items() if key not in run}, **run}
    models = [dict(model) for model in facts.pop("models", ()) if isinstance(model, Mapping)]
    groups: list[dict[str, Any]] = []
    for number, model in enumerate(models, 1):
        name = "Model" if len(models) == 1 else f"Model {number}"
        processor = model.pop("processor", None)
        groups.append({"name": name, "facts": list(_flat(model)), "minor": False})
        if processor:
            groups.append({"name": f"{name}: processor", "facts": list(_flat(processor)), "minor": True})
    plain = [(name, _text(value)) for name, value in facts.items() if not isinstance(value, Mapping)]
    groups += [{"name": "Run", "facts": plain, "minor": False}] if plain else []
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            groups.append({"name": label_of(name), "facts": list(_flat(value)), "minor": name in _MINOR})
    return groups


def stains_of(run: Mapping[str, Any]) -> list[dict[str, str]]:
    """Meaning of each colour of the pictures, if the run names its channels; includes the proteins of passes."""
    names: dict[str, None] = {}
    for model in run.get("models", ()):
        names |= dict.fromkeys((*model.get("channels", ()), *model.get("proteins", ())))
    return [
        {
            "colour": "#" + "".join(f"{round(255 * part):02x}" for part in CHANNEL_DISPLAY_RGB[name]),
            "text": f"{name}: {CHANNEL_STAINS[name]}",
        }
        for name in names
        if name in CHANNEL_STAINS
    ]


def command_of(run: Mapping[str, Any]) -> str:
    """The command that made a run, empty where it was not written down."""
    places = (run, run.get("input"), run.get("arguments"))  # `arguments`: of earlier versions
    noted = [place["command"] for place in places if isinstance(place, Mapping) and place.get("command")]
    return str(noted[0]) if noted else ""


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Sequence[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            pairs += _flat(value, f"{prefix}{name} · ")
        else:
            pairs.append((f"{prefix}{name}", _text(value)))
    return pairs


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return _list_text(value)
    return "–" if value is None or value == {} else str(value)


def _list_text(values: Sequence[Any]) -> str:
    """A list as a person reads it: a long one of numbers by its range, any other long one by its beginning."""
    if len(values) <= _LISTED:
        return ", ".join(map(_text, values)) or "none"
    if all(isinstance(value, int | float) for value in values):
        low, high, middle = min(values), max(values), float(np.median(values))
        return f"{len(values):,} numbers from {_text(low)} to {_text(high)}, median {_text(middle)}"
    return f"{', '.join(map(_text, values[:_LISTED]))} and {len(values) - _LISTED:,} more"
