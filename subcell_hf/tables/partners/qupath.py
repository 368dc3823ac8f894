"""Outlines of cells with their predicted locations, as GeoJSON that QuPath opens over the image."""

import colorsys
import json
import re
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.images.masks.polygons import polygons_of_mask
from subcell_hf.storage.folders import write_folder_atomically
from subcell_hf.tables.embedding_table import CELL_ID, EmbeddingTable
from subcell_hf.tables.partners.places import cells_in_field, rows_by_field
from subcell_hf.types import FieldOfView

_IDS = uuid.UUID("6f6b1b0e-7f1c-5d0b-9a55-0d6a4c8f2b3e")  # the ids of our cells: the same cell has the same id


def write_qupath(table: EmbeddingTable, fields: Iterable[FieldOfView], folder: Path) -> dict[str, str]:
    """Write `<field>.geojson` for every field of view: a cell object for each cell.

    Coordinates are pixels of the full-resolution image. The name is the cell's id, the classification its most probable
    location, and the measurements are the probabilities of all locations and the quality.

    Args:
        table: Cells with their places in fields of view.
        fields: Every field of the table once, with masks.
        folder: A new folder; it appears when it is complete.

    Returns:
        Field → name of its file.

    Raises:
        InputError: If the table does not say where cells lie, or a mask is not the one that it was made with.
    """
    rows = rows_by_field(table.cells)
    names = _file_names(rows)
    with write_folder_atomically(folder) as staging:
        for field in fields:
            found = list(_features(table.select(rows[field.name]), field))
            text = json.dumps({"type": "FeatureCollection", "features": found}, ensure_ascii=False)
            (staging / names[field.name]).write_text(text + "\n", encoding="utf-8")
    return names


def _file_names(fields: Iterable[str]) -> dict[str, str]:
    names, taken = dict[str, str](), set[str]()
    for field in fields:
        name = re.sub(r"[^\w. -]", "_", field).lstrip(".") or "field"
        while name.lower() in taken:
            name += "_"
        taken.add(name.lower())
        names[field] = f"{name}.geojson"
    return names


def _features(table: EmbeddingTable, field: FieldOfView) -> Iterable[dict[str, Any]]:
    cells = cells_in_field(table.cells, field)
    for row, (_, top, left, inside) in enumerate(cells):
        cell = table.cells.iloc[row]
        probabilities = None if table.probabilities is None else table.probabilities[row]
        measurements = _measurements(cell, table.classes, probabilities)
        properties: dict[str, Any] = {"objectType": "cell", "name": str(cell[CELL_ID]), "measurements": measurements}
        if probabilities is not None:
            place = int(np.argmax(probabilities))
            properties["classification"] = {"name": table.classes[place], "color": _colour(place, len(table.classes))}
        polygons = [[ring.tolist() for ring in rings] for rings in polygons_of_mask(inside, top, left)]
        geometry = (
            {"type": "Polygon", "coordinates": polygons[0]}
            if len(polygons) == 1
            else {"type": "MultiPolygon", "coordinates": polygons}
        )
        yield {
            "type": "Feature",
            "id": str(uuid.uuid5(_IDS, str(cell[CELL_ID]))),
            "geometry": geometry,
            "properties": properties,
        }


def _measurements(
    cell: pd.Series, classes: tuple[str, ...], probabilities: npt.NDArray[np.float32] | None
) -> dict[str, float]:
    """Numbers by name, as QuPath shows them."""
    found = (
        {}
        if probabilities is None
        else {f"Probability: {n}": float(p) for n, p in zip(classes, probabilities, strict=True)}
    )
    for name, value in cell.items():
        if str(name).startswith("qc_") and isinstance(value, int | float | np.number | np.bool_) and np.isfinite(value):
            found[str(name)] = float(value)
    return found


def _colour(place: int, classes: int) -> list[int]:
    """Red, green and blue of a class: hues in equal steps."""
    return [round(255 * part) for part in colorsys.hsv_to_rgb(place / max(classes, 1), 0.85, 0.95)]
