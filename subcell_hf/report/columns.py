"""What the page knows of every cell it shows: columns to colour, sort and filter by."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from subcell_hf.ontology import location_colours

MAX_LEVELS = 5000
_NOT_SHOWN = {"cell_id", "label", "top", "left", "height", "width"}
_FIRST = (
    *("top_location_1", "top_probability_1", "top_location_2", "top_probability_2", "top_location_3"),
    *("top_probability_3", "location_set", "set_size", "novelty_p_value", "locations", "gene", "antibody"),
    *("cell_line", "plate", "well", "field_of_view"),
)
_LABELS = {
    "top_location_1": "Predicted location",
    "top_location_2": "Second location",
    "top_location_3": "Third location",
    "top_probability_1": "Probability",
    "top_probability_2": "Second probability",
    "top_probability_3": "Third probability",
    "location_set": "Set of locations",
    "set_size": "Locations in the set",
    "novelty_p_value": "Novelty (p-value)",
    "locations": "Known location",
    "field_of_view": "Field of view",
    "qc_cut_by_border": "Cut by the border",
    "qc_saturation": "Saturated pixels (share)",
    "qc_focus": "Focus",
    "qc_empty_channels": "Empty channels",
}


_UNITS = {"_um2": " (µm²)", "_um": " (µm)", "_px": " (px)", "_s": " (s)"}


def label_of(name: str) -> str:
    """What a column is called on the page: known names in words, others with spaces and their unit, `qc_` left out."""
    if name in _LABELS:
        return _LABELS[name]
    unit = next((ending for ending in _UNITS if name.endswith(ending)), "")
    words = name.removeprefix("qc_").removesuffix(unit).replace("_", " ").strip()
    return words[:1].upper() + words[1:] + _UNITS.get(unit, "") or name


def number_text(value: float) -> str:
    """A number in three digits or whole, never with an exponent where a person would not write one."""
    if value == 0 or 0.0001 <= abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.2e}"


def page_columns(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Columns of cells as JSON has them, in the order in which the page offers them.

    Args:
        cells: The cells shown.

    Returns:
        Each with `name`, `label`, and either `kind` `"number"` and `values` (None where unknown), or `kind` `"text"`,
        `levels` (names in order of how often they occur), `codes` (level of every cell, -1 where empty) and `colours`
        (for locations: `#rrggbb` of every level, else None). Texts of more than 5000 values are left out, and so is
        what is empty in every cell.
    """
    names = [name for name in _FIRST if name in cells.columns]
    names += [name for name in cells.columns if name not in {*names, *_NOT_SHOWN}]
    described = [_describe(name, cells[name]) for name in names]
    return [column for column in described if column is not None]


def _describe(name: str, values: pd.Series) -> dict[str, Any] | None:
    head = {"name": name, "label": label_of(name)}
    if pd.api.types.is_bool_dtype(values):
        values = values.map({True: "yes", False: "no"})
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(np.float64)
        if not np.isfinite(numbers).any():
            return None
        return {**head, "kind": "number", "values": [_short(number) for number in numbers]}
    texts = values.fillna("").astype(str)
    counts = texts[texts != ""].value_counts()
    if not len(counts) or len(counts) > MAX_LEVELS:
        return None
    levels = sorted(map(str, counts.index), key=lambda level: (-int(counts[level]), level))
    place = {level: number for number, level in enumerate(levels)}
    codes = [place.get(text, -1) for text in texts]
    return {**head, "kind": "text", "levels": levels, "codes": codes, "colours": _colours(name, levels)}


def _short(number: float) -> float | None:
    """Four digits, which is more than a page shows."""
    return float(f"{number:.4g}") if np.isfinite(number) else None


def _colours(name: str, levels: Sequence[str]) -> list[str] | None:
    """The atlas's colours where the column holds locations; several locations have that of the first."""
    if not name.startswith("top_location_") and name != "locations":
        return None
    known = location_colours()
    colours = [known.get(level.split(";")[0].strip()) for level in levels]
    return [colour or "#888888" for colour in colours] if any(colours) else None
