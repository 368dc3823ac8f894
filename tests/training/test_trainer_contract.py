"""Every private name in the trainer's adapter is there and does what we rely on, whatever the version of transformers.

`make test` runs this file with the newest and with the oldest version that we support.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback, TrackioCallback, WandbCallback

from subcell_hf.errors import InputError, transport_error
from subcell_hf.training.runs.trainer_adapter import (
    TRACKERS,
    TrainerAdapter,
    progress_bar,
    tensorboard_writer,
    tracker_module,
)
from tests.house.test_foreign_names import ADAPTER, UNDOCUMENTED, foreign_names_in

SIGNATURES = {
    "_save_checkpoint": ["self", "model", "trial"],
    "_issue_warnings_after_load": ["self", "load_result"],
    "_save_optimizer_and_scheduler": ["self", "output_dir"],
    "_save_scaler": ["self", "output_dir"],
    "_save_rng_state": ["self", "output_dir"],
    "_prepare_inputs": ["self", "inputs"],
    "save_model": ["self", "output_dir", "_internal_call"],
    "store_flos": ["self"],
}
OF_CALLBACKS = {"_initialized", "_wandb", "_trackio"}


class Line(nn.Module):
    """The smallest model that Trainer trains, with dropout, which draws from torch's default generator."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Mean squared error."""
        return {"loss": (self.layer(self.dropout(inputs)) - labels).square().mean()}


