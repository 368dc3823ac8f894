"""The learning benchmark runs from simulation to its line, and its probe tells signal from noise."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.learning import (
    ABLATION,
    ALL,
    cell_line_probe,
    linear_probe,
    main,
    neighbour_probe,
    summarize,
    switch_off,
)
from benchmarks.montages import read_montages
from subcell_hf.training.pretraining.arguments import parse_arguments
from subcell_hf.training.pretraining.resolution import build_config

ROOT = Path(__file__).parents[2]


def test_the_probe_tells_signal_from_noise() -> None:
    rng = np.random.default_rng(0)
    locations = [(rng.random((cells, 3)) < (0.3, 0.5, 0.0)).astype(np.float32) for cells in (200, 60, 60)]
    signal = [np.hstack([part, rng.normal(size=(len(part), 5))]).astype(np.float32) for part in locations]
    noise = [rng.normal(size=part.shape).astype(np.float32) for part in signal]
    score, found = linear_probe(signal, locations)
    assert score > 0.99
    assert found.keys() == {0, 1}  # nothing has the third
    assert linear_probe(noise, locations)[0] < 0.65
    assert neighbour_probe(signal, locations) > 0.8
    assert neighbour_probe(noise, locations) < 0.65


def test_the_cell_line_probe_counts_every_line_alike() -> None:
    rng = np.random.default_rng(0)
    lines = [rng.choice(3, cells, p=(0.8, 0.1, 0.1)).astype(np.int32) for cells in (300, 60, 120)]
    signal = [np.eye(3, dtype=np.float32)[part] for part in lines]
    assert cell_line_probe(signal, lines) == 1
    noise = [rng.normal(size=part.shape).astype(np.float32) for part in signal]
    assert cell_line_probe(noise, lines) < 0.5  # the most frequent line alone would be right in four of five


def test_runs_of_a_kind_are_summarized() -> None:
    found = summarize({"a": 0.5, "b": 0.7, "c": 0.1}, {"both": ["a", "b"], "one": ["c"]})
    assert found == {"both": {"mean": 0.6, "standard_deviation": 0.1414}, "one": {"mean": 0.1}}


@pytest.mark.parametrize("kept", ABLATION)
def test_every_ablation_trains_the_encoder(kept: tuple[str, ...]) -> None:
    recipe = str(ROOT / "recipes" / "configs" / "quickstart.yaml")
    config = build_config(parse_arguments([recipe, *switch_off(kept)]))
    on = {
        "reconstruction": config.reconstruction_weight,
        "cell": config.cell_contrast_weight,
        "protein": config.protein_contrast_weight,
        "labels": not config.probe_detached,
    }
    assert {name for name, weight in on.items() if weight} == set(kept)


def test_cells_are_read_in_nines(montages: Path) -> None:
    pixels, masks, labels, images = read_montages(montages)
    assert (pixels.shape, pixels.dtype) == ((90, 4, 512, 512), np.uint8)
    assert {labels.count(name) for name in set(labels)} == {18}
    assert {images.count(name) for name in set(images)} == {9}
    assert 0.05 < masks.mean() < 0.9


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is simulated and trained once, whichever cells are classified."""
    return tmp_path_factory.mktemp("work")


@pytest.mark.slow
def test_a_small_run(montages: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--antibodies_per_batch 4 --max_steps 3 --warmup_epochs 0.2 --eval_strategy no --picture_epochs 0"
    options = f"--work {work} --fields 24 --antibodies 24 --seeds 0 --workers 1 --montages {montages}"
    main([*options.split(), "--words", f"{words} --run_page false"])
    line: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["ratio"] > 0
    figures = line["figures"]
    for score in ("macro_map", "neighbours", "cell_line"):
        assert {"seed 0", "untrained, seed 0", "features", "pixels"} <= figures[score].keys()
        assert figures[f"{score}_over_seeds"][ALL] == {"mean": figures[score]["seed 0"]}
    assert figures["macro_map_margins"].keys() == figures["macro_map_over_seeds"].keys() - {ALL}
    assert figures["real_cells_right"].keys() == {"features", "pixels", "seed 0", "untrained, seed 0"}
