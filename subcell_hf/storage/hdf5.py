"""HDF5 files that appear whole or not at all, also on a full disk and where the file system has no locks."""

import io
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from subcell_hf.storage.atomic import write_atomically


class _Sink(io.RawIOBase):
    """The file that HDF5 writes to; after a failure it accepts and discards everything.

    HDF5 cannot close a file whose last writes fail: it ends with a segmentation fault. So failures are not
    reported to HDF5; they are raised after it has closed the file.
    """

    def __init__(self, descriptor: int) -> None:
        self.failure: OSError | None = None
        self._descriptor, self._position, self._end = descriptor, 0, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        found = os.pread(self._descriptor, len(view), self._position)
        view[: len(found)] = found
        view[len(found) :] = bytes(len(view) - len(found))
        self._position += len(view)
        return len(view)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view) and self.failure is None:
                done += os.pwrite(self._descriptor, view[done:], self._position + done)
        except OSError as error:
            self.failure = error
        self._position += len(view)
        self._end = max(self._end, self._position)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self._end = self._position if size is None else size
        try:
            if self.failure is None:
                os.ftruncate(self._descriptor, self._end)
        except OSError as error:
            self.failure = error
        return self._end

    def flush(self) -> None:
        """Written at once; `write_atomically` flushes to the disk."""


def check_texts(path: Path) -> None:
    """Refuse a file in which reading a text would never end.

    Texts of any length lie in collections of objects, one after the other, each with its size. HDF5 1.14 and earlier
    step from object to object by these sizes, and for ever where damage has made the size of free space 0.

    Args:
        path: An HDF5 file.

    Raises:
        ValueError: If it has such a place.
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(16)
        sizes_of_8_bytes = len(head) == 16 and head[14 if head[8] < 2 else 10] == 8
        if not head.startswith(b"\x89HDF\r\n\x1a\n") or not sizes_of_8_bytes:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start = data.find(b"GCOL\1")
            while start >= 0:
                end = min(start + int.from_bytes(data[start + 8 : start + 16], "little"), len(data))
                place = start + 16
                while place + 16 <= end:
                    number = int.from_bytes(data[place : place + 2], "little")
                    size = int.from_bytes(data[place + 8 : place + 16], "little")
                    if number == 0 and size < 16:  # less than what says so
                        raise ValueError(f"free space of {size} bytes among its texts, at byte {place:,}")
                    place += 16 + (size + 7) // 8 * 8 if number else size
                start = data.find(b"GCOL\1", start + 5)


class Hdf5File:
    """An HDF5 file that is being written.

    Attributes:
        root: The open `h5py.File`.
    """

    def __init__(self, root: Any, sink: _Sink) -> None:
        self.root, self._sink = root, sink

    def check(self) -> None:
        """Raise what has kept the file from being written; to be called now and then, so that no work is in vain.

        Raises:
            OSError: The first failure.
        """
        if self._sink.failure is not None:
            raise self._sink.failure


@contextmanager
def write_hdf5(path: Path | str) -> Iterator[Hdf5File]:
    """Open an HDF5 file for writing; see `write_atomically`, whose errors it raises.

    Args:
        path: File to write.
    """
    import h5py

    with write_atomically(path) as file:
        descriptor = os.open(file.name, os.O_RDWR)  # HDF5 reads back what it has written
        try:
            sink = _Sink(descriptor)
            try:
                # HDF5 of 1998 holds no more than 64 KB of names of columns; that of 2008 does.
                with h5py.File(sink, "w", libver=("v108", "v108")) as root:
                    yield Hdf5File(root, sink)
            finally:
                if sink.failure is not None:
                    raise sink.failure
        finally:
            os.close(descriptor)
