"""The benchmark from simulated cells to real ones: its probes, and a run from simulation to its line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import sim_to_real
from benchmarks.montages import crop_montages, predict_left_out, read_montages
from benchmarks.sim_to_real import CONTINUED, main
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


def test_crops_are_the_middle_of_the_tiles(montages: Path) -> None:
    pixels, masks, labels, images = read_montages(montages)
    crops, inside, *same = crop_montages(montages, 256, 64)
    assert same == [labels, images]
    assert crops.shape == (90, 4, 64, 64)
    middle = pixels[:, :, 128:384, 128:384].astype(np.float32)
    blocks = middle.reshape(90, 4, 64, 4, 64, 4).mean(axis=(3, 5))
    assert np.corrcoef(crops.ravel(), blocks.ravel())[0, 1] > 0.98
    assert abs(inside.mean() - masks[:, 128:384, 128:384].mean()) < 0.02


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
    assert figures["seeds"].keys() == kinds | {"untrained"}
    assert figures["mean"].keys() == kinds | {"untrained", "features", "features of the protein"}
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
