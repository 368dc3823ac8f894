"""From arguments to a run of which every number is known; what cannot work is refused here, before anything starts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from subcell_hf.augmentation.presets import AugmentationSettings, load_settings
from subcell_hf.errors import InputError
from subcell_hf.model.configuration_subcell import SIZES, SubCellConfig
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from subcell_hf.parallel.processes import Processes
from subcell_hf.shards.batch_plan import BatchPlan, BatchSettings
from subcell_hf.shards.index import ShardIndex
from subcell_hf.shards.reader import ShardReader
from subcell_hf.storage.model_folders import check_model, load_weights, weights_from_seed
from subcell_hf.training.pretraining.arguments import METRICS, DataArguments, ParsedArguments, PreTrainingArguments
from subcell_hf.training.pretraining.channel_sampling import ChannelSampling
from subcell_hf.training.pretraining.launch_checks import check_launch
from subcell_hf.training.pretraining.optimization import peak_learning_rate, straight_line
from subcell_hf.training.runs.trainer_adapter import TRACKERS
from subcell_hf.weights.model_names import find_folder

_TWO_VIEW_WEIGHTS = ("cell_contrast_weight", "protein_contrast_weight", "protein_centroid_weight")


@dataclass(frozen=True)
class PreTrainingData:
    """What a trainer reads.

    Attributes:
        reader: The shards.
        batches: Sizes of the global batch, and its seed.
        train_split: Split to train on; None for all cells.
        validation_split: Split to measure the probe on; None for none.
        views: How views are made.
        sampling: How the channels of a step are sampled; None: all are shown.
    """

    reader: ShardReader
    batches: BatchSettings
    train_split: str | None
    validation_split: str | None
    views: AugmentationSettings
    sampling: ChannelSampling | None = None


@dataclass(frozen=True)
class PreTrainingRun:
    """Everything that a run needs, checked.

    Attributes:
        config: Of the model.
        init_checkpoint: Weights to begin from; None for new ones.
        data: What is read.
        training: For the trainer, with learning rate, steps and batch size filled in.
        steps_per_epoch: Optimizer steps.
        total_steps: Optimizer steps.
        cells_per_step: Cells of an optimizer step, all processes and accumulated batches together.
    """

    config: SubCellConfig
    init_checkpoint: str | None
    data: PreTrainingData
    training: PreTrainingArguments
    steps_per_epoch: int
    total_steps: int
    cells_per_step: int

    def build_model(self) -> SubCellForPreTraining:
        """The model, new from the run's seed or with the weights of `init_checkpoint`."""
        with weights_from_seed(self.training.seed):
            if self.init_checkpoint is None:
                return SubCellForPreTraining(self.config)
            return load_weights(SubCellForPreTraining, find_folder(self.init_checkpoint)[0], self.config)


def resolve(parsed: ParsedArguments, world_size: int | None = None) -> PreTrainingRun:
    """Fill in every number and refuse what cannot work.

    Args:
        parsed: What the user asked for.
        world_size: Processes; None asks the launcher's environment.

    Raises:
        InputError: If arguments contradict each other, the data or the machine; the message names argument and remedy.
        OSError: If the shards cannot be read.
    """
    world_size = world_size or Processes.of_torch().world_size
    _check_fixed(parsed)
    if parsed.data.shards is None:
        raise InputError(
            "shards is not set: give the output folder of `subcell shards`, or its URL, with --shards FOLDER."
        )
    reader = ShardReader(parsed.data.shards)
    config = build_config(parsed, reader.index)
    views = _fit_views(parsed.data, config)
    sampling = _choose_sampling(parsed, config, views)
    seed = parsed.training["data_seed"]
    batches = BatchSettings(
        antibodies_per_batch=parsed.data.antibodies_per_batch,
        cells_per_antibody=parsed.data.cells_per_antibody,
        seed=parsed.training["seed"] if seed is None else seed,
        last_batch=parsed.data.last_batch,
        short_antibodies=parsed.data.short_antibodies,
    )
    split = None if parsed.data.train_split == "all" else parsed.data.train_split
    plan = BatchPlan(reader.cells, reader.split_rows(split), batches)
    plan.check_world_size(world_size)
    if parsed.data.validation_split is not None:
        reader.split_rows(parsed.data.validation_split)
    data = PreTrainingData(reader, batches, split, parsed.data.validation_split, views, sampling)
    cells = batches.antibodies_per_batch * batches.cells_per_antibody
    training, steps_per_epoch, total_steps = _fill_in(parsed, plan.steps_per_epoch, cells, world_size)
    cells_per_step = cells * training.gradient_accumulation_steps
    check_launch(training, config)
    return PreTrainingRun(
        config, parsed.model.init_checkpoint, data, training, steps_per_epoch, total_steps, cells_per_step
    )


