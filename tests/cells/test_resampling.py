"""Windows are cut and resized as their one definition says, whichever way is taken."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from subcell_hf.cells.resampling import dilate, nearest_window, resample_windows, sample_positions

STARTS = [(0, 0), (-7, 5), (-8, -3), (30, 41), (31, 40), (-100, 0), (5, 90)]


def _field(dtype: str, shape: tuple[int, int, int] = (3, 61, 70)) -> npt.NDArray[Any]:
    generator = np.random.default_rng(0)
    if dtype == "float32":
        return generator.random(shape, np.float32)
    return generator.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def _with_zeros(field: npt.NDArray[Any], start: tuple[int, int], size: int) -> npt.NDArray[Any]:
    """Reference: a window cut out of a field with a wide margin of zeros."""
    margin = 200
    padded = np.pad(field, ((0, 0), (margin, margin), (margin, margin)))
    rows, columns = (slice(first + margin, first + margin + size) for first in start)
    return padded[:, rows, columns]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_scale_1_is_a_slice(dtype: str) -> None:
    field = _field(dtype)
    windows = resample_windows(field, STARTS, 1, 32)
    assert windows.dtype == dtype
    for window, start in zip(windows, STARTS, strict=True):
        np.testing.assert_array_equal(window, _with_zeros(field, start, 32))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_scale_2_is_the_mean_of_four_rounded_half_to_even(dtype: str) -> None:
    field = _field(dtype)
    windows = resample_windows(field, STARTS, 2, 16)
    for window, start in zip(windows, STARTS, strict=True):
        mean = _with_zeros(field, start, 32).reshape(3, 16, 2, 16, 2).astype(np.float64).mean(axis=(2, 4))
        if dtype == "float32":
            np.testing.assert_allclose(window, mean, rtol=1e-6)
        else:
            np.testing.assert_array_equal(window, np.rint(mean))


def test_every_half_is_rounded_to_even() -> None:
    field = np.zeros((1, 2, 2 * 256), np.uint8)
    field[0, 0, ::2] = np.arange(256)
    field[0, 1, 1::2] = np.arange(256)[::-1] // 2
    total = field.reshape(1, 2, 256, 2).astype(np.float64).sum(axis=(1, 3))
    window = resample_windows(field, [(0, 0)], 2, 256)[0]
    np.testing.assert_array_equal(window[0, 0], np.rint(total[0] / 4))
    assert (total % 4 == 2).sum() > 20


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("scale", [1, 2])
def test_both_ways_agree(dtype: str, scale: int) -> None:
    field = _field(dtype)
    fast = resample_windows(field, STARTS, scale, 16)
    # One window that begins between two pixels sends all of them the general way.
    general = resample_windows(field, [*STARTS, (0.5, 0)], scale, 16)[:-1]
    np.testing.assert_array_equal(fast, general)


@pytest.mark.parametrize("scale", [0.25, 0.7, 1.3, 1.99, 3, 4, 5.7])
def test_linear_ramps_stay_where_they_are(scale: float) -> None:
    rows, columns = np.mgrid[:300, :300].astype(np.float32)
    window = resample_windows(np.stack([rows, columns]), [(60.25, 71.5)], scale, 24)[0]
    # Exact up to scale 2; a wide triangle that is sampled at pixels leans by some hundredths of a pixel.
    atol = 1e-3 if scale <= 2 else 0.05
    np.testing.assert_allclose(window[0], np.tile(sample_positions(60.25, scale, 24)[:, None], 24), atol=atol)
    np.testing.assert_allclose(window[1], np.tile(sample_positions(71.5, scale, 24), (24, 1)), atol=atol)


def test_every_pixel_counts_when_shrinking() -> None:
    for row in range(40, 48):
        field = np.zeros((1, 120, 120), np.float32)
        field[0, row, 50] = 1
        assert resample_windows(field, [(0, 0)], 6, 20)[0].max() > 0


def test_nearest_takes_the_first_of_two_equally_near() -> None:
    mask = np.random.default_rng(0).random((20, 24)) < 0.5
    np.testing.assert_array_equal(nearest_window(mask, (0, 0), (4, 2), 2, 8), mask[4:20:2, 2:18:2])
    np.testing.assert_array_equal(nearest_window(mask, (10, 10), (14, 12), 1, 6), mask[4:10, 2:8])
    np.testing.assert_array_equal(nearest_window(mask, (0, 0), (0, 0), 0.5, 8), np.kron(mask[:4, :4], np.ones((2, 2))))
    assert not nearest_window(np.ones((3, 3), np.bool_), (100, 100), (0, 0), 1, 8).any()
    assert nearest_window(np.ones((3, 3), np.bool_), (-1, 6), (0, 0), 1, 8).sum() == 4


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 5, 12])
def test_dilation_is_that_of_a_square(radius: int) -> None:
    mask = np.random.default_rng(1).random((30, 23)) < 0.03
    square = np.ones((2 * radius + 1, 2 * radius + 1))
    expected = ndimage.binary_dilation(np.pad(mask, radius), square)
    np.testing.assert_array_equal(dilate(mask, radius), expected)
