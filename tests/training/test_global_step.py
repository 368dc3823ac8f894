"""The trainer's steps on two processes, or in parts, are those of one process on the same global batch."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from subcell_hf.shards.sharding import ShardSettings
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
from tests.forked import run_ranks

ROOT = Path(__file__).parents[2]
# Transforms and hidden patches are drawn for the global batch; without dropout, nothing depends on the process.
VIEWS = """
views:
  - {mask_probability: 1.0, transforms: []}
  - {mask_probability: 1.0, transforms: [{name: horizontal_flip, probability: 0.5}]}
"""
ARGUMENTS = shlex.split(
    "--image_size 32 --hidden_size 32 --num_hidden_layers 1 --num_attention_heads 2 --intermediate_size 48 "
    "--pooling_hidden_size 16 --pooling_dropout 0 --probe_dropout 0 --decoder_hidden_size 16 "
    "--decoder_num_hidden_layers 1 --decoder_num_attention_heads 2 --decoder_intermediate_size 24 "
    "--patch_size 8 --mask_ratio 0.25 --context_mask_ratio 0.25 --centroid_noise_weight 0.1 "
    "--projection_hidden_sizes 24 24 --projection_size 8 --centroid_hidden_sizes 24 "
    "--protein_centroid_weight 1 --antibodies_per_batch 4 --cells_per_antibody 2 --gradient_accumulation_steps 2 "
    "--dataloader_num_workers 0 --per_device_eval_batch_size 4 --use_cpu true --warmup_epochs 1 --num_train_epochs 3 "
    "--eval_epochs 3 --save_epochs 3 --logging_steps 1 --disable_tqdm true"
)


PRETRAIN = str(ROOT / "recipes" / "pretrain.py")
DEEPSPEED = (
    "-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/deepspeed_zero2.yaml",
    "--main_process_port", "0", "--num_processes", "2", "tests/workflows/launched_recipes.py",
)  # fmt: skip


def _words(folder: Path, shards: Path, views: Path, *words: str) -> list[str]:
    return [*ARGUMENTS, "--shards", str(shards), "--views", str(views), "--output_dir", str(folder), *words]


def _run(folder: Path, shards: Path, views: Path, processes: int, *words: str) -> None:
    run_ranks(processes, PRETRAIN, *_words(folder, shards, views, *words), log=folder.with_suffix(".log"))


def _run_with_deepspeed(folder: Path, *jobs: list[str]) -> None:
    """Several trainings one after the other, in two processes."""
    (folder / "command_lines.json").write_text(json.dumps(jobs), encoding="utf-8")
    # Files, not pipes: a worker that outlives its launcher would hold on to a pipe.
    with (folder / "log").open("w+") as log:
        done = subprocess.run(
            [sys.executable, *DEEPSPEED, str(folder / "command_lines.json")],
            stdout=log,
            stderr=log,
            timeout=600,  # DeepSpeed compiles for a minute when it is first used
            check=False,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        )
        log.seek(0)
        assert done.returncode == 0, log.read()[-3000:]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Shards and view settings."""
    folder = tmp_path_factory.mktemp("data")
    source = SyntheticCrops(antibodies=12, fields_per_antibody=2, cells_per_field=3, size_px=32)
    write_synthetic(folder / "shards", source, ShardSettings(split_fractions={"train": 0.7, "validation": 0.3}))
    (folder / "views.yaml").write_text(VIEWS)
    return folder / "shards", folder / "views.yaml"


@pytest.fixture(scope="module")
def one(data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process that takes its batches undivided."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    _run(folder, *data, 1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "words"), [(2, ()), (1, ("--cached_gradient_chunks", "3")), (2, ("--cached_gradient_chunks", "2"))]
)
def test_processes_and_parts_take_the_steps_of_one(
    processes: int, words: tuple[str, ...], one: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    _run(tmp_path / "other", *data, processes, *words)
    _compare(one, tmp_path / "other")


@pytest.mark.slow
def test_deepspeed_takes_the_same_steps_and_goes_on(one: Path, data: tuple[Path, Path], tmp_path: Path) -> None:
    """ZeRO-2, the EMA teacher included."""
    pytest.importorskip("deepspeed")
    straight, again = tmp_path / "straight", tmp_path / "again"
    words = ["--save_steps", "1", "--run_page", "false"]
    resumed = [*words, "--resume_from_checkpoint", str(straight / "checkpoint-2")]
    _run_with_deepspeed(tmp_path, _words(straight, *data, *words), _words(again, *data, *resumed))
    _compare(one, straight)
    expected, found = (load_file(folder / "checkpoint-3" / "model.safetensors") for folder in (straight, again))
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, atol=1e-6, rtol=0, msg=name)


def _compare(one: Path, other: Path) -> None:
    expected_lines, found_lines = (
        json.loads((folder / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
        for folder in (one, other)
    )
    compared = 0
    assert len(expected_lines) == len(found_lines) == 4  # three steps and a validation
    for expected, found in zip(expected_lines, found_lines, strict=True):
        for name in expected:
            if "loss" in name or name == "grad_norm" or (name.startswith("eval_") and name != "eval_runtime"):
                assert found[name] == pytest.approx(expected[name], rel=2e-5), name
                compared += 1
    assert compared == 3 * 7 + 6

    expected, found = (load_file(folder / "checkpoint-3" / "model.safetensors") for folder in (one, other))
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, atol=2e-5, rtol=2e-4, msg=name)
