"""The benchmark of the recipe `small`: scores, intervals over antibodies, and a run from simulation to its line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from benchmarks.learning import main
from benchmarks.learning_small import (
    CROP_PX,
    OUTPUT_PX,
    SMALL,
    Truth,
    average,
    balanced_accuracy,
    describe,
    score_table,
)
from subcell_hf.evaluation.localization.bootstrap import bootstrap_weights
from subcell_hf.training.pretraining.arguments import parse_arguments
from subcell_hf.training.pretraining.resolution import build_config

CELLS = (240, 80, 120)


@pytest.fixture(scope="module")
def truth() -> Truth:
    """Two locations, three lines, and 24 antibodies of five test cells each."""
    rng = np.random.default_rng(0)
    antibodies = np.repeat(np.arange(24), 5)
    of_antibody = rng.random((24, 2)) < 0.4
    locations = [(rng.random((cells, 2)) < 0.4).astype(np.uint8) for cells in CELLS[:2]]
    locations.append(of_antibody[antibodies].astype(np.uint8))
    return Truth(locations, [rng.integers(0, 3, cells).astype(np.int32) for cells in CELLS], antibodies)


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_weights_are_repeated_antibodies(truth: Truth) -> None:
    right = np.random.default_rng(1).random(120) < 0.6
    weights = bootstrap_weights(24, 5, np.random.default_rng(2))
    found = balanced_accuracy(right, truth, weights)
    for weight, value in zip(weights, found, strict=True):
        cells = np.repeat(np.arange(120), weight[truth.antibodies].astype(int))
        lines = truth.lines[2][cells]
        assert value == pytest.approx(balanced_accuracy_score(lines, np.where(right[cells], lines, lines + 10)))


def test_differences_tell_signal_from_noise(truth: Truth) -> None:
    rng = np.random.default_rng(3)
    signal = [
        np.hstack([locations, np.eye(3)[lines], rng.normal(size=(len(lines), 4))]).astype(np.float32)
        for locations, lines in zip(truth.locations, truth.lines, strict=True)
    ]
    noise = [rng.normal(size=part.shape).astype(np.float32) for part in signal]
    weights = bootstrap_weights(24, 200, rng)
    good, bad = (score_table(features, truth, weights) for features in (signal, noise))
    assert min(good.exact.values()) > 0.95
    found = describe(average([good, good]), bad)
    for name, difference in found["difference"].items():
        assert 0 < difference["interval_low"] < difference["value"] < difference["interval_high"]
        assert difference["value"] == pytest.approx(good.exact[name] - bad.exact[name], abs=1e-3)
    assert describe(bad, bad)["difference"]["linear"] == {"value": 0, "interval_low": 0, "interval_high": 0}


def test_the_recipe_says_how_its_cells_are_made() -> None:
    commands = SMALL.read_text(encoding="utf-8")
    assert f"--crop-size-px {CROP_PX} --output-size-px {OUTPUT_PX}" in commands
    config = build_config(parse_arguments([str(SMALL)]))
    assert config.image_size == OUTPUT_PX
    assert config.probe_detached


@pytest.mark.slow
def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--antibodies_per_batch 4 --max_steps 3 --warmup_epochs 0.2 --eval_strategy no --picture_epochs 0"
    options = f"--small --work {tmp_path} --fields 24 --antibodies 24 --seeds 0 --workers 1"
    main([*options.split(), "--words", f"{words} --run_page false"])
    line: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    tables = line["figures"]["seeds"]["0"]
    assert tables.keys() == {"subcell", "orientations", "with_features", "features", "untrained", "pixels", "unmasked"}
    shortcuts = line["figures"]["shortcuts"]
    assert shortcuts.keys() == {"subcell", "features", "untrained", "pixels"}
    for found in shortcuts.values():
        assert found.keys() == shortcuts["features"].keys()
        assert 0 <= found["cut_by_border"] <= 1
    assert "difference" not in tables["features"]
    for name, table in tables.items():
        assert all(0 < table[score] <= 1 for score in ("linear", "neighbours", "cell_line"))
        for score, difference in table.get("difference", {}).items():
            assert difference["value"] == pytest.approx(table[score] - tables["features"][score], abs=1e-3), name
    assert line["figures"]["mean"] == tables