def build_config(parsed: ParsedArguments, index: ShardIndex | None = None) -> SubCellConfig:
    """Configuration of the model: size or checkpoint, what the user changed, and what the data say.

    Args:
        parsed: What the user asked for.
        index: Of the shards: they give classes, pixel size and, if the user does not, channels.

    Raises:
        InputError: If the configuration cannot work or does not fit the data.
    """
    model, changes = parsed.model, dict(parsed.config)
    if model.size and model.init_checkpoint:
        raise InputError("size and init_checkpoint cannot be combined: the checkpoint has a size. Omit --size.")
    if model.size and model.size not in SIZES:
        raise InputError(f"size is {model.size!r}: expected one of {', '.join(SIZES)}.")
    base: dict[str, Any] = dict(SIZES[model.size]) if model.size else {}
    if model.init_checkpoint:
        base = _known_fields(check_model(find_folder(model.init_checkpoint)[0]).to_dict())
    try:
        if index is not None:
            changes = _from_index(base | changes, changes, index)
        config = SubCellConfig(**(base | changes))
    except ValueError as error:
        raise InputError(str(error)) from error
    if not any(getattr(config, name) for name in (*_TWO_VIEW_WEIGHTS, "reconstruction_weight")) and (
        config.probe_detached or not config.probe_weight
    ):
        raise InputError(
            "Nothing trains the encoder: every objective has weight 0 and the probe is detached. Set one of "
            "reconstruction_weight, cell_contrast_weight, protein_contrast_weight, protein_centroid_weight, or "
            "probe_detached to false."
        )
    alone = parsed.data.cells_per_antibody < 2 and config.protein_contrast_weight
    if alone and config.protein_views == "first":
        raise InputError(
            f"cells_per_antibody is {parsed.data.cells_per_antibody}, but with protein_views=first protein contrast "
            "compares different cells of an antibody: choose 2 or more."
        )
    if config.reconstruction_weight and not config.mask_ratio:
        raise InputError(
            f"reconstruction_weight is {config.reconstruction_weight}, but with mask_ratio=0 no patches are hidden and "
            "reconstructed: set mask_ratio above 0, or reconstruction_weight to 0."
        )
    return config


def _known_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in (*SubCellConfig.__annotations__, "id2label", "label2id") if name in values}


def _from_index(values: Mapping[str, Any], changes: Mapping[str, Any], index: ShardIndex) -> dict[str, Any]:
    """What the shards decide, beside what the user does."""
    form = index.crop_format
    classes = dict(enumerate(index.classes))
    filled = {"channels": values.get("channels", list(form.channels)), "id2label": classes}
    filled["label2id"] = {name: number for number, name in classes.items()}
    edge = SubCellConfig(**{**values, **filled}).image_height_width[0]
    filled["pixel_size_um"] = form.pixel_size_um * form.crop_size_px / edge
    merged = {**filled, **changes}
    missing = [name for name in merged["channels"] if name not in form.channels]
    if missing:
        raise InputError(
            f"channels contains {', '.join(missing)}, but the shards contain {', '.join(form.channels)}. Choose "
            f"from these."
        )
    return merged


def _fit_views(data: DataArguments, config: SubCellConfig) -> AugmentationSettings:
    """The view settings at the size of the model, if they make as many views as its objectives need."""
    views = load_settings(data.views)
    height, width = config.image_height_width
    if height != width:
        raise InputError(f"image_size is {config.image_size}: views are square; give one number.")
    needed = [name for name in _TWO_VIEW_WEIGHTS if getattr(config, name)]
    if needed and len(views.views) != 2:
        raise InputError(
            f"views={data.views} makes {len(views.views)} view of each cell, but {' and '.join(needed)} need two: "
            "choose --views multi_task or contrastive, or set these weights to 0."
        )
    if len(views.views) > 2:
        raise InputError(f"views={data.views} makes {len(views.views)} views of each cell; the model takes one or two.")
    return views.with_size(height)


