"""A folder that is written belongs to one job at a time.

The lock is the operating system's (`flock`), so the end of its holder, however it came about, releases it. Each holder
writes its host and process id into the lock file, so that others can name it, and the last one removes the file.
filelock, the usual library for this, has no shared locks, which the processes of one launch need.
"""

import hashlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, ENOTSUP, EPERM, EROFS
from functools import cache
from pathlib import Path

from subcell_hf.errors import InputError
from subcell_hf.storage.full_disk import naming_full_disk

LOCK_FILE = ".lock"
"""Name of the lock in a folder that is being written; a killed job leaves it behind, which does not block others."""

_UNWRITABLE = {EACCES, EPERM, EROFS}
_POLL_S = 0.5
_QUIET_POLLS = 6
"""Polls before it is said that, and for whom, somebody waits: most wait for a moment only."""

_logger = logging.getLogger(__name__)


@contextmanager
def claim_folder(folder: Path, *, lock: str = LOCK_FILE, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Keep a folder for the job at hand while the block runs.

    On a file system without locks the job proceeds, with a warning.

    Args:
        folder: Folder to write; made if missing, and removed again if it is empty in the end.
        lock: Name of the lock file in it.
        shared: Whether others that also share the folder may work in it, but nobody who wants it alone.
        wait: Whether to wait until the folder is free instead of refusing at once.

    Yields:
        Nothing; the folder is free again after the `with` block.

    Raises:
        InputError: If the folder is in use, naming the host and process that use it, or it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, expected a folder or a new name. Choose another output.")
    existed = folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        with _hold(folder / lock, folder, shared, wait):
            yield
    finally:
        if not existed:
            with suppress(OSError):  # it holds something, as it should
                folder.rmdir()


@contextmanager
def claim_output(output: Path) -> Iterator[None]:
    """Keep the name of a folder that will appear whole, by a lock beside it; see `claim_folder`.

    Raises:
        InputError: If another job is about to write it, or it cannot be written.
    """
    place = output.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(output, error) from error
    # Names may be as long as the file system allows, so only a piece of it is kept.
    name = f".{place.name[:40]}.{hashlib.sha256(os.fsencode(place.name)).hexdigest()[:8]}{LOCK_FILE}"
    with _hold(place.parent / name, output, shared=False, wait=False):
        yield


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file or folder until it is closed or its process ends.

    Args:
        descriptor: Of the open file.
        shared: Whether others may hold it, too, if they share it as well.

    Returns:
        Whether it worked; False where another process holds it.

    Raises:
        OSError: If the system or the file system has no locks.
    """
    if os.name != "posix":
        raise OSError(ENOTSUP, "this system has no file locks")
    import fcntl

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno == EACCES:  # what some file systems say of a lock that is held
            return False
        raise
    return True


def unlock(descriptor: int) -> None:
    """Give a lock back, also where a forked process holds a copy of the descriptor.

    Args:
        descriptor: On which `try_lock` worked.

    Raises:
        OSError: If the lock cannot be given back.
    """
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_UN)


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or in the one that it would be made in."""
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


@contextmanager
def _hold(path: Path, claimed: Path, shared: bool, wait: bool) -> Iterator[None]:
    with naming_full_disk(claimed):
        descriptor = _acquire(path, claimed, shared, wait)
    try:
        yield
    finally:
        if descriptor is not None:
            _release(path, descriptor, shared)


def _acquire(path: Path, claimed: Path, shared: bool, wait: bool) -> int | None:
    """The descriptor that holds the lock; None where there can be none."""
    polls = 0
    while True:
        descriptor = _open(path, claimed)
        if descriptor is None:
            return None
        try:
            free = try_lock(descriptor, shared=shared)
        except OSError as error:
            os.close(descriptor)
            with suppress(OSError):
                path.unlink()
            _warn_without_locks(claimed, error.strerror or str(error))
            return None
        if not free:
            holder = _read_holder(descriptor)
            os.close(descriptor)
            if not wait:
                raise InputError(
                    f"{claimed} is in use: {holder} is writing there. Wait until it has finished, or choose "
                    f"another output."
                )
            polls += 1
            if polls == _QUIET_POLLS:
                _logger.warning("%s is in use: waiting for %s to finish.", claimed, holder)
            time.sleep(_POLL_S)
            continue
        if _is_at(path, descriptor):
            _write_holder(descriptor)
            return descriptor
        os.close(descriptor)  # its holder removed the file after we had opened it


def _open(path: Path, claimed: Path) -> int | None:
    """Open the lock file; None where another user's cannot even be read."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno not in _UNWRITABLE or not path.exists():
            raise _unwritable(claimed, error) from error
    with suppress(OSError):  # a file that another user left behind can be locked where it can be read
        return os.open(path, os.O_RDONLY)
    return None


def _unwritable(claimed: Path, error: OSError) -> InputError:
    if claimed.is_symlink() and not claimed.exists():
        return InputError(
            f"{claimed} is a link to {claimed.readlink()}, which does not exist. Create that folder, or choose another "
            "output."
        )
    return InputError(
        f"{claimed} cannot be written ({error.strerror}). Choose another output, or change its permissions."
    )


def _release(path: Path, descriptor: int, shared: bool) -> None:
    """Give the lock back; its last holder removes the file, while nobody else can hold it."""
    try:
        alone = not shared or try_lock(descriptor)
        if alone and _is_at(path, descriptor):
            path.unlink()
    except OSError:  # the folder is gone
        pass
    finally:
        with suppress(OSError):
            unlock(descriptor)
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _write_holder(descriptor: int) -> None:
    with suppress(OSError):  # a full disk does not keep the lock from working
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _read_holder(descriptor: int) -> str:
    with suppress(OSError):
        if text := os.pread(descriptor, 500, 0).decode(errors="replace").strip():
            return text
    return "another job"


@cache
def _warn_without_locks(claimed: Path, reason: str) -> None:
    _logger.warning("%s cannot be locked (%s): make sure that no other job writes there.", claimed, reason)
