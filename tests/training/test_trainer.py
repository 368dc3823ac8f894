"""Training learns, goes on exactly, keeps whole checkpoints, and stops before a broken update."""

import json
import os
import pickle
import shlex
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from subcell_hf.errors import InputError
from subcell_hf.shards.sharding import ShardSettings
from subcell_hf.training.pretraining.arguments import parse_arguments
from subcell_hf.training.pretraining.resolution import resolve
from subcell_hf.training.pretraining.trainer import PreTrainer
from subcell_hf.training.runs.checkpoints import (
    complete_checkpoints,
    find_problems,
    finish_checkpoint,
    newest_checkpoint,
)
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
from tests.forked import Forked, run_ranks

ROOT = Path(__file__).parents[2]
SMALL = shlex.split(
    "--image_size 32 --hidden_size 32 --num_hidden_layers 1 --num_attention_heads 2 --intermediate_size 48 "
    "--pooling_hidden_size 16 --decoder_hidden_size 16 --decoder_num_hidden_layers 1 --decoder_num_attention_heads 2 "
    "--decoder_intermediate_size 24 --projection_hidden_sizes 24 24 --projection_size 8 --centroid_hidden_sizes 24 "
    "--protein_centroid_weight 1 --context_mask_ratio 0.05 --antibodies_per_batch 4 --cells_per_antibody 2 "
    "--dataloader_num_workers 0 --use_cpu true --warmup_epochs 1 --num_train_epochs 3 --eval_epochs 3 --save_steps 3 "
    "--logging_steps 1 --disable_tqdm true"
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    source = SyntheticCrops(antibodies=12, fields_per_antibody=2, cells_per_field=4, size_px=32)
    write_synthetic(folder, source, ShardSettings(split_fractions={"train": 0.7, "validation": 0.3}))
    return folder


def build(shards: Path, folder: Path, *words: str) -> PreTrainer:
    run = resolve(parse_arguments([*SMALL, "--shards", str(shards), "--output_dir", str(folder), *words]), world_size=1)
    return PreTrainer(run.build_model(), run.training, run.data)


@pytest.fixture(scope="module")
def straight(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> PreTrainer:
    """An uninterrupted run of 6 steps that saved after 3."""
    trainer = build(shards, tmp_path_factory.mktemp("runs") / "straight")
    trainer.train()
    trainer.save_final_model()
    return trainer


def test_every_component_is_logged_by_name(straight: PreTrainer) -> None:
    lines = [line for line in straight.state.log_history if "loss" in line]
    assert len(lines) == 6
    config = straight.model.config
    for line in lines:
        parts = {name[5:]: line[name] for name in line if name.startswith("loss_")}
        assert parts.keys() == {"reconstruction", "cell_contrast", "protein_contrast", "protein_centroid", "probe"}
        weighted = sum(getattr(config, f"{name}_weight") * value for name, value in parts.items())
        assert line["loss"] == pytest.approx(weighted, rel=1e-3)


def test_the_probe_is_measured_on_the_validation_split(straight: PreTrainer) -> None:
    (line,) = [line for line in straight.state.log_history if "eval_macro_auprc" in line]
    assert 0 <= line["eval_macro_auprc"] <= 1
    # Every fourth antibody of the made-up shards has no location, and cells without any cannot be ranked.
    labelled = [name for name in straight.data.reader.index.splits["validation"] if int(name[3:]) % 4 != 3]
    assert line["eval_cells"] == 8 * len(labelled)
    assert list((straight.run_folder / "validation").glob("*.csv"))


def test_the_teacher_has_moved_but_less_than_the_student(shards: Path, straight: PreTrainer) -> None:
    fresh = build(shards, straight.run_folder.parent / "fresh").model.state_dict()
    now = straight.model.state_dict()
    name = "layers.0.mlp.fc1.weight"
    student = (now[f"subcell.{name}"] - fresh[f"subcell.{name}"]).norm()
    teacher = (now[f"teacher.subcell.{name}"] - fresh[f"teacher.subcell.{name}"]).norm()
    assert 0 < teacher < student


def test_the_trained_model_loads_with_the_auto_class(straight: PreTrainer) -> None:
    encoder = AutoModel.from_pretrained(straight.run_folder / "model")
    assert torch.equal(encoder.layernorm.weight, straight.model.subcell.layernorm.weight)
    assert encoder.config.channels == ["red", "yellow", "blue", "green"]


def test_a_new_training_does_not_replace_another(shards: Path, straight: PreTrainer) -> None:
    before = _weights(straight.run_folder, 6)
    with pytest.raises(InputError, match="contains checkpoint-3 of an earlier training"):
        build(shards, straight.run_folder).train()
    after = _weights(straight.run_folder, 6)
    assert all(torch.equal(before[name], after[name]) for name in before)


def _weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"checkpoint-{step}" / "model.safetensors")


def test_going_on_is_bit_equal(shards: Path, straight: PreTrainer, tmp_path: Path) -> None:
    shutil.copytree(straight.run_folder / "checkpoint-3", tmp_path / "checkpoint-3")
    torch.manual_seed(999)  # whatever happened before must not matter
    trainer = build(shards, tmp_path)
    trainer.train(resume_from_checkpoint=True)
    expected, found = _weights(straight.run_folder, 6), _weights(tmp_path, 6)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    first = torch.load(straight.run_folder / "checkpoint-6" / "optimizer.pt", weights_only=True)["state"]
    second = torch.load(tmp_path / "checkpoint-6" / "optimizer.pt", weights_only=True)["state"]
    assert all(torch.equal(first[key]["exp_avg_sq"], second[key]["exp_avg_sq"]) for key in first)
    rates = [[line["learning_rate"] for line in t.state.log_history if "loss" in line] for t in (straight, trainer)]
    assert rates[0] == rates[1]
    earlier = _hardware(straight.run_folder / "checkpoint-3")
    assert earlier["runtime_s"] > 0
    assert trainer.clock.runtime_s
    total = pytest.approx(earlier["runtime_s"] + trainer.clock.runtime_s)
    hardware = _hardware(trainer.save_final_model())
    assert hardware["runtime_s"] == total
    assert hardware["device_s"] == total


def _hardware(folder: Path) -> dict[str, Any]:
    hardware: dict[str, Any] = json.loads((folder / "training_record.json").read_bytes())["hardware"]
    return hardware


def test_only_whole_checkpoints_count(straight: PreTrainer, tmp_path: Path) -> None:
    for step in (3, 6):
        shutil.copytree(straight.run_folder / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    shutil.copytree(tmp_path / "checkpoint-6", tmp_path / ".checkpoint-9.part")
    assert newest_checkpoint(tmp_path).name == "checkpoint-6"
    weights = tmp_path / "checkpoint-6" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert find_problems(tmp_path / "checkpoint-6") == ["model.safetensors has a changed checksum"]
    assert newest_checkpoint(tmp_path).name == "checkpoint-3"
    weights.unlink()
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-3"]
    (tmp_path / "checkpoint-3" / "manifest.json").unlink()
    with pytest.raises(InputError, match="no complete checkpoint to resume from"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hidden_size", "64"], "hidden_size is 32 in the checkpoint, 64 here"),
        (["--channels", "bg"], r"'green'\] in the checkpoint, \['blue', 'green'\] here"),
    ],
)
def test_checkpoints_of_another_model_are_refused(
    words: list[str], message: str, shards: Path, straight: PreTrainer, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        build(shards, tmp_path, *words).train(resume_from_checkpoint=str(straight.run_folder / "checkpoint-3"))


def test_checkpoints_with_other_classes_are_refused(shards: Path, straight: PreTrainer, tmp_path: Path) -> None:
    source = SyntheticCrops(antibodies=12, fields_per_antibody=2, cells_per_field=4, size_px=32)
    settings = ShardSettings(split_fractions={"train": 0.7, "validation": 0.3}, classes=("Nucleoplasm", "Cytosol"))
    write_synthetic(tmp_path / "shards", source, settings)
    trainer = build(tmp_path / "shards", tmp_path / "run")
    with pytest.raises(InputError, match=r"classes is \['Actin filaments', .*\['Nucleoplasm', 'Cytosol'\] here"):
        trainer.train(resume_from_checkpoint=str(straight.run_folder / "checkpoint-3"))


class _Payload:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_no_pickle_is_run_even_from_the_runs_own_folder(
    name: str, shards: Path, straight: PreTrainer, tmp_path: Path
) -> None:
    staging = tmp_path / ".checkpoint-3.part"
    shutil.copytree(straight.run_folder / "checkpoint-3", staging)
    assert (staging / name).is_file()
    torch.save({"state": _Payload(tmp_path / "ran")}, staging / name)
    (staging / "manifest.json").unlink()
    checkpoint = finish_checkpoint(staging, 3)  # someone who can write there can write the checksums too
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        build(shards, tmp_path).train(resume_from_checkpoint=str(checkpoint))
    assert not (tmp_path / "ran").exists()


def test_a_broken_loss_stops_before_the_update_and_is_named(shards: Path, tmp_path: Path) -> None:
    trainer = build(shards, tmp_path)
    with torch.no_grad():
        trainer.model.decoder.prediction.bias.fill_(float("nan"))
    before = trainer.model.subcell.layernorm.weight.clone()
    with pytest.raises(FloatingPointError, match="Not finite in step 1: reconstruction"):
        trainer.train()
    assert torch.equal(trainer.model.subcell.layernorm.weight, before)


def test_accumulated_batches_are_batches_of_their_own(shards: Path, tmp_path: Path) -> None:
    trainer = build(shards, tmp_path, "--gradient_accumulation_steps", "2")
    trainer.train()
    assert trainer.state.global_step == 3  # 2 batches an epoch
    lines = [line for line in trainer.state.log_history if "loss" in line]
    weights = trainer.model.config
    for line in lines:
        weighted = sum(getattr(weights, f"{n[5:]}_weight") * line[n] for n in line if n.startswith("loss_"))
        assert line["loss"] == pytest.approx(weighted, rel=1e-3)


def _command(folder: Path, shards: Path, *words: str) -> list[str]:
    recipe = str(ROOT / "recipes" / "pretrain.py")
    return [recipe, *SMALL, "--shards", str(shards), "--output_dir", str(folder), *words]


@pytest.mark.slow
def test_two_processes_go_on_as_if_never_stopped(shards: Path, tmp_path: Path) -> None:
    run_ranks(2, *_command(tmp_path / "straight", shards), log=tmp_path / "straight.log")
    shutil.copytree(tmp_path / "straight" / "checkpoint-3", tmp_path / "again" / "checkpoint-3")
    again = _command(tmp_path / "again", shards, "--resume_from_checkpoint", "true")
    run_ranks(2, *again, log=tmp_path / "again.log")
    expected, found = _weights(tmp_path / "straight", 6), _weights(tmp_path / "again", 6)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=0, msg=name)


@pytest.mark.slow
def test_sigterm_saves_and_ends_cleanly(shards: Path, tmp_path: Path) -> None:
    endless = ("--num_train_epochs", "4000", "--save_steps", "100000", "--eval_epochs", "4000")
    run = Forked(*_command(tmp_path / "run", shards, *endless), log=tmp_path / "log")
    while run.poll() is None and "· loss" not in run.output:
        time.sleep(0.02)
    time.sleep(0.5)
    before = run.output
    os.kill(run.pid, signal.SIGTERM)
    assert run.wait() == 0, run.output[-3000:]
    assert "Stopped on request after step" in run.output.removeprefix(before)
    (checkpoint,) = complete_checkpoints(tmp_path / "run")
    assert find_problems(checkpoint) == []


@pytest.mark.slow
def test_a_dry_run_describes_and_starts_nothing(shards: Path, tmp_path: Path) -> None:
    run = Forked(*_command(tmp_path / "run", shards, "--dry_run", "true"), log=tmp_path / "log")
    assert run.wait() == 0, run.output
    described: dict[str, Any] = json.loads(run.output[run.output.index("{") : run.output.rindex("}") + 1])
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    text = json.dumps(described)
    assert "parameters" in text
    assert "steps" in text
    wrong = Forked(*_command(tmp_path / "run", shards, "--mask_ration", "0.5"), log=tmp_path / "wrong.log")
    assert wrong.wait() == 2
    assert "did you mean mask_ratio" in wrong.output
