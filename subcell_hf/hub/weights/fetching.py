"""The published weights by name: downloaded, compared, converted, tried, and kept where Hugging Face keeps things."""

import json
import logging
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from huggingface_hub import constants

from subcell_hf.errors import InputError
from subcell_hf.hub.publishing.example_cell import make_example
from subcell_hf.hub.weights.conversion import convert
from subcell_hf.hub.weights.downloads import FileFacts, download_file, facts_of_file
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellForImageClassification
from subcell_hf.shipped import shipped_folder
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.folder_lock import claim_folder
from subcell_hf.storage.plain_files import read_json, read_yaml

MIRROR_VARIABLE = "SUBCELL_MIRROR"
"""Environment variable with the address of a mirror of the published files."""

_LOCK_FILE = "checksums.json"
_FETCHED_FILE = "fetched.json"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedVariant:
    """Files of one published model.

    Attributes:
        name: Such as `mae-rybg`.
        channels: Its letters, such as `rybg`.
        encoder: File of the encoder, below the address of all files.
        classifiers: Files of its location classifiers.
    """

    name: str
    channels: str
    encoder: str
    classifiers: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """All its files, the encoder first."""
        return (self.encoder, *self.classifiers)


@dataclass(frozen=True)
class FetchedModel:
    """A published model on this machine.

    Attributes:
        variant: Its name.
        folder: Folder that transformers loads.
        new: Whether it was fetched now, rather than found.
        license: Of the weights.
    """

    variant: str
    folder: Path
    new: bool
    license: str


def published_variants() -> dict[str, PublishedVariant]:
    """Name → files of every published model."""
    facts = _facts()
    variants = {}
    for name, files in facts["variants"].items():
        folder = files["classifiers"]
        members = tuple(f"{folder}/{folder}_seed_{seed}.pth" for seed in range(facts["seeds"]))
        variants[name] = PublishedVariant(name, name.partition("-")[2], files["encoder"], members)
    return variants


def weights_cache() -> Path:
    """Folder of fetched weights, in that of Hugging Face (`HF_HOME`)."""
    return Path(constants.HF_HOME) / "subcell"


def fetched_folder(variant: str, cache: Path | None = None) -> Path | None:
    """Folder of a model that was fetched before; None where it was not."""
    folder = (cache or weights_cache()) / "models" / variant
    return folder if (folder / _FETCHED_FILE).is_file() else None


def fetch_weights(
    variant: str, *, source: str | Path | None = None, cache: Path | None = None, progress: bool = True
) -> FetchedModel:
    """Fetch a published model, unless it is there already.

    Its encoder and ten classifiers are downloaded, compared with checksums (those of `model_cards/published.yaml`, and
    those that were recorded when the same file was first fetched here), converted, and tried on a simulated cell. The
    folder appears only after all of that.

    Args:
        variant: One of `published_variants()`.
        source: Address of a mirror, or folder of files that were copied by hand; None: `SUBCELL_MIRROR`, or SubCell's
            public bucket.
        cache: Where to keep it; None: `weights_cache()`.
        progress: Whether to show progress on stderr.

    Raises:
        InputError: If there is no such variant, a file cannot be had, or one is not what it should be.
        OSError: If the cache cannot be written.
    """
    variants, facts = published_variants(), _facts()
    if variant not in variants:
        raise InputError(f"{variant!r} is no published model of SubCell, expected one of {', '.join(variants)}.")
    cache = cache or weights_cache()
    found = fetched_folder(variant, cache)
    if found is not None:
        return FetchedModel(variant, found, False, facts["license"])
    chosen, files = variants[variant], cache / "files"
    place = source or os.environ.get(MIRROR_VARIABLE) or facts["base_url"]
    files.mkdir(parents=True, exist_ok=True)
    with claim_folder(cache, wait=True):
        found = fetched_folder(variant, cache)  # another process may have fetched it meanwhile
        if found is not None:
            return FetchedModel(variant, found, False, facts["license"])
        _logger.info(
            "Fetching SubCell %s from %s (%d files, licence %s).", variant, place, len(chosen.files), facts["license"]
        )
        known = {**_recorded(files), **{key: FileFacts(**one) for key, one in facts["checksums"].items()}}
        brought = {}
        for key in chosen.files:
            brought[key] = _bring(key, place, files, known.get(key), progress)
        try:
            _refuse_twins(brought, {**known, **brought})
            folder = _convert(chosen, files, cache, str(place))
        except InputError:
            for key in brought:  # so that they are brought anew, perhaps from a better place
                (files / key).unlink()
            raise
        _record(files, {**known, **brought})
        return FetchedModel(variant, folder, True, facts["license"])


def _bring(key: str, place: str | Path, files: Path, known: FileFacts | None, progress: bool) -> FileFacts:
    """Have one file in the cache, and know what it is."""
    target = files / key
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file():
        there = facts_of_file(target)
        if known is None or there.sha256 == known.sha256:
            return there
    if "://" in str(place):
        return download_file(f"{str(place).rstrip('/')}/{quote(key)}", target, known, progress=progress)
    copied = Path(place) / key
    if not copied.is_file():
        raise InputError(f"{copied} is not there. Expected the published files with their folders, as {key}.")
    return download_file(copied.resolve().as_uri(), target, known, progress=progress)


def _refuse_twins(brought: Iterable[str], known: Mapping[str, FileFacts]) -> None:
    """Two files of one content: one of them is not what its name says."""
    for key in brought:
        twins = [other for other, facts in known.items() if other != key and facts.sha256 == known[key].sha256]
        if twins:
            raise InputError(
                f"{key} has the same content as {twins[0]}, expected another model. The files were mixed up where they "
                "come from; nothing was converted."
            )


def _convert(variant: PublishedVariant, files: Path, cache: Path, place: str) -> Path:
    folder, staging = cache / "models" / variant.name, cache / "converting" / variant.name
    shutil.rmtree(staging, ignore_errors=True)
    staging.parent.mkdir(parents=True, exist_ok=True)
    try:
        convert(files / variant.encoder, staging, variant.channels, [files / name for name in variant.classifiers])
        _try(staging)
        with write_atomically(staging / _FETCHED_FILE) as file:
            file.write(json.dumps({"variant": variant.name, "from": place, "files": variant.files}).encode())
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging.replace(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def _try(folder: Path) -> None:
    """Embed a simulated cell with a converted model.

    Raises:
        InputError: If what comes out is no number.
    """
    processor = SubCellImageProcessor.from_pretrained(folder)
    model = SubCellForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        outputs = model(**processor(make_example(processor).pixels[None], return_tensors="pt"))
    for name in ("pooler_output", "logits"):
        values = getattr(outputs, name)
        if not (torch.isfinite(values).all() and math.isfinite(float(values.std())) and float(values.std()) > 0):
            raise InputError(f"The converted model gives no usable {name} for a simulated cell. Fetch it again.")


def _facts() -> dict[str, Any]:
    shared = read_yaml(shipped_folder("model_cards") / "published.yaml", "Install subcell-hf again.")
    facts: dict[str, Any] = shared["downloads"]
    return facts


def _recorded(files: Path) -> dict[str, FileFacts]:
    path = files / _LOCK_FILE
    if not path.is_file():
        return {}
    content = read_json(path, "Remove it if you trust the source of the files; they are compared with it.")
    return {key: FileFacts(**facts) for key, facts in content.items()}


def _record(files: Path, known: Mapping[str, FileFacts]) -> None:
    with write_atomically(files / _LOCK_FILE) as file:
        content = {key: asdict(facts) for key, facts in sorted(known.items())}
        file.write((json.dumps(content, indent=1) + "\n").encode())
