"""An image that is given by itself is read with the mask beside it, as in its folder."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from subcell_hf.images.fields_of_view import FieldError, ReadingOptions, list_fields
from tests.images.written_fields import label_mask, random_plane, write_png

OPTIONS = ReadingOptions(channel_names=("blue", "green"), pixel_size_um=0.1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.ome.tif", "a_blue.ome.tif", "b.tif"):
        tifffile.imwrite(tmp_path / name, np.stack([random_plane(1), random_plane(2)]), photometric="minisblack")
    write_png(tmp_path / "b_mask.png", label_mask())
    return tmp_path


@pytest.mark.parametrize("name", ["a_mask.png", "a_MASK.png", "a_cp_masks.png"])
def test_the_mask_beside_an_image_is_used(folder: Path, name: str) -> None:
    write_png(folder / name, label_mask())
    found = list_fields(folder / "a.ome.tif", OPTIONS)
    assert (len(found.fields), dict(found.unused)) == (1, {})
    np.testing.assert_array_equal(found.fields[0].read().label_mask, label_mask())


def test_masks_that_are_not_used_are_named(folder: Path) -> None:
    write_png(folder / "a_mask.png", label_mask())
    write_png(folder / "a_blue_labels.png", label_mask())
    found = list_fields(folder / "a_blue.ome.tif", OPTIONS)
    assert found.fields[0].read().label_mask is None
    reasons = {Path(path).name: reason for path, reason in found.unused.items()}
    assert reasons.keys() == {"a_mask.png", "a_blue_labels.png"}
    assert "rename it a_blue_mask" in reasons["a_mask.png"]


def test_two_masks_beside_an_image(folder: Path) -> None:
    write_png(folder / "a_mask.png", label_mask())
    tifffile.imwrite(folder / "a_mask.tif", label_mask())
    with pytest.raises(FieldError, match="more than one file for mask"):
        list_fields(folder / "a.ome.tif", OPTIONS).fields[0].read()


def test_a_mask_of_several_positions(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "s.ome.tif", ome=True) as tiff:
        for number in range(2):
            tiff.write(np.stack([random_plane(number), random_plane(9)]), photometric="minisblack")
    write_png(tmp_path / "s_1_mask.png", label_mask())
    write_png(tmp_path / "s_mask.png", label_mask())
    found = list_fields(tmp_path / "s.ome.tif", OPTIONS)
    assert [item.name for item in found.fields] == ["s_0", "s_1"]
    assert [item.listed.mask_file for item in found.fields] == [None, tmp_path / "s_1_mask.png"]
    assert "a mask of several images" in found.unused[str(tmp_path / "s_mask.png")]
