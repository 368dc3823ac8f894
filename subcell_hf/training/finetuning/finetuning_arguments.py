"""What fine-tuning is asked to do: dataclasses filled from a YAML file and the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from transformers import TrainingArguments

from subcell_hf.errors import InputError
from subcell_hf.ontology import CHANNEL_VARIANTS
from subcell_hf.training.finetuning.channel_adaptation import MEAN
from subcell_hf.training.pretraining.arguments import RecipeParser, explain_unknown, given_names, recipe_words

LOSSES = ("focal", "bce", "cross_entropy")
CLASS_WEIGHTS = ("none", "balanced")
FINE_TUNING_METRICS = ("loss", "macro_auprc", "label_ranking_average_precision", "top5", "accuracy", "macro_f1")


@dataclass
class StartArguments:
    """The trained model to begin with, and what is changed about it."""

    init_checkpoint: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a SubCell model: encoder, classifier or pretraining model."},
    )
    channels: list[str] | None = field(
        default=None, metadata={"help": "Channels of the new model: names, or rybg, rbg, ybg, bg; default: as trained."}
    )
    new_channels: list[str] | None = field(
        default=None,
        metadata={"help": f"NEW=TRAINED: the trained channel that initializes a new one, or {MEAN} (of all; default)."},
    )
    image_size: int | None = field(default=None, metadata={"help": "Image size in pixels; default: as trained."})
    model_pixel_size_um: float | None = field(
        default=None,
        metadata={
            "help": "Pixel size of the model in micrometres; default: the trained field of view at the new image_size."
        },
    )
    freeze_encoder: bool = field(default=False, metadata={"help": "Train only the head; the encoder is frozen."})
    classifier_hidden_sizes: list[int] = field(
        default_factory=lambda: [512, 256], metadata={"help": "Hidden layer sizes of the head."}
    )
    classifier_dropout: float = field(default=0.5, metadata={"help": "Dropout of the head."})


@dataclass
class LabelledDataArguments:
    """The crops, their labels and how they are split."""

    data: str | None = field(
        default=None, metadata={"help": "Folder or URL of shards, a CSV of crop files, or a saved dataset."}
    )
    channel_names: list[str] | None = field(
        default=None,
        metadata={"help": "Channel names of the crops, in order; not used for shards, which contain them."},
    )
    pixel_size_um: float | None = field(
        default=None,
        metadata={"help": "Pixel size of the crops in micrometres; if unset, crops are stretched to image_size."},
    )
    classes: list[str] | None = field(
        default=None, metadata={"help": "Ordered classes; default: all labels of the training split, sorted."}
    )
    single_label: bool = field(
        default=False, metadata={"help": "Each crop has exactly one class (softmax) instead of any number (sigmoid)."}
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    validation_split: str = field(default="validation", metadata={"help": "Split for validation."})
    validation_fraction: float = field(
        default=0.2, metadata={"help": "Fraction of the groups used for validation, if the data have no splits."}
    )
    group_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of groups that must not be divided between splits; default: antibody, gene or field."
        },
    )
    views: str = field(
        default="reconstruction",
        metadata={"help": "Augmentation: reconstruction (geometric), validation (none), or a YAML file (first view)."},
    )


@dataclass
class FineTuningArguments(TrainingArguments):
    """`transformers.TrainingArguments` with defaults for fine-tuning and what only it has."""

    learning_rate: float = field(default=5e-5, metadata={"help": "Peak learning rate of the encoder."})
    head_learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of the head."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of all matrices."})
    num_train_epochs: float = field(default=30.0, metadata={"help": "Number of epochs."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Warm-up steps, as a fraction of all steps or as a number."}
    )
    lr_scheduler_type: str = field(
        default="cosine", metadata={"help": "Schedule after the warm-up, any of the Trainer's."}
    )
    loss: str | None = field(
        default=None, metadata={"help": f"{', '.join(LOSSES)}; default: focal, or cross_entropy with single_label."}
    )
    class_weights: str = field(
        default="none", metadata={"help": "none, or balanced: rare classes count as much as frequent ones."}
    )
    metric_for_best_model: str | None = field(
        default="macro_auprc",
        metadata={"help": f"Metric that selects the best checkpoint: {', '.join(FINE_TUNING_METRICS)}."},
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps or epoch."})
    save_total_limit: int | None = field(
        default=2, metadata={"help": "Number of complete checkpoints to keep, in addition to the best."}
    )
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Keep the best model instead of the last."})
    logging_steps: float = field(default=20, metadata={"help": "Steps between log lines."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Crops per process and step in training."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Crops per process and step in evaluation."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must be false: batches use all columns."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Not required: all parameters are used."}
    )
    dry_run: bool = field(default=False, metadata={"help": "Print what would be done, then exit."})


FINE_TUNING_ROOMS: tuple[Any, ...] = (StartArguments, LabelledDataArguments, FineTuningArguments)


@dataclass(frozen=True)
class ParsedFineTuning:
    """What file and command line said, not yet checked against model and data.

    Attributes:
        start: The model to begin with.
        data: The crops.
        training: Values for `FineTuningArguments`.
        given: Names that the user set.
    """

    start: StartArguments
    data: LabelledDataArguments
    training: Mapping[str, Any]
    given: frozenset[str]


def parse_fine_tuning(arguments: Sequence[str]) -> ParsedFineTuning:
    """Read a recipe for fine-tuning and the command line that changes it.

    Args:
        arguments: As in `sys.argv[1:]`: the recipe first, if there is one, then `--name value` pairs.

    Raises:
        InputError: If the recipe cannot be read, or a key or value is unknown; the message names it.
    """
    words = recipe_words(arguments, "finetune")
    parser = RecipeParser(FINE_TUNING_ROOMS, "finetune")
    found, rest = parser.parse_known_args(words)
    if rest:
        raise InputError(explain_unknown(rest[0], [item.name for room in FINE_TUNING_ROOMS for item in fields(room)]))
    values = dict(vars(found))
    start, data, training = (
        {item.name: values.pop(item.name) for item in fields(room) if item.init} for room in FINE_TUNING_ROOMS
    )
    for room, name in ((start, "channels"), (data, "channel_names")):
        names = room[name]
        if names and len(names) == 1 and names[0] in CHANNEL_VARIANTS:
            room[name] = list(CHANNEL_VARIANTS[names[0]])
    return ParsedFineTuning(StartArguments(**start), LabelledDataArguments(**data), training, given_names(words))
