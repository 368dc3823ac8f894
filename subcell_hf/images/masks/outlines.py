"""Outlines of cells in a GeoJSON file, as QuPath exports them → instance labels."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.draw import polygon

from subcell_hf.images.files import FieldError, read_bytes

GEOJSON_SUFFIXES = (".geojson", ".geojson.gz")

# QuPath's own words: a cell is a detection with a nucleus; annotations are drawn around regions, or around cells where
# there are no detections. Its older versions gave the type as `object_type`, and as `id`.
_TYPES = {
    "cell": "cell", "pathcellobject": "cell",
    "detection": "detection", "pathdetectionobject": "detection",
    "annotation": "annotation", "pathannotationobject": "annotation",
}  # fmt: skip
_ORDER = ("cell", "detection", "annotation", "")
_NO_CELLS = ("tile", "tmacore", "root", "pathtileobject", "tmacoreobject", "pathrootobject")

_SHARED_SHARE = 0.05
_BEYOND_PX = 1.0


def is_outlines(path: Path) -> bool:
    """Whether a file holds outlines, by the ending of its name."""
    return path.name.lower().endswith(GEOJSON_SUFFIXES)


def labels_of_outlines(path: Path, shape: tuple[int, int], max_decoded_bytes: int) -> npt.NDArray[np.int32]:
    """Draw the outlines of a GeoJSON file.

    A pixel belongs to the outline that its centre lies in; coordinates are in pixels from the image's upper left
    corner, so that the centre of the first pixel is (0.5, 0.5). Where QuPath exported cells, these are drawn, without
    their nuclei and the annotations around them; otherwise detections; otherwise annotations, or all polygons of
    another program's file.

    Args:
        path: `.geojson`, or gzip around it.
        shape: Height and width of the image.
        max_decoded_bytes: Larger files are refused.

    Returns:
        `[height, width]` int32 labels from 1 on in the order of the file, 0 is background.

    Raises:
        FieldError: If the file is damaged, holds no polygon, or an outline is empty, lies outside of the image, or
            covers more than 5 % of another.
    """
    where = f"outlines {path}"
    features = list(_features(_parse(path, max_decoded_bytes), where))
    labels = np.zeros(shape, np.int32)
    areas = [0]
    for number, feature in enumerate(features, start=1):
        name = _name_of(feature, number)
        inside, top, left = _draw(feature, shape, f"{where}: {name}")
        window = labels[top : top + inside.shape[0], left : left + inside.shape[1]]
        areas.append(int(inside.sum()))
        shared = np.bincount(window[inside], minlength=number)
        for other in (np.flatnonzero(shared[1:]) + 1).tolist():
            if shared[other] > _SHARED_SHARE * min(areas[number], areas[other]):
                raise FieldError(
                    f"{where}: {_name_of(features[other - 1], other)} and {name} overlap in {shared[other]:,} px, "
                    f"of {areas[other]:,} and {areas[number]:,} px; a pixel can belong to one cell only. Correct the "
                    "outlines, or remove one of them."
                )
        window[inside & (window == 0)] = number
    return labels


def _parse(path: Path, max_decoded_bytes: int) -> Any:
    try:
        return json.loads(read_bytes(path, max_decoded_bytes).decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise FieldError(f"{path} is no GeoJSON that can be read: {error}. Export it again.") from error


def _features(content: Any, where: str) -> Iterator[Mapping[str, Any]]:
    """The features that outline cells."""
    if isinstance(content, dict):
        content = content.get("features") if content.get("type") == "FeatureCollection" else [content]
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise FieldError(f"{where}: expected a FeatureCollection, or a list of features. Export it as GeoJSON again.")
    typed = [(_type_of(item), item) for item in content]
    chosen = next((kind for kind in _ORDER if any(kind == other for other, _ in typed)), None)
    if chosen is None:
        raise FieldError(f"{where} has no outline of a cell, expected a polygon for each. Export the objects again.")
    yield from (item for kind, item in typed if kind == chosen)


def _type_of(feature: Mapping[str, Any]) -> str | None:
    """`cell`, `detection` or `annotation`, empty where nothing says it, None for what is never a cell."""
    properties = _object(feature.get("properties"))
    said = (properties.get("objectType"), properties.get("object_type"), feature.get("id"))
    words = [str(word).lower().replace(" ", "") for word in said if word is not None]
    if any(word in _NO_CELLS for word in words):
        return None
    return next((_TYPES[word] for word in words if word in _TYPES), "")


def _name_of(feature: Mapping[str, Any], number: int) -> str:
    name = _object(feature.get("properties")).get("name")
    return f"object {number}" + (f" ({str(name)[:40]!r})" if name else "")


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _draw(feature: Mapping[str, Any], shape: tuple[int, int], where: str) -> tuple[npt.NDArray[np.bool_], int, int]:
    """The inside of a feature in a window, and the window's first row and column."""
    geometry = _object(feature.get("geometry"))
    kind: Any = geometry.get("type")
    coordinates: Any = geometry.get("coordinates")
    if kind not in ("Polygon", "MultiPolygon"):
        raise FieldError(
            f"{where} is a {kind}, expected a Polygon or MultiPolygon. Remove it from the file, or draw its outline."
        )
    try:
        parts = [coordinates] if kind == "Polygon" else coordinates
        rings = [[_ring(ring) for ring in part] for part in parts]
        corners = np.concatenate([part[0] for part in rings])
    except (TypeError, ValueError, IndexError) as error:
        raise FieldError(f"{where} has coordinates that are no rings of x, y: {error}. Export it again.") from error
    height, width = shape
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    if min(left, top) < -_BEYOND_PX or right > width + _BEYOND_PX or bottom > height + _BEYOND_PX:
        raise FieldError(
            f"{where} reaches from ({left:g}, {top:g}) to ({right:g}, {bottom:g}), beyond the image of {width} x "
            f"{height} px. Give outlines in pixels of this image, at its full resolution."
        )
    first_row, first_column = max(0, int(top)), max(0, int(left))
    last_row, last_column = min(height, int(bottom) + 1), min(width, int(right) + 1)
    extent = (max(0, last_row - first_row), max(0, last_column - first_column))
    inside = np.zeros(extent, np.bool_)
    # A pixel's centre lies half a pixel from its corner; `polygon` takes it for a whole number.
    origin = (first_column + 0.5, first_row + 0.5)
    for outer, *holes in rings:
        filled = _filled(outer - origin, extent)
        for hole in holes:
            filled &= ~_filled(hole - origin, extent)
        inside |= filled
    if not inside.any():
        raise FieldError(f"{where} covers no pixel's centre. Remove it from the file.")
    return inside, first_row, first_column


def _ring(points: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    """`[corners, 2]` x and y."""
    ring = np.array([point[:2] for point in points], np.float64)
    if ring.ndim != 2 or len(ring) < 3 or not np.isfinite(ring).all():
        raise ValueError(f"{len(ring)} corners, expected at least 3 of two finite numbers")
    return ring


def _filled(ring: npt.NDArray[np.float64], extent: tuple[int, int]) -> npt.NDArray[np.bool_]:
    filled = np.zeros(extent, np.bool_)
    filled[polygon(ring[:, 1], ring[:, 0], extent)] = True
    return filled
