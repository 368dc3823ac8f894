"""Records of finished work: which files were written, with size and SHA-256, so that damage is found before it is used.

Whatever resumes an earlier run asks its records first: what is not as it was written is done again.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from subcell_hf.storage.atomic import write_atomically

FileFacts = dict[str, dict[str, Any]]
"""Name of a file, relative to its folder → `bytes` and `sha256`."""

_CHECKSUM = "record_sha256"


def describe_files(folder: Path, paths: Iterable[Path]) -> FileFacts:
    """Compute size and SHA-256 of files.

    Args:
        folder: Folder that the files are in.
        paths: The files.

    Returns:
        Path relative to the folder → size and checksum.
    """
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths
    }


def find_damage(folder: Path, files: Mapping[str, Mapping[str, Any]], *, read_bytes: bool = True) -> list[str]:
    """Compare files with what is recorded of them.

    Args:
        folder: The folder that holds them.
        files: As `describe_files` gave it.
        read_bytes: Whether checksums are compared too, beside names and sizes.

    Returns:
        In words, what is wrong; empty where nothing is.
    """
    problems = []
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != expected["bytes"]:
            problems.append(f"{name} has {path.stat().st_size} bytes, expected {expected['bytes']}")
        elif read_bytes and sha256_of(path) != expected["sha256"]:
            problems.append(f"{name} has a changed checksum")
    return problems


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON with a checksum of itself; the same content gives the same bytes.

    Args:
        path: File to write; it appears when it is complete.
        content: Values that JSON can hold.
    """
    with write_atomically(path) as file:
        file.write(_encode({**content, _CHECKSUM: _checksum(content)}))


def read_record(path: Path) -> dict[str, Any] | None:
    """Read what `write_record` wrote.

    Args:
        path: The file.

    Returns:
        The content; None if the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_bytes())
        checksum = content.pop(_CHECKSUM)
        if checksum == _checksum(content):
            return dict(content)
    except (FileNotFoundError, IsADirectoryError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    return None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _encode(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _checksum(content: Mapping[str, Any]) -> str:
    # What JSON makes of the content, so that it is the same when it has been read back.
    return hashlib.sha256(_encode(json.loads(json.dumps(content)))).hexdigest()
