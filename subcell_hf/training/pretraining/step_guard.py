"""What happens around each optimizer step: finite losses and gradients, the teacher, the mean losses of the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import TrainingArguments
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState

if TYPE_CHECKING:
    from subcell_hf.training.pretraining.trainer import PreTrainer


class StepGuard(TrainerCallback):
    """Lets all processes agree before an update, and moves the teacher after it.

    Args:
        trainer: The one whose losses and gradients are checked.

    Attributes:
        stop_agreed: Whether any process was asked to stop when the current step was checked.
    """

    def __init__(self, trainer: PreTrainer) -> None:
        self.trainer = trainer
        self.stop_agreed = False
        self._losses: dict[str, tuple[Tensor, int]] = {}  # sum and number of batches
        self._not_finite: dict[str, Tensor] = {}

    def note_losses(self, losses: Mapping[str, Tensor]) -> None:
        """Keep the components of a batch's loss for the log, and whether all of them are finite.

        Not every batch has all of them; those of all processes have the same.
        """
        for name, value in losses.items():
            total, count = self._losses.get(name, (torch.zeros_like(value), 0))
            self._losses[name] = (total + value, count + 1)
            broken = ~value.isfinite()
            self._not_finite[name] = self._not_finite.get(name, broken) | broken

    def read_mean_losses(self) -> dict[str, float]:
        """`loss_<name>` of every component, the mean since the last reading, over all processes; empty if none."""
        if not self._losses:
            return {}
        means = torch.stack([total / count for total, count in self._losses.values()])
        means = self.trainer.accelerator.reduce(means, reduction="mean")
        found = {f"loss_{name}": value for name, value in zip(self._losses, means.tolist(), strict=True)}
        self._losses = {}
        return found

    def check(self) -> None:
        """Let all processes agree that losses and gradients are finite, and whether to stop, in one message.

        Raises:
            FloatingPointError: On every process alike, if a component of the loss or a gradient is NaN or infinite.
        """
        if not self._not_finite:
            return
        trainer = self.trainer
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        skips_by_itself = trainer.loss_scaler is not None or trainer.updates_within_backward
        broken = [*self._not_finite.values()]
        gradients_broken = torch.zeros_like(broken[0])
        if gradients and not skips_by_itself:
            gradients_broken = ~torch.stack(torch._foreach_norm(gradients)).sum().isfinite()
        stop = torch.full_like(gradients_broken, trainer.interruption.asked)
        flags = torch.stack([*broken, gradients_broken, stop]).float()
        counts = trainer.accelerator.reduce(flags, reduction="sum").tolist()
        named = [*self._not_finite, "the gradient"]
        self._not_finite = {}
        self.stop_agreed = bool(counts[-1])
        names = [name for name, count in zip(named, counts, strict=False) if count]
        if names:
            raise FloatingPointError(
                f"Not finite in step {trainer.state.global_step + 1}: {', '.join(names)}. No weights were updated; "
                f"the last complete checkpoint in {trainer.args.output_dir} is sound. Look at the loss before "
                f"this step, "
                "lower the learning rate, or use bf16 or fp32 instead of fp16."
            )

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Check what has not been checked within the backward pass."""
        self.check()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Move the teacher, unless fp16's scaler has skipped the step."""
        if not self.trainer.accelerator.optimizer_step_was_skipped:
            self.trainer.model.update_teacher()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """End the step of the meter, and count epochs from the run's start: Trainer does not after a resume."""
        self.trainer.meter.finish_step()
        state.epoch = state.global_step / self.trainer.batches.steps
