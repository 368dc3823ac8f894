"""What a run knows of itself, written beside its model, so that a model card can be made from it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.shards.index import ShardIndex
from subcell_hf.training.localization.localization import LocalizationSettings
from subcell_hf.training.pretraining.arguments import PreTrainingArguments
from subcell_hf.training.pretraining.resolution import PreTrainingData

TRAINING_RECORD_FILE = "training_record.json"
_OBJECTIVES = ("reconstruction", "cell_contrast", "protein_contrast", "protein_centroid")
_HUB_DATASET = "hf://datasets/"


def describe_training(
    config: SubCellConfig,
    args: PreTrainingArguments,
    data: PreTrainingData,
    log: list[dict[str, Any]],
    steps: int,
    times: Mapping[str, float],
) -> dict[str, Any]:
    """Facts of a run as plain data; no path of the machine is among them.

    Args:
        config: Of the model.
        args: Of the trainer.
        data: What was read.
        log: The trainer's history.
        steps: Optimizer steps taken.
        times: `runtime_s` and `device_s` of all stretches of the run, where they are known.

    Returns:
        `training_data`, `recipe`, `hyperparameters`, `hardware` (`device` and `processes` of the last stretch, and
        `times`) and `results` of the last validation; also `base_model` and `datasets`, where they are on the Hub.
    """
    weights = {name: getattr(config, f"{name}_weight") for name in _OBJECTIVES}
    together = config.cell_contrast_positives.replace("_", " ")
    between = {} if together == "cell" else {"cell_contrast": f" by {together}"}
    objectives = [
        f"{name.replace('_', ' ')}{between.get(name, '')} {weight:g}" for name, weight in weights.items() if weight
    ]
    if not config.probe_detached and config.probe_weight:
        objectives.append(f"supervised classification {config.probe_weight:g}")
    record: dict[str, Any] = {
        "format": "subcell-training-record",
        "version": 1,
        "training_data": _describe_data(data.reader.index),
        "recipe": f"Pretraining with the objectives (weights) {', '.join(objectives)}",
        "hyperparameters": _hyperparameters(config, args, data, steps),
        "hardware": _describe_hardware(args) | dict(times),
        "results": _last_validation(log, data),
    }
    if data.reader.url.startswith(_HUB_DATASET):
        record["datasets"] = ["/".join(data.reader.url.removeprefix(_HUB_DATASET).split("/")[:2])]
    return record


def add_classifier(record: dict[str, Any], settings: LocalizationSettings) -> dict[str, Any]:
    """The record of an encoder → that of classifiers on its frozen embeddings; the probe's results are left behind."""
    hidden = ", ".join(map(str, settings.hidden_sizes))
    members = len(settings.seeds)
    recipe = f"then {members} MLPs ({hidden}) on the frozen embedding, whose probabilities are averaged"
    own = {f"classifier_{name}": value for name, value in asdict(settings).items() if name != "seeds"}
    return {
        **{name: value for name, value in record.items() if name != "results"},
        "recipe": f"{record['recipe']}; {recipe}",
        "hyperparameters": {**record["hyperparameters"], **own, "classifier_members": members},
    }


def _describe_data(index: ShardIndex) -> dict[str, Any]:
    form = index.crop_format
    splits = ", ".join(f"{name} {len(antibodies)}" for name, antibodies in index.splits.items())
    return {
        "source": index.source or "not recorded in the shards",
        "cells": index.cells,
        "antibodies": len(index.antibodies),
        "splits": f"{splits} antibodies, {index.split_method or 'method not recorded'}" if splits else "none",
        "channels": ", ".join(form.channels),
        "crops": f"{form.crop_size_px} px at {form.pixel_size_um:.6g} µm/px",
        "cell_lines": ", ".join(index.cell_lines) or "not recorded",
        "fingerprint": index.fingerprint or "not recorded",
    }


def _hyperparameters(
    config: SubCellConfig, args: PreTrainingArguments, data: PreTrainingData, steps: int
) -> dict[str, Any]:
    return {
        "steps": steps,
        "antibodies_per_batch": data.batches.antibodies_per_batch,
        "cells_per_antibody": data.batches.cells_per_antibody,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "views": len(data.views.views),
        **_channel_settings(config, data),
        "mask_ratio": config.mask_ratio,
        "context_mask_ratio": config.context_mask_ratio,
        "object_mask_ratio": config.object_mask_ratio,
        "optimizer": str(getattr(args.optim, "value", args.optim)),
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "warmup_steps": args.warmup_steps,
        "weight_decay": args.weight_decay,
        "head_weight_decay": args.head_weight_decay,
        "max_grad_norm": args.max_grad_norm,
        "mixed_precision": args.mixed_precision,
        "seed": args.seed,
    }


def _channel_settings(config: SubCellConfig, data: PreTrainingData) -> dict[str, Any]:
    """What separate channel tokens add."""
    if config.channel_tokens == "joint":
        return {}
    sampling = {} if data.sampling is None else asdict(data.sampling)
    own = {"channel_tokens": config.channel_tokens, "channel_masking": config.channel_masking}
    return {**own, "channel_sampling": data.sampling is not None, **sampling}


def _describe_hardware(args: PreTrainingArguments) -> dict[str, Any]:
    on_gpu = args.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(args.device) if on_gpu else args.device.type,
        "processes": args.world_size,
    }


def _last_validation(log: list[dict[str, Any]], data: PreTrainingData) -> list[dict[str, Any]]:
    lines = [line for line in log if "eval_macro_auprc" in line]
    if not lines:
        return []
    value = lines[-1]["eval_macro_auprc"]
    if value is None or value != value:
        return []
    return [
        {
            "dataset": f"Online probe on the run's {data.validation_split} split, step {lines[-1].get('step', '?')}",
            "dataset_type": "subcell-online-probe",
            "split": data.validation_split,
            "metric": "macro_auprc",
            "metric_name": "Macro AUPRC of the online probe, single cells",
            "value": float(value),
        }
    ]
