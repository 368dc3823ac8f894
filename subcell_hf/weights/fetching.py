"""The published weights by name: downloaded, compared, converted, tried, and kept where Hugging Face keeps things."""

import json
import logging
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from huggingface_hub import constants

from subcell_hf.errors import InputError, counted
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellForImageClassification
from subcell_hf.progress import progress_bar
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.downloads.cached_files import cache_folder
from subcell_hf.storage.downloads.files import FileFacts, facts_of_file, find_difference
from subcell_hf.storage.folder_lock import claim_folder
from subcell_hf.storage.plain_files import read_json
from subcell_hf.weights.conversion import convert
from subcell_hf.weights.file_sources import CopiedFiles, FileServer, name_missing, refuse_twins
from subcell_hf.weights.published_variants import (
    PublishedVariant,
    download_facts,
    published_variant,
    published_variants,
)

MIRROR_VARIABLE = "SUBCELL_MIRROR"
"""Environment variable with the address of a mirror of the published files."""

_LOCK_FILE = "checksums.json"
_FETCHED_FILE = "fetched.json"

_logger = logging.getLogger(__name__)


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

    @property
    def loading_code(self) -> str:
        """The lines of Python that load it."""
        arguments = f'("{self.folder.absolute()}", trust_remote_code=True)'
        return (
            "from transformers import AutoImageProcessor, AutoModelForImageClassification\n"
            f"processor = AutoImageProcessor.from_pretrained{arguments}\n"
            f"model = AutoModelForImageClassification.from_pretrained{arguments}"
        )


def fetched_folder(variant: str, cache: Path | None = None) -> Path | None:
    """Folder of a model that was fetched before; None where it was not."""
    folder = (cache or cache_folder()) / "models" / variant
    return folder if (folder / _FETCHED_FILE).is_file() else None


def fetched_variant(folder: Path) -> str | None:
    """Name of the published model that a folder holds, if it was fetched by name; else None.

    Raises:
        InputError: If the folder's record is damaged.
    """
    path = folder / _FETCHED_FILE
    return str(read_json(path, "Fetch it again.")["variant"]) if path.is_file() else None


def fetch_weights(
    variant: str, *, source: str | Path | None = None, cache: Path | None = None, progress: bool = True
) -> FetchedModel:
    """Fetch a published model, unless it is there already.

    Its encoder and ten classifiers are downloaded, compared with checksums (those of `model_cards/published.yaml`, and
    those that were recorded when the same file was first fetched here), converted, and tried on simulated cells. The
    folder appears only after all of that.

    Args:
        variant: One of `published_variants()`.
        source: Address of a mirror, or folder of files that were copied by hand; None: `SUBCELL_MIRROR`, or SubCell's
            public bucket.
        cache: Where to keep it; None: `subcell` in the cache of Hugging Face (`HF_HOME`).
        progress: Whether to show progress on stderr.

    Raises:
        InputError: If there is no such variant, a file is missing or cannot be downloaded, or one is not what it should
            be.
        OSError: If the cache cannot be written.
    """
    chosen, terms = published_variant(variant), str(download_facts()["license"])
    cache = cache or cache_folder()
    found = fetched_folder(variant, cache)
    if found is not None:
        return FetchedModel(variant, found, False, terms)
    place = _open_source(source, chosen)
    with claim_folder(cache, wait=True):
        found = fetched_folder(variant, cache)  # another process may have fetched it meanwhile
        if found is not None:
            return FetchedModel(variant, found, False, terms)
        files = cache / "files"
        known = {**_recorded(files), **{key: FileFacts(**one) for key, one in download_facts()["checksums"].items()}}
        paths, facts = _bring(chosen, place, files, known, progress)
        try:
            _refuse_known_twins(facts, {**known, **facts})
            folder = _convert(chosen, paths, cache, str(place))
        except InputError:
            for path in paths.values():  # so that they are brought anew, perhaps from a better place
                if path.is_relative_to(files):
                    path.unlink()
            raise
        _record(files, {**known, **facts})
        return FetchedModel(variant, folder, True, terms)


def _open_source(source: str | Path | None, variant: PublishedVariant) -> FileServer | CopiedFiles:
    named = source or os.environ.get(MIRROR_VARIABLE)
    if named is None and constants.HF_HUB_OFFLINE:
        raise InputError(
            f"SubCell {variant.name} is not on this machine, and HF_HUB_OFFLINE is set. Unset it to download the "
            f"model, or run `subcell fetch {variant.name} --from FOLDER` with files that were copied by hand."
        )
    place = str(named or download_facts()["base_url"])
    if "://" in place:
        return FileServer(place)
    return CopiedFiles(Path(place), [key for other in published_variants().values() for key in other.files])


