"""A Trainer whose runs can be stopped at any moment and resumed exactly: what all trainings here have in common."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo
from transformers.trainer_utils import TrainOutput

from subcell_hf.errors import InputError
from subcell_hf.model.modeling_subcell import SubCellForImageClassification
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.training.monitoring.tolerance import Tolerance
from subcell_hf.training.monitoring.trackers import name_watcher
from subcell_hf.training.monitoring.training_clock import TrainingClock
from subcell_hf.training.runs.checkpoint_writer import CheckpointWriter
from subcell_hf.training.runs.checkpoints import check_checkpoint, newest_checkpoint
from subcell_hf.training.runs.interruption import Interruption
from subcell_hf.training.runs.pushing import Pusher
from subcell_hf.training.runs.run_folder import claim_run_folder
from subcell_hf.training.runs.trainer_adapter import TrainerAdapter


class RunTrainer(TrainerAdapter):
    """Keeps checkpoints that are complete or not there, and ends cleanly when it is asked to.

    Arguments are those of `transformers.Trainer`.

    Attributes:
        clock: Time of training, over all stretches of the run.
        tolerance: Takes the failures of what only watches the training.
        interruption: Listens for SIGTERM.
        pusher: Pushes checkpoints and the final model.
        checkpoints: Writes them.
    """

    model: SubCellForPreTraining | SubCellForImageClassification

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.clock = TrainingClock()
        self.tolerance = Tolerance()
        self.interruption = Interruption(self.agree_to_stop)
        self.pusher = Pusher(self)
        self.checkpoints = CheckpointWriter(self)
        for callback in (self.interruption, self.pusher, self.checkpoints):  # pushed first, then the oldest removed
            self.add_callback(callback)

    # ---- What a kind of training adds ----

    def agree_to_stop(self, asked: bool) -> bool:
        """Whether any process was asked to stop; called by all of them after every step."""
        flag = torch.tensor(float(asked), device=self.args.device)
        return bool(self.accelerator.reduce(flag, reduction="sum").item())

    def loader_state(self) -> dict[str, Any] | None:
        """What the data loader needs to resume, as plain data; None where Trainer knows how to do so."""
        return None

    def resume_loader(self, checkpoint: Path) -> None:
        """Set the data loader to where it was when a checkpoint was written."""

    def write_record(self, folder: Path) -> None:
        """Write what is known of the run, and what else the model is used with, beside its weights."""
        raise NotImplementedError

    # ---- The run ----

    @property
    def run_folder(self) -> Path:
        """Folder of this run."""
        return Path(str(self.args.output_dir))

    @property
    def interrupted(self) -> bool:
        """Whether training ended early because a process was sent SIGTERM; a checkpoint was saved then."""
        return self.interruption.asked and self.state.global_step < self.state.max_steps

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
        checkpoint = self._choose_checkpoint(resume_from_checkpoint) if resume_from_checkpoint else None
        self.tolerance.guard(self.callbacks, name_watcher)
        self.separate_random_streams()
        with (
            self._claiming_run_folder(checkpoint is not None),
            self.interruption.listening(),
            self.clock.running(checkpoint),
        ):
            if checkpoint is not None:
                self.resume_loader(checkpoint)
            output: TrainOutput = super().train(None if checkpoint is None else str(checkpoint), *args, **kwargs)
        return output

    def _choose_checkpoint(self, wanted: str | bool) -> Path:
        folder = self.run_folder
        chosen = newest_checkpoint(folder) if wanted is True else Path(str(wanted))
        check_checkpoint(chosen, self.model.config)
        if self.updates_within_backward and folder.resolve() not in chosen.resolve().parents:
            raise InputError(
                f"Checkpoints of DeepSpeed contain pickles, so only those in output_dir are read, and {chosen} is not "
                f"in {folder}. Set output_dir to the folder that contains it."
            )
        return chosen

    def _claiming_run_folder(self, resuming: bool) -> AbstractContextManager[None]:
        if not self.is_world_process_zero():
            return nullcontext()
        return claim_run_folder(self.run_folder, resuming=resuming)

    # ---- What is written ----

    def write_checkpoint(self) -> None:
        """Write a checkpoint, complete or not at all."""
        self.checkpoints.write_checkpoint()

    def write_records(self, folder: Path) -> None:
        """Write the arguments, as text, and the record of the run."""
        with write_atomically(folder / "training_arguments.json") as file:
            file.write(self.args.to_json_string().encode())
        self.write_record(folder)

    def save_final_model(self) -> Path:
        """Write the trained model to `model/` in the run's folder, whole or not at all, for `AutoModel` to load.

        Returns:
            That folder; one from an earlier training is replaced.
        """
        return self.checkpoints.write_final_model()

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> CommitInfo:
        """Write the final model and push it in one commit; arguments as Trainer's.

        Raises:
            InputError: If the Hub refuses; nothing has changed there then.
        """
        final = self.save_final_model()
        if not self.is_world_process_zero():
            return None  # type: ignore[return-value]  # as Trainer does
        return self.pusher.push_final(  # type: ignore[return-value]  # a Future where blocking is False, as Trainer's
            final, commit_message, blocking, token, revision, private, kwargs
        )
