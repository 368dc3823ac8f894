"""`run.json`: what a finished run of `subcell embed` records of itself, beside its tables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subcell_hf.errors import InputError
from subcell_hf.storage.plain_files import read_json

RUN_FILE = "run.json"
ENCODERS_FILE = "encoders.json"
"""In a folder that holds the run of each of several encoders: their names, in order, and which failed."""

_MODEL = "model"

RUN_FORMAT = 2
"""Of `run.json`. Format 1, which has no such number, held what the command was given as texts in `arguments`."""


def read_run(folder: Path) -> dict[str, Any]:
    """Content of `run.json`; empty where there is none.

    Args:
        folder: Output folder of a run.

    Raises:
        InputError: If the file is damaged.
    """
    path, remedy = folder / RUN_FILE, "Copy the folder again, or embed into a new one (--output)."
    if not path.is_file():
        return {}
    content = read_json(path, remedy)
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: it is not a JSON object. {remedy}")
    return content


def orientations_of(facts: Mapping[str, Any]) -> int:
    """Number of orientations of each cell over which embeddings are averaged; 1 where it is not recorded.

    Args:
        facts: Content of `run.json`, or provenance of a table.
    """
    recorded: int = facts.get("orientations", 1)
    return recorded


def refuse_averaged(facts: Mapping[str, Any], where: str | Path, reason: str) -> None:
    """Refuse embeddings that are averaged over orientations.

    Args:
        facts: Content of `run.json`, or provenance of a table.
        where: Name of the table.
        reason: What it is needed for, and why that has one orientation, as the end of a sentence.

    Raises:
        InputError: If they are.
    """
    if (count := orientations_of(facts)) != 1:
        raise InputError(
            f"The embeddings of {where} are means over {count} orientations of each cell, {reason}. Embed the cells "
            "with --orientations 1 into a new folder."
        )


def origin_of(provenance: Mapping[str, Any]) -> dict[str, str]:
    """What the numbers of embeddings depend on beside the images, in words; empty where it is not recorded.

    Args:
        provenance: Of a table.
    """
    if "baseline" in provenance:
        return {"baseline": str(provenance["baseline"])}
    models = [one for one in provenance.get("models", ()) if isinstance(one, Mapping) and one.get("weights_sha256")]
    if not models:
        return {}
    each = {
        _MODEL: [str(model["name"]) for model in models],
        "weights": [model["weights_sha256"][:12] for model in models],
        "crops": [f"{model.get('crop_px')} px of {model.get('pixel_size_um')} µm" for model in models],
    }
    return {key: " and ".join(values) for key, values in each.items()} | {
        "orientations": str(orientations_of(provenance))
    }


def refuse_other_origin(
    path: str | Path, origin: Mapping[str, str], first: str | Path, known: Mapping[str, str]
) -> None:
    """Refuse tables that cannot be joined, because their embeddings were computed in different ways.

    Args:
        path: Of a table.
        origin: `origin_of` it; empty: it may be anything.
        first: Path of another table.
        known: `origin_of` that one.

    Raises:
        InputError: If they differ.
    """
    if not origin or not known:
        return
    differing = [name for name in {**known, **origin} if origin.get(name) != known.get(name)]
    if set(differing) - {_MODEL}:  # the same weights may have several names
        differences = [f"{name} {origin.get(name, 'none')} here, {known.get(name, 'none')} there" for name in differing]
        raise InputError(
            f"{path} was not computed as {first} was: {'; '.join(differences)}. Their numbers cannot be compared. "
            "Embed the images of all tables in the same way, or evaluate each table separately."
        )


def encoder_folders(folder: Path) -> dict[str, Path]:
    """Name of each encoder of a run of several → the folder of its tables; empty where there is one model.

    Args:
        folder: Output folder of `subcell embed`.

    Raises:
        InputError: If `encoders.json` is damaged.
    """
    path = folder / ENCODERS_FILE
    if not path.is_file():
        return {}
    content = read_json(path, "Run the same command again.")
    names = content.get("encoders") if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path} is damaged: it lists no encoders. Run the same command again.")
    return {name: folder / name for name in names if (folder / name / RUN_FILE).is_file()}
