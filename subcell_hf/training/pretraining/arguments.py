"""What a pretraining run is asked to do: dataclasses filled from a YAML file and the command line.

```python
parsed = parse_arguments(["cell", "--shards", "shards", "--num_train_epochs", "100"])
run = resolve(parsed)  # subcell_hf.training.pretraining.resolution: every number known, contradictions refused
```

The first word is a recipe, by path or name; the command line wins over it. Besides the fields of the dataclasses here
(and of Trainer's `TrainingArguments`) every field of `SubCellConfig` is an argument of the same name.
"""

import difflib
import inspect
import json
import re
import types
from argparse import SUPPRESS, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn, get_args, get_origin

from transformers import HfArgumentParser, TrainingArguments

from subcell_hf.errors import InputError
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.ontology import CHANNEL_VARIANTS
from subcell_hf.storage.plain_files import parse_json
from subcell_hf.training.recipes import Job, find_recipe, read_recipe

METRICS = ("loss", "macro_auprc", "label_ranking_average_precision", "top5")
"""What validation measures, as `eval_<name>`; one of them chooses the best checkpoint."""


@dataclass
class ModelArguments:
    """Where the model comes from; each field of `SubCellConfig` is an argument too."""

    size: str | None = field(default=None, metadata={"help": "Standard size: tiny, small, base or large."})
    init_checkpoint: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of initial weights; its configuration is used as well."},
    )


