"""What the training of location classifiers is asked to do: filled from a recipe and the command line."""

from argparse import SUPPRESS
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from subcell_hf.errors import InputError
from subcell_hf.ontology import challenge_locations, reported_locations, training_locations
from subcell_hf.shards.splits import SPLIT_METHODS
from subcell_hf.training.localization.localization import LocalizationSettings
from subcell_hf.training.pretraining.arguments import RecipeParser, argument_kind, explain_unknown, recipe_words

LOCATION_CLASSES = {
    "reported": reported_locations,
    "training": training_locations,
    "challenge": challenge_locations,
}
"""Name of a set of classes → the function that lists them."""


@dataclass(frozen=True)
class LocalizationArguments:
    """What is read and written."""

    table: str | None = field(default=None, metadata={"help": "Embedding table with a column `locations`."})
    encoder: str | None = field(
        default=None, metadata={"help": "Model (folder, Hub id, published name) that computed the embeddings."}
    )
    output: str | None = field(default=None, metadata={"help": "Folder to write; new or empty."})
    classes: str = field(
        default="reported", metadata={"help": f"Which locations to predict: {', '.join(LOCATION_CLASSES)}."}
    )
    split_by: str = field(
        default="gene", metadata={"help": "gene or antibody: how cells are split if the table has no splits."}
    )
    split_seed: int = field(default=0, metadata={"help": "Seed of that split."})
    device: str | None = field(default=None, metadata={"help": "Torch device; default: cuda if there is one, or cpu."})


@dataclass(frozen=True)
class ParsedLocalization:
    """What recipe and command line said, checked.

    Attributes:
        table: Embedding table.
        encoder: Folder, Hub id or name of the model that computed the embeddings.
        output: Folder to write.
        classes: Names of the locations to predict.
        split_by: `"gene"` or `"antibody"`, if the table has no splits.
        split_seed: Seed of that split.
        device: Where to work.
        settings: The recipe.
    """

    table: Path
    encoder: Path
    output: Path
    classes: tuple[str, ...]
    split_by: str
    split_seed: int
    device: torch.device
    settings: LocalizationSettings


def parse_localization(arguments: Sequence[str]) -> ParsedLocalization:
    """Read a recipe for location classifiers and the command line that changes it.

    Args:
        arguments: As in `sys.argv[1:]`: the recipe first (default: `localization`), then `--name value` pairs.

    Raises:
        InputError: If the recipe cannot be read, or an argument is unknown, missing or invalid; the message names it.
    """
    named = bool(arguments) and not arguments[0].startswith("-")
    words = recipe_words(arguments if named else ["localization", *arguments], "train_localization")
    parser = RecipeParser([LocalizationArguments], "train_localization")
    group = parser.add_argument_group("LocalizationSettings", "The recipe")
    names = [item.name for item in fields(LocalizationSettings)]
    for item in fields(LocalizationSettings):
        kind = argument_kind(item.type)
        group.add_argument(f"--{item.name}", default=SUPPRESS, help=f"published: {item.default}", **kind)
    found, rest = parser.parse_known_args(words)
    if rest:
        raise InputError(explain_unknown(rest[0], [*names, *(item.name for item in fields(LocalizationArguments))]))
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in vars(found).items() if name in names
    }
    settings = LocalizationSettings(**given)
    return _check(LocalizationArguments(**{n: v for n, v in vars(found).items() if n not in names}), settings)


def _check(arguments: LocalizationArguments, settings: LocalizationSettings) -> ParsedLocalization:
    if arguments.table is None or arguments.encoder is None or arguments.output is None:
        missing = next(name for name in ("table", "encoder", "output") if getattr(arguments, name) is None)
        raise InputError(
            f"{missing} is not set: give the embedding table with --table, the model that computed it with --encoder, "
            "and the folder to write with --output."
        )
    for name, choices in (("classes", [*LOCATION_CLASSES]), ("split_by", SPLIT_METHODS)):
        if getattr(arguments, name) not in choices:
            raise InputError(f"{name} is {getattr(arguments, name)!r}: expected one of {', '.join(choices)}.")
    return ParsedLocalization(
        table=Path(arguments.table),
        encoder=Path(arguments.encoder),
        output=Path(arguments.output),
        classes=LOCATION_CLASSES[arguments.classes](),
        split_by=arguments.split_by,
        split_seed=arguments.split_seed,
        device=torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")),
        settings=settings,
    )