def _choose_sampling(
    parsed: ParsedArguments, config: SubCellConfig, views: AugmentationSettings
) -> ChannelSampling | None:
    """How channels are sampled, if the model and its objectives allow it."""
    data = parsed.data
    if not data.channel_sampling:
        given = [name for name in ("protein_probability", "other_probability") if name in parsed.given]
        if given:
            raise InputError(f"{' and '.join(given)} need channel_sampling. Add --channel_sampling true.")
        return None
    if config.channel_tokens != "separate":
        raise InputError(
            "channel_sampling is for models that take any channels. Add --channel_tokens separate, or leave "
            "channel_sampling out."
        )
    if not (0 < data.protein_probability <= 1 and 0 <= data.other_probability <= 1):
        raise InputError(
            f"protein_probability is {data.protein_probability} and other_probability {data.other_probability}: "
            "expected above 0 to 1, and 0 to 1."
        )
    if data.protein_probability < 1 and not (config.reconstruction_weight or config.cell_contrast_weight):
        raise InputError(
            f"protein_probability is {data.protein_probability}, but nothing trains the encoder in steps without the "
            "protein: set reconstruction_weight or cell_contrast_weight above 0, or protein_probability to 1."
        )
    if views.scaling != "channel":
        raise InputError(
            f"views={data.views} scales all channels of a cell together, so that intensities would depend on channels "
            "that are not shown. Choose --views gentle, moderate, orientations or half_affine, or a file with scaling: "
            "channel."
        )
    return ChannelSampling(data.protein_probability, data.other_probability)


def _check_fixed(parsed: ParsedArguments) -> None:
    """Refuse arguments of Trainer that mean nothing, or the wrong thing, here."""
    given, training = parsed.given, parsed.training
    if "per_device_train_batch_size" in given:
        raise InputError(
            "per_device_train_batch_size follows from the batch of all processes: set antibodies_per_batch and "
            "cells_per_antibody instead."
        )
    for name, wanted in {
        "remove_unused_columns": False, "ignore_data_skip": True, "logging_nan_inf_filter": False,
        "auto_find_batch_size": False, "dataloader_drop_last": False, "save_only_model": False,
    }.items():  # fmt: skip
        if training[name] is not wanted:
            raise InputError(f"{name} must be {str(wanted).lower()} here; leave it out.")
    if "warmup_steps" in given and "warmup_epochs" in given:
        raise InputError("warmup_steps and warmup_epochs both set the warm-up: give one of them.")
    unknown = [name for name in training["report_to"] if name not in (*TRACKERS, "all", "none")]
    if unknown:
        raise InputError(f"report_to contains {', '.join(unknown)}: expected some of {', '.join(TRACKERS)}.")
    metric = training["metric_for_best_model"]
    if metric is not None and metric.removeprefix("eval_") not in METRICS:
        raise InputError(f"metric_for_best_model is {metric!r}: expected one of {', '.join(METRICS)}.")
    if training["gradient_accumulation_steps"] < 1:
        raise InputError("gradient_accumulation_steps must be at least 1.")


def _fill_in(
    parsed: ParsedArguments, batches_per_epoch: int, cells: int, world_size: int
) -> tuple[PreTrainingArguments, int, int]:
    """Build Trainer's arguments; also optimizer steps per epoch and in all."""
    values, given = dict(parsed.training), parsed.given
    accumulated = values["gradient_accumulation_steps"]
    per_epoch = batches_per_epoch // accumulated
    if not per_epoch:
        raise InputError(
            f"An epoch has {batches_per_epoch} batches, fewer than gradient_accumulation_steps={accumulated}: no step "
            "would ever be taken. Accumulate fewer, or make antibodies_per_batch smaller."
        )
    limited = values["max_steps"] > 0
    total = values["max_steps"] if limited else math.ceil(values["num_train_epochs"] * per_epoch)
    if "warmup_steps" not in given:
        values["warmup_steps"] = round(values["warmup_epochs"] * per_epoch)
    if values["warmup_steps"] >= total > 0:
        raise InputError(
            f"The warm-up of {values['warmup_steps']:g} steps leaves nothing of the {total} steps of this run: set "
            "warmup_epochs (or warmup_steps) lower, or num_train_epochs higher."
        )
    if values["learning_rate"] is None:
        values["learning_rate"] = peak_learning_rate(values["base_learning_rate"], cells * accumulated)
    if values["lr_scheduler_type"] == "polynomial" and values["lr_scheduler_kwargs"] is None:
        values["lr_scheduler_kwargs"] = straight_line(values["learning_rate"], values["final_learning_rate_ratio"])
    for what in ("eval", "save"):
        if f"{what}_strategy" not in given:
            values[f"{what}_strategy"] = "steps"
            if f"{what}_steps" not in given:
                values[f"{what}_steps"] = max(1, round(values[f"{what}_epochs"] * per_epoch))
    if parsed.data.validation_split is None:
        if values["load_best_model_at_end"]:
            raise InputError("load_best_model_at_end requires a validation_split.")
        values["eval_strategy"] = "no"
    values["per_device_train_batch_size"] = cells // world_size
    try:
        return PreTrainingArguments(**values), per_epoch, total
    except ValueError as error:
        raise InputError(str(error)) from error
