"""The benchmark of how `small` scales: its fit, its parts of the cells, and its plan."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.learning_scale import ABLATION, Point, SomeCells, fit_power_law, plan, write_part
from benchmarks.learning_small import SMALL
from subcell_hf.cells.cropping import CropSettings, crop_fields
from subcell_hf.cells.sources import crop_source
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.sharding import ShardSettings, write_shards
from subcell_hf.simulation.simulate import simulate_dataset
from subcell_hf.training.pretraining.arguments import parse_arguments
from subcell_hf.training.pretraining.resolution import build_config


def test_the_fit_finds_the_powers_that_made_the_errors() -> None:
    amounts = np.random.default_rng(0).uniform(1, 100, (7, 3))
    errors = 0.9 * amounts[:, 0] ** -0.2 * amounts[:, 1] ** -0.1 * amounts[:, 2] ** 0.05
    law = fit_power_law(amounts.tolist(), (1 - errors).tolist())
    expected = {"factor": 0.9, "steps": -0.2, "antibodies": -0.1, "cells_per_antibody": 0.05, "residual": 0}
    assert law == pytest.approx(expected, abs=1e-3)


def test_a_part_has_the_first_cells_of_its_antibodies(tmp_path: Path) -> None:
    simulate_dataset(4, 0, tmp_path / "fields", antibodies=4, size_px=192, pixel_size_um=0.43, progress=False)
    crop_fields(tmp_path / "fields", tmp_path / "crops", settings=CropSettings(crop_px=64, output_px=32))
    everything = crop_source(tmp_path / "crops")
    antibody = everything.fields()[0].metadata["antibody"]
    part = SomeCells(everything, frozenset([antibody]), 1)
    assert {field.metadata["antibody"] for field in part.fields()} == {antibody}
    name = part.fields()[0].name
    one, all_cells = part.read(name), everything.read(name)
    assert len(one.cells) == 1 < len(all_cells.cells)
    assert one.cells[0] == all_cells.cells[0]
    assert np.array_equal(one.pixels[0], all_cells.pixels[0])
    fractions = {"train": 0.5, "test": 0.5}
    write_shards(everything, tmp_path / "shards", ShardSettings(split_fractions=fractions), progress=False)
    whole = ShardReader(tmp_path / "shards")
    half = ShardReader(write_part(tmp_path, whole, Point("1/2 of the antibodies", share=2, cells_per_field=1)))
    assert half.index.splits == {"train": whole.index.splits["train"][::2]}
    assert len(half.cells) == 1
    assert write_part(tmp_path, whole, Point("all")) == tmp_path / "shards"
    assert part.fingerprint() != SomeCells(everything, frozenset([antibody]), 2).fingerprint()


@pytest.mark.parametrize("name", ABLATION)
def test_the_recipe_takes_the_words_of_every_ablation(name: str) -> None:
    assert len(plan(ablation=True)) == len(plan(ablation=False)) + len(ABLATION)
    changed, recipe = (build_config(parse_arguments([str(SMALL), *words])).to_dict() for words in (ABLATION[name], ()))
    assert changed != recipe
