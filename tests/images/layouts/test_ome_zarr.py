"""OME-Zarr plates of both versions: wells, sites, acquisitions, labels, and the planes that are read."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr

from subcell_hf.images.fields_of_view import FieldError, ReadingOptions, find_fields, list_fields
from subcell_hf.images.files import read_image
from tests.images.written_fields import COLOURS, label_mask
from tests.outside.written_zarr import describe, stack, write_image, write_plate


def _write_labels(image: Path, masks: dict[str, npt.NDArray[Any]], version: int) -> None:
    group = zarr.open_group(image, mode="r+").create_group("labels")
    describe(group, {"labels": list(masks)}, version)
    axes = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    for name, mask in masks.items():
        inner = group.create_group(name)
        inner.create_array("0", data=mask)
        describe(inner, {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}], "image-label": {}}, version)


@pytest.mark.parametrize("version", [2, 3])
def test_acquisitions_of_a_well_are_told_apart_where_there_are_several(tmp_path: Path, version: int) -> None:
    write_plate(tmp_path / "p.zarr", [stack(1), stack(2)], version, wells=["A/1", "C/012"])
    for well, cycles in {"A/1": (1, 2), "C/012": (1, 1)}.items():
        images = [{"path": str(number), "acquisition": cycle} for number, cycle in enumerate(cycles)]
        describe(zarr.open_group(tmp_path / "p.zarr" / well, mode="r+"), {"well": {"images": images}}, version)
    found = {item.name: item.metadata for item in find_fields(tmp_path / "p.zarr")}
    assert found["p_A01_1"] == {"plate": "p", "well": "A01", "site": "1", "acquisition": "2"}
    assert [found[name]["acquisition"] for name in ("p_A01_0", "p_C12_0", "p_C12_1")] == ["1", "1", "1"]


@pytest.mark.parametrize("version", [2, 3])
def test_a_plate_is_listed_without_its_images(tmp_path: Path, version: int) -> None:
    """Neither groups of rows nor images and arrays are looked at."""
    write_plate(tmp_path / "p.zarr", [stack(1)], version, wells=["A/1", "B/2"])
    for image in (tmp_path / "p.zarr").glob("*/*/0"):
        shutil.rmtree(image)
    for row in "AB":
        for file in (tmp_path / "p.zarr" / row).glob("*z*"):
            file.unlink()
    fields = find_fields(tmp_path / "p.zarr")
    assert [item.name for item in fields] == ["p_A01_0", "p_B02_0"]
    with pytest.raises(FieldError, match=r"p_B02_0.*B/2/0"):
        fields[1].read()


def test_ways_out_of_a_plate_are_not_followed(tmp_path: Path) -> None:
    write_plate(tmp_path / "other.zarr", [stack(1)])
    zarr.open_group(tmp_path / "p.zarr", mode="w", zarr_format=2).attrs["plate"] = {
        "wells": [{"path": "../other.zarr/A/1"}]
    }
    (field,) = find_fields(tmp_path / "p.zarr")
    assert field.name == "p"
    with pytest.raises(FieldError, match="no OME-Zarr image"):
        field.read()


def _lose_chunks(image: Path, version: int, kept: int) -> None:
    """Leave of all chunks only those of one channel: whoever reads another one notices."""
    for path in (image / "0").glob("*.*" if version == 2 else "c/*"):
        if path.name[0].isdigit() and not path.name.startswith(str(kept)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("version", [2, 3])
def test_only_the_channels_that_are_needed_are_read(tmp_path: Path, version: int) -> None:
    write_plate(tmp_path / "p.zarr", [stack(1)], version)
    _lose_chunks(tmp_path / "p.zarr/A/1/0", version, kept=2)
    (field,) = find_fields(tmp_path / "p.zarr", ReadingOptions(channels=(COLOURS[2],)))
    read = field.read()
    assert read.channels == (COLOURS[2],)
    np.testing.assert_array_equal(read.pixels, stack(1)[2:3])
    with pytest.raises(FieldError, match="chunks are missing"):
        find_fields(tmp_path / "p.zarr", ReadingOptions(channels=COLOURS[1:3]))[0].read()


def test_only_the_plane_that_is_needed_is_read(tmp_path: Path) -> None:
    pixels = np.stack([stack(seed) for seed in (1, 2, 3)], axis=1)  # [channels, planes, height, width]
    group = zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=3)
    group.create_array("0", shape=pixels.shape, dtype=pixels.dtype, chunks=(1, 1, 64, 64))[...] = pixels
    axes = [{"name": "c"}, *({"name": name, "unit": "micrometer"} for name in "zyx")]
    scale = [{"type": "scale", "scale": [1, 5, 0.2, 0.2]}]
    facts = {"multiscales": [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]}
    describe(group, {**facts, "omero": {"channels": [{"label": name} for name in COLOURS]}}, 3)
    image = read_image(tmp_path / "x.zarr", wanted={"C": [0, 2], "Z": [1]})
    np.testing.assert_array_equal(image.pixels, pixels[[0, 2], 1:2])
    assert image.metadata.channel_names == (COLOURS[0], COLOURS[2])
    for lost in ("0", "2"):
        for path in (tmp_path / "x.zarr/0/c").glob(f"*/{lost}"):
            shutil.rmtree(path)
    (field,) = find_fields(tmp_path / "x.zarr", ReadingOptions(z_projection=1))
    np.testing.assert_array_equal(field.read().pixels, pixels[:, 1])
    with pytest.raises(FieldError, match="8 of its 12 chunks are missing"):
        find_fields(tmp_path / "x.zarr", ReadingOptions(z_projection="max"))[0].read()


@pytest.mark.parametrize("version", [2, 3])
def test_labels_are_chosen_by_name(tmp_path: Path, version: int) -> None:
    write_plate(tmp_path / "p.zarr", [stack(1), stack(2)], version)
    mask = label_mask((64, 64))
    _write_labels(tmp_path / "p.zarr/A/1/0", {"Label A": mask, "nuclei": mask[::-1]}, version)
    assert "choose it (--labels)" in "".join(list_fields(tmp_path / "p.zarr").unused.values())
    first, second = list_fields(tmp_path / "p.zarr", ReadingOptions(labels="Label A")).fields
    np.testing.assert_array_equal(first.read().label_mask, mask)
    with pytest.raises(FieldError, match=r"p_A01_1' has no labels 'Label A' .* found none"):
        second.read()
    with pytest.raises(FieldError, match=r"No image has the labels 'cells' .* found Label A, nuclei"):
        list_fields(tmp_path / "p.zarr", ReadingOptions(labels="cells"))


def test_a_scale_without_unit_is_no_pixel_size(tmp_path: Path) -> None:
    write_image(zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=2), stack(1))
    facts = json.loads((tmp_path / "x.zarr/.zattrs").read_text())
    for axis in facts["multiscales"][0]["axes"]:
        axis.pop("unit", None)
    (tmp_path / "x.zarr/.zattrs").write_text(json.dumps(facts))
    with pytest.raises(FieldError, match="pixel size is unknown"):
        find_fields(tmp_path / "x.zarr")[0].read()
