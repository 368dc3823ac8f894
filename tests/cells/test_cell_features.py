"""Classical features: hand-computed values, blind to the surroundings, finite whatever the crop."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy.ndimage import distance_transform_edt, grey_opening
from skimage.feature import graycomatrix, graycoprops
from skimage.filters import threshold_otsu
from skimage.measure import regionprops

from subcell_hf.cells import cell_features
from subcell_hf.cells.cell_features import measure_cell, measure_cells
from subcell_hf.errors import InputError

CHANNELS = ("red", "blue", "green")


def disc(size_px: int, radius_px: float) -> npt.NDArray[np.bool_]:
    rows, columns = np.mgrid[:size_px, :size_px] - size_px // 2
    return rows**2 + columns**2 <= radius_px**2


@pytest.fixture
def crop() -> npt.NDArray[np.uint8]:
    """Red noise; a blue nucleus of radius 10; the protein in the nucleus alone."""
    pixels = np.random.default_rng(0).integers(20, 200, (3, 64, 64)).astype(np.uint8)
    pixels[1] = np.where(disc(64, 10), 200, 10)
    pixels[2] = np.where(disc(64, 10), 100, 0)
    return pixels


def test_intensity_and_overlap_of_a_nuclear_protein(crop: npt.NDArray[np.uint8]) -> None:
    inside, nucleus = disc(64, 25), disc(64, 10)
    found = measure_cell(crop, inside, CHANNELS)
    assert found["green_mean"] == pytest.approx(crop[2][inside].mean() / 255)
    assert found["red_quantile_0.5"] == pytest.approx(np.median(crop[0][inside]) / 255, abs=1e-6)
    assert found["cell_area_px"] == inside.sum()
    assert found["blue_green_correlation"] == pytest.approx(1)
    assert abs(found["red_green_correlation"]) < 0.1
    assert found["blue_green_bright_overlap"] == 1
    assert found["blue_green_share_of_second_in_first"] == pytest.approx(1, abs=1e-4)
    assert found["green_share_in_nucleus"] > 0.95
    assert found["nucleus_share"] == pytest.approx(nucleus.sum() / inside.sum(), rel=0.1)
    assert found["green_bright_spots"] == 1
    assert found["green_ring_4_mean"] > found["green_ring_3_mean"] > found["green_ring_1_mean"] == 0


def test_shape_is_that_of_scikit_image(crop: npt.NDArray[np.uint8]) -> None:
    rows, columns = np.mgrid[:64, :64]
    inside = disc(64, 25) & (2 * rows + columns > 70) & (columns < 50)
    found, expected = measure_cell(crop, inside, CHANNELS), regionprops(inside.astype(np.uint8))[0]
    got = [found[f"cell_{name}"] for name in ("area_px", "eccentricity", "extent", "perimeter_px")]
    np.testing.assert_allclose(got, [expected.area, expected.eccentricity, expected.extent, expected.perimeter])


def test_overlap_and_rings_by_naive_loops() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (2, 40, 40)).astype(np.uint8)
    pixels[:, 10:14, 20:30] = 255
    inside = disc(40, 17)
    found = measure_cell(pixels, inside, ("red", "green"))
    red, green = (plane[inside].astype(np.float64) / 255 for plane in pixels)
    thresholds = (threshold_otsu(values.astype(np.float32), nbins=128) for values in (red, green))
    bright_red, bright_green = (values > limit for values, limit in zip((red, green), thresholds, strict=True))
    assert found["red_green_correlation"] == pytest.approx(np.corrcoef(red, green)[0, 1], rel=1e-6)
    assert found["red_green_overlap"] == pytest.approx((red * green).sum() / np.sqrt((red**2).sum() * (green**2).sum()))
    assert found["red_green_share_of_first_in_second"] == pytest.approx(red[bright_green].sum() / red.sum(), rel=1e-5)
    assert found["red_green_share_of_second_in_first"] == pytest.approx(green[bright_red].sum() / green.sum(), rel=1e-5)
    both, either = (bright_red & bright_green).sum(), (bright_red | bright_green).sum()
    assert found["red_green_bright_overlap"] == pytest.approx(both / either)
    depth = distance_transform_edt(inside)[inside]
    ring = np.minimum((depth / depth.max() * 4).astype(int), 3)
    for number in range(4):
        values = green[ring == number]
        assert found[f"green_ring_{number + 1}_mean"] == pytest.approx(values.mean() / green.mean(), rel=1e-5)
        assert found[f"green_ring_{number + 1}_variation"] == pytest.approx(values.std() / values.mean(), rel=1e-5)


def test_thresholds_histograms_and_openings_are_those_of_the_libraries() -> None:
    rng = np.random.default_rng(3)
    values = np.stack([rng.integers(0, 256, 900) / np.float32(255), rng.gamma(2, 0.1, 900), np.full(900, 0.5)])
    values = values.astype(np.float32)
    expected = [threshold_otsu(plane, nbins=128) for plane in values[:2]]
    np.testing.assert_array_equal(cell_features._otsu(values), [*np.float32(expected), np.float32(0.5)])
    low, high = values[:2].min(axis=1), values[:2].max(axis=1)
    for bins in (32, 51, 128):  # of 51 bins most values of the first channel lie on an edge
        counts = cell_features._histograms(values[:2], low, high, bins)
        np.testing.assert_array_equal(counts, [np.histogram(plane, bins)[0] for plane in values[:2]])
    planes = rng.random((2, 11, 23)).astype(np.float32)
    for edge in (3, 9, 17):
        eroded = cell_features._slide(planes, edge, np.minimum, np.inf)
        opened = cell_features._slide(eroded, edge, np.maximum, -np.inf)
        np.testing.assert_array_equal(opened, [grey_opening(plane, (edge, edge)) for plane in planes])


def test_granularity_is_the_size_of_the_grains() -> None:
    small, large = np.zeros((2, 1, 60, 60), np.uint8)
    small[0, 4::8, 4::8] = 200  # single pixels
    for row in range(5, 50, 16):
        large[0, row : row + 8, row : row + 8] = 200  # squares of 8 px
    inside = np.ones((60, 60), np.bool_)
    assert measure_cell(small, inside, ("green",))["green_granularity_3px"] == pytest.approx(1, abs=1e-3)
    found = measure_cell(large, inside, ("green",))
    assert found["green_granularity_9px"] == pytest.approx(1, abs=1e-3)
    assert found["green_granularity_3px"] == pytest.approx(0, abs=1e-3)


def test_co_occurrence_equals_scikit_image_where_the_cell_fills_the_crop() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1, 32, 32)).astype(np.uint8)
    found = measure_cell(pixels, np.ones((32, 32), np.bool_), ("green",))
    plane = pixels[0].astype(np.float32) / np.float32(255)
    low, high = np.quantile(plane, (0.001, 0.999))
    levels = (np.clip((plane - low) / float(high - low), 0, 1 - 1e-6) * 16).astype(np.uint8)
    angles = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
    pairs = graycomatrix(levels, (1, 4), angles, 16, symmetric=True, normed=True)
    for name, theirs in {"contrast": "contrast", "homogeneity": "homogeneity", "energy": "ASM"}.items():
        expected = graycoprops(pairs, theirs).mean(axis=1)
        got = [found[f"green_{name}_{distance}px"] for distance in (1, 4)]
        np.testing.assert_allclose(got, expected, rtol=1e-9)
    np.testing.assert_allclose(found["green_correlation_1px"], graycoprops(pairs, "correlation")[0].mean(), rtol=1e-6)


def test_binary_patterns_by_hand() -> None:
    inside = np.zeros((6, 6), np.bool_)
    inside[2:4, 2:4] = True
    plane = np.zeros((1, 6, 6), np.uint8)
    flat = measure_cell(plane, inside, ("green",))
    assert flat["green_pattern_8"] == 1
    plane[0] = np.arange(6)[:, None] * 10  # brighter downwards: five of eight neighbours are at least as bright
    assert measure_cell(plane, np.pad(np.ones((4, 4), np.bool_), 1), ("green",))["green_pattern_5"] == pytest.approx(
        0.75
    )
    plane[0] = np.indices((6, 6)).sum(axis=0) % 2 * 10  # a chessboard: the corners are as bright, the sides differ
    board = measure_cell(plane, np.pad(np.ones((4, 4), np.bool_), 1), ("green",))
    assert board["green_pattern_9"] > 0
    assert sum(board[f"green_pattern_{number}"] for number in range(10)) == pytest.approx(1)


def test_surroundings_do_not_count(crop: npt.NDArray[np.uint8]) -> None:
    """Intensities and overlaps; only filters with an extent may see a border of black or of neighbours."""
    inside = disc(64, 25)
    other = np.where(inside, crop, np.uint8(77))
    blind = ("quantile", "mean", "overlap", "correlation", "contrast", "energy", "granularity", "nucleus")
    found, changed = measure_cell(crop, inside, CHANNELS), measure_cell(other, inside, CHANNELS)
    for name in found:
        if any(part in name for part in blind):
            assert found[name] == changed[name], name


@pytest.mark.parametrize("kind", ["black", "flat", "one_pixel", "float"])
def test_features_are_finite(kind: str) -> None:
    pixels, inside = np.zeros((1, 3, 24, 24), np.uint16), np.zeros((1, 24, 24), np.bool_)
    inside[0, 5:18, 6:20] = True
    if kind == "flat":
        pixels[:] = 1000
    if kind == "one_pixel":
        inside[:], pixels[:] = False, 7
        inside[0, 3, 3] = True
    if kind == "float":
        pixels = np.random.default_rng(0).normal(300, 40, pixels.shape).astype(np.float32)  # type: ignore[assignment]
    values, names = measure_cells(pixels, inside, CHANNELS)
    assert values.shape == (1, len(names))
    assert np.isfinite(values).all()
    assert len(set(names)) == len(names)


def test_eight_and_sixteen_bits_agree(crop: npt.NDArray[np.uint8]) -> None:
    inside = disc(64, 25)
    eight, sixteen = (measure_cell(pixels, inside, CHANNELS) for pixels in (crop, crop.astype(np.uint16) * 257))
    assert eight == pytest.approx(sixteen, rel=1e-4, abs=1e-5)


def test_what_cannot_be_measured_is_refused(crop: npt.NDArray[np.uint8]) -> None:
    inside = np.stack([disc(64, 25), np.zeros((64, 64), np.bool_)])
    with pytest.raises(InputError, match="Empty masks: 1 cell, first number 1"):
        measure_cells(np.stack([crop, crop]), inside, CHANNELS)
    with pytest.raises(InputError, match="expected"):
        measure_cells(crop[None], inside[:1], ("red", "green"))
    with pytest.raises(InputError, match="NaN"):
        measure_cells(np.full((1, 3, 64, 64), np.nan, np.float32), inside[:1], CHANNELS)
