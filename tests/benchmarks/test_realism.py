"""What is measured of simulated and real fields, where the answer is known."""

import numpy as np
import pytest

from benchmarks.realism import CHANNELS, PAIRS, PIXEL_SIZE_UM, WAVELENGTHS_UM, measure_field, measure_nuclei


def test_waves_and_copies_are_recognized() -> None:
    rows, columns = np.indices((256, 256)) * PIXEL_SIZE_UM
    waves = {"red": 2.0, "yellow": 2.0, "blue": 0.7, "green": 4.3}
    pixels = np.stack(
        [0.5 + 0.4 * np.sin(2 * np.pi * (rows + columns) / np.sqrt(2) / waves[name]) for name in CHANNELS]
    )
    found = measure_field(pixels)
    for plane, name in zip(found.spectra, CHANNELS, strict=True):
        strongest = plane.argmax()
        assert WAVELENGTHS_UM[strongest] <= waves[name] <= WAVELENGTHS_UM[strongest + 1]
        assert plane[max(0, strongest - 1) : strongest + 2].sum() > 0.95
    correlations = dict(zip(PAIRS, found.correlations, strict=True))
    assert correlations["red", "yellow"] == pytest.approx(1)
    assert abs(correlations["red", "blue"]) < 0.1
    np.testing.assert_allclose(found.histograms.sum(1), 1)


def test_nuclei_have_their_areas_and_cut_ones_do_not_count() -> None:
    rows, columns = np.indices((640, 640)) * PIXEL_SIZE_UM
    blue = np.zeros((640, 640))
    for row, column, radius in ((15, 15, 6.0), (35, 35, 8.0), (0, 40, 7.0), (10, 40, 1.0)):
        blue[np.hypot(rows - row, columns - column) < radius] = 0.8
    assert sorted(measure_nuclei(blue)) == pytest.approx([np.pi * 36, np.pi * 64], rel=0.05)
