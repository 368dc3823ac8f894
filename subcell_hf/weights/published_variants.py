"""The published models by name: which files each consists of, and where they are."""

import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from subcell_hf.errors import InputError
from subcell_hf.shipped import shipped_folder
from subcell_hf.storage.plain_files import read_yaml


@dataclass(frozen=True)
class PublishedVariant:
    """Files of one published model.

    Attributes:
        name: Such as `mae-rybg`.
        channels: Its letters, such as `rybg`.
        encoder: File of the encoder, below the address of all files.
        classifiers: Files of its location classifiers.
        position_embedding_type: Of the encoder: `"sincos"` or `"learned"`.
    """

    name: str
    channels: str
    encoder: str
    classifiers: tuple[str, ...]
    position_embedding_type: str

    @property
    def files(self) -> tuple[str, ...]:
        """All its files, the encoder first."""
        return (self.encoder, *self.classifiers)


def published_variants() -> dict[str, PublishedVariant]:
    """Name → files of every published model."""
    facts, methods = download_facts(), _published()["methods"]
    variants = {}
    for name, files in facts["variants"].items():
        folder = files["classifiers"]
        members = tuple(f"{folder}/{folder}_seed_{seed}.pth" for seed in range(facts["seeds"]))
        method, _, channels = name.partition("-")
        positions = methods[method]["position_embedding_type"]
        variants[name] = PublishedVariant(name, channels, files["encoder"], members, positions)
    return variants


def published_variant(name: str) -> PublishedVariant:
    """The files of a published model.

    Args:
        name: One of `published_variants()`.

    Raises:
        InputError: If there is no such model; the message lists the names, the nearest first.
    """
    found = published_variants().get(name)
    if found is None:
        raise InputError(f"{name!r} is not a published model of SubCell. {suggest_variants(name)}")
    return found


def suggest_variants(name: str) -> str:
    """A sentence that lists the published models, and names the one that is most like a name."""
    names = list(published_variants())
    near = difflib.get_close_matches(Path(name).name.lower().replace("_", "-"), names, n=1)
    return f"{f'Did you mean {near[0]}? ' if near else ''}The published models are {', '.join(names)}."


def download_facts() -> dict[str, Any]:
    """The section `downloads` of `model_cards/published.yaml`."""
    facts: dict[str, Any] = _published()["downloads"]
    return facts


@cache
def _published() -> dict[str, Any]:
    facts: dict[str, Any] = read_yaml(shipped_folder("model_cards") / "published.yaml", "Install subcell-hf again.")
    return facts
