"""A full disk, recognised through whatever the library that was writing has made of it."""

import errno
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SAYS_FULL = re.compile(
    "|".join(
        [
            *(re.escape(os.strerror(number)) for number in sorted(_FULL)),
            r"os error (?P<number>\d+)\b",  # Rust's: safetensors, tokenizers
            r"PytorchStreamWriter failed writing|unexpected pos \d+ vs \d+",  # torch keeps no reason
            r"\d+ requested and \d+ written",  # nor does numpy
            r"^\[Errno 0\]",  # nor, at times, does Pillow
        ]
    )
)


class WatchedFile(io.FileIO):
    """A file that remembers that the disk was full, for writers that turn the error into another one.

    Attributes:
        failure: The first error of a full disk, quota or size limit.
    """

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write, as `FileIO` does."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in _FULL:
                self.failure = self.failure or error
            raise


@contextmanager
def naming_full_disk(path: Path | str, watched: Callable[[], WatchedFile | None] = lambda: None) -> Iterator[None]:
    """Turn what a full disk, quota or size limit has led to into one plain error.

    Args:
        path: What is being written.
        watched: Gives the file that is being written, if it is one that remembers.

    Raises:
        OSError: With the `errno` of what is full; any other error passes as it is.
    """
    try:
        yield
    except Exception as error:
        file = watched()
        number = file.failure.errno if file is not None and file.failure is not None else _find_number(error)
        if number is None:
            raise
        raise OSError(
            number,
            f"{path} could not be written: {os.strerror(number).lower()}{_describe_space(Path(path), number)}; nothing "
            "was left under that name. Free some space or choose another folder, then run the same command again",
        ) from error


def _find_number(error: BaseException) -> int | None:
    """The `errno` of a full disk in a chain of errors."""
    for link in _chain(error):
        if isinstance(link, OSError) and link.errno in _FULL:
            return link.errno
        found = None if isinstance(link, FileNotFoundError) else _SAYS_FULL.search(str(link))
        if found is None:
            continue
        if found["number"] is None:
            said = [number for number in _FULL if os.strerror(number) in found[0]]
            return said[0] if said else errno.ENOSPC
        if int(found["number"]) in _FULL:
            return int(found["number"])
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _describe_space(path: Path, number: int) -> str:
    """What is free in the nearest folder that exists."""
    if number == errno.EFBIG:
        return " (the system limits the size of a file, see ulimit -f)"
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    return f" ({shutil.disk_usage(folder).free / 1e6:,.1f} MB free in {folder})"
