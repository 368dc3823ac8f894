"""From arguments to a fine-tuning of which everything is known; what cannot work is refused before anything starts."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.augmentation.presets import AugmentationSettings, load_settings
from subcell_hf.errors import InputError, counted
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellForImageClassification, SubCellModel
from subcell_hf.parallel.processes import Processes
from subcell_hf.storage.model_folders import check_model, load_weights, weights_from_seed
from subcell_hf.training.finetuning.channel_adaptation import ChannelOrigins, adapt_encoder, plan_channels
from subcell_hf.training.finetuning.finetuning_arguments import (
    CLASS_WEIGHTS,
    FINE_TUNING_METRICS,
    LOSSES,
    FineTuningArguments,
    LabelledDataArguments,
    ParsedFineTuning,
    StartArguments,
)
from subcell_hf.training.finetuning.labelled_crops import (
    LabelledCrops,
    Labels,
    only_split,
    open_crops,
    with_random_splits,
)
from subcell_hf.training.pretraining.launch_checks import check_processes
from subcell_hf.weights.model_names import find_folder


@dataclass(frozen=True)
class FineTuningRun:
    """Everything that a fine-tuning needs, checked.

    Attributes:
        config: Of the new model.
        init_checkpoint: Weights to begin with.
        origins: Where the weights of every channel come from.
        freeze_encoder: Whether the head alone is trained.
        crops: Where crops are read.
        train: Rows to train on.
        validation: Rows to measure on.
        targets: `[crops, classes]` float32, or `[crops]` int64 with `single_label`.
        classes: Their names.
        left_out: Label → crops that have it, where it is none of the classes.
        unlabelled: Split → crops of it that have no label and are used for nothing.
        single_label: Whether every crop has exactly one class.
        processor: The new model's.
        views: How training sees the crops.
        loss: `"focal"`, `"bce"` or `"cross_entropy"`.
        training: For the trainer.
    """

    config: SubCellConfig
    init_checkpoint: str
    origins: ChannelOrigins
    freeze_encoder: bool
    crops: LabelledCrops
    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    targets: npt.NDArray[Any]
    classes: tuple[str, ...]
    left_out: Mapping[str, int]
    unlabelled: Mapping[str, int]
    single_label: bool
    processor: SubCellImageProcessor
    views: AugmentationSettings
    loss: str
    training: FineTuningArguments

    def build_model(self) -> SubCellForImageClassification:
        """The trained encoder, adapted, under a new head from the run's seed."""
        trained = load_weights(SubCellModel, find_folder(self.init_checkpoint)[0])
        with weights_from_seed(self.training.seed):
            model = SubCellForImageClassification(self.config)
        model.subcell.load_state_dict(adapt_encoder(trained, self.config, self.origins))
        if self.freeze_encoder:
            model.subcell.requires_grad_(False)
        return model

    def describe(self) -> dict[str, Any]:
        """What will be done, as plain data."""
        counts, training = self._count_classes(), self.training
        per_step = training.train_batch_size * training.world_size * training.gradient_accumulation_steps
        return {
            "init_checkpoint": self.init_checkpoint,
            "channels": self.origins.describe(),
            "image_size": self.config.image_size,
            "pixel_size_um": self.processor.pixel_size_um or "unknown: crops are stretched to image_size",
            "trained": "head" if self.freeze_encoder else "encoder and head",
            "crops": {"train": len(self.train), "validation": len(self.validation)},
            "crops_per_step": per_step,
            "classes": {name: f"{counts[0][name]} train, {counts[1][name]} validation" for name in self.classes},
            "labels_left_out": dict(self.left_out),
            "unlabelled_crops_left_out": dict(self.unlabelled),
            "problem": "one class per crop" if self.single_label else "any number of classes per crop",
            "loss": f"{self.loss}, class weights {training.class_weights}",
            "output_dir": training.output_dir,
        }

    def _count_classes(self) -> tuple[dict[str, int], dict[str, int]]:
        def count(rows: npt.NDArray[np.int64]) -> dict[str, int]:
            chosen = self.targets[rows]
            of_class = np.bincount(chosen, minlength=len(self.classes)) if self.single_label else chosen.sum(axis=0)
            return {name: int(number) for name, number in zip(self.classes, of_class, strict=True)}

        return count(self.train), count(self.validation)