@dataclass
class DataArguments:
    """What is read and which views are made of it."""

    shards: str | None = field(
        default=None, metadata={"help": "Folder or URL of shards, as written by `subcell shards`."}
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    validation_split: str | None = field(
        default="validation", metadata={"help": "Split for validation of the probe; 'none' disables validation."}
    )
    antibodies_per_batch: int = field(
        default=112, metadata={"help": "Different antibodies in the global batch, over all processes."}
    )
    cells_per_antibody: int = field(default=8, metadata={"help": "Cells of each antibody in a batch."})
    last_batch: str = field(
        default="repeat", metadata={"help": "repeat or drop the antibodies of the last, incomplete batch."}
    )
    short_antibodies: str = field(
        default="repeat",
        metadata={"help": "repeat the cells of antibodies with too few cells, or drop the antibodies."},
    )
    views: str = field(
        default="multi_task",
        metadata={
            "help": "reconstruction, multi_task, contrastive, gentle, moderate, orientations, half_affine, or a YAML "
            "file of views."
        },
    )
    channel_sampling: bool = field(
        default=False,
        metadata={
            "help": "With channel_tokens=separate: show the model a random set of the channels in each step, 1 to all, "
            "each number as likely."
        },
    )
    protein_probability: float = field(
        default=1.0,
        metadata={
            "help": "Probability that the protein is in such a set. Without it, the protein-specific objectives and "
            "the probe are off in that step."
        },
    )
    other_probability: float = field(
        default=0.1, metadata={"help": "Probability that a stain of such a set is called 'other', not by its name."}
    )


@dataclass
class PreTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with SubCell's defaults and what only SubCell has."""

    learning_rate: float | None = field(  # type: ignore[assignment]  # None until the size of the batch is known
        default=None, metadata={"help": "Peak learning rate; default: base_learning_rate × cells per step / 256."}
    )
    base_learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate for 256 cells per step."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Beta2 of the AdamW optimizer."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of the matrices of encoder and decoder."})
    head_weight_decay: float = field(
        default=0.01, metadata={"help": "Weight decay of the matrices of all other parts."}
    )
    num_train_epochs: float = field(default=300.0, metadata={"help": "Epochs; one epoch visits each antibody once."})
    lr_scheduler_type: str = field(
        default="polynomial",
        metadata={"help": "Schedule after the warm-up, any of the Trainer's; polynomial is SubCell's linear decay."},
    )
    warmup_epochs: float = field(
        default=5.0, metadata={"help": "Epochs of warm-up, in which the learning rate increases from 0."}
    )
    final_learning_rate_ratio: float = field(
        default=1e-3, metadata={"help": "Final learning rate of the linear decay, as a fraction of the peak."}
    )
    eval_epochs: float = field(default=10.0, metadata={"help": "Epochs between validations, if eval_steps is not set."})
    save_epochs: float = field(default=1.0, metadata={"help": "Epochs between checkpoints, if save_steps is not set."})
    save_total_limit: int | None = field(default=3, metadata={"help": "Number of complete checkpoints to keep."})
    metric_for_best_model: str | None = field(
        default="macro_auprc", metadata={"help": f"Metric that selects the best checkpoint: {', '.join(METRICS)}."}
    )
    logging_steps: float = field(default=50, metadata={"help": "Steps between log lines."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Must be false: training stops at non-finite values instead."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must be false: batches use all columns."})
    ignore_data_skip: bool = field(
        default=True, metadata={"help": "Must be true: the data loader resumes at the right batch itself."}
    )
    cached_gradient_chunks: int = field(
        default=1,
        metadata={
            "help": "Number of chunks in which the batch of a process is encoded; the gradient stays that of the whole "
            "batch. More chunks need less memory and one additional forward pass; 1 disables chunking."
        },
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Not required: parameters that receive no gradient are frozen."}
    )
    dataloader_num_workers: int = field(
        default=4, metadata={"help": "Processes that load data in the background; 0 for none."}
    )
    report_to: list[str] = field(  # Trainer's own kind allows one name only on a command line
        default_factory=lambda: ["none"],
        metadata={"help": "Experiment trackers: one or more of tensorboard, wandb, trackio, …; or none."},
    )
    picture_epochs: float | None = field(
        default=None,
        metadata={"help": "Epochs between pictures of what the model sees; default: with each validation; 0: none."},
    )
    picture_cells: int = field(default=4, metadata={"help": "Number of cells in each of these pictures."})
    run_page: bool = field(default=True, metadata={"help": "Write monitoring/index.html to the output folder."})
    dry_run: bool = field(default=False, metadata={"help": "Print what would be done and its cost, then exit."})


ROOMS: tuple[Any, ...] = (ModelArguments, DataArguments, PreTrainingArguments)


@dataclass(frozen=True)
class ParsedArguments:
    """What file and command line said, not yet checked against each other or the data.

    Attributes:
        model: Size or weights to begin from.
        config: The fields of `SubCellConfig` that were given.
        data: What is read.
        training: Values for `PreTrainingArguments`, which are built when the sizes are known.
        given: Names that the user set, in the file or on the command line.
    """

    model: ModelArguments
    config: Mapping[str, Any]
    data: DataArguments
    training: Mapping[str, Any]
    given: frozenset[str]


class RecipeParser(HfArgumentParser):
    """An argument parser that raises `InputError` where argparse prints its usage and exits.

    Args:
        rooms: The dataclasses whose fields are arguments.
        job: The module of `subcell_hf.workflows` whose command line this is.
    """

    def __init__(self, rooms: Sequence[Any], job: Job) -> None:
        command = f"python -m subcell_hf.workflows.{job}"
        super().__init__(rooms, allow_abbrev=False, prog=command, usage=f"{command} [RECIPE] [--name value …]")

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}. All arguments are listed by --help.")


def parse_arguments(arguments: Sequence[str]) -> ParsedArguments:
    """Read a recipe and the command line that changes it.

    Args:
        arguments: As in `sys.argv[1:]`: the recipe first, if there is one, then `--name value` pairs.

    Raises:
        InputError: If the recipe cannot be read, or a key or value is unknown; the message names it.
    """
    words = recipe_words(arguments, "pretrain")
    found, rest = _build_parser().parse_known_args(words)
    if rest:
        known = [item.name for room in ROOMS for item in fields(room)] + list(SubCellConfig.__annotations__)
        raise InputError(explain_unknown(rest[0], known))
    return _distribute(found, given_names(words))


