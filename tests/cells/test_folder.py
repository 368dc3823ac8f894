"""A folder of crops gives back what was written, and refuses what is not one."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from subcell_hf.cells.cropping import CropSettings, count_crops, crop_field, crop_fields, read_crop_table, read_crops
from subcell_hf.cells.folder import field_file
from subcell_hf.images.fields_of_view import ReadingOptions, iterate_fields
from tests.images.written_fields import write_hpa_field

SMALL = CropSettings(crop_px=32, output_px=16)


def _cropped(folder: Path, dtype: str = "uint8", names: tuple[str, ...] = ("7_A1_1", "7_B2_1")) -> Path:
    for name in names:
        write_hpa_field(folder / "images", name, dtype=dtype)
    crop_fields(folder / "images", folder / "crops", settings=SMALL, progress=False)
    return folder / "crops"


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_crops_come_back_as_they_were(tmp_path: Path, dtype: str) -> None:
    folder = _cropped(tmp_path, dtype)
    read = list(read_crops(folder))
    made = [crop_field(field, SMALL) for field in iterate_fields(tmp_path / "images")]
    assert [crops.field_of_view for crops in read] == ["7_A1_1", "7_B2_1"]
    for one, other in zip(read, made, strict=True):
        assert one.pixels.dtype == dtype
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert one.cell_masks.dtype == np.bool_
        np.testing.assert_array_equal(one.cell_masks, other.cell_masks)
        assert (one.channels, one.pixel_size_um) == (other.channels, other.pixel_size_um)
        assert [dict(cell) for cell in one.cells] == [dict(cell) for cell in other.cells]


def test_one_cell_of_one_channel_and_float_pixels(tmp_path: Path) -> None:
    plane = np.random.default_rng(0).random((1, 40, 40), np.float32)
    mask = np.zeros((40, 40), np.uint8)
    mask[5:20, 5:20] = 1
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/f.ome.tif", plane, metadata={"axes": "CYX", "Channel": {"Name": ["green"]}})
    tifffile.imwrite(tmp_path / "in/f_mask.tif", mask)
    reading = ReadingOptions(pixel_size_um=0.0800885)
    crop_fields(tmp_path / "in", tmp_path / "out", settings=SMALL, reading=reading, progress=False)
    (crops,) = read_crops(tmp_path / "out")
    assert crops.pixels.shape == (1, 1, 16, 16)
    assert crops.pixels.dtype == np.float32
    assert crops.cells[0]["qc_saturation"] is None
    np.testing.assert_allclose(crops.pixels[0, 0, 2, 2], plane[0, 1:3, 1:3].mean(), rtol=1e-6)


def test_table_and_counts(tmp_path: Path) -> None:
    folder = _cropped(tmp_path)
    table = read_crop_table(folder)
    assert table["cell_id"].tolist() == ["7_A1_1_3", "7_A1_1_7", "7_B2_1_3", "7_B2_1_7"]
    assert table["file"].tolist() == ["fields/7_A1_1.tiff"] * 2 + ["fields/7_B2_1.tiff"] * 2
    assert table["index"].tolist() == [0, 1, 0, 1]
    assert table["well"].tolist() == ["A01", "A01", "B02", "B02"]
    assert table["qc_cut_by_border"].tolist() == [False, True, False, True]
    assert count_crops(folder) == {"fields": 2, "cells": 4, "skipped_fields": 0, "filtered_cells": 0}


def test_any_viewer_can_open_a_field(tmp_path: Path) -> None:
    with Image.open(_cropped(tmp_path) / "fields/7_A1_1.tiff") as picture:
        assert picture.size == (16, 16)
        assert picture.n_frames == 2 * 4 + 2


def test_unfinished_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    folder = _cropped(tmp_path)
    facts = json.loads((folder / "crops.json").read_text())
    (folder / "crops.json").write_text(json.dumps({**facts, "finished": False}))
    with pytest.raises(ValueError, match="not finished"):
        next(read_crops(folder))
    with pytest.raises(ValueError, match="is not a folder of crops"):
        next(read_crops(tmp_path / "images"))
    (folder / "crops.json").write_text("{")
    with pytest.raises(ValueError, match="is not a folder of crops"):
        count_crops(folder)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = _cropped(tmp_path)
    path = folder / "fields/7_A1_1.tiff"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"7_A1_1\.tiff is damaged.*same subcell crops command again"):
        list(read_crops(folder))
    tifffile.imwrite(path, np.zeros((1, 4, 16, 16), np.uint8), photometric="minisblack")
    with pytest.raises(ValueError, match=r"7_A1_1\.tiff"):
        list(read_crops(folder))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("800_A6_1", "800_A6_1"),
        ("Zelle ä 1", "Zelle ä 1"),
        ("batch/cell:1", "batch%2Fcell%3A1"),
        ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
        ("100%", "100%25"),
    ],
)
def test_file_names(name: str, file: str) -> None:
    assert field_file(name) == file


def test_long_names_stay_different() -> None:
    first, second = (field_file("µ" * 300 + end) for end in "ab")
    assert first != second
    assert len(first.encode()) < 200
