"""Colours, Z-stacks, intensities and masks: read as what they are, or refused with the reason."""

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest

from subcell_hf.images.decoders.file_metadata import ImageMetadata
from subcell_hf.images.files import FieldError, Image, read_image
from subcell_hf.images.planes import channel_stack, check_intensities, check_label_mask, single_plane
from tests.images.written_fields import label_mask, random_plane


def _image(pixels: npt.NDArray[Any], axes: str) -> Image:
    return Image(Path("field.tif"), pixels, axes, ImageMetadata())


@pytest.mark.parametrize("name", ["800_A6_1", "89_B5_1"])
@pytest.mark.parametrize(("colour", "samples"), [("red", [0]), ("green", [1]), ("blue", [2]), ("yellow", [0, 1])])
def test_hpa_jpegs_are_read_as_their_channel(hpa_fields: Path, name: str, colour: str, samples: list[int]) -> None:
    image = read_image(hpa_fields / f"{name}_{colour}.jpg")
    plane = single_plane(image)
    assert plane.dtype == np.uint8
    np.testing.assert_array_equal(plane, np.rint(image.pixels[:, :, samples].mean(axis=2)))


@pytest.mark.parametrize("second", ["green", "red", "yellow"])
def test_composites_of_channels_are_refused(hpa_fields: Path, tmp_path: Path, second: str) -> None:
    composite = np.zeros((1728, 1728, 3), np.uint8)
    for colour in ("blue", second):
        composite = np.maximum(composite, read_image(hpa_fields / f"89_B5_1_{colour}.jpg").pixels)
    (tmp_path / "composite.jpg").write_bytes(imagecodecs.jpeg_encode(composite, level=90))
    with pytest.raises(FieldError, match=r"composite.*one channel shown in one colour.*separate file"):
        single_plane(read_image(tmp_path / "composite.jpg"))


def test_grey_and_alpha() -> None:
    plane = random_plane(1)
    np.testing.assert_array_equal(single_plane(_image(np.stack([plane] * 3, axis=-1), "YXS")), plane)
    opaque = np.stack([plane, plane, plane, np.full_like(plane, 255)], axis=-1)
    np.testing.assert_array_equal(single_plane(_image(opaque, "YXS")), plane)
    with pytest.raises(FieldError, match="transparency"):
        single_plane(_image(np.stack([plane] * 4, axis=-1), "YXS"))


def test_z_stacks_need_a_choice() -> None:
    stack = np.stack([random_plane(seed, dtype="uint16") for seed in range(3)])
    image = _image(stack, "ZYX")
    with pytest.raises(FieldError, match=r"Z-stack of 3 planes .*max, mean, or the index"):
        single_plane(image)
    np.testing.assert_array_equal(single_plane(image, "max"), stack.max(axis=0))
    np.testing.assert_array_equal(single_plane(image, "mean"), np.rint(stack.mean(axis=0)))
    np.testing.assert_array_equal(single_plane(image, 2), stack[2])
    with pytest.raises(FieldError, match=r"planes 0 to 2, asked for z_projection=3"):
        single_plane(image, 3)


def test_axes_are_brought_into_order() -> None:
    stack = np.arange(2 * 3 * 4 * 5, dtype=np.uint16).reshape(1, 2, 3, 4, 5)
    np.testing.assert_array_equal(channel_stack(_image(stack, "TZCYX"), 1), stack[0, 1])
    np.testing.assert_array_equal(channel_stack(_image(stack[0, 0], "QYX")), stack[0, 0])
    moved = np.moveaxis(stack[0, 0], 0, -1)
    np.testing.assert_array_equal(channel_stack(_image(moved, "YXC")), stack[0, 0])
    with pytest.raises(FieldError, match="2 entries along axis T"):
        channel_stack(_image(stack[0], "TCYX"))
    with pytest.raises(FieldError, match=r"3 channels .*expected one"):
        single_plane(_image(stack[0, 0], "CYX"))
    with pytest.raises(FieldError, match="rows and columns"):
        channel_stack(_image(stack[0, 0, 0], "QX"))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.array([1.0, np.nan]), "1 values that are NaN or infinite"),
        (np.array([1.0, np.inf, -np.inf]), "2 values that are NaN or infinite"),
        (np.array([-0.5, 1.0]), r"negative values \(smallest -0.5\)"),
        (np.array([-3, 1], np.int16), "negative values"),
        (np.array([70_000], np.int32), "up to 70000, expected at most 65535"),
        (np.array([True]), "dtype bool"),
        (np.array([1j]), "dtype complex128"),
    ],
)
def test_bad_intensities_are_refused(pixels: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(FieldError, match=message):
        check_intensities(pixels, "channel green")


@pytest.mark.parametrize(
    ("given", "kept"),
    [("uint8", "uint8"), ("uint16", "uint16"), (">u2", "uint16"), ("int32", "uint16"), ("float64", "float32")],
)
def test_good_intensities_keep_their_values(given: str, kept: str) -> None:
    values = np.array([0, 1, 255], given)
    checked = check_intensities(values, "channel green")
    assert checked.dtype == np.dtype(kept)
    assert checked.dtype.isnative
    np.testing.assert_array_equal(checked, values)


def test_a_good_mask_keeps_its_labels() -> None:
    mask = label_mask()
    checked = check_label_mask(_image(mask, "YX"), mask.shape)
    assert checked.dtype == np.int32
    np.testing.assert_array_equal(checked, mask)
    np.testing.assert_array_equal(check_label_mask(_image(mask[None], "QYX"), mask.shape), mask)


_LABELS = np.arange(300 * 300, dtype=np.uint32).reshape(300, 300)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((8, 8), np.uint8), "is empty, expected at least one cell"),
        (np.full((8, 8), 0.5, np.float32), "dtype float32 and values such as 0.5, expected whole numbers"),
        (np.ones((8, 9), np.uint8), r"shape \(8, 9\), expected \(8, 8\)"),
        (np.full((8, 8), -1, np.int16), "labels -1 to -1"),
        (np.full((8, 8), 2**40, np.uint64), "labels 1099511627776"),
    ],
)
def test_bad_masks_are_refused(mask: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(FieldError, match=message):
        check_label_mask(_image(mask, "YX"), (8, 8))


def test_too_many_labels_are_refused_and_65535_are_not() -> None:
    with pytest.raises(FieldError, match="89,999 labels, expected at most 65,535"):
        check_label_mask(_image(_LABELS, "YX"), _LABELS.shape)
    assert check_label_mask(_image(_LABELS.clip(max=65_535), "YX"), _LABELS.shape).max() == 65_535
