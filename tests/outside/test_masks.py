"""Label masks as other programs write them: read, or refused for what they are."""

import gzip
import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr
from scipy import ndimage
from typer.testing import CliRunner

from subcell_hf.cells.cropping import CropSettings, crop_fields, read_crop_table
from subcell_hf.cli import app
from subcell_hf.images.fields_of_view import FieldError, FieldSource, FoundFields, ReadingOptions, list_fields
from subcell_hf.images.masks.instances import mask_of_single_cell
from subcell_hf.simulation.simulate import simulate_dataset
from subcell_hf.types import FieldOfView
from tests.images.written_fields import label_mask, random_plane, write_hpa_field, write_png

SMALL = CropSettings(crop_px=32, output_px=16)
Mask = npt.NDArray[Any]


def _write_tiff(path: Path, mask: Mask) -> None:
    tifffile.imwrite(path, mask, metadata={"axes": "YX"}, bigtiff=path.suffix in (".btf", ".tf8"))


def _write_packed(path: Path, mask: Mask) -> None:
    tifffile.imwrite(path.with_suffix(".raw"), mask)
    path.write_bytes(gzip.compress(path.with_suffix(".raw").read_bytes()))
    path.with_suffix(".raw").unlink()


def _write_zarr(path: Path, mask: Mask) -> None:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", shape=mask.shape, dtype=mask.dtype)[...] = mask
    group.attrs["multiscales"] = [{"axes": [{"name": n, "type": "space"} for n in "yx"], "datasets": [{"path": "0"}]}]


def _reason(found: FieldSource) -> str:
    with pytest.raises(FieldError) as caught:
        found.read()
    return str(caught.value)


@pytest.mark.parametrize("stacks", [False, True])
@pytest.mark.parametrize(
    ("ending", "write"),
    [
        ("_mask.tif", _write_tiff),
        ("_mask.ome.tif", _write_tiff),
        ("_mask.ome.tiff", _write_tiff),
        ("_mask.btf", _write_tiff),
        ("_mask.tf8", _write_tiff),
        ("_MASK.TIF", _write_tiff),
        ("_Mask.OME.TIFF", _write_tiff),
        ("_mask.tif.gz", _write_packed),
        ("_mask.npy", np.save),
        ("_mask.zarr", _write_zarr),
        ("_cp_masks.tif", _write_tiff),
        ("_cp_masks.png", write_png),
    ],
)
def test_masks_of_every_kind_are_used(tmp_path: Path, stacks: bool, ending: str, write: Callable[..., None]) -> None:
    planes = write_hpa_field(tmp_path, "7_A1_1", with_mask=False)
    if stacks:
        for path in tmp_path.iterdir():
            path.unlink()
        tifffile.imwrite(tmp_path / "7_A1_1.ome.tif", np.stack(list(planes.values())), photometric="minisblack")
    write(tmp_path / f"7_A1_1{ending}", label_mask())
    options = ReadingOptions(channel_names=tuple(planes) if stacks else (), pixel_size_um=0.1)
    found = list_fields(tmp_path, options)
    (field,) = found.fields
    assert (field.name, dict(found.unused)) == ("7_A1_1", {})
    np.testing.assert_array_equal(field.read().label_mask, label_mask())


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "int32", "int64", "float32", "float64", ">u2"])
def test_whole_numbers_of_any_kind(tmp_path: Path, dtype: str) -> None:
    write_hpa_field(tmp_path, "7_A1_1", with_mask=False)
    tifffile.imwrite(tmp_path / "7_A1_1_mask.tif", label_mask().astype(dtype))
    np.testing.assert_array_equal(list_fields(tmp_path).fields[0].read().label_mask, label_mask())


def test_grey_labels_stored_as_colours_and_one_cell_as_true_and_false(tmp_path: Path) -> None:
    write_hpa_field(tmp_path, "7_A1_1", with_mask=False)
    write_png(tmp_path / "7_A1_1_mask.png", np.stack([label_mask().astype(np.uint8)] * 3, axis=-1))
    np.testing.assert_array_equal(list_fields(tmp_path).fields[0].read().label_mask, label_mask())
    (tmp_path / "7_A1_1_mask.png").unlink()
    np.save(tmp_path / "7_A1_1_mask.npy", label_mask() == 3)
    np.testing.assert_array_equal(list_fields(tmp_path).fields[0].read().label_mask, label_mask() == 3)


