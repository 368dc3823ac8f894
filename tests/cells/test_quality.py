"""Quality columns see what they are there to see."""

import numpy as np
import pytest
from scipy import ndimage

from subcell_hf.cells.quality import empty_channels, focus, saturated_fraction, saturation_level

INSIDE = np.zeros((40, 40), np.bool_)
INSIDE[5:35, 8:30] = True


@pytest.mark.parametrize(
    ("dtype", "brightest", "level"),
    [
        ("uint8", 10, 255),
        ("uint16", 4095, 4095),
        ("uint16", 4096, 16_383),
        ("uint16", 16_384, 65_535),
        ("uint16", 0, 4095),
        ("float32", 1, None),
    ],
)
def test_saturation_level(dtype: str, brightest: int, level: int | None) -> None:
    assert saturation_level(np.array([[[0, brightest]]], dtype)) == level


def test_saturation_counts_the_worst_channel_inside_only() -> None:
    pixels = np.zeros((2, 40, 40), np.uint8)
    pixels[0] = np.where(INSIDE, 0, 255)
    pixels[1, 5:11, 8:30] = 255
    assert saturated_fraction(pixels, INSIDE, 255) == pytest.approx(6 / 30)
    assert saturated_fraction(pixels[:1], INSIDE, 255) == 0
    assert saturated_fraction(pixels, INSIDE, None) is None


def test_focus_falls_with_blur_and_ignores_gain_and_offset() -> None:
    sharp = ndimage.gaussian_filter(np.random.default_rng(0).random((3, 40, 40)), (0, 1, 1)).astype(np.float32)
    values = [focus(ndimage.gaussian_filter(sharp, (0, sigma, sigma)), INSIDE) for sigma in (0, 1, 2)]
    for sharpest, blurred, most_blurred in zip(*values, strict=True):
        assert sharpest > 2 * blurred > 4 * most_blurred > 0
    assert focus(30 * sharp + 500, INSIDE) == pytest.approx(values[0], rel=1e-3)


def test_focus_matches_its_definition() -> None:
    pixels = np.random.default_rng(1).integers(0, 60_000, (3, 40, 40), dtype=np.uint16)
    pixels[2] = 7
    inner = INSIDE[1:-1, 1:-1]
    ratios = []
    for plane in pixels[:2].astype(np.float64):
        laplacian = ndimage.laplace(plane)[1:-1, 1:-1]
        ratios.append((laplacian[inner] ** 2).mean() / plane[1:-1, 1:-1][inner].var())
    found = focus(pixels, INSIDE)
    assert found[:2] == pytest.approx(ratios, rel=1e-4)
    assert found[2] is None


def test_focus_of_nothing_is_unknown() -> None:
    assert focus(np.zeros((2, 40, 40), np.uint8), INSIDE) == (None, None)
    assert focus(np.ones((2, 40, 40), np.uint8), np.zeros((40, 40), np.bool_)) == (None, None)
    assert focus(np.ones((2, 2, 2), np.uint8), np.ones((2, 2), np.bool_)) == (None, None)


def test_empty_channels_are_those_that_are_constant_inside() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 40, 40), dtype=np.uint8)
    pixels[0, INSIDE] = 9
    pixels[2] = 0
    assert empty_channels(pixels, INSIDE, ("red", "blue", "green")) == "red;green"
    assert empty_channels(pixels[1:2], INSIDE, ("blue",)) == ""
    assert empty_channels(pixels, np.zeros((40, 40), np.bool_), ("red", "blue", "green")) == ""
