"""What a run will do and what it costs, before it starts."""

import json
from dataclasses import asdict
from typing import Any

import torch

from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from subcell_hf.training.monitoring.cost import estimate_step_cost
from subcell_hf.training.pretraining.resolution import PreTrainingRun


def describe_run(run: PreTrainingRun) -> dict[str, Any]:
    """Configuration, sizes, steps, memory and cost of a run as plain data.

    The model is built without weights, so that this takes no memory. Floating-point operations count a multiplication
    and an addition each; memory is that of weights, gradients, AdamW and activations of one process.

    Args:
        run: A resolved run.

    Returns:
        Plain data, as `--dry_run` prints it.
    """
    training, data, batches = run.training, run.data, run.data.batches
    with torch.device("meta"):
        model = SubCellForPreTraining(run.config)
    cost = estimate_step_cost(
        run.config,
        model,
        views=len(data.views.views),
        precision=training.mixed_precision,
        checkpointing=bool(training.gradient_checkpointing),
        shown=None if data.sampling is None else data.sampling.counts(run.config.num_channels),
    )
    cells_per_epoch = run.steps_per_epoch * run.cells_per_step
    return {
        "model": json.loads(run.config.to_json_string(use_diff=True)),
        "data": {
            "shards": data.reader.url,
            "train_split": data.train_split,
            "validation_split": data.validation_split,
            "antibodies_per_batch": batches.antibodies_per_batch,
            "cells_per_antibody": batches.cells_per_antibody,
            "views": len(data.views.views),
            "view_size_px": data.views.size_px,
            "channel_sampling": None if data.sampling is None else asdict(data.sampling),
        },
        "training": {
            "processes": training.world_size,
            "device": str(training.device),
            "mixed_precision": training.mixed_precision,
            "gradient_accumulation_steps": training.gradient_accumulation_steps,
            "cells_per_step": run.cells_per_step,
            "cells_per_process_and_batch": training.per_device_train_batch_size,
            "learning_rate": training.learning_rate,
            "warmup_steps": training.warmup_steps,
            "steps_per_epoch": run.steps_per_epoch,
            "total_steps": run.total_steps,
            "output_dir": training.output_dir,
        },
        "cost": {
            "parameters": cost.parameters,
            "trainable_parameters": cost.trainable_parameters,
            "memory_gib_per_process": _short(cost.memory_bytes(training.per_device_train_batch_size) / 2**30),
            "training_gflop_per_cell": _short(cost.training_flops_per_cell / 1e9),
            "petaflop_per_epoch": _short(cost.training_flops_per_cell * cells_per_epoch / 1e15),
            "hours_per_epoch_at_100_tflops": _short(cost.training_flops_per_cell * cells_per_epoch / 1e14 / 3600),
        },
    }


def _short(value: float) -> float:
    """Rounded to three digits, which is more than an estimate knows."""
    return float(f"{value:.3g}")
