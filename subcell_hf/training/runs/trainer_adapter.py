"""transformers' Trainer behind one door: every private or undocumented name of it that this package uses.

transformers may change these names without notice. So nothing else in this package uses them
(`tests/house/test_foreign_names.py`), and `tests/training/test_trainer_contract.py` checks each of them on the oldest
and the newest version that we support. Documented hooks and callbacks (`train`, `compute_loss`, `training_step`,
`evaluate`, `log`, `on_save`, …) are used wherever they are needed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, set_seed
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
)
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_callback import ExportableState, ProgressCallback, TrainerCallback

from subcell_hf.errors import InputError

TRACKERS: Mapping[str, type[TrainerCallback]] = INTEGRATION_TO_CALLBACK
"""Values of `report_to` and their callbacks; undocumented, but nothing else lists them."""


class TrainerAdapter(Trainer):
    """Trainer with public names for what training here needs of its inside.

    A subclass gives `write_checkpoint` and `write_records`, which Trainer has no documented hooks for.
    """

    # ---- Called by Trainer ----

    def write_checkpoint(self) -> None:
        """Write a checkpoint; called on every process when one is due, after logging and validation."""
        raise NotImplementedError

    def write_records(self, folder: Path) -> None:
        """Add to a folder of weights what else belongs there; called on the process that writes."""
        raise NotImplementedError

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Trainer writes files under their final names; callbacks (`on_save`) come when they are already there."""
        self.write_checkpoint()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Trainer's, with the records of the run, and without its pickle of the arguments.

        The method is documented; that `_internal_call` prevents a push is not.
        """
        folder = Path(output_dir or str(self.args.output_dir))
        super().save_model(str(folder), _internal_call=True)
        if self.args.should_save:
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            self.write_records(folder)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Trainer loads weights with `strict=False` and warns; here a difference ends the attempt to resume.

        Raises:
            InputError: If weights are missing in the checkpoint, or it has others.
        """
        if load_result.missing_keys or load_result.unexpected_keys:
            raise InputError(
                f"The weights of the checkpoint do not match the model: missing {load_result.missing_keys}, unexpected "
                f"{load_result.unexpected_keys}."
            )

    # ---- Parts of a checkpoint ----

    def write_weights(self, folder: Path) -> None:
        """Write weights, configuration and records into a folder that is not complete yet, so that it is not pushed."""
        self.save_model(str(folder), _internal_call=True)

    def write_optimizer_state(self, folder: Path) -> None:
        """Write what Trainer reads when it resumes: optimizer, scheduler, loss scaler and random numbers.

        Only Trainer knows how DeepSpeed's optimizer is written and under which names it looks for these files.
        """
        self._save_optimizer_and_scheduler(str(folder))
        self._save_scaler(str(folder))
        self._save_rng_state(str(folder))

    def write_trainer_state(self, folder: Path) -> None:
        """Write Trainer's own state, with that of the callbacks that have one.

        `ExportableState` and `stateful_callbacks` are how Trainer restores early stopping and its control.
        """
        states: dict[str, Any] = {}
        for callback in [*self.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                states[type(callback).__name__] = callback.state()
        self.state.stateful_callbacks = states  # type: ignore[assignment]  # a dict once it has been made
        self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

    # ---- State of a training ----

    @property
    def callbacks(self) -> Sequence[TrainerCallback]:
        """All callbacks, trackers included; Trainer has methods to add and remove them, but none that lists them."""
        return self.callback_handler.callbacks

    def announce_validation(self, metrics: dict[str, float]) -> None:
        """Notify all callbacks of a validation: a subclass that overrides `evaluate` has to do so itself."""
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)

    def to_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch on this process's device, in the dtype that DeepSpeed may ask for."""
        return self._prepare_inputs(batch)

    @property
    def batches_in_step(self) -> int:
        """Accumulated batches of the optimizer step at hand; a loss counts by its share of them."""
        return int(self.current_gradient_accumulation_steps)

    @property
    def updates_within_backward(self) -> bool:
        """Whether DeepSpeed runs the training, which updates the weights before any callback is asked."""
        return bool(self.is_deepspeed_enabled)

    @property
    def loss_scaler(self) -> Any | None:
        """Scaler of fp16, which skips steps that are not finite by itself; Accelerate has no other name for it."""
        return getattr(self.accelerator, "scaler", None)

    def separate_random_streams(self) -> None:
        """Give every process different random numbers, once, when its training begins.

        Views, hidden patches and directions are drawn from generators that are handed down. Dropout cannot be:
        `nn.Dropout` takes no generator, attention kernels and gradient checkpointing know torch's default generator
        only. Trainer seeds that generator when it is made, on every process alike, which would drop out the same
        positions everywhere. It keeps its state in each checkpoint, so dropout is the same after a resume. Samplers
        must not depend on this seed: `data_seed` has to be set where Trainer makes the loader.
        """
        set_seed(self.args.seed + self.args.process_index)

    # ---- The Hub ----

    @property
    def hub_repository(self) -> str | None:
        """Id of the repository that Trainer has opened for this run, owner included; None while there is none."""
        return None if self.hub_model_id is None else str(self.hub_model_id)

    def open_repository(self, token: str | None, private: bool | None) -> str:
        """Id of the repository of this run, which is created if Trainer has not done so when it was made."""
        if self.hub_model_id is None:
            if private is not None:
                self.args.hub_private_repo = private  # 5.18's method has no argument for it
            self.init_hf_repo(token=token)
        return str(self.hub_model_id)


def progress_bar(callback: ProgressCallback) -> Any | None:
    """The bar (tqdm) that Trainer's own callback shows while it trains; None at other times."""
    return callback.training_bar


def tensorboard_writer(callback: TrainerCallback) -> Any | None:
    """Where a TensorBoard callback writes: callbacks are given numbers only, never pictures."""
    return callback.tb_writer if isinstance(callback, TensorBoardCallback) else None


def tracker_module(callback: TrainerCallback) -> tuple[str, Any] | None:
    """Name and module of Weights & Biases or trackio, if the callback has begun a run there; None otherwise.

    Without a run their `log` fails, and only the callbacks know whether there is one.
    """
    if isinstance(callback, WandbCallback) and callback._initialized:
        return "wandb", callback._wandb
    if isinstance(callback, TrackioCallback) and callback._initialized:
        return "trackio", callback._trackio
    return None
