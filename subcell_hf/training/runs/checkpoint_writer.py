"""Writes checkpoints and the final model of a run, each of them complete or not there at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState

from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.folders import publish_folder
from subcell_hf.storage.full_disk import naming_full_disk
from subcell_hf.training.runs.checkpoints import LOADER_FILE, finish_checkpoint, rotate_checkpoints, staging_folder

if TYPE_CHECKING:
    from subcell_hf.training.runs.run_trainer import RunTrainer


class CheckpointWriter(TrainerCallback):
    """Writes a folder beside, then gives it its name; all processes call it together.

    Args:
        trainer: The one whose state is written.
    """

    def __init__(self, trainer: RunTrainer) -> None:
        self.trainer = trainer

    def write_checkpoint(self) -> Path:
        """Write everything that an exact resume needs.

        Returns:
            The folder `checkpoint-<step>` of the run.
        """
        trainer = self.trainer
        run, step = trainer.run_folder, trainer.state.global_step
        staging, final = staging_folder(run, step), run / f"checkpoint-{step}"
        trainer.store_flos()
        if trainer.is_world_process_zero():
            rotate_checkpoints(run, None, ())
            staging.mkdir(parents=True)
        trainer.accelerator.wait_for_everyone()
        with _clearing_up(staging, final):
            trainer.write_weights(staging)
            trainer.write_optimizer_state(staging)
            if trainer.is_world_process_zero():
                self._write_state(staging)
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            with _clearing_up(staging, final):
                finish_checkpoint(staging, step)
        trainer.accelerator.wait_for_everyone()
        return final

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Remove the oldest checkpoints beyond the limit, but not the best one, nor one that is being pushed."""
        if state.is_world_process_zero:
            best, pushing = state.best_model_checkpoint, self.trainer.pusher.pushing
            kept = ([Path(best)] if best else []) + ([pushing] if pushing else [])
            rotate_checkpoints(self.trainer.run_folder, args.save_total_limit, kept)

    def write_final_model(self) -> Path:
        """Write the model for `AutoModel` to load; one from an earlier training is replaced.

        Returns:
            The folder `model` of the run.
        """
        trainer = self.trainer
        final, staging = trainer.run_folder / "model", trainer.run_folder / ".model.part"
        if trainer.is_world_process_zero() and staging.exists():
            shutil.rmtree(staging)
        trainer.accelerator.wait_for_everyone()
        with _clearing_up(staging, final):
            trainer.write_weights(staging)
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            publish_folder(staging, final)
        trainer.accelerator.wait_for_everyone()
        return final

    def _write_state(self, staging: Path) -> None:
        trainer, run = self.trainer, self.trainer.run_folder
        state = trainer.state
        loader_state = trainer.loader_state()
        if loader_state is not None:
            with write_atomically(staging / LOADER_FILE) as file:
                file.write(json.dumps(loader_state).encode())
        best = state.best_global_step
        if best and (best == state.global_step or (run / f"checkpoint-{best}").is_dir()):
            state.best_model_checkpoint = str(run / f"checkpoint-{best}")
        trainer.write_trainer_state(staging)


@contextmanager
def _clearing_up(staging: Path, final: Path) -> Iterator[None]:
    """Name a full disk, and give back what a folder that cannot be finished takes of it."""
    try:
        with naming_full_disk(final):
            yield
    except Exception:
        shutil.rmtree(staging, ignore_errors=True)
        raise
