"""Nothing that only watches a training ends it: it is reported once and noted in the record; weights are the same."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.integrations.integration_utils import TensorBoardCallback

from subcell_hf.errors import InputError
from subcell_hf.shards.sharding import ShardSettings
from subcell_hf.training.monitoring.terminal_progress import ReadablePrinter
from subcell_hf.training.pretraining.trainer import PreTrainer
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
from tests.training.test_monitoring import build


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    source = SyntheticCrops(antibodies=12, fields_per_antibody=2, cells_per_field=4, size_px=32)
    write_synthetic(folder, source, ShardSettings(split_fractions={"train": 0.6, "validation": 0.4}))
    return folder


@pytest.fixture(scope="module")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> PreTrainer:
    trainer = build(shards, tmp_path_factory.mktemp("runs") / "undisturbed")
    trainer.train()
    return trainer


def record_of(trainer: PreTrainer) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((trainer.run_folder / "checkpoint-4" / "training_record.json").read_bytes())
    return record


def check_same_weights(trainer: PreTrainer, undisturbed: PreTrainer) -> None:
    expected, found = (
        load_file(run.run_folder / "checkpoint-4" / "model.safetensors") for run in (undisturbed, trainer)
    )
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("subcell_hf"), "propagate", True)
    return caplog


def test_an_undisturbed_run_notes_nothing(undisturbed: PreTrainer) -> None:
    assert "monitoring_failures" not in record_of(undisturbed)


class _FailingTracker(TensorBoardCallback):
    """A tracker whose server has gone, or whose disk is full."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    def on_log(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("the run was deleted")

    def on_train_end(self, *_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")


class _ClosedTerminal(ReadablePrinter):
    def on_log(self, *_: Any, **__: Any) -> None:
        raise BrokenPipeError


def test_nothing_that_watches_works(
    shards: Path, undisturbed: PreTrainer, tmp_path: Path, warnings: pytest.LogCaptureFixture
) -> None:
    """Files lie where folders are needed, which not even root can write into; trackers and terminal have gone."""
    run = tmp_path / "run"
    trainer = build(shards, run)
    run.mkdir(exist_ok=True)
    (run / "monitoring").write_text("in the way")
    (run / "validation").write_text("in the way")
    trainer.add_callback(_FailingTracker(tb_writer=None))
    trainer.add_callback(_ClosedTerminal())
    trainer.train()
    check_same_weights(trainer, undisturbed)
    failures = record_of(trainer)["monitoring_failures"]
    assert failures.keys() == {
        "monitoring pictures", "updates of the run's page", "tables of validations", "reports to tensorboard",
        "progress lines",
    }  # fmt: skip
    assert failures["reports to tensorboard"].startswith("ConnectionError, RuntimeError in step 0 and ")
    assert failures["progress lines"].startswith("BrokenPipeError in step 1 and ")
    assert str(tmp_path) not in json.dumps(record_of(trainer))
    for what in failures:
        assert warnings.text.count(f"The {what} failed in step") == 1
    assert (run / "monitoring").read_text() == "in the way"


def test_a_damaged_picture_and_a_tensorboard_that_cannot_begin(
    shards: Path, undisturbed: PreTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = tmp_path / "run" / "monitoring" / "pictures"
    pictures.mkdir(parents=True)
    (pictures / "features-00000001.png").write_bytes(b"\x89PNG cut")
    logs = tmp_path / "logs"
    logs.write_text("in the way")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(logs))
    trainer = build(shards, tmp_path / "run", "--report_to", "tensorboard")
    trainer.train()
    check_same_weights(trainer, undisturbed)
    assert record_of(trainer)["monitoring_failures"].keys() == {"updates of the run's page", "reports to tensorboard"}


class _Wrong(TrainerCallback):
    def on_step_end(self, *_: Any, **__: Any) -> None:
        raise ZeroDivisionError


def test_errors_of_other_callbacks_count(shards: Path, tmp_path: Path) -> None:
    trainer = build(shards, tmp_path / "run")
    trainer.add_callback(_Wrong())
    with pytest.raises(ZeroDivisionError):
        trainer.train()


def test_a_hub_that_is_not_there_at_the_end(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is written; one sentence says how to push it later."""
    trainer = build(shards, tmp_path / "run")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(trainer, "hub_model_id", "owner/model", raising=False)
    with pytest.raises(InputError, match=r"is complete, but the Hub could not be reached .* subcell push"):
        trainer.push_to_hub(token="hf_none")
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