def _bring(
    variant: PublishedVariant,
    place: FileServer | CopiedFiles,
    files: Path,
    known: Mapping[str, FileFacts],
    progress: bool,
) -> tuple[dict[str, Path], dict[str, FileFacts]]:
    """Have all files of a model on this machine: where each is, and what it is."""
    facts = {}
    for key in variant.files:
        if (files / key).is_file() and find_difference(there := facts_of_file(files / key), known.get(key)) is None:
            facts[key] = there
    paths = {key: files / key for key in facts}
    missing = [key for key in variant.files if key not in facts]
    if not missing:
        return paths, facts
    _logger.info("SubCell %s is not on this machine yet; asking %s.", variant.name, place)
    sizes = place.sizes(missing)
    if absent := [key for key in missing if key not in sizes]:
        raise name_missing(place, absent, len(missing))
    others = {key for other in published_variants().values() for key in other.files} - {*missing}
    refuse_twins(place, sizes, sorted(others))
    _announce(variant, place, sizes, files)
    total = sum(size or 0 for size in sizes.values()) if all(sizes.values()) else None
    with progress_bar(total, "B", f"SubCell {variant.name}", shown=progress, scaled=True) as bar:
        for key in missing:
            paths[key], facts[key] = place.bring(key, files / key, known.get(key), bar.update)
    return paths, facts


def _announce(
    variant: PublishedVariant, place: FileServer | CopiedFiles, sizes: Mapping[str, int | None], files: Path
) -> None:
    """Log what is about to be fetched and its licence, and refuse if the disk is too small for it."""
    total = sum(size or 0 for size in sizes.values())
    size = f"{total / 1e6:,.1f} MB" if all(sizes.values()) else "of unknown size"
    _logger.info(
        "Fetching the weights of SubCell %s (%s, %s) from %s. Their licence is %s; the authors of SubCell published "
        "them.", variant.name, counted(len(sizes), "file"), size, place, download_facts()["license"],
    )  # fmt: skip
    files.mkdir(parents=True, exist_ok=True)
    copies = 2 if isinstance(place, FileServer) else 1  # the files as they were published, and converted
    free = shutil.disk_usage(files).free
    if free < copies * total:
        raise InputError(
            f"{files} has {free / 1e6:,.0f} MB of free space, expected at least {copies * total / 1e6:,.0f} MB. Free "
            "some, or set HF_HOME to a folder on a larger disk."
        )


def _refuse_known_twins(brought: Mapping[str, FileFacts], known: Mapping[str, FileFacts]) -> None:
    """Two files of one content: one of them is not what its name says."""
    for key, facts in brought.items():
        twins = [other for other, one in known.items() if other != key and one.sha256 == facts.sha256]
        if twins:
            raise InputError(
                f"{key} has the same content as {twins[0]}, expected another model. The files were mixed up where they "
                "come from; nothing was converted. Use another mirror or copy."
            )


def _convert(variant: PublishedVariant, paths: Mapping[str, Path], cache: Path, place: str) -> Path:
    folder, staging = cache / "models" / variant.name, cache / "converting" / variant.name
    shutil.rmtree(staging, ignore_errors=True)
    staging.parent.mkdir(parents=True, exist_ok=True)
    try:
        convert(
            paths[variant.encoder], staging, variant.channels, classifiers=[paths[key] for key in variant.classifiers]
        )
        _try(staging, variant)
        with write_atomically(staging / _FETCHED_FILE) as file:
            file.write(json.dumps({"variant": variant.name, "from": place, "files": variant.files}).encode())
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)  # without its record it is nobody's
        staging.replace(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def _try(folder: Path, variant: PublishedVariant) -> None:
    """Embed simulated cells with a converted model.

    Raises:
        InputError: If it is another model than its name says, or what comes out is no number.
    """
    from subcell_hf.simulation.fields import simulate_field
    from subcell_hf.simulation.simulate import ProteinStyle, SimulatedAntibody

    processor = SubCellImageProcessor.from_pretrained(folder)
    model = SubCellForImageClassification.from_pretrained(folder).eval()
    positions = model.config.position_embedding_type
    if positions != variant.position_embedding_type:
        raise InputError(
            f"{variant.encoder} has {positions} position embeddings, expected {variant.position_embedding_type} in "
            f"SubCell {variant.name}. It is the encoder of another model; nothing was kept. Use another mirror or copy."
        )
    antibody = SimulatedAntibody("SIM000000", "SIMG0000", ("Mitochondria",), ProteinStyle())
    cells = simulate_field(24, antibody, size_px=320, channels=processor.channels)
    with torch.inference_mode():
        outputs = model(**processor(cells.pixels, return_tensors="pt"))
    for name in ("pooler_output", "logits"):
        values = getattr(outputs, name)
        if not (torch.isfinite(values).all() and math.isfinite(float(values.std())) and float(values.std()) > 0):
            raise InputError(f"The converted model gives no usable {name} for simulated cells. Fetch it again.")


def _recorded(files: Path) -> dict[str, FileFacts]:
    path = files / _LOCK_FILE
    if not path.is_file():
        return {}
    content = read_json(path, "Remove it if you trust the source of the files; they are compared with it.")
    return {key: FileFacts(**facts) for key, facts in content.items()}


def _record(files: Path, known: Mapping[str, FileFacts]) -> None:
    files.mkdir(parents=True, exist_ok=True)
    with write_atomically(files / _LOCK_FILE) as file:
        content = {key: asdict(facts) for key, facts in sorted(known.items())}
        file.write((json.dumps(content, indent=1) + "\n").encode())
