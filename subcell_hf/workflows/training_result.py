"""What pretraining and fine-tuning have in common: from a trainer that is ready to a typed result."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subcell_hf.training.runs.run_trainer import RunTrainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """What a training did.

    Attributes:
        description: What was to be done, in numbers, as plain data: model, data, steps and, for pretraining, the cost.
        output_dir: Folder of the run: checkpoints, monitoring, validation tables and the model.
        model: Folder of the trained model, for `from_pretrained`; None after a dry run, or if the run was stopped.
        steps: Optimizer steps taken, those before a resume included.
        stopped: Whether SIGTERM ended the training early; it can be resumed with `resume_from_checkpoint`.
        log: Lines of Trainer's log: losses, rates and metrics, each with its `step`.
    """

    description: Mapping[str, Any]
    output_dir: Path
    model: Path | None = None
    steps: int = 0
    stopped: bool = False
    log: tuple[Mapping[str, float], ...] = ()


def announce(description: Mapping[str, Any], *, process_index: int) -> None:
    """Log what will be done, once for all processes."""
    if process_index == 0:
        logger.info(json.dumps(description, indent=1, ensure_ascii=False))


def train_to_end(trainer: RunTrainer, description: Mapping[str, Any]) -> TrainingResult:
    """Train, from a checkpoint if the arguments say so, and write or push the model.

    Args:
        trainer: Ready to train.
        description: What it will do.
    """
    args = trainer.args
    resume = args.resume_from_checkpoint
    trainer.train(resume_from_checkpoint=True if resume in ("true", "True") else resume)
    steps, log = trainer.state.global_step, tuple(trainer.state.log_history)
    folder, model = Path(str(args.output_dir)), None
    if trainer.interrupted:
        if trainer.is_world_process_zero():
            logger.info(f"Stopped on request after step {steps} and saved. Resume with --resume_from_checkpoint true.")
    elif args.push_to_hub:
        trainer.push_to_hub()
        model = folder / "model"
    else:
        model = trainer.save_final_model()
    return TrainingResult(description, folder, model, steps, trainer.interrupted, log)