def resolve_fine_tuning(parsed: ParsedFineTuning) -> FineTuningRun:
    """Fill in everything and refuse what cannot work.

    Args:
        parsed: What the user asked for.

    Raises:
        InputError: If arguments contradict each other, the data or the model; the message names argument and remedy.
    """
    start, data = parsed.start, parsed.data
    if start.init_checkpoint is None or data.data is None:
        missing = "init_checkpoint" if start.init_checkpoint is None else "data"
        raise InputError(
            f"{missing} is not set: give the trained model with --init_checkpoint and the crops with --data."
        )
    Processes.of_torch()  # refuses here what accelerate would meet with a traceback
    training = _build_arguments(parsed)
    crops = open_crops(data.data, data.channel_names or (), data.pixel_size_um, data.group_column)
    splits = with_random_splits(crops, data.validation_fraction, training.seed)
    labels = [row or None for row in crops.labels] if data.single_label else crops.labels
    names = (data.train_split, data.validation_split)
    train, validation = (_only_labelled(only_split(splits, name), labels, name) for name in names)
    unlabelled = Counter(split or "no split" for split, row in zip(splits, labels, strict=True) if row is None)
    classes = _choose_classes(data, labels, train)
    used = {int(row) for row in (*train, *validation)}
    used_labels = [(row or ()) if number in used else () for number, row in enumerate(labels)]
    targets, left_out = _make_targets(used_labels, used, classes, data.single_label)
    config, origins = _adapt_config(start.init_checkpoint, start, crops, classes, data.single_label)
    processor = SubCellImageProcessor(
        channels=config.channels,
        size=config.image_height_width[0],
        pixel_size_um=config.pixel_size_um if crops.pixel_size_um else None,
        do_resize=crops.pixel_size_um is None,
        channel_tokens=config.channel_tokens,
    )
    views = load_settings(data.views)
    loss = training.loss or ("cross_entropy" if data.single_label else "focal")
    if (loss == "cross_entropy") != data.single_label:
        raise InputError(
            f"loss={loss} cannot be combined with single_label={str(data.single_label).lower()}: cross_entropy is for "
            "crops of one class each, focal and bce for any number."
        )
    return FineTuningRun(
        config=config,
        init_checkpoint=start.init_checkpoint,
        origins=origins,
        freeze_encoder=start.freeze_encoder,
        crops=crops,
        train=train,
        validation=validation,
        targets=targets,
        classes=classes,
        left_out=left_out,
        unlabelled=unlabelled,
        single_label=data.single_label,
        processor=processor,
        views=AugmentationSettings(
            views=views.views[:1],
            size_px=config.image_height_width[0],
            scaling=processor.normalize,
            protein_channel=config.channels[-1],
        ),
        loss=loss,
        training=training,
    )


def _build_arguments(parsed: ParsedFineTuning) -> FineTuningArguments:
    values = dict(parsed.training)
    for name, choices in (("class_weights", CLASS_WEIGHTS), ("loss", LOSSES)):
        if values[name] is not None and values[name] not in choices:
            raise InputError(f"{name} is {values[name]!r}: expected one of {', '.join(choices)}.")
    if values["remove_unused_columns"]:
        raise InputError("remove_unused_columns must be false. Omit it.")
    metric = values["metric_for_best_model"]
    if metric is not None and metric.removeprefix("eval_") not in FINE_TUNING_METRICS:
        raise InputError(f"metric_for_best_model is {metric!r}: expected one of {', '.join(FINE_TUNING_METRICS)}.")
    if metric in ("accuracy", "macro_f1") and not parsed.data.single_label:
        raise InputError(
            f"metric_for_best_model={metric} requires single_label, because crops may have several classes otherwise."
        )
    if values["fsdp"]:
        raise InputError("FSDP is not supported: checkpoints contain complete weights. Use DDP.")
    resume = values["resume_from_checkpoint"]
    if resume not in (None, "true", "True") and not Path(resume).is_dir():
        raise InputError(f"resume_from_checkpoint is {resume!r}, not an existing folder. Give a folder, or 'true'.")
    if values["data_seed"] is None:
        values["data_seed"] = values["seed"]  # else Accelerate shuffles by the state of each process's random numbers
    try:
        training = FineTuningArguments(**values)
    except ValueError as error:
        raise InputError(str(error)) from error
    check_processes(training)
    return training


