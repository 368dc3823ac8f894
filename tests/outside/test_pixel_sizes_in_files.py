"""Pixel sizes in files: whoever gives the size wins, 0 means unknown, and nonsense matters only where it is needed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from subcell_hf.images.fields_of_view import FieldError, ReadingOptions, find_fields
from tests.images.written_fields import random_plane

STACK = np.stack([random_plane(seed) for seed in (1, 2)])
NAMES = ["blue", "green"]


def _ome_tiff(path: Path, x: str, y: str, unit: str = "µm") -> None:
    facts = {"axes": "CYX", "Channel": {"Name": NAMES}, "PhysicalSizeX": 0.1875, "PhysicalSizeY": 0.4375}
    tifffile.imwrite(path, STACK, photometric="minisblack", metadata=facts)
    xml = tifffile.tiffcomment(path)
    changed = xml.replace('X="0.1875"', f'X="{x}" PhysicalSizeXUnit="{unit}"').replace(
        'Y="0.4375"', f'Y="{y}" PhysicalSizeYUnit="{unit}"'
    )
    assert changed != xml
    tifffile.tiffcomment(path, changed.encode())


def _size(path: Path, given: float | None = None) -> float:
    (found,) = find_fields(path, ReadingOptions(pixel_size_um=given))
    return found.read().pixel_size_um


@pytest.mark.parametrize(
    ("x", "y", "problem"),
    [
        ("0", "0", "pixel size is unknown"),
        ("0.100", "0.102", r"0\.1 x 0\.102 um, expected positive and square; resample"),
        ("0.1", "0", r"0\.1 x 0\.0 um, expected two positive numbers"),
        ("-1", "-1", r"-1\.0 x -1\.0 um, expected two positive numbers"),
        ("NaN", "NaN", "nan x nan um, expected two positive numbers"),
        ("INF", "INF", "inf x inf um, expected two positive numbers"),
        ("0,1", "0,1", "0,1 x 0,1 um, expected two positive numbers"),
        ("", "", "pixel size is unknown"),
        ("0.1", "", r"0\.1 x unknown um, expected two positive numbers"),
        ("1000", "1000", r"pixel size is 1000\.0 um, expected 0\.01 to 5\.0"),
    ],
)
def test_the_given_size_wins_over_nonsense_in_an_ome_tiff(tmp_path: Path, x: str, y: str, problem: str) -> None:
    path = tmp_path / "a.ome.tif"
    _ome_tiff(path, x, y)
    assert _size(path, 0.2) == 0.2
    with pytest.raises(FieldError, match=problem) as raised:
        _size(path)
    assert "--pixel-size-um" in str(raised.value)


def test_a_size_in_the_metadata_table_wins_too(tmp_path: Path) -> None:
    _ome_tiff(tmp_path / "a.ome.tif", "0.100", "0.102")
    (tmp_path / "metadata.csv").write_text("field_of_view,pixel_size_um\na,0.2\n")
    assert _size(tmp_path) == 0.2


@pytest.mark.parametrize(
    ("x", "unit", "expected"),
    [
        ("0.1", "µm", 0.1),
        ("100", "nm", 0.1),
        ("0.0001", "mm", 0.1),
        ("1000", "Å", 0.1),
        ("1", "pixel", None),
        ("1", "reference frame", None),
    ],
)
def test_units(tmp_path: Path, x: str, unit: str, expected: float | None) -> None:
    path = tmp_path / "a.ome.tif"
    _ome_tiff(path, x, x, unit)
    if expected is None:
        with pytest.raises(FieldError, match="pixel size is unknown"):
            _size(path)
    else:
        assert _size(path) == pytest.approx(expected)


def test_pixels_that_are_square_to_one_percent_are_square(tmp_path: Path) -> None:
    _ome_tiff(tmp_path / "a.ome.tif", "0.1", "0.1009")
    assert _size(tmp_path / "a.ome.tif") == 0.1


def test_channels_that_differ_in_size_can_be_given_one(tmp_path: Path) -> None:
    for name, per_cm in zip(NAMES, (100_000, 50_000), strict=True):
        tifffile.imwrite(tmp_path / f"a_{name}.tif", STACK[0], resolution=(per_cm, per_cm), resolutionunit="CENTIMETER")
    assert _size(tmp_path, 0.2) == 0.2
    with pytest.raises(FieldError, match="channels differ in pixel size"):
        _size(tmp_path)


@pytest.mark.parametrize(
    ("resolution", "problem"), [((10, 5), r"0\.1 x 0\.2 um, expected positive and square"), ((0, 0), "unknown")]
)
def test_imagej(tmp_path: Path, resolution: tuple[int, int], problem: str) -> None:
    facts = {"axes": "CYX", "unit": "um", "Labels": NAMES}
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, resolution=resolution, metadata=facts)
    assert _size(tmp_path / "a.tif", 0.2) == 0.2
    with pytest.raises(FieldError, match=problem):
        _size(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("scale", "problem"),
    [
        ([0.1, 0.102], "expected positive and square"),
        ([0, 0], "pixel size is unknown"),
        ([-1, -1], "two positive numbers"),
        (["a", "b"], "two positive numbers"),
        (None, "pixel size is unknown"),
    ],
)
def test_ome_zarr(tmp_path: Path, scale: list[Any] | None, problem: str) -> None:
    path = tmp_path / "a.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", data=STACK)
    axes = [{"name": "c"}, *({"name": name, "unit": "micrometer"} for name in "yx")]
    transformations = {"coordinateTransformations": [{"type": "scale", "scale": [1, *scale]}]} if scale else {}
    group.attrs.update(
        {
            "multiscales": [{"axes": axes, "datasets": [{"path": "0", **transformations}]}],
            "omero": {"channels": [{"label": name} for name in NAMES]},
        }
    )
    assert _size(path, 0.2) == 0.2
    with pytest.raises(FieldError, match=problem):
        _size(path)
