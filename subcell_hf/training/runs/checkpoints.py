"""Checkpoints that are whole or not there: written beside, summed, flushed, renamed; checked before they are used.

A checkpoint is a folder `checkpoint-<step>` with a `manifest.json` that lists size and SHA-256 of every file. It is
written as `.checkpoint-<step>.part`, so that a kill at any moment leaves the earlier ones as they were.
"""

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers.utils import logging

from subcell_hf.errors import InputError
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.folders import publish_folder, remove_folder
from subcell_hf.storage.records import describe_files, find_damage

MANIFEST_FILE = "manifest.json"
LOADER_FILE = "loader_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_HIDDEN = re.compile(r"\.checkpoint-\d+\.(part|removed)")
_FORMAT = "subcell-checkpoint"

logger = logging.get_logger(__name__)


def staging_folder(run_folder: Path, step: int) -> Path:
    """Where a checkpoint is written before it is complete."""
    return run_folder / f".checkpoint-{step}.part"


def finish_checkpoint(staging: Path, step: int) -> Path:
    """Sum up, flush and rename a written checkpoint; to be called by one process, when all have written.

    Args:
        staging: The folder from `staging_folder`.
        step: Optimizer steps taken.

    Returns:
        The complete folder. An earlier one with this name is replaced.
    """
    final = staging.parent / f"checkpoint-{step}"
    files = [path for path in sorted(staging.rglob("*")) if path.is_file()]
    record = {
        "format": _FORMAT,
        "version": 1,
        "step": step,
        "files": describe_files(staging, files),
    }
    with write_atomically(staging / MANIFEST_FILE) as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())
    publish_folder(staging, final)
    return final


def find_problems(checkpoint: Path, *, read_bytes: bool = True) -> list[str]:
    """Compare a checkpoint with its manifest.

    Args:
        checkpoint: Folder.
        read_bytes: Whether checksums are compared too, beside names and sizes.

    Returns:
        In words, what is wrong; empty for a complete checkpoint.
    """
    try:
        record = json.loads((checkpoint / MANIFEST_FILE).read_bytes())
        files: Mapping[str, Mapping[str, Any]] = record["files"]
        if record["format"] != _FORMAT:
            return [f"{MANIFEST_FILE} has the format {record['format']!r}, expected {_FORMAT!r}"]
        return find_damage(checkpoint, files, read_bytes=read_bytes)
    except FileNotFoundError:
        return [f"it has no {MANIFEST_FILE}: it was not finished, or not written by this package"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return [f"{MANIFEST_FILE} cannot be read ({error!r})"]


def complete_checkpoints(run_folder: Path) -> list[Path]:
    """Find the checkpoints of a run that are complete.

    Args:
        run_folder: Folder of the run.

    Returns:
        Folders, oldest step first.
    """
    found = [(int(match[1]), path) for path in run_folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found) if not find_problems(path, read_bytes=False)]


def newest_checkpoint(run_folder: Path) -> Path:
    """The newest intact checkpoint of a run; damaged checkpoints are skipped with a warning.

    Args:
        run_folder: Folder of the run.

    Raises:
        InputError: If there is none.
    """
    found = [(int(match[1]), path) for path in run_folder.glob("checkpoint-*") if (match := _NAME.fullmatch(path.name))]
    for _, path in sorted(found, reverse=True):
        problems = find_problems(path)
        if not problems:
            return path
        logger.warning(f"Skipped the checkpoint {path}: {'; '.join(problems[:3])}.")
    raise InputError(
        f"{run_folder} has no complete checkpoint to resume from. Give another folder, or omit "
        "resume_from_checkpoint to start a new run."
    )


def check_checkpoint(checkpoint: Path, config: SubCellConfig) -> None:
    """Refuse a checkpoint that is damaged or of another model.

    Args:
        checkpoint: Folder.
        config: Of the model to resume.

    Raises:
        InputError: If a file is missing or changed, or the configurations differ; the differences are shown.
    """
    problems = find_problems(checkpoint)
    if problems:
        raise InputError(
            f"{checkpoint} cannot be resumed from: {'; '.join(problems[:5])}. Use another checkpoint, or give weights "
            "from elsewhere as init_checkpoint."
        )
    found = SubCellConfig.from_pretrained(checkpoint)
    differences = explain_config_difference(found, config)
    if differences:
        raise InputError(
            f"{checkpoint} belongs to another model: {'; '.join(differences)}. Resume with the arguments of that run, "
            "or start a new run from its weights with init_checkpoint."
        )


def explain_config_difference(found: SubCellConfig, wanted: SubCellConfig) -> list[str]:
    """In words, the fields in which two configurations differ."""
    names = [name for name in SubCellConfig.__annotations__ if name not in ("model_type", "sub_configs")]
    first, second = ({name: config.to_dict().get(name) for name in names} for config in (found, wanted))
    first["classes"], second["classes"] = ([*(config.id2label or {}).values()] for config in (found, wanted))
    return [
        f"{name} is {first[name]!r} in the checkpoint, {second[name]!r} here"
        for name in (*names, "classes")
        if _plain(first[name]) != _plain(second[name])
    ]


def rotate_checkpoints(run_folder: Path, limit: int | None, keep: Iterable[Path]) -> None:
    """Remove the oldest complete checkpoints beyond a limit, and what killed writers left.

    Args:
        run_folder: Of the run.
        limit: Complete checkpoints to keep; None for all.
        keep: Never removed, nor is the newest.
    """
    for path in run_folder.glob(".checkpoint-*"):
        if _HIDDEN.fullmatch(path.name):
            shutil.rmtree(path)
    if not limit or limit < 1:
        return
    complete = complete_checkpoints(run_folder)
    kept = {path.resolve() for path in keep}
    surplus = len(complete) - limit
    for path in complete[:-1]:
        if surplus > 0 and path.resolve() not in kept:
            remove_folder(path)
            surplus -= 1


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
