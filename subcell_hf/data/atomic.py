"""Files that appear whole or not at all."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

TEMPORARY_SUFFIX = ".part"
"""Ending of a file that is still being written; a leftover after a kill may be removed."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def write_atomically(path: Path | str) -> Iterator[BinaryIO]:
    """Open a binary file for writing that appears under its name only when it is complete.

    The bytes go to a hidden file beside the target, which is flushed to the disk and renamed when the block ends. If
    the block raises, the hidden file is removed and whatever stood under the name before stays as it was. After a kill
    at any point the name holds the old file, the new file, or nothing, never a part of one.

    Args:
        path: File to write; missing folders are made.

    Yields:
        The open temporary file.

    Raises:
        OSError: If the file cannot be written; a full disk, quota or size limit is named, with the same `errno`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Only a piece of the name, since names may be as long as the file system allows.
    temporary = path.parent / f".{path.name[:40]}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno in _FULL:
            raise OSError(
                error.errno,
                f"{path} could not be written ({os.strerror(error.errno)}); nothing was left under that name. "
                "Free some space or choose another folder, then run the same command again",
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> int:
    """Remove what killed writers left in a folder.

    Returns:
        How many temporary files were removed.
    """
    leftovers = [path for path in folder.glob(f".*{TEMPORARY_SUFFIX}") if path.is_file()]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the platform lets a folder be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
