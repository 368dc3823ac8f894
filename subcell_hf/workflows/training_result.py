"""What pretraining and fine-tuning have in common: from a trainer that is ready to a typed result."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from subcell_hf.inference.models.layer_times import LayerShape, time_layer
from subcell_hf.model.configuration_subcell import SubCellConfig
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


def warn_of_slow_bf16(training: TrainingArguments, config: SubCellConfig) -> None:
    """Log a warning where bf16 was asked for on a CPU on which fp32 is faster, as measured with a layer of the model.

    Args:
        training: Arguments of the training.
        config: Of the model.
    """
    if training.process_index or training.mixed_precision != "bf16" or training.device.type != "cpu":
        return
    times = time_layer(LayerShape.of_config(config), training.device)
    if times.seconds.get("bf16", math.inf) > times.seconds["fp32"]:
        logger.warning("bf16 is slower than fp32 on this CPU: %s. Omit --bf16.", times.explain())


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
