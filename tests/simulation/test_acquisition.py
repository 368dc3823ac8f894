"""Domain randomisation: every field draws its own microscope, and shows the same cells as without."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.simulation import Acquisition, PlateOptics, draw_acquisition, plan_fields, simulate_field
from subcell_hf.simulation.acquisition import BLEED, FOCUS_UM, JPEG_QUALITY, LEVELS, PROTEIN_GAIN
from subcell_hf.simulation.antibodies import SimulatedAntibody
from subcell_hf.simulation.drawing import FloatImage
from subcell_hf.simulation.optics import acquire_channel, mix_channels
from subcell_hf.simulation.simulate import simulate_dataset

SMALL = {"size_px": 96, "pixel_size_um": 0.32}
PERFECT = PlateOptics(photons=1e9, focus_um=0.01, haze=0, offset=0, shading=0, read_noise=0)
CYTOSOL = SimulatedAntibody("SIM000001", "SIMG0001", ("Cytosol",))


def photograph(density: FloatImage | float, seed: int = 0, **changed: object) -> FloatImage:
    plane = np.broadcast_to(np.asarray(density, np.float32), (64, 64))
    return acquire_channel(np.random.default_rng(seed), plane, "green", replace(PERFECT, **changed), 0.32)


def stripes() -> FloatImage:
    return np.tile(np.float32([0.1, 0.6]), (64, 32))


def test_every_field_draws_within_the_ranges_and_for_itself() -> None:
    assert draw_acquisition(3, 7) == draw_acquisition(3, 7)
    drawn = [draw_acquisition(seed, number) for seed in (0, 1) for number in range(200)]
    assert len({one.optics.focus_um for one in drawn}) == len(drawn)
    for values, (low, high) in (
        ([one.optics.focus_um for one in drawn], FOCUS_UM),
        ([one.optics.gains["green"] for one in drawn], PROTEIN_GAIN),
        ([one.optics.jpeg_quality for one in drawn], JPEG_QUALITY),
        ([one.optics.levels for one in drawn], LEVELS),
        ([one.optics.bleed["red", "yellow"] for one in drawn], BLEED["red", "yellow"]),
    ):
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high


def test_a_perfect_microscope_shows_the_density() -> None:
    np.testing.assert_allclose(photograph(0.4), 0.4, atol=1e-3)


def test_background_and_intensity_law() -> None:
    np.testing.assert_allclose(photograph(0.3, background=0.1), 0.4, atol=1e-3)
    np.testing.assert_allclose(photograph(0.25, gammas={"green": 0.5, "red": 3.0}), 0.5, atol=1e-3)
    uneven = photograph(0.0, background=0.2, unevenness=0.3)
    assert uneven.std() > 0.01
    assert abs(np.diff(uneven, axis=0)).max() < 0.1 * np.ptp(uneven)  # it changes slowly


def test_read_noise_has_its_deviation() -> None:
    assert photograph(0.4, read_noise=0.02).std() == pytest.approx(0.02, rel=0.05)


def test_levels_and_compression() -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[None, :] * 0.6
    coarse = photograph(ramp, levels=11)
    np.testing.assert_allclose(np.unique(coarse), np.arange(7) / 10, atol=1e-6)
    best, worst = (photograph(stripes() * ramp, jpeg_quality=quality) for quality in (90, 20))
    exact = photograph(stripes() * ramp)
    assert 0 < abs(best - exact).mean() < 0.2 * abs(worst - exact).mean()


def test_defocus_is_times_the_fields_own() -> None:
    def contrast(times: float) -> float:
        tilt = np.full((64, 64), 0.3, np.float32)
        optics = replace(PERFECT, defocus=times)
        return float(acquire_channel(np.random.default_rng(0), stripes(), "green", optics, 0.32, tilt).std())

    assert contrast(0) == pytest.approx(float(stripes().std()), rel=0.01)
    assert contrast(0) > contrast(1) > contrast(2)


def test_light_bleeds_from_one_channel_into_the_other() -> None:
    densities = {"red": np.full((2, 2), 0.5, np.float32), "green": np.full((2, 2), 0.1, np.float32)}
    bleed = {("red", "green"): 0.2, ("green", "red"): 0.1, ("red", "yellow"): 0.3}
    mixed = mix_channels(densities, replace(PERFECT, bleed=bleed))
    np.testing.assert_allclose(mixed["green"], 0.2)
    np.testing.assert_allclose(mixed["red"], 0.51)  # of the protein's own light, not of what came from red
    assert mixed.keys() == densities.keys()


def test_the_microscope_changes_pixels_and_nothing_else() -> None:
    optics = draw_acquisition(0, 0).optics
    plain, drawn = (simulate_field(5, CYTOSOL, optics=one, **SMALL) for one in (None, optics))
    np.testing.assert_array_equal(plain.label_mask, drawn.label_mask)
    assert plain.metadata == drawn.metadata
    assert (plain.pixels != drawn.pixels).mean() > 0.3
    part = simulate_field(5, CYTOSOL, optics=optics, channels=("red",), **SMALL)
    np.testing.assert_array_equal(part.pixels[0], drawn.pixels[0])


def test_crowding_is_times_the_confluence_of_the_line() -> None:
    sparse, dense = (
        simulate_field(1, CYTOSOL, "SIM-E", crowding=times, channels=("blue",), size_px=160, pixel_size_um=0.5)
        for times in (0.5, 1.4)
    )
    assert (sparse.label_mask > 0).mean() < 0.75 * (dense.label_mask > 0).mean()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_randomised_folder_lists_what_it_drew_and_is_resumed(tmp_path: Path) -> None:
    settings = {"seed": 3, "progress": False, **SMALL}
    whole, stopped, plain = (tmp_path / name for name in ("whole", "stopped", "plain"))
    command = ["simulate", "--fields", "2", "--seed", "3", "--size-px", "96", "--pixel-size-um", "0.32"]
    done = CliRunner().invoke(app, [*command, "--domain-randomization", "--output", str(whole)])
    assert done.exit_code == 0, done.output
    simulate_dataset(1, output=stopped, domain_randomization=True, **settings)
    assert simulate_dataset(2, output=stopped, domain_randomization=True, **settings) == 1
    assert contents(whole) == contents(stopped)
    with (whole / "acquisition.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, planned in zip(rows, plan_fields(2, 3), strict=True):
        assert row == {"field_of_view": planned.name, **draw_acquisition(3, planned.number).columns()}
        assert float(row["focus_um"]) == pytest.approx(draw_acquisition(3, planned.number).optics.focus_um, rel=1e-3)
    assert json.loads((whole / "simulation.json").read_text())["domain_randomization"] is True
    simulate_dataset(1, output=plain, **settings)
    assert "acquisition.csv" not in contents(plain)
    assert "domain_randomization" not in json.loads((plain / "simulation.json").read_text())
    with pytest.raises(InputError, match="domain_randomization None, asked for True"):
        simulate_dataset(1, output=plain, domain_randomization=True, **settings)


def test_columns_of_a_plate_are_those_of_a_field() -> None:
    plate, field = Acquisition(PlateOptics()).columns(), draw_acquisition(0, 0).columns()
    assert plate.keys() == field.keys()
    assert plate["gain_red"] == plate["gamma_red"] == plate["crowding"] == "1"
    assert plate["levels"] == plate["jpeg_quality"] == ""
