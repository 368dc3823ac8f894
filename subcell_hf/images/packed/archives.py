"""Archives of images: tar, also compressed, and zip."""

import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EINVAL
from pathlib import Path, PurePosixPath
from typing import IO

from subcell_hf.images.decoders.image import FieldError
from subcell_hf.progress import progress_bar

_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")


def archive_stem(name: str) -> str | None:
    """A file's name without what marks it as an archive; None for any other file."""
    suffix = next((suffix for suffix in _SUFFIXES if name.lower().endswith(suffix)), None)
    return None if suffix is None else name[: -len(suffix)] or name


def unpack_archive(path: Path, folder: Path) -> None:
    """Write the files of an archive; links inside of it become copies, and what is neither is left out.

    Args:
        path: The archive.
        folder: An existing folder.

    Raises:
        FieldError: If it is damaged, encrypted, leads out of the folder, or holds more than the disk has room for.
        OSError: If something cannot be written.
    """
    written = 0
    with _opened(path) as members:
        free = shutil.disk_usage(folder).free
        with progress_bar(None, "file", f"unpack {path.name}") as bar:
            for name, size, content in members:
                place = folder.joinpath(*_way(name, path))
                written += size
                if written > free:
                    raise FieldError(
                        f"{path} holds more than {free:,} bytes, which is all that is free in {folder.parent}. Let "
                        "HF_HOME name a folder on a larger disk, or unpack it yourself and give the folder."
                    )
                place.parent.mkdir(parents=True, exist_ok=True)
                with content, place.open("wb") as file:
                    shutil.copyfileobj(content, file, 2**20)
                bar.update(1)


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[tuple[str, int, IO[bytes]]]]:
    """Name, size and content of every file, while the archive is open."""
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as packed:
                yield _of_zip(packed)
        else:
            with tarfile.open(path) as archive:
                yield _of_tar(archive)
    except FieldError:
        raise
    except Exception as error:  # on damaged archives, their readers raise nearly anything that Python can
        if isinstance(error, OSError) and error.errno not in (None, EINVAL):
            raise
        reason = " ".join(str(error).split()) or "it ends too early"
        raise FieldError(f"{path} cannot be unpacked: {reason}. Copy or download the archive again.") from error


def _of_zip(archive: zipfile.ZipFile) -> Iterator[tuple[str, int, IO[bytes]]]:
    for member in archive.infolist():
        if not member.is_dir():
            yield member.filename, member.file_size, archive.open(member)


def _of_tar(archive: tarfile.TarFile) -> Iterator[tuple[str, int, IO[bytes]]]:
    for member in archive:
        content = archive.extractfile(member)  # of what a link leads to; None for folders and devices
        if content is not None:
            yield member.name, member.size, content
    # A tar that was cut between two files lacks the empty block at the end, of which tarfile says nothing.
    if archive.fileobj is None or archive.fileobj.tell() == archive.offset:
        raise tarfile.ReadError("its end is missing")


def _way(name: str, path: Path) -> tuple[str, ...]:
    """The folders and the name of a member; ones that lead elsewhere are refused."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or ".." in parts or parts[0].startswith("/") or "\0" in name:
        raise FieldError(f"{path} holds {name!r}, which leads out of the archive. Pack it again with plain names.")
    return parts
