"""PNG to planes: the same numbers as libpng, and no damaged file passes."""

from collections.abc import Callable

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.published_cells import opencv_png
from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.decoders.png_planes import decode_png_planes

RGBA = np.random.default_rng(0).integers(0, 256, (23, 31, 4), np.uint8)
SMOOTH = (np.add.outer(np.arange(64), np.arange(50))[..., None] * np.arange(1, 5) // 3 % 256).astype(np.uint8)


@pytest.mark.parametrize("image", [RGBA, SMOOTH], ids=["noise", "ramps"])
@pytest.mark.parametrize(
    "encode",
    [lambda image: opencv_png(image[:, :, [2, 1, 0, 3]]), imagecodecs.png_encode],
    ids=["as OpenCV", "as libpng, which filters each row as it likes"],
)
def test_planes_are_the_samples_in_the_order_of_the_file(
    image: npt.NDArray[np.uint8], encode: Callable[[npt.NDArray[np.uint8]], bytes]
) -> None:
    content = encode(image)
    np.testing.assert_array_equal(imagecodecs.png_decode(content), image)
    np.testing.assert_array_equal(decode_png_planes(content, 4, "image.png"), image.transpose(2, 0, 1))
    for rows, columns in ((slice(3, 17), slice(5, 23)), (slice(0, 99), slice(7, 99)), (slice(4, 4), slice(0, 0))):
        window = decode_png_planes(content, 4, "image.png", rows, columns)
        np.testing.assert_array_equal(window, image[rows, columns].transpose(2, 0, 1))
    mask = opencv_png(image[:, :, 0])
    np.testing.assert_array_equal(decode_png_planes(mask, 1, "mask.png")[0], image[:, :, 0])


def test_every_flipped_bit_is_found() -> None:
    content = opencv_png(RGBA[:6, :7])
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(FieldError, match=r"crop\.png"):
            decode_png_planes(bytes(damaged), 4, "crop.png")


def test_every_truncation_is_found() -> None:
    content = opencv_png(RGBA[:6, :7])
    for length in range(len(content)):
        with pytest.raises(FieldError, match=r"crop\.png"):
            decode_png_planes(content[:length], 4, "crop.png")


@pytest.mark.parametrize(
    "content",
    [
        opencv_png(RGBA[:, :, 0]),
        bytes(imagecodecs.png_encode(RGBA[:, :, :3].copy())),
        bytes(imagecodecs.png_encode(RGBA.astype(np.uint16))),
    ],
    ids=["grey", "RGB", "16 bits"],
)
def test_other_kinds_are_refused(content: bytes) -> None:
    with pytest.raises(FieldError, match=r"crop\.png is a PNG of .* expected 8 bits and 4 samples per pixel"):
        decode_png_planes(content, 4, "crop.png")
