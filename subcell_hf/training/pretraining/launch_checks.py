"""Refuse launchers and settings under which training would not be what it is in one process with whole batches."""

import os
from pathlib import Path

from transformers import TrainingArguments

from subcell_hf.errors import InputError
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.parallel.processes import Processes
from subcell_hf.training.pretraining.arguments import PreTrainingArguments

_WHOLE_WEIGHTS = (
    "{} is not supported: teacher, validation and checkpoints need whole weights. Use DDP (accelerate launch "
    "--multi_gpu) or DeepSpeed ZeRO-2 (`subcell recipes --output recipes` writes "
    "recipes/accelerate/deepspeed_zero2.yaml for it)."
)


def check_launch(training: PreTrainingArguments, config: SubCellConfig) -> None:
    """Refuse what cannot work on this machine, with this launcher or this split of the batch.

    Args:
        training: With every number filled in.
        config: Of the model.

    Raises:
        InputError: With the argument and the remedy.
    """
    _check_machine(training)
    _check_sharding(training, config)
    _check_chunks(training, config)


def check_processes(training: TrainingArguments) -> None:
    """Refuse processes that would not train together: each on its own, or one for several GPUs.

    Raises:
        InputError: With the remedy.
    """
    started = Processes.of_torch().world_size
    if started > 1 and training.world_size == 1:
        raise InputError(
            f"{started} processes were started, but they are not connected: each would train a separate model. On a "
            "machine without GPUs add --use_cpu true, or start one process."
        )
    if training.n_gpu > 1:
        raise InputError(
            f"One process sees {training.n_gpu} GPUs: start one process for each with `accelerate launch --multi_gpu` "
            "or torchrun, or show it a single one with CUDA_VISIBLE_DEVICES=0."
        )


def _check_machine(training: PreTrainingArguments) -> None:
    check_processes(training)
    if training.mixed_precision == "fp16" and training.device.type == "cpu":
        raise InputError(
            "fp16 requires a GPU: on a CPU, training would silently use fp32. Use --bf16 true, or omit --fp16."
        )
    resume = training.resume_from_checkpoint
    if resume not in (None, "true", "True") and not Path(resume).is_dir():
        raise InputError(
            f"resume_from_checkpoint is {resume!r}, not an existing folder. Give a folder, or 'true' for the newest "
            "complete checkpoint of output_dir."
        )


def _check_sharding(training: PreTrainingArguments, config: SubCellConfig) -> None:
    """Weights in pieces, or in 16 bits, are not what the teacher follows."""
    if training.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "false") == "true":
        raise InputError(_WHOLE_WEIGHTS.format("FSDP"))
    plugin = training.deepspeed_plugin
    if plugin is None:
        return
    if plugin.zero_stage > 2:
        raise InputError(_WHOLE_WEIGHTS.format(f"DeepSpeed ZeRO-{plugin.zero_stage}"))
    if training.mixed_precision != "no" and config.protein_centroid_weight:
        raise InputError(
            f"protein_centroid_weight with DeepSpeed and {training.mixed_precision}: DeepSpeed keeps such weights in "
            "16 bits, in which the teacher's small steps vanish. Use DDP (accelerate launch --multi_gpu), or "
            "DeepSpeed in float32."
        )


def _check_chunks(training: PreTrainingArguments, config: SubCellConfig) -> None:
    """Refuse settings that cannot be combined with chunks of a batch."""
    chunks, cells = training.cached_gradient_chunks, training.per_device_train_batch_size
    if not 1 <= chunks <= cells:
        raise InputError(
            f"cached_gradient_chunks is {chunks}: expected 1 (off) to {cells}, the cells of a process and batch."
        )
    if chunks == 1:
        return
    refused = {
        "deepspeed": (training.deepspeed_plugin, "DeepSpeed reduces gradients in each backward pass; use DDP"),
        "torch_compile": (training.torch_compile, "a part of the model runs outside its forward method"),
        "backbone_config": (
            config.backbone_config, "a backbone's BatchNorm would normalize each chunk separately"
        ),
    }  # fmt: skip
    for name, (value, reason) in refused.items():
        if value:
            raise InputError(
                f"cached_gradient_chunks={chunks} cannot be combined with {name}: {reason}. Omit one of them."
            )