class Points(Dataset[dict[str, Tensor]]):
    """Sixteen samples."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return {"inputs": torch.tensor([number / 16, 1.0]), "labels": torch.tensor([number / 8])}


class Tiny(TrainerAdapter):
    """Notes what Trainer calls, in which order."""

    def __init__(self, folder: Path, *callbacks: TrainerCallback, **settings: Any) -> None:
        defaults: dict[str, Any] = {
            "max_steps": 4, "save_steps": 2, "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 2,
            "per_device_train_batch_size": 2, "report_to": [], "use_cpu": True, "disable_tqdm": True, "seed": 7,
            "ignore_data_skip": True,
        }  # fmt: skip
        arguments = TrainingArguments(output_dir=str(folder), **{**defaults, **settings})
        self.calls: list[str] = []
        torch.manual_seed(0)
        super().__init__(
            model=Line(), args=arguments, train_dataset=Points(), eval_dataset=Points(), callbacks=list(callbacks)
        )
        self.batches_seen: list[int] = []

    def write_checkpoint(self) -> None:
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        self.calls.append(f"write {self.state.global_step}")
        self.write_weights(folder)
        self.write_optimizer_state(folder)
        self.write_trainer_state(folder)

    def write_records(self, folder: Path) -> None:
        self.calls.append("records")
        assert not (folder / "training_args.bin").exists()

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        if model.training:
            self.batches_seen.append(self.batches_in_step)
        outputs = model(**inputs)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def push_to_hub(self, **_: Any) -> Any:  # type: ignore[override]
        self.calls.append("push")


class _Order(TrainerCallback):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in logs:
            self.calls.append(f"log {state.global_step}")

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.calls.append(f"evaluate {state.global_step}")

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.calls.append(f"saved {state.global_step}")


def test_every_foreign_name_of_the_adapter_is_checked_here() -> None:
    used = foreign_names_in(ADAPTER.read_text(encoding="utf-8"))
    assert {name for name in used if name.startswith("_")} == {
        *(name for name in SIGNATURES if name.startswith("_")), *OF_CALLBACKS, "_internal_call",
    }  # fmt: skip
    text = Path(__file__).read_text(encoding="utf-8")
    names_here = {"ExportableState": "EarlyStoppingCallback", "stateful_callbacks": "EarlyStoppingCallback",
                  "INTEGRATION_TO_CALLBACK": "TRACKERS", "TRAINER_STATE_NAME": "trainer_state.json",
                  "TRAINING_ARGS_NAME": "training_args.bin", "callback_handler": "_Order",
                  "tb_writer": "tensorboard_writer",
                  "current_gradient_accumulation_steps": "batches_in_step", "training_bar": "progress_bar",
                  "hub_model_id": "hub_repository", "is_deepspeed_enabled": "updates_within_backward",
                  "init_hf_repo": "open_repository", "scaler": "loss_scaler"}  # fmt: skip
    for name in used & (UNDOCUMENTED - {"_internal_call"}):
        assert names_here[name] in text, name


@pytest.mark.parametrize("name", SIGNATURES)
def test_methods_take_what_we_give(name: str) -> None:
    assert list(inspect.signature(getattr(Trainer, name)).parameters) == SIGNATURES[name]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, _Order]:
    """Four steps of two batches, two validations and two checkpoints."""
    order = _Order()
    stopping = EarlyStoppingCallback(early_stopping_patience=3, early_stopping_threshold=0.25)
    folder = tmp_path_factory.mktemp("run")
    trainer = Tiny(
        folder, order, stopping, gradient_accumulation_steps=2, load_best_model_at_end=False,
        metric_for_best_model="loss", greater_is_better=False,
    )  # fmt: skip
    order.calls = trainer.calls
    trainer.train()
    order.calls = [*trainer.calls]  # other tests go on with the trainer
    return trainer, order


def test_a_checkpoint_is_written_after_log_and_validation_and_before_on_save(trained: tuple[Tiny, _Order]) -> None:
    assert trained[1].calls == [
        "log 1", "log 2", "evaluate 2", "write 2", "records", "saved 2",
        "log 3", "log 4", "evaluate 4", "write 4", "records", "saved 4",
    ]  # fmt: skip


def test_a_checkpoint_has_every_file_that_a_resume_reads(trained: tuple[Tiny, _Order]) -> None:
    folder = Path(str(trained[0].args.output_dir)) / "checkpoint-2"
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json",
    }  # fmt: skip
    assert torch.load(folder / "optimizer.pt", weights_only=True)["state"].keys() == {0, 1}
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["global_step"] == 2
    assert state["stateful_callbacks"]["EarlyStoppingCallback"]["args"]["early_stopping_patience"] == 3
    assert "TrainerControl" in state["stateful_callbacks"]


def test_a_resume_restores_random_numbers_and_callbacks(trained: tuple[Tiny, _Order], tmp_path: Path) -> None:
    """Although no batch is skipped: a loader of ours resumes by itself."""
    straight, _ = trained
    checkpoint = Path(str(straight.args.output_dir)) / "checkpoint-2"

    class Seen(TrainerCallback):
        states: list[Tensor] = []
        threshold: float | None = None

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.states.append(torch.get_rng_state())

    seen, stopping = Seen(), EarlyStoppingCallback(early_stopping_patience=3, early_stopping_threshold=0.25)
    trainer = Tiny(tmp_path, seen, stopping, eval_strategy="steps", metric_for_best_model="loss")
    trainer.train(resume_from_checkpoint=str(checkpoint))
    stored = torch.load(checkpoint / "rng_state.pth", weights_only=False)["cpu"]
    generator = torch.Generator()
    generator.set_state(stored)
    torch.empty((), dtype=torch.int64).random_(generator=generator)  # as a DataLoader without a generator draws
    assert torch.equal(seen.states[0], generator.get_state())
    assert trainer.state.global_step == 4


def test_other_weights_end_the_attempt_to_resume(trained: tuple[Tiny, _Order], tmp_path: Path) -> None:
    source = Path(str(trained[0].args.output_dir)) / "checkpoint-2"
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    save_file({"layer.weight": weights["layer.weight"], "other": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"missing \['layer.bias'\], unexpected \['other'\]"):
        Tiny(tmp_path / "run").train(resume_from_checkpoint=str(folder))


def test_trainer_pickles_its_arguments_and_the_adapter_does_not(trained: tuple[Tiny, _Order], tmp_path: Path) -> None:
    trainer, _ = trained
    Trainer.save_model(trainer, str(tmp_path / "theirs"), _internal_call=True)
    assert (tmp_path / "theirs" / "training_args.bin").is_file()
    trainer.save_model(str(tmp_path / "ours"))
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {"model.safetensors"}


def test_only_a_folder_that_the_user_asks_for_is_pushed(
    trained: tuple[Tiny, _Order], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, _ = trained
    monkeypatch.setattr(trainer.args, "push_to_hub", True)
    monkeypatch.setattr(trainer, "calls", [])
    trainer.write_weights(tmp_path / "checkpoint")
    assert trainer.calls == ["records"]
    trainer.save_model(str(tmp_path / "asked"))
    assert trainer.calls == ["records", "records", "push"]


def test_batches_in_a_step_are_known_while_it_is_taken(trained: tuple[Tiny, _Order], tmp_path: Path) -> None:
    assert trained[0].batches_seen[:8] == [2] * 8
    uneven = Tiny(tmp_path, gradient_accumulation_steps=3, save_strategy="no", eval_strategy="no", max_steps=3)
    uneven.train()
    assert uneven.batches_seen == [3, 3, 3, 3, 3, 3, 2, 2]  # 8 batches an epoch


def test_a_batch_is_moved_and_what_is_no_tensor_is_kept(trained: tuple[Tiny, _Order]) -> None:
    batch = {"pixels": torch.ones(2), "nested": [torch.zeros(1)], "first_cell": 3, "name": "x"}
    moved = trained[0].to_device(batch)
    assert (moved["first_cell"], moved["name"], moved["pixels"].device.type) == (3, "x", "cpu")
    assert torch.equal(moved["nested"][0], torch.zeros(1))


def test_callbacks_are_listed_and_hear_of_a_validation(tmp_path: Path) -> None:
    order = _Order()
    trainer = Tiny(tmp_path, order)
    assert order in trainer.callbacks
    trainer.announce_validation({"eval_loss": 1.0})
    assert order.calls == ["evaluate 0"]
    assert trainer.control is not None
    assert trainer.loss_scaler is None
    assert trainer.updates_within_backward is False


def test_each_process_has_random_numbers_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Tiny(tmp_path)
    assert torch.initial_seed() == 7  # Trainer seeds every process alike
    drawn = []
    for process in range(2):
        monkeypatch.setattr(TrainingArguments, "process_index", process)
        trainer.separate_random_streams()
        drawn.append(torch.rand(4))
    assert not torch.equal(*drawn)
    assert torch.equal(drawn[0], torch.rand(4, generator=torch.Generator().manual_seed(7)))


def test_the_progress_bar_is_there_while_training(tmp_path: Path) -> None:
    bars: list[Any] = []

    class Watching(ProgressCallback):
        def on_step_end(self, *positional: Any, **named: Any) -> None:
            super().on_step_end(*positional, **named)
            bars.append(progress_bar(self))

    watching = Watching()
    assert progress_bar(watching) is None
    Tiny(tmp_path, watching, max_steps=1, save_strategy="no", eval_strategy="no").train()
    assert [bar.n for bar in bars] == [1]
    assert callable(bars[0].write)
    assert callable(bars[0].set_postfix_str)
    assert progress_bar(watching) is None


def test_trackers_are_named_and_know_whether_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {TRACKERS["tensorboard"], TRACKERS["wandb"], TRACKERS["trackio"]} == {
        TensorBoardCallback, WandbCallback, TrackioCallback,
    }  # fmt: skip
    board = TensorBoardCallback()
    assert tensorboard_writer(board) is None
    assert tensorboard_writer(TrainerCallback()) is None
    board = TensorBoardCallback(tb_writer="writer")
    assert tensorboard_writer(board) == "writer"
    for name, kind in (("wandb", WandbCallback), ("trackio", TrackioCallback)):
        pytest.importorskip(name)
        callback = kind()
        assert tracker_module(callback) is None
        monkeypatch.setattr(callback, "_initialized", True)
        found = tracker_module(callback)
        assert found is not None
        assert (found[0], found[1].__name__) == (name, name)
        assert callable(found[1].Image)
        assert callable(found[1].log)
    assert tracker_module(TrainerCallback()) is None


def test_a_hub_that_does_not_answer_raises_the_transport_error() -> None:
    assert issubclass(transport_error(), Exception)
    assert transport_error() not in (Exception, OSError)
    with pytest.raises(transport_error()):
        HfApi(endpoint="http://127.0.0.1:9", token="hf_none").model_info("owner/model")


def test_the_repository_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Tiny(tmp_path, hub_model_id="model")
    assert trainer.hub_repository is None
    created: list[tuple[str, Any]] = []

    def create(self: HfApi, repo_id: str, *, private: Any = None, **_: Any) -> Any:
        from huggingface_hub import RepoUrl

        created.append((repo_id, private))
        return RepoUrl(f"https://huggingface.co/owner/{repo_id}")

    monkeypatch.setattr(HfApi, "create_repo", create)
    assert trainer.open_repository("hf_none", private=True) == "owner/model"
    assert trainer.open_repository("hf_none", private=None) == "owner/model"
    assert trainer.hub_repository == "owner/model"
    assert created == [("model", True)]
