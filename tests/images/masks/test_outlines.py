"""Outlines as QuPath exports them become labels pixel by pixel, or are refused by the name of the object."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from subcell_hf.errors import InputError
from subcell_hf.images.fields_of_view import FieldError, ReadingOptions, list_fields
from subcell_hf.images.masks.label_files import read_labels
from tests.images.written_fields import write_hpa_field

SHAPE = (40, 50)
LIMIT = 1 << 20


def box(top: int, left: int, bottom: int, right: int) -> list[list[float]]:
    """The outline of rows `top` to `bottom` and columns `left` to `right`, the last ones excluded."""
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def feature(*rings: list[list[float]], kind: str = "cell", **properties: Any) -> dict[str, Any]:
    """A feature as QuPath 0.4 and later write it."""
    geometry = {"type": "Polygon", "coordinates": list(rings)}
    return {
        "type": "Feature", "id": "5dc2a1a0-6b1e-4a0f-8e07-7b7f3c6d2f11", "geometry": geometry,
        "properties": {"objectType": kind, **properties},
    }  # fmt: skip


def write(path: Path, features: list[dict[str, Any]]) -> Path:
    text = json.dumps({"type": "FeatureCollection", "features": features}).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def labels_of(path: Path, features: list[dict[str, Any]]) -> npt.NDArray[np.int32]:
    return read_labels(write(path, features), SHAPE, LIMIT)


@pytest.mark.parametrize("name", ["a.geojson", "a.geojson.gz", "A.GeoJSON"])
def test_boxes_are_drawn_pixel_by_pixel(tmp_path: Path, name: str) -> None:
    labels = labels_of(tmp_path / name, [feature(box(2, 3, 12, 20)), feature(box(12, 3, 20, 20), box(14, 5, 16, 9))])
    expected = np.zeros(SHAPE, np.int32)
    expected[2:12, 3:20] = 1
    expected[12:20, 3:20] = 2  # touches the first, and has a hole
    expected[14:16, 5:9] = 0
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == np.int32


def test_a_polygon_holds_the_pixels_whose_centres_lie_inside(tmp_path: Path) -> None:
    corners = np.array([[4.2, 3.7], [30.1, 9.3], [41.6, 33.9], [12.8, 27.2]])
    labels = labels_of(tmp_path / "a.geojson", [feature([*corners.tolist(), corners[0].tolist()])])
    for row in range(SHAPE[0]):
        for column in range(SHAPE[1]):
            centre = np.array([column + 0.5, row + 0.5])
            sides = np.roll(corners, -1, axis=0) - corners
            offsets = centre - corners
            turns = sides[:, 0] * offsets[:, 1] - sides[:, 1] * offsets[:, 0]  # all alike inside of a convex polygon
            assert bool(labels[row, column]) == bool((turns > 0).all()), (row, column)


def test_cells_are_drawn_without_what_lies_in_and_around_them(tmp_path: Path) -> None:
    nucleus = {"type": "Polygon", "coordinates": [box(4, 6, 8, 10)]}
    cell = {**feature(box(2, 3, 12, 20), name="first"), "nucleusGeometry": nucleus}
    features = [feature(box(0, 0, 40, 50), kind="annotation"), cell, feature(box(5, 5, 6, 6), kind="detection")]
    labels = labels_of(tmp_path / "a.geojson", features)
    assert np.unique(labels).tolist() == [0, 1]
    assert (labels == 1).sum() == 170
    # An annotation is a cell where nothing was detected, and so is a polygon without a type.
    assert labels_of(tmp_path / "b.geojson", [feature(box(0, 0, 9, 9), kind="annotation")]).sum() == 81
    plain = {"type": "Feature", "geometry": nucleus, "properties": None}
    assert labels_of(tmp_path / "c.geojson", [plain]).sum() == 16
    old = [{**feature(box(0, 0, 9, 9)), "id": "PathAnnotationObject", "properties": {}}]
    old += [{**feature(box(0, 0, 3, 3)), "id": "PathCellObject", "properties": {}}]
    assert labels_of(tmp_path / "d.geojson", old).sum() == 9


def test_pieces_of_a_cell_are_one_label(tmp_path: Path) -> None:
    pieces = {"type": "MultiPolygon", "coordinates": [[box(0, 0, 4, 4), box(1, 1, 2, 2)], [box(10, 10, 12, 12)]]}
    labels = labels_of(tmp_path / "a.geojson", [{**feature(), "geometry": pieces}])
    assert (labels == 1).sum() == 16 - 1 + 4


def test_overlaps_are_refused_and_slivers_kept_by_the_first(tmp_path: Path) -> None:
    two = [feature(box(0, 0, 20, 20), name="mother"), feature(box(0, 15, 20, 35), name="daughter")]
    with pytest.raises(FieldError, match=r"object 1 \('mother'\) and object 2 \('daughter'\) overlap in 100 px"):
        labels_of(tmp_path / "a.geojson", two)
    labels = labels_of(tmp_path / "b.geojson", [feature(box(0, 0, 20, 20)), feature(box(0, 19, 20, 39))])
    assert np.bincount(labels.ravel())[1:].tolist() == [400, 380]
    with pytest.raises(FieldError, match="object 1 and object 2 overlap in 4 px"):  # a small one inside of a large one
        labels_of(tmp_path / "c.geojson", [feature(box(0, 0, 20, 20)), feature(box(4, 4, 6, 6))])


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            [feature(box(30, 30, 60, 48))],
            r"object 1 reaches from \(30, 30\) to \(48, 60\), beyond the image of 50",
        ),
        ([feature(box(0, 0, 5, 5)), feature(box(-9, 2, 5, 9), name="x")], r"object 2 \('x'\) reaches"),
        ([feature([[1.6, 1.6], [1.9, 1.6], [1.9, 1.9]])], "object 1 covers no pixel's centre"),
        ([feature([[1, 1], [5, 5]])], "no rings of x, y"),
        ([feature([[1, 1], [5, float("nan")], [7, 7]])], "no rings of x, y"),
        ([feature([["a", "b"], [5, 5], [7, 7]])], "no rings of x, y"),
        ([{**feature(), "geometry": {"type": "Point", "coordinates": [1, 2]}}], "object 1 is a Point, expected"),
        ([{**feature(), "geometry": None}], "object 1 is a None, expected"),
        ([feature(box(0, 0, 9, 9), kind="tile")], "has no outline of a cell"),
        ([], "has no outline of a cell"),
    ],
)
def test_what_cannot_be_drawn_is_named(tmp_path: Path, features: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(FieldError, match=message):
        labels_of(tmp_path / "a.geojson", features)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00", b"7", b'{"type": "FeatureCollection"}', b"[1]", b"[" * 100_000, b"\x1f\x8b\x08"],
)
def test_files_that_are_no_geojson(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.geojson"
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_labels(path, SHAPE, LIMIT)


def test_a_file_larger_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson.gz"
    path.write_bytes(gzip.compress(b" " * (LIMIT + 1)))
    with pytest.raises(FieldError, match="gzip content"):
        read_labels(path, SHAPE, LIMIT)


def test_outlines_are_the_masks_of_a_folder_of_images(tmp_path: Path) -> None:
    write_hpa_field(tmp_path / "images", with_mask=False)
    write(tmp_path / "800_A6_1.geojson", [feature(box(2, 3, 30, 30)), feature(box(30, 30, 60, 60))])
    (item,) = list_fields(tmp_path / "images", ReadingOptions(masks=f"{tmp_path}/{{name}}.geojson")).fields
    labels = item.read().label_mask
    assert labels is not None
    assert np.bincount(labels.ravel())[1:].tolist() == [28 * 27, 900]
