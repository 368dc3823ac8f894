"""A Trainer whose runs can be broken off at any moment and gone on with exactly."""

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import TrainOutput

from subcell_hf.errors import InputError
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from subcell_hf.shards.streaming import ShardLoader
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.folders import publish_folder
from subcell_hf.storage.full_disk import naming_full_disk
from subcell_hf.training.monitoring.tolerance import Tolerance
from subcell_hf.training.monitoring.trackers import name_watcher
from subcell_hf.training.monitoring.training_clock import TrainingClock
from subcell_hf.training.pretraining.arguments import PreTrainingArguments
from subcell_hf.training.pretraining.pushing_trainer import PushingTrainer
from subcell_hf.training.pretraining.resolution import PreTrainingData
from subcell_hf.training.runs.checkpoints import (
    LOADER_FILE,
    check_checkpoint,
    finish_checkpoint,
    newest_checkpoint,
    rotate_checkpoints,
    staging_folder,
)
from subcell_hf.training.runs.run_folder import claim_run_folder
from subcell_hf.training.runs.training_record import TRAINING_RECORD_FILE, describe_training


@contextmanager
def _clearing_up(staging: Path, final: Path) -> Iterator[None]:
    """Name a full disk, and give back what a folder that cannot be finished takes of it."""
    try:
        with naming_full_disk(final):
            yield
    except Exception:
        shutil.rmtree(staging, ignore_errors=True)
        raise