_COLOURED = np.stack([label_mask(), label_mask() * 2, label_mask()], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (label_mask() + np.float32(0.5), "values such as 0.5, expected whole numbers"),
        (np.where(label_mask() > 0, np.nan, 0), "values such as nan"),
        (np.where(label_mask() > 0, np.inf, 0), "values such as inf"),
        (label_mask() / np.float32(7), "A map of probabilities or intensities is no mask"),
        (label_mask().astype(np.int32) - 1, "labels -1 to 6"),
        (label_mask()[::2, ::2], r"shape (32, 36), expected (64, 72)"),
        (label_mask().T, r"shape (72, 64), expected (64, 72)"),
        (np.stack([label_mask(), label_mask()]), r"shape (2, 64, 72)"),
        (_COLOURED, "is a colour picture"),
        (np.zeros((64, 72, 3), np.uint8), "is empty"),
        ((label_mask() > 0) * np.uint8(255), "1 of 1 labels in separate pieces"),
        ((label_mask() > 0).astype(np.uint8), "1 of 1 labels in separate pieces"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path: Path, mask: Mask, message: str) -> None:
    write_hpa_field(tmp_path, "7_A1_1", with_mask=False)
    np.save(tmp_path / "7_A1_1_mask.npy", mask)
    assert message in _reason(list_fields(tmp_path).fields[0])


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A field of a dozen cells, some of which touch."""
    folder = tmp_path_factory.mktemp("simulated")
    simulate_dataset(1, 0, folder, antibodies=1, size_px=1024, progress=False)
    return folder


@pytest.fixture
def mask(simulated: Path) -> Mask:
    return np.asarray(imagecodecs.imread(next(simulated.glob("*_mask.png"))))


def _masked(simulated: Path, folder: Path, mask: Mask) -> FieldSource:
    """The simulated field with another mask."""
    for path in simulated.iterdir():
        if not path.name.endswith("_mask.png"):
            (folder / path.name).symlink_to(path)
    name = next(simulated.glob("*_mask.png")).name.removesuffix("_mask.png")
    tifffile.imwrite(folder / f"{name}_mask.tif", mask)
    (found,) = list_fields(folder).fields
    return found


def _joined(mask: Mask) -> Mask:
    """All cells in one piece."""
    return ndimage.binary_closing(np.pad(mask > 0, 200), iterations=150)[200:-200, 200:-200]


@pytest.mark.parametrize(
    "change",
    [
        lambda mask: (mask > 0).astype(np.uint8),
        lambda mask: mask > 0,
        lambda mask: (mask > 0) * np.uint8(128),
        lambda mask: np.where(mask > 0, mask % 3 + 1, 0).astype(np.uint8),
        lambda mask: np.where(mask > 0, mask % 5 + 1, 0).astype(np.uint8),
        lambda mask: ((mask > 0) + 1).astype(np.uint8),
        lambda mask: (mask > 0) + ndimage.binary_erosion(mask > 0, iterations=25).astype(np.uint8),
        lambda mask: _joined(mask).astype(np.uint8),
        lambda mask: (_joined(mask) + 1).astype(np.uint8),
        lambda mask: (mask > 0) * np.uint8(255),
        lambda mask: _joined(mask) * np.uint16(65_535),
        lambda mask: mask + 100 * ndimage.binary_erosion(mask > 0, iterations=25).astype(np.uint8) * (mask > 0),
        lambda mask: (mask == 3) + ndimage.binary_erosion(mask == 3, iterations=25).astype(np.uint8),
        lambda mask: np.ones_like(mask),
        lambda mask: np.where(mask == mask.max(), 1, mask),
        lambda mask: np.random.default_rng(0).integers(0, 200, mask.shape, np.uint8),
        lambda mask: np.random.default_rng(0).integers(0, 60_000, mask.shape, np.uint16),
        lambda mask: (ndimage.gaussian_filter((mask > 0) * 255.0, 8)).astype(np.uint8),
    ],
    ids=[
        "0/1", "bool", "0/128", "mod 3", "mod 5", "ilastik 1/2", "cytoplasm, nucleus", "touching 0/1", "touching 1/2",
        "0/255", "touching 0/65535", "cells, nuclei", "one cytoplasm, one nucleus",
        "all 1", "two cells share a number", "noise", "16-bit noise", "probabilities in bytes",
    ],
)  # fmt: skip
def test_masks_of_classes_are_refused(
    simulated: Path, mask: Mask, tmp_path: Path, change: Callable[[Mask], Mask]
) -> None:
    message = _reason(_masked(simulated, tmp_path, change(mask)))
    assert "_mask.tif" in message
    assert "Give every cell a separate number" in message
    assert "--trust-masks" in message


def test_true_masks_pass(simulated: Path, mask: Mask, tmp_path: Path) -> None:
    sizes = np.bincount(mask[mask > 0])
    specks = mask.copy()
    rows, columns = np.nonzero(mask == 0)
    specks[rows[::5000], columns[::5000]] = sizes.argmax()  # single pixels far from their cell
    rows = np.flatnonzero((mask == sizes.argmax()).any(axis=1))
    crossed = mask.copy()
    process = crossed[(rows[0] + rows[-1]) // 2 - 3 : (rows[0] + rows[-1]) // 2 + 3]
    process[process == sizes.argmax()] = 0
    tissue = np.arange(1, 17, dtype=np.uint8).reshape(4, 4).repeat(256, axis=0).repeat(256, axis=1)
    quarters = np.arange(1, 5, dtype=np.uint8).reshape(2, 2).repeat(512, axis=0).repeat(512, axis=1)
    true = {
        "as simulated": mask,
        "one cell": (mask == sizes.argmax()).astype(np.uint8),
        "one cell as 128": (mask == sizes.argmax()) * np.uint8(128),
        "one cell as 255": (mask == sizes.argmax()) * np.uint8(255),
        "one cell as 65535": (mask == sizes.argmax()) * np.uint16(65_535),
        "one cell in another": np.where(ndimage.binary_erosion(mask == 3, iterations=40), 99, mask),
        "specks": specks,
        "one cell crossed by a process": crossed,
        "tissue without background": tissue,
        "four cells without background": quarters,
    }
    for number, (what, labels) in enumerate(true.items()):
        (tmp_path / str(number)).mkdir()
        found = _masked(simulated, tmp_path / str(number), labels)
        if what == "four cells without background":
            found = _without_nuclei(found)
        np.testing.assert_array_equal(found.read().label_mask, labels, what)


def test_masks_are_taken_as_they_are_where_the_user_says_so(simulated: Path, mask: Mask, tmp_path: Path) -> None:
    labels = {"syncytium": _joined(mask).astype(np.uint8), "pieces": np.where(mask == mask.max(), 1, mask)}
    for what, given in labels.items():
        (tmp_path / what).mkdir()
        found = _masked(simulated, tmp_path / what, given)
        assert "--trust-masks" in _reason(found)
        trusted = replace(found, options=ReadingOptions(trust_masks=True))
        np.testing.assert_array_equal(trusted.read().label_mask, given)
    refused = CliRunner().invoke(app, ["crops", str(tmp_path / "pieces"), "--output", str(tmp_path / "refused")])
    assert (refused.exit_code, "--trust-masks" in refused.output.replace("\n", "")) == (2, True)
    command = ["crops", str(tmp_path / "pieces"), "--trust-masks", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*command, "--output-size-px", "16"], catch_exceptions=False)
    assert result.exit_code == 0
    assert json.loads((tmp_path / "out/crops.json").read_text())["settings"]["trust_masks"] is True


def _single(mask: Mask, nuclei: Mask | None = None) -> FieldOfView:
    pixels = np.stack([random_plane(1, mask.shape)] if nuclei is None else [nuclei])
    return FieldOfView("a", pixels, ("green",) if nuclei is None else ("blue",), 0.3, mask.astype(np.int32))


def test_the_mask_of_an_image_of_one_cell() -> None:
    cell = np.zeros((100, 100), np.int32)
    cell[30:70, 30:70] = 7
    neighbours = cell.copy()
    neighbours[:20, 20:80] = 3
    neighbours[:20, 45:55] = 0  # in two pieces, as the image's border cuts it
    for mask in (cell, np.where(cell, 255, 0), neighbours, np.ones_like(cell), np.where(cell, 2, 1)):
        expected = mask > 0 if len(np.unique(mask)) < 2 else cell > 0
        np.testing.assert_array_equal(mask_of_single_cell(_single(mask), "m"), expected)
    nucleus = np.where(ndimage.binary_erosion(cell, iterations=10), 2, np.sign(cell))
    binary = (neighbours > 0).astype(np.int32)
    for mask, message in ((nucleus, "inside of others"), (binary, "separate pieces")):
        with pytest.raises(FieldError, match=message):
            mask_of_single_cell(_single(mask), "m")
        assert mask_of_single_cell(_single(mask), "m", trusted=True)[50, 50]
    away = np.where(neighbours == 7, 0, neighbours)
    away[90:, :10] = 1
    with pytest.raises(FieldError, match="2 labels and none in the centre"):
        mask_of_single_cell(_single(away), "m")


def _without_nuclei(found: FieldSource) -> FieldSource:
    """Its quarters are drawn over the cells, so that nuclei say nothing of them."""
    return replace(found, options=replace(found.options, channels=("green",)))


@pytest.mark.parametrize("label", [60_000, 5_000_000, 50_000_000, 1_500_000_000])
def test_memory_is_by_pixels_and_labels_are_kept(tmp_path: Path, label: int) -> None:
    for name in ("7_A1_1", "7_A2_1"):
        write_hpa_field(tmp_path / "in", name)
    (tmp_path / "in/7_A1_1_mask.png").unlink()
    huge = label_mask().astype(np.uint32)
    huge[huge == 7] = label
    tifffile.imwrite(tmp_path / "in/7_A1_1_mask.tif", huge)
    tracemalloc.start()
    report = crop_fields(tmp_path / "in", tmp_path / "out", settings=SMALL, progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
    assert (report.cells, report.skipped) == (4, {})
    cells = read_crop_table(tmp_path / "out")
    assert cells["label"].tolist() == [3, label, 3, 7]
    assert cells["cell_id"].tolist() == ["7_A1_1_3", f"7_A1_1_{label}", "7_A2_1_3", "7_A2_1_7"]
    assert cells["qc_area_um2"].tolist()[:2] == cells["qc_area_um2"].tolist()[2:]


def _unused(folder: Path, options: ReadingOptions | None = None) -> tuple[FoundFields, dict[str, str]]:
    found = list_fields(folder, options)
    return found, {Path(path).name: reason for path, reason in found.unused.items()}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("7_A1_1_seg.npy", "--save_tif"),
        ("7_A1_1_flows.tif", "an output of Cellpose"),
        ("7_A1_1_cellprob.tif", "an output of Cellpose"),
        ("7_A1_1_cp_output.png", "an output of Cellpose"),
        ("7_A1_1_outlines_cp_masks.png", "an output of Cellpose"),
        ("7_A1_1_masks.tif", "rename it"),
        ("7_A1_1-mask.tif", "rename it"),
        ("7_A1_1_label.tif", "rename it"),
        ("7_A1_1-labels.tif", "rename it"),
        ("7_A1_1_segmentation.png", "rename it"),
        ("7_A1_1_Simple Segmentation.tif", "rename it"),
        ("7_A1_1_cell_labels.tif", "rename it"),
        ("7_A1_1_cellmask.png", "rename it"),
        ("7_A1_1_nucleimask.png", "rename it"),
    ],
)
@pytest.mark.parametrize("stacks", [False, True])
def test_outputs_of_segmentation_programs_are_named_with_the_remedy(
    tmp_path: Path, stacks: bool, name: str, said: str
) -> None:
    if stacks:
        tifffile.imwrite(tmp_path / "7_A1_1.tif", np.stack([random_plane(1)] * 2), photometric="minisblack")
    else:
        write_hpa_field(tmp_path, "7_A1_1", with_mask=False)
    (tmp_path / name).write_bytes(b"x")
    found, unused = _unused(tmp_path)
    assert [field.name for field in found.fields] == ["7_A1_1"]
    assert list(unused) == [name]
    assert said in unused[name]


@pytest.mark.parametrize("name", ["7_A1_1_blue_cp_masks.tif", "7_A1_1_blue_mask.png", "7_A1_1_blue_seg.npy"])
def test_a_mask_of_one_channel_may_be_of_nuclei(tmp_path: Path, name: str) -> None:
    write_hpa_field(tmp_path, "7_A1_1", with_mask=False)
    (tmp_path / name).write_bytes(b"x")
    found, unused = _unused(tmp_path)
    assert found.fields[0].read().label_mask is None
    assert list(unused) == [name]


def test_two_masks_of_one_field(tmp_path: Path) -> None:
    write_hpa_field(tmp_path, "7_A1_1")
    tifffile.imwrite(tmp_path / "7_A1_1_cp_masks.tif", label_mask() * 2)
    np.testing.assert_array_equal(list_fields(tmp_path).fields[0].read().label_mask, label_mask())
    tifffile.imwrite(tmp_path / "7_A1_1_mask.tif", label_mask() * 2)
    assert "more than one file for mask" in _reason(list_fields(tmp_path).fields[0])
    folder = tmp_path / "stacks"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", np.stack([random_plane(1), random_plane(2)]), photometric="minisblack")
    for ending in ("png", "tif"):
        (folder / f"a_mask.{ending}").write_bytes(b"x")
    assert "more than one file for mask" in _reason(list_fields(folder).fields[0])


def _write_ome_zarr(path: Path, labels: dict[str, Mask], version: int) -> None:
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]

    def put(group: zarr.Group, pixels: Mask, axes: list[dict[str, str]], **facts: object) -> None:
        group.create_array("0", shape=pixels.shape, dtype=pixels.dtype)[...] = pixels
        scale = [1.0] * (pixels.ndim - 2) + [0.1, 0.1]
        datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}]
        facts = {"multiscales": [{"axes": axes, "datasets": datasets}], **facts}
        group.attrs.update(facts if version == 2 else {"ome": facts})

    group = zarr.open_group(path, mode="w", zarr_format=2 if version == 2 else 3)
    channels = [{"label": name} for name in ("blue", "green")]
    put(group, np.stack([random_plane(1), random_plane(2)]), axes, omero={"channels": channels})
    inner = group.create_group("labels")
    inner.attrs.update({"labels": list(labels)} if version == 2 else {"ome": {"labels": list(labels)}})
    for name, mask in labels.items():
        put(inner.create_group(name), mask, axes[1:])


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("single", [False, True])
def test_the_labels_inside_of_an_ome_zarr_are_its_mask(tmp_path: Path, version: int, single: bool) -> None:
    _write_ome_zarr(tmp_path / "x.ome.zarr", {"cells": label_mask()}, version)
    (field,) = list_fields(tmp_path / "x.ome.zarr" if single else tmp_path).fields
    assert field.name == "x"
    np.testing.assert_array_equal(field.read().label_mask, label_mask())


@pytest.mark.parametrize("labels", [("nuclei",), ("cells", "nuclei")])
def test_labels_that_are_not_surely_cells_are_named(tmp_path: Path, labels: tuple[str, ...]) -> None:
    _write_ome_zarr(tmp_path / "x.zarr", dict.fromkeys(labels, label_mask()), 2)
    found, unused = _unused(tmp_path)
    assert found.fields[0].read().label_mask is None
    assert ", ".join(labels) in unused["labels"]
    assert "x_mask.zarr" in unused["labels"]
    (tmp_path / "x_mask.zarr").symlink_to(tmp_path / "x.zarr/labels" / labels[0])  # the remedy
    found, unused = _unused(tmp_path)
    np.testing.assert_array_equal(found.fields[0].read().label_mask, label_mask())
    assert "the mask beside the image is used" in unused["labels"]
