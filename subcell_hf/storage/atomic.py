"""Files that appear whole or not at all.

What is being written has a hidden name beside its final one, and its writer holds a lock of the operating system on it
until it is done. So what a killed writer has left behind is recognised, and removed by the next process that writes
into the same folder, while the files of another live run stay.
"""

import hashlib
import io
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO

from subcell_hf.storage.folder_lock import try_lock
from subcell_hf.storage.full_disk import WatchedFile, naming_full_disk

TEMPORARY_SUFFIX = ".part"
"""Ending of a file that is still being written; a leftover after a kill may be removed."""

_TOKEN = re.compile(r"\.([0-9a-f]{4})[0-9a-f]{8}\.part")
_SURELY_ABANDONED_S = 24 * 3600.0
"""Age after which a leftover is removed where locks do not say whether its writer lives."""

_cleared: set[Path] = set()
"""Folders that this process has cleared of leftovers."""


@contextmanager
def write_atomically(path: Path | str) -> Iterator[BinaryIO]:
    """Open a binary file for writing that appears under its name only when it is complete.

    The bytes go to a hidden file beside the target, which is flushed to the disk and renamed when the block ends. If
    the block raises, the hidden file is removed and an existing file under that name is kept. After a kill
    at any point the name holds the old file, the new file, or nothing, never a part of one.

    Args:
        path: File to write; missing folders are made.

    Yields:
        The open temporary file.

    Raises:
        OSError: If the file cannot be written; a full disk, quota or size limit is named, with the same `errno`,
            whatever the library that was writing has made of it.
    """
    path, raw = Path(path), None
    try:
        with naming_full_disk(path, lambda: raw):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent not in _cleared:
                _cleared.add(path.parent)
                remove_leftovers(path.parent, alone=False)
            try:
                raw = _open_temporary(path)
            except OSError as error:
                error.filename = str(path)  # the name that its caller knows
                raise
            with io.BufferedWriter(raw) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                Path(raw.name).replace(path)  # before it is closed, which gives the lock back
            flush_to_disk(path.parent)
    finally:
        if raw is not None:
            Path(raw.name).unlink(missing_ok=True)


def remove_leftovers(folder: Path, *, alone: bool = True) -> int:
    """Remove what killed writers left in a folder; files that a live process is writing stay.

    Args:
        folder: Not searched below.
        alone: Whether no other process can be writing here, so that files whose locks say nothing can go, too.

    Returns:
        How many temporary files were removed.
    """
    found = [path for path in folder.glob(f".*{TEMPORARY_SUFFIX}") if path.is_file()]
    return sum(remove_if_abandoned(path, alone=alone) for path in found)


def remove_if_abandoned(path: Path, *, alone: bool = False) -> bool:
    """Remove a temporary file or folder that nobody is writing any more.

    Locks may be known to one machine only, and some file systems have none: what they cannot settle counts as
    abandoned after a day.

    Args:
        path: What a killed writer may have left.
        alone: Whether no other process can be writing it.

    Returns:
        Whether it was abandoned.
    """
    made_by = _TOKEN.search(path.name)
    if made_by is None and not alone:
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except OSError:  # finished meanwhile, removed by another process, or another user's
        return False
    try:
        free = hold(descriptor)
        settled = free is True and made_by is not None and made_by[1] == _machine()
        age_s = time.time() - os.fstat(descriptor).st_mtime
        abandoned = free is not False and (alone or settled or age_s > _SURELY_ABANDONED_S)
        if abandoned and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif abandoned:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)  # which gives the lock back
    return abandoned


def temporary_path(path: Path) -> Path:
    """A hidden name beside a path, which says what it is for and on which machine it was made."""
    # Only a piece of the name, since names may be as long as the file system allows.
    return path.parent / f".{path.name[:40]}.{_machine()}{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"


def hold(descriptor: int) -> bool | None:
    """Mark an open file or folder as being written, until it is closed or its process ends.

    Returns:
        Whether it worked; False where another process has marked it, None where the file system has no locks.
    """
    try:
        return try_lock(descriptor)
    except OSError:
        return None


def flush_to_disk(path: Path) -> None:
    """Make the content of a file, or the names in a folder, durable, where the platform lets it be opened."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _open_temporary(path: Path) -> WatchedFile:
    while True:
        temporary = temporary_path(path)
        raw = WatchedFile(temporary, "x")
        # Before it was held another process may have taken it for a leftover.
        if hold(raw.fileno()) is not False and temporary.exists():
            return raw
        raw.close()


@cache
def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:4]
