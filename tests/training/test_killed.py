"""A run that is killed at any moment, as often as it may be, ends with the weights of one that was not."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from subcell_hf.shards.sharding import ShardSettings
from subcell_hf.training.runs.checkpoints import complete_checkpoints, find_problems
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
from tests.forked import Forked
from tests.training.test_trainer import ROOT, SMALL

STEPS = 10
KILLS = 2


def _start(folder: Path, shards: Path, *words: str) -> Forked:
    command = [str(ROOT / "recipes" / "pretrain.py"), *SMALL, "--shards", str(shards)]
    command += ["--output_dir", str(folder), "--max_steps", str(STEPS), "--save_steps", "1", "--save_total_limit", "2"]
    command += ["--run_page", "false", "--picture_epochs", "0"]
    return Forked(*command, *words, log=folder.with_suffix(".log"))


def _resume_words(folder: Path) -> list[str]:
    return ["--resume_from_checkpoint", "true"] if complete_checkpoints(folder) else []


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    source = SyntheticCrops(antibodies=12, fields_per_antibody=2, cells_per_field=4, size_px=32)
    write_synthetic(shards, source, ShardSettings(split_fractions={"train": 0.7, "validation": 0.3}))
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    undisturbed = _start(straight, shards)
    moments, ended = random.Random(time.time_ns()), 0
    for _ in range(KILLS):
        process = _start(killed, shards, *_resume_words(killed))
        before = {path.name for path in complete_checkpoints(killed)}
        while process.poll() is None and {path.name for path in complete_checkpoints(killed)} <= before:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.4))  # while it computes, writes, renames or removes
        os.kill(process.pid, signal.SIGKILL)
        ended += process.wait() == -9
        # What bears the name of a checkpoint is whole, and one is there.
        names = [path for path in killed.glob("checkpoint-*") if path.is_dir()]
        assert names
        assert [find_problems(path) for path in names] == [[]] * len(names)
    assert ended  # at least one of the runs did not reach its end before it was killed

    last = _start(killed, shards, *_resume_words(killed))
    assert last.wait() == 0, last.output[-3000:]
    assert undisturbed.wait() == 0, undisturbed.output[-3000:]
    assert not list(killed.glob(".checkpoint-*"))  # nothing of what was being written is left
    expected, found = (load_file(folder / f"checkpoint-{STEPS}" / "model.safetensors") for folder in (straight, killed))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
