"""OME-Zarr as others write it: plates, wells, converted files, lost and cut chunks."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr

from subcell_hf.images.fields_of_view import FieldError, ReadingOptions, find_fields
from subcell_hf.images.files import read_image
from tests.images.written_fields import COLOURS, label_mask, write_png
from tests.outside.written_zarr import describe, stack, write_image, write_plate

FIELDS = [stack(seed) for seed in (1, 2)]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("ending", [".zarr", ".ome.zarr", ".OME.ZARR"])
def test_a_plate_gives_every_field_of_every_well(tmp_path: Path, version: int, ending: str) -> None:
    path = tmp_path / f"p1{ending}"
    write_plate(path, FIELDS, version, wells=["A/1", "B/12"])
    found = {field.name: field for field in find_fields(path)}
    assert list(found) == ["p1_A01_0", "p1_A01_1", "p1_B12_0", "p1_B12_1"]
    field = found["p1_B12_1"].read()
    np.testing.assert_array_equal(field.pixels, FIELDS[1])
    assert field.channels == COLOURS
    assert field.pixel_size_um == pytest.approx(0.1)
    assert field.metadata == {"plate": "p1", "well": "B12", "site": "1"}
    # A well and an image that are given by themselves keep their names.
    assert [field.name for field in find_fields(path / "B/12")] == ["p1_B12_0", "p1_B12_1"]
    (alone,) = find_fields(path / "A/1/0")
    assert alone.name == "p1_A01_0"
    np.testing.assert_array_equal(alone.read().pixels, FIELDS[0])


def test_plates_in_a_folder_and_their_masks(tmp_path: Path) -> None:
    for plate in ("p1", "p2"):
        write_plate(tmp_path / f"{plate}.ome.zarr", FIELDS[:1])
    write_png(tmp_path / "p2_A01_0_mask.png", label_mask((64, 64)))
    (tmp_path / "metadata.csv").write_text("field_of_view,antibody\np1_A01_0,HPA1\np2_A01_0,HPA2\n")
    first, second = find_fields(tmp_path)
    assert (first.name, second.name) == ("p1_A01_0", "p2_A01_0")
    assert second.read().metadata["antibody"] == "HPA2"
    assert first.read().label_mask is None
    np.testing.assert_array_equal(second.read().label_mask, label_mask((64, 64)))


def test_zarr_folders_without_a_suffix_are_found(tmp_path: Path) -> None:
    write_image(zarr.open_group(tmp_path / "images/field 1", mode="w", zarr_format=3), FIELDS[0], 3)
    write_image(zarr.open_group(tmp_path / "images/deeper/field 2", mode="w", zarr_format=2), FIELDS[1])
    fields = find_fields(tmp_path / "images")
    assert [field.name for field in fields] == ["field 1", "field 2"]
    np.testing.assert_array_equal(fields[1].read().pixels, FIELDS[1])


def test_packed_ome_zarr_is_listed_as_what_it_is(tmp_path: Path) -> None:
    write_plate(tmp_path / "p.zarr", FIELDS[:1])
    shutil.make_archive(str(tmp_path / "q.zarr"), "zip", tmp_path / "p.zarr")
    packed = [field for field in find_fields(tmp_path) if field.listed.problem]
    assert len(packed) == 1
    assert "q.zarr.zip: .zarr.zip files are not read" in str(packed[0].listed.problem)


def test_a_lost_well_is_a_field_that_cannot_be_used(tmp_path: Path) -> None:
    write_plate(tmp_path / "p.zarr", FIELDS[:1], wells=["A/1", "A/2", "A/3"])
    shutil.rmtree(tmp_path / "p.zarr/A/2")
    (tmp_path / "p.zarr/A/3/.zattrs").write_text("{")
    fields = find_fields(tmp_path / "p.zarr")
    assert len(fields) == 3
    fields[0].read()
    for field in fields[1:]:
        with pytest.raises(FieldError, match=r"A/[23]"):
            field.read()


@pytest.mark.parametrize("attributes", [{"plate": {}}, {"plate": {"wells": []}}, {"plate": 5}, {"well": {}}, {"x": 1}])
def test_groups_without_images_say_so(tmp_path: Path, attributes: dict[str, object]) -> None:
    zarr.open_group(tmp_path / "p.zarr", mode="w", zarr_format=2).attrs.update(attributes)
    (field,) = find_fields(tmp_path / "p.zarr")
    with pytest.raises(FieldError, match="no OME-Zarr image"):
        field.read()


@pytest.mark.parametrize("listed", [True, False])
def test_series_of_a_converted_file(tmp_path: Path, listed: bool) -> None:
    root = zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    for number, pixels in enumerate(FIELDS):
        write_image(root.create_group(str(number)), pixels)
    if listed:
        root.create_group("OME").attrs["series"] = ["0", "1"]
    first, second = find_fields(tmp_path / "x.zarr")
    assert (first.name, second.name) == ("x_0", "x_1")
    np.testing.assert_array_equal(second.read().pixels, FIELDS[1])
    shutil.rmtree(tmp_path / "x.zarr/1")
    shutil.rmtree(tmp_path / "x.zarr/OME", ignore_errors=True)
    (only,) = find_fields(tmp_path / "x.zarr")
    assert only.name == "x"


def test_ome_zarr_of_old_versions(tmp_path: Path) -> None:
    """0.1 and 0.2 have no axes, 0.3 has names of axes alone."""
    group = zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=FIELDS[0][None, :, None])
    facts = {"datasets": [{"path": "0"}], "version": "0.1"}
    group.attrs.update({"multiscales": [facts], "omero": {"channels": [{"label": name} for name in COLOURS]}})
    options = ReadingOptions(pixel_size_um=0.1)
    np.testing.assert_array_equal(find_fields(tmp_path / "x.zarr", options)[0].read().pixels, FIELDS[0])
    group.attrs["multiscales"] = [{**facts, "axes": ["t", "c", "z", "y", "x"], "version": "0.3"}]
    np.testing.assert_array_equal(find_fields(tmp_path / "x.zarr", options)[0].read().pixels, FIELDS[0])


# --- chunks ---------------------------------------------------------------------------------------------------------


def _chunk(path: Path, version: int) -> Path:
    return path / ("0/1.0.1" if version == 2 else "0/c/1/0/1")


@pytest.mark.parametrize("version", [2, 3])
def test_a_lost_chunk_of_an_image_without_zeros(tmp_path: Path, version: int) -> None:
    path = tmp_path / "x.zarr"
    write_image(zarr.open_group(path, mode="w", zarr_format=version), FIELDS[0], version)  # type: ignore[arg-type]
    _chunk(path, version).unlink()
    with pytest.raises(FieldError, match="1 of its 16 chunks are missing, which would be read as 0"):
        read_image(path)


def test_a_lost_chunk_where_empty_ones_are_stored(tmp_path: Path) -> None:
    pixels = stack(3, low=0)
    pixels[0, :32, :32] = 0
    path = tmp_path / "x.zarr"
    config = {"write_empty_chunks": True}
    write_image(zarr.open_group(path, mode="w", zarr_format=2), pixels, config=config)
    np.testing.assert_array_equal(read_image(path).pixels, pixels)
    _chunk(path, 2).unlink()
    with pytest.raises(FieldError, match="1 of its 16 chunks are missing"):
        read_image(path)


def test_chunks_that_may_be_empty_are_counted(tmp_path: Path) -> None:
    """Writers leave out chunks of zeros: what is missing may be right, and is said."""
    pixels = stack(3, low=0)
    pixels[:, :32, :32] = 0
    path = tmp_path / "x.zarr"
    write_image(zarr.open_group(path, mode="w", zarr_format=2), pixels)
    with pytest.warns(UserWarning, match=r"x\.zarr: 4 of its 16 chunks are not stored and are read as 0"):
        np.testing.assert_array_equal(read_image(path).pixels, pixels)


@pytest.mark.parametrize("axis_factor", [2, 3])
def test_a_lost_chunk_that_the_pyramid_still_shows(tmp_path: Path, axis_factor: int) -> None:
    pixels = stack(3, low=0)
    pixels[:, :32, :32] = 0
    path = tmp_path / "x.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    write_image(group, pixels)
    group.create_array("1", data=np.ascontiguousarray(pixels[:, ::axis_factor, ::axis_factor]))
    facts = group.attrs.asdict()
    facts["multiscales"][0]["datasets"].append({"path": "1"})
    group.attrs.update(facts)
    with pytest.warns(UserWarning, match="4 of its 16 chunks"):  # black in both levels
        read_image(path)
    _chunk(path, 2).unlink()
    with pytest.raises(FieldError, match="5 of its 16 chunks are missing"):
        read_image(path)


def test_a_whole_image_gives_no_warning(tmp_path: Path) -> None:
    write_image(zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=3), FIELDS[0], 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(tmp_path / "x.zarr")


def test_masks_have_empty_chunks(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint16)
    mask[:30, :30] = 1
    group = zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=mask.shape, dtype=mask.dtype, chunks=(32, 32))[...] = mask
    axes = [{"name": "y"}, {"name": "x"}]
    describe(group, {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}], "image-label": {}}, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_image(tmp_path / "x.zarr").pixels, mask)


@pytest.mark.parametrize("codec", ["blosc", "zstd", "gzip", "none"])
@pytest.mark.parametrize("kept", [0, 10, 20, 0.5, 0.99])
def test_a_cut_chunk_is_refused(tmp_path: Path, codec: str, kept: float) -> None:
    """Blosc reads on behind a cut chunk, whatever lies there."""
    compressors = {
        "blosc": zarr.codecs.BloscCodec(),
        "zstd": zarr.codecs.ZstdCodec(),
        "gzip": zarr.codecs.GzipCodec(),
        "none": None,
    }
    path = tmp_path / "x.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=3)
    write_image(group, FIELDS[0], 3, compressors=compressors[codec])
    whole = _chunk(path, 3).read_bytes()
    _chunk(path, 3).write_bytes(whole[: int(kept if kept >= 1 else kept * len(whole))])
    with pytest.raises(FieldError, match=r"x\.zarr is truncated"):
        read_image(path)


@pytest.mark.parametrize("kept", [0.2, 0.9, 0.999])
def test_a_cut_shard_is_refused(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "x.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=3)
    write_image(group, FIELDS[0], 3, chunks=(1, 16, 16), shards=(1, 32, 32))
    np.testing.assert_array_equal(read_image(path).pixels, FIELDS[0])
    whole = _chunk(path, 3).read_bytes()
    _chunk(path, 3).write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(FieldError, match=r"x\.zarr is truncated"):
        read_image(path)
    _chunk(path, 3).unlink()
    with pytest.raises(FieldError, match="1 of its 16 chunks are missing"):
        read_image(path)


def test_a_level_that_is_lost_altogether(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    write_image(zarr.open_group(path, mode="w", zarr_format=2), FIELDS[0])
    for chunk in (path / "0").glob("[0-9]*"):
        chunk.unlink()
    with pytest.raises(FieldError, match="16 of its 16 chunks are missing"):
        read_image(path)
    facts = json.loads((path / ".zattrs").read_text())
    facts["multiscales"][0]["datasets"][0]["path"] = "nowhere"
    (path / ".zattrs").write_text(json.dumps(facts))
    with pytest.raises(FieldError, match="no OME-Zarr image"):
        read_image(path)
