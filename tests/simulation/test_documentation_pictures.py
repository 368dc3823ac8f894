"""The pictures in docs/ show what they say."""

import numpy as np
import pytest

from subcell_hf.simulation.documentation_pictures import blend_channels, picture_locations
from subcell_hf.simulation.simulate import SIMULATED_LOCATIONS, SimulatedAntibody, simulate_field


def test_channels_blend_in_their_display_colours() -> None:
    field = simulate_field(1, SimulatedAntibody("SIM000001", "SIMG0001", ("Cytosol",)), size_px=288)
    picture = blend_channels(field, {"red": 1.0, "blue": 0.5})
    np.testing.assert_array_equal(picture[..., 0], field.pixels[0])
    np.testing.assert_array_equal(picture[..., 1], 0)
    np.testing.assert_array_equal(picture[..., 2], field.pixels[2] // 2)


@pytest.mark.slow
def test_locations_are_pictured_in_five_columns() -> None:
    picture = picture_locations()
    assert picture.shape == (4 * (208 + 22), 5 * 208, 3)
    tiles = picture.reshape(4, 230, 5, 208, 3)[:, 22:].transpose(0, 2, 1, 3, 4).reshape(20, -1, 3)
    green = dict(zip(SIMULATED_LOCATIONS, tiles[..., 1].mean(axis=1), strict=True))
    assert min(green, key=lambda location: green[location]) == "Negative"
