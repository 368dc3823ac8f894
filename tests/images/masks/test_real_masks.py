"""Masks beside files that instruments wrote, from public repositories."""

from pathlib import Path

import pytest
import tifffile

from subcell_hf.images.fields_of_view import FieldError, list_fields
from subcell_hf.images.reading_options import ReadingOptions
from tests.conftest import REAL_DATA
from tests.images.masks.test_named_masks import found_by, masks_of
from tests.images.written_fields import label_mask

SETS = REAL_DATA / "vendor"
if not SETS.is_dir():
    pytest.skip("../shared/data/vendor with files of real instruments is missing", allow_module_level=True)


def test_cellprofilers_binary_masks_of_a_cytation_are_found_and_refused() -> None:
    folder = SETS / "biotek_gen5_nf1"
    (item,) = (found := found_by(folder / "Plate_2_images", f"{folder}/Plate_2_masks/{{file}}_MaskCells.tiff")).fields
    assert masks_of(found) == {"Plate_2_images_F07_2": "F7_01_3_2_RFP_001_MaskCells.tiff"}
    with pytest.raises(FieldError, match=r"MaskCells\.tiff has 1 of 1 labels in separate pieces"):
        item.read()


def test_masks_of_a_plate_of_ome_zarr_come_before_the_labels_inside(tmp_path: Path) -> None:
    plate = SETS / "omezarr_v04_plate_labels_apx" / "hcs_ngff_2D.zarr"
    for item in list_fields(plate).fields:
        tifffile.imwrite(tmp_path / f"{item.name}.tif", label_mask((128, 128)))
    found = found_by(plate, f"{tmp_path}/{{name}}.tif")
    assert len(found.fields) == 6
    assert all(item.listed.mask_file == tmp_path / f"{item.name}.tif" for item in found.fields)
    with pytest.raises(FieldError, match="--masks and --labels both choose"):
        list_fields(plate, ReadingOptions(masks="{name}.tif", labels="A"))
