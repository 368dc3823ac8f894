"""Which encoder is at work: a lock in the folder of the runs, which stays behind if the process dies meanwhile.

Native code of an encoder can end the whole process, without an error that could name it. The next run of the same
command finds the lock, which nobody holds any more, and runs that encoder after the others.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from subcell_hf.storage.folder_lock import claim_folder, try_lock

_BEFORE, _AFTER = ".encoder-", ".lock"


@contextmanager
def at_work(folder: Path, name: str) -> Iterator[None]:
    """Say in the folder of the runs that an encoder is at work while the block runs.

    Args:
        folder: Folder of the runs of all encoders.
        name: Name of the encoder.

    Raises:
        InputError: If the folder cannot be written.
    """
    with claim_folder(folder, lock=f"{_BEFORE}{name}{_AFTER}", shared=True):
        yield


def encoders_that_died(folder: Path) -> tuple[str, ...]:
    """Names of the encoders that were at work when an earlier process ended without an error.

    Args:
        folder: Folder of the runs of all encoders; may be missing.
    """
    found = []
    for path in sorted(folder.glob(f"{_BEFORE}*{_AFTER}")):
        with suppress(OSError):  # another process has just removed it, or there are no locks here
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if try_lock(descriptor):
                    found.append(path.name.removeprefix(_BEFORE).removesuffix(_AFTER))
            finally:
                os.close(descriptor)
    return tuple(found)