def _only_labelled(rows: npt.NDArray[np.int64], labels: Sequence[Labels], split: str) -> npt.NDArray[np.int64]:
    """Those of the rows of a split that have a label."""
    kept = np.array([row for row in rows if labels[row] is not None], dtype=np.int64)
    if not len(kept):
        raise InputError(
            f"No crop in the split {split!r} has a label ({counted(len(rows), 'crop')}). Label crops, or choose "
            f"another "
            "split."
        )
    return kept


def _choose_classes(
    data: LabelledDataArguments, labels: Sequence[Labels], train: npt.NDArray[np.int64]
) -> tuple[str, ...]:
    found = {label for row in train for label in labels[row] or ()}
    classes = tuple(data.classes) if data.classes else tuple(sorted(found))
    least = 2 if data.single_label else 1
    if len(classes) < least:
        raise InputError(
            f"The split {data.train_split!r} has {counted(len(classes), 'class', 'classes')}, expected at least "
            f"{least}."
        )
    absent = [name for name in classes if name not in found]
    if absent:
        raise InputError(
            f"No crop of the split {data.train_split!r} has the class {', '.join(absent)}; it has "
            f"{', '.join(sorted(found))}. Leave out classes without crops."
        )
    return classes


def _make_targets(
    labels: Sequence[tuple[str, ...]], used: Collection[int], classes: tuple[str, ...], single_label: bool
) -> tuple[npt.NDArray[Any], dict[str, int]]:
    place = {name: number for number, name in enumerate(classes)}
    left_out = Counter(name for row in labels for name in row if name not in place)
    kept = [[place[name] for name in row if name in place] for row in labels]
    if single_label:
        wrong = [number for number, row in enumerate(kept) if len(row) != 1 and number in used]
        if wrong:
            raise InputError(
                "single_label requires exactly one class per crop; this fails for "
                f"{counted(len(wrong), 'crop')}, first row {wrong[0]} with {list(labels[wrong[0]])}. Leave "
                f"these crops out, or omit single_label."
            )
        # What is not used has any class at all.
        return np.array([row[0] if row else 0 for row in kept], dtype=np.int64), dict(left_out)
    targets = np.zeros((len(kept), len(classes)), dtype=np.float32)
    for number, row in enumerate(kept):
        targets[number, row] = 1
    return targets, dict(left_out)


def _adapt_config(
    checkpoint: str, start: StartArguments, crops: LabelledCrops, classes: tuple[str, ...], single_label: bool
) -> tuple[SubCellConfig, ChannelOrigins]:
    trained = check_model(find_folder(checkpoint)[0])
    channels = start.channels or list(trained.channels)
    missing = [name for name in channels if name not in crops.channels]
    if missing:
        raise InputError(
            f"The model requires {', '.join(channels)}, but the crops have {', '.join(crops.channels)}: "
            f"missing {', '.join(missing)}. Choose the channels with --channels, and the initialization of new "
            "channels with --new_channels NEW=TRAINED."
        )
    given = dict(_split_pair(text) for text in start.new_channels or ())
    origins = plan_channels(trained.channels, channels, given)
    values = {name: trained.to_dict()[name] for name in SubCellConfig.__annotations__ if name in trained.to_dict()}
    for name in ("model_type", "sub_configs"):
        values.pop(name, None)
    edge, old_edge = start.image_size or trained.image_height_width[0], trained.image_height_width[0]
    values |= {
        "channels": channels,
        "image_size": edge,
        "pixel_size_um": start.model_pixel_size_um or trained.pixel_size_um * old_edge / edge,
        "problem_type": "single_label_classification" if single_label else "multi_label_classification",
        "classifier_hidden_sizes": start.classifier_hidden_sizes,
        "classifier_dropout": start.classifier_dropout,
        "classifier_ensemble_size": 1,
        "id2label": dict(enumerate(classes)),
        "label2id": {name: number for number, name in enumerate(classes)},
    }
    try:
        return SubCellConfig(**values), origins
    except ValueError as error:
        raise InputError(str(error)) from error


def _split_pair(text: str) -> tuple[str, str]:
    new, equals, origin = text.partition("=")
    if not equals or not new or not origin:
        raise InputError(f"new_channels contains {text!r}: expected NEW=TRAINED, such as mito=green.")
    return new, origin