def recipe_words(arguments: Sequence[str], job: Job) -> list[str]:
    """The words of a command line, with those of the recipe that may come first in place of its name."""
    words = list(arguments)
    if words and not words[0].startswith("-"):
        return as_words(read_recipe(find_recipe(words[0], job))) + words[1:]
    return words


def as_words(arguments: Mapping[str, Any]) -> list[str]:
    """Arguments of a recipe or of a Python call as words of a command line, so that all are checked alike.

    Args:
        arguments: Name → number, text, path, truth value, list, or mapping; None leaves the default.
    """
    words: list[str] = []
    for name, value in arguments.items():
        if isinstance(value, list | tuple):
            words += [f"--{name}", *map(str, value)]
        elif isinstance(value, dict):
            words.append(f"--{name}={json.dumps(value)}")
        elif value is not None:
            words.append(f"--{name}={value}")
    return words


def given_names(words: Sequence[str]) -> frozenset[str]:
    """Names of the arguments that were given."""
    return frozenset(word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--"))


def _distribute(found: Namespace, given: frozenset[str]) -> ParsedArguments:
    values = dict(vars(found))
    model, data, training = (
        {item.name: values.pop(item.name) for item in fields(room) if item.init} for room in ROOMS
    )  # fmt: skip
    if data["validation_split"] in ("none", ""):
        data["validation_split"] = None
    config = {name: values[name] for name in values if name in given}
    given_channels = ",".join(config.get("channels") or ())
    if given_channels in CHANNEL_VARIANTS:
        config["channels"] = list(CHANNEL_VARIANTS[given_channels])
    image_size = config.get("image_size")
    if image_size and len(image_size) == 1:
        config["image_size"] = image_size[0]
    if isinstance(config.get("backbone_config"), str):
        config["backbone_config"] = parse_json(config["backbone_config"], "backbone_config", "Give a JSON object.")
    return ParsedArguments(ModelArguments(**model), config, DataArguments(**data), training, given)


def _build_parser() -> RecipeParser:
    parser = RecipeParser(ROOMS, "pretrain")
    about = "Fields of the model's configuration; a size, a checkpoint or the shards change their defaults"
    group = parser.add_argument_group("SubCellConfig", about)
    described = described_fields(SubCellConfig)
    for name, annotation in SubCellConfig.__annotations__.items():
        if name in ("model_type", "sub_configs"):
            continue
        default = getattr(SubCellConfig, name, None)
        words = default if isinstance(default, list | tuple) else [default]
        shown = "" if default is None else f" (default: {' '.join(map(str, words))})"
        text = (described.get(name, "") + shown).replace("%", "%%")
        group.add_argument(f"--{name}", help=text, default=SUPPRESS, **argument_kind(annotation))
    return parser


def described_fields(described: type) -> dict[str, str]:
    """Name → text of the arguments that the Google docstring of a class describes, without code marks."""
    lines = inspect.cleandoc(described.__doc__ or "").partition("\nArgs:\n")[2]
    entries = re.findall(r"^    (\w+): (.+(?:\n     .+)*)", lines, flags=re.MULTILINE)
    return {name: " ".join(text.replace("`", "").split()) for name, text in entries}


def argument_kind(annotation: Any) -> dict[str, Any]:
    """How argparse reads a field: the simplest of the types that it may have."""
    union = get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    for choice in union:
        if get_origin(choice) in (list, tuple):
            return {"type": get_args(choice)[0], "nargs": "*"}
    kind = next(choice for choice in union if choice is not type(None))
    if kind is bool:
        return {"type": _read_bool}
    return {"type": kind if kind in (int, float) else str}


def _read_bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise InputError(f"{text!r}: expected true or false.")
    return text.lower() == "true"


def explain_unknown(word: str, known: Sequence[str]) -> str:
    """Message for an unknown word of a command line, with similar arguments."""
    if not word.startswith("-"):
        return f"Unexpected word {word!r}: the recipe comes first, then --name value pairs."
    name = word.lstrip("-").partition("=")[0]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "see --help for all arguments."
    return f"Unknown argument {name!r}: {hint}"
