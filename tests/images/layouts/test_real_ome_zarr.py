"""OME-Zarr that others wrote, from public repositories: listed as their metadata say, or refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest

from subcell_hf.images.fields_of_view import FieldError, ReadingOptions, list_fields
from tests.conftest import REAL_DATA

SETS = REAL_DATA / "vendor"
if not SETS.is_dir():
    pytest.skip("../shared/data/vendor with files of real instruments is missing", allow_module_level=True)

APX = ("omezarr_v04_plate_labels_apx", "omezarr_v05_plate_labels_converted")
PLATE = "hcs_ngff_2D.zarr"


@pytest.mark.parametrize("folder", APX)
def test_a_plate_of_three_cycles(folder: str) -> None:
    found = list_fields(SETS / folder / PLATE)
    assert found.layout == "OME-Zarr"
    assert {(item.metadata["well"], item.metadata["site"]) for item in found.fields} == {
        (well, site) for well in ("A02", "B03") for site in "012"
    }
    for item in found.fields:
        cycle = item.metadata["site"]
        described = item.describe()
        assert described.channels == (f"{cycle}_DAPI", f"{cycle}_GFP")
        assert described.pixel_size_um is None  # a scale of 1.0 that has no unit
        assert "pixel size is unknown" in str(described.problem)
    labels = {"0": "Label A, Label B", "2": "Label C, Label D"}
    assert len(found.unused) == 4
    for path, reason in found.unused.items():
        assert labels[Path(path).parent.name] in reason


@pytest.mark.parametrize("folder", APX)
def test_labels_of_one_cycle(folder: str) -> None:
    for name, cells in {"Label A": 32, "Label B": 39}.items():
        options = ReadingOptions(labels=name, pixel_size_um=0.5, trust_masks=True)
        first, second, *_ = list_fields(SETS / folder / PLATE, options).fields
        field = first.read()
        assert field.pixels.shape == (2, 128, 128)
        assert field.label_mask is not None
        assert len(np.unique(field.label_mask)) == 1 + cells
        assert f"has no labels {name!r}" in str(second.listed.problem)


def test_both_versions_have_the_same_pixels() -> None:
    options = ReadingOptions(pixel_size_um=0.5)
    for old, new in zip(*(list_fields(SETS / folder / PLATE, options).fields for folder in APX), strict=True):
        np.testing.assert_array_equal(old.read().pixels, new.read().pixels)


def test_an_image_without_a_chunk_is_refused() -> None:
    path = SETS / "omezarr_v05_image_label_ngio/test_image_czyx.zarr"
    (field,) = list_fields(path, ReadingOptions(z_projection=0)).fields
    described = field.describe()
    assert (described.channels, described.pixel_size_um) == (("channel_0", "channel_1"), 0.5)
    assert described.z_planes == 10
    with pytest.raises(FieldError, match="1 of its 1 chunks are missing, which would be read as 0"):
        field.read()


def test_what_bioformats2raw_writes() -> None:
    folder = SETS / "omezarr_v04_metaonly_ngffchallenge"
    plate = list_fields(folder / "hcs.zarr").fields
    assert [item.name for item in plate] == [f"hcs_{well}_{n}" for well in ("A01", "A02", "B01", "B02") for n in (0, 1)]
    for item in plate:
        described = item.describe()
        assert (described.channels, described.pixel_size_um) == (("Name", "Channel 1", "Channel 2"), 1.0)
    series = list_fields(folder / "bf2raw.zarr").fields
    assert [item.name for item in series] == ["bf2raw_0", "bf2raw_1"]
    assert [item.describe().channels for item in series] == [("Channel 0",), ("Channel 0",)]


def test_the_specifications_own_plate(tmp_path: Path) -> None:
    """Its documents, put where a plate has them: two acquisitions, images of which no array is there."""
    documents = SETS / "omezarr_v05_json_iohub/v05"
    wells = [f"{row}/{column}" for row in "AB" for column in "123"]
    images = json.loads((documents / "well.json").read_text())["attributes"]["ome"]["well"]["images"]
    places = {"": "plate", **dict.fromkeys(wells, "well")}
    places |= {f"{well}/{image['path']}": "image" for well in wells for image in images}
    for place, document in places.items():
        folder = tmp_path / "test.zarr" / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "zarr.json").write_bytes((documents / f"{document}.json").read_bytes())
    fields = list_fields(tmp_path / "test.zarr").fields
    assert len(fields) == 6 * len(images)
    assert {item.metadata["well"] for item in fields} == {"A01", "A02", "A03", "B01", "B02", "B03"}
    assert {item.metadata["acquisition"] for item in fields} == {"1", "2"}
    with pytest.raises(FieldError, match="no OME-Zarr image that can be read"):
        fields[0].read()
    with pytest.raises(FieldError, match="holds no image"):
        list_fields(documents)