class ResumableTrainer(PushingTrainer):
    """Keeps checkpoints that are whole or not there, and ends cleanly when it is asked to.

    Attributes:
        data: What is read.
        train_loader: Its state is part of a checkpoint; None before training begins.
        stop_asked: Whether this process was sent SIGTERM; the subclass stops all of them after the step at hand.
    """

    model: SubCellForPreTraining
    args: PreTrainingArguments
    data: PreTrainingData
    train_loader: ShardLoader | None = None
    stop_asked: bool = False

    @cached_property
    def clock(self) -> TrainingClock:
        """Counts the time of training, over all stretches of the run."""
        return TrainingClock()

    @cached_property
    def tolerance(self) -> Tolerance:
        """Takes the failures of what only watches the training."""
        return Tolerance()

    @property
    def run_folder(self) -> Path:
        """Folder of this run."""
        return Path(str(self.args.output_dir))

    @property
    def interrupted(self) -> bool:
        """Whether training ended early because a process was sent SIGTERM; a checkpoint was saved then."""
        return self.stop_asked and self.state.global_step < self.state.max_steps

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train; see `transformers.Trainer.train`.

        Args:
            resume_from_checkpoint: A complete checkpoint, or True for the newest one of the run's folder.
            *args: Trainer's.
            **kwargs: Trainer's.

        Raises:
            InputError: If the checkpoint is damaged or of another model, or the run's folder another training's.
            FloatingPointError: If a loss or gradient is not finite.
        """
        if resume_from_checkpoint:
            folder = self.run_folder
            chosen = newest_checkpoint(folder) if resume_from_checkpoint is True else Path(resume_from_checkpoint)
            check_checkpoint(chosen, self.model.config)
            if self.is_deepspeed_enabled and folder.resolve() not in chosen.resolve().parents:
                raise InputError(
                    f"DeepSpeed's checkpoints hold pickles, so only the run's own are read; {chosen} is not in "
                    f"{folder}: set output_dir to the folder that holds it."
                )
            resume_from_checkpoint = str(chosen)
        self.tolerance.guard(self.callback_handler.callbacks, name_watcher)
        with self._claiming_run_folder(bool(resume_from_checkpoint)), self._listening_for_sigterm():
            self.clock.start(Path(resume_from_checkpoint) if resume_from_checkpoint else None)
            try:
                output: TrainOutput = super().train(resume_from_checkpoint, *args, **kwargs)
            finally:
                self.clock.stop()
        return output

    def _claiming_run_folder(self, resuming: bool) -> AbstractContextManager[None]:
        if not self.is_world_process_zero():
            return nullcontext()
        return claim_run_folder(self.run_folder, resuming=resuming)

    @contextmanager
    def _listening_for_sigterm(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.stop_asked = False

        def remember(*_: Any) -> None:
            self.stop_asked = True

        before = signal.signal(signal.SIGTERM, remember)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint beside, then give it its name."""
        run, step = self.run_folder, self.state.global_step
        staging = staging_folder(run, step)
        self.store_flos()
        if self.is_world_process_zero():
            rotate_checkpoints(run, None, ())
            staging.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        with _clearing_up(staging, run / f"checkpoint-{step}"):
            self.save_model(str(staging), _internal_call=True)
            self._save_optimizer_and_scheduler(str(staging))
            self._save_scaler(str(staging))
            self._save_rng_state(str(staging))
            if self.is_world_process_zero():
                self._save_state(staging)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            with _clearing_up(staging, run / f"checkpoint-{step}"):
                complete = finish_checkpoint(staging, step)
            with self.tolerance.of("pushes of checkpoints", step):
                self.push_checkpoint(complete)
            best = self.state.best_model_checkpoint
            kept = [Path(best)] if best else []
            rotate_checkpoints(run, self.args.save_total_limit, [*kept, self.pushing] if self.pushing else kept)
        self.accelerator.wait_for_everyone()

    def save_final_model(self) -> Path:
        """Write the trained model to `model/` in the run's folder, whole or not at all, for `AutoModel` to load.

        Returns:
            That folder; one from an earlier training is replaced.
        """
        final = self.run_folder / "model"
        staging = self.run_folder / ".model.part"
        if self.is_world_process_zero() and staging.exists():
            shutil.rmtree(staging)
        self.accelerator.wait_for_everyone()
        with _clearing_up(staging, final):
            self.save_model(str(staging), _internal_call=True)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            publish_folder(staging, final)
        self.accelerator.wait_for_everyone()
        return final

    def _save_state(self, staging: Path) -> None:
        if self.train_loader is not None:
            with write_atomically(staging / LOADER_FILE) as file:
                file.write(json.dumps(self.train_loader.state_dict()).encode())
        best_step = self.state.best_global_step
        if best_step and (best_step == self.state.global_step or (staging.parent / f"checkpoint-{best_step}").is_dir()):
            self.state.best_model_checkpoint = str(staging.parent / f"checkpoint-{best_step}")
        states: dict[str, Any] = {}
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                states[type(callback).__name__] = callback.state()
        self.state.stateful_callbacks = states  # type: ignore[assignment]  # a dict once it has been made
        self.state.save_to_json(str(staging / TRAINER_STATE_NAME))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As Trainer's, with the image processor and a record of the run; the arguments as text instead of a pickle."""
        super()._save(output_dir, state_dict)
        folder = Path(output_dir) if output_dir else self.run_folder
        if not self.args.should_save:
            return
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        with write_atomically(folder / "training_arguments.json") as file:
            file.write(self.args.to_json_string().encode())
        self._save_record(folder)

    def _save_record(self, folder: Path) -> None:
        """Write the image processor and a record of the run; a trainer of another kind of model writes its own."""
        config = self.model.config
        # The views of training, but for their randomness: cropped around the cell at the model's pixel size.
        SubCellImageProcessor(
            config.channels,
            dict(zip(("height", "width"), config.image_height_width, strict=True)),
            config.pixel_size_um,
            normalize=self.data.views.scaling,
        ).save_pretrained(folder)
        times = self.clock.read(self.args.world_size)
        state = self.state
        record = describe_training(config, self.args, self.data, state.log_history, state.global_step, times)
        if self.tolerance.failures:
            record["monitoring_failures"] = self.tolerance.failures
        with write_atomically(folder / TRAINING_RECORD_FILE) as file:
            file.write((json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.train_loader is not None:
            self.train_loader.load_state_dict(json.loads(Path(checkpoint, LOADER_FILE).read_bytes()))

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Weights that are missing or too many end the attempt to go on."""
        if load_result.missing_keys or load_result.unexpected_keys:
            raise InputError(
                f"The checkpoint's weights are not the model's: missing {load_result.missing_keys}, unexpected "
                f"{load_result.unexpected_keys}."
            )
