"""The benchmark from simulated cells to real ones: its probes, and a run from simulation to its line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import sim_to_real
from benchmarks.montages import crop_tiles, predict_left_out
from benchmarks.sim_to_real import CONTINUED, TURNED, main
from subcell_hf.workflows.pretrain import main as train
from tests.images.written_assays import write_hpa_fields, write_montages

LABELS = [name for name in ("Cytosol", "Nucleoli") for _ in range(18)]
IMAGES = [f"image {number}" for number in range(4) for _ in range(9)]


def test_probes_learn_from_the_other_images_alone() -> None:
    rng = np.random.default_rng(0)
    truth = np.array(LABELS) == "Nucleoli"
    signal = truth[:, None] + 0.1 * rng.normal(size=(36, 3))
    of_image = np.eye(4)[np.repeat(range(4), 9)]  # tells the image, and so the location of cells that were seen
    for values, right in ((signal, 1.0), (of_image, 0.6)):
        for likely in predict_left_out(values.astype(np.float32), LABELS, IMAGES).values():
            np.testing.assert_allclose(likely.sum(axis=1), 1, atol=1e-5)
            assert (likely.argmax(axis=1) == truth).mean() <= right
    assert all(
        (likely.argmax(axis=1) == truth).all()
        for likely in predict_left_out(signal.astype(np.float32), LABELS, IMAGES).values()
    )


def test_crops_are_the_middle_of_the_tiles() -> None:
    ramp = np.add.outer(np.arange(512) / 4, np.arange(512) / 8).astype(np.uint8)
    tiles = np.broadcast_to(ramp, (2, 4, 512, 512))
    crops, masks = crop_tiles(tiles, tiles[:, 0] > 100, 256, 64)
    assert (crops.shape, crops.dtype, masks.shape) == ((2, 4, 64, 64), np.uint8, (2, 64, 64))
    expected = ramp[128:384, 128:384].reshape(64, 4, 64, 4).mean(axis=(1, 3))
    assert abs(crops[1, 3][1:-1, 1:-1] - expected[1:-1, 1:-1]).max() <= 1
    clear = abs(expected - 100) > 2
    np.testing.assert_array_equal(masks[0][clear], (expected > 100)[clear])


def train_here(folder: Path, shards: Path, words: Sequence[str], recipe: Path) -> float:
    """As `pretrain`, but in this process: four starts of Python would take most of the time."""
    train([str(recipe), "--shards", str(shards), "--output_dir", str(folder), "--disable_tqdm", "true", *words])
    return 0.0


@pytest.mark.slow
def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim_to_real, "pretrain", train_here)
    data = tmp_path / "data"
    for name, write in (("hpa_fields", write_hpa_fields), ("hpa_montages", write_montages)):
        (data / name).mkdir(parents=True)
        write(data / name)
    words = "--antibodies_per_batch 4 --max_steps 2 --warmup_epochs 0.2 --eval_strategy no --picture_epochs 0"
    options = f"--work {tmp_path / 'work'} --data {data} --fields 16 --antibodies 16 --seeds 0 --real-steps 2"
    main([*options.split(), "--words", f"{words} --run_page false"])
    figures: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    kinds = {"plain", "randomised", f"plain, {CONTINUED}", f"randomised, {CONTINUED}"}
    tables = kinds | {f"{kind}, {TURNED}" for kind in kinds}
    assert figures["seeds"].keys() == tables | {"untrained"}
    assert figures["mean"].keys() == tables | {"untrained", "features", "features of the protein"}
    for table in figures["mean"].values():
        assert all(0 <= value <= 1 for value in table.values())
    trained = [json.dumps(figures["mean"][kind]) for kind in sorted(kinds)]
    assert len(set(trained)) > 1
    for name, difference in figures["differences"].items():
        one, other = name.split(" less ")
        for score, found in difference.items():
            exact = figures["mean"][one][score] - figures["mean"][other][score]
            assert found["value"] == pytest.approx(exact, abs=2e-4)
            assert found["interval_low"] <= found["value"] <= found["interval_high"]
