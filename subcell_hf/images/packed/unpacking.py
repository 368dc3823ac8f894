"""What is unpacked before it is read: once, into Hugging Face's cache, where later runs find it."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.decoders.ome_zarr import is_zarr_folder
from subcell_hf.images.decoders.remote_paths import RemotePath
from subcell_hf.images.file_names import is_system_file
from subcell_hf.images.packed.archives import archive_stem, unpack_archive
from subcell_hf.images.packed.dataset_rows import dataset_files, holds_images, iterate_tables, write_rows
from subcell_hf.storage.downloads.cached_files import cache_folder
from subcell_hf.storage.folder_lock import claim_folder
from subcell_hf.storage.folders import write_folder_atomically

_PARQUET = ".parquet"


def unpacked(source: Path) -> Path:
    """The folder with what an archive holds, or with the images in a Parquet file; any other path as it is.

    The first call writes it into `subcell/unpacked` of Hugging Face's cache (`HF_HOME`); a file that has changed is
    unpacked again.

    Args:
        source: An existing path.

    Raises:
        FieldError: If the file is damaged, or its content cannot be files.
        InputError: If the cache cannot be written.
        OSError: If the disk is full.
    """
    if isinstance(source, RemotePath) or not source.is_file():
        return source
    stem = archive_stem(source.name)
    if stem is not None:
        return _inner(_once([source], stem, lambda folder: unpack_archive(source, folder)))
    if source.name.lower().endswith(_PARQUET) and holds_images([source]):
        return _write_dataset([source], source.stem)
    return source


def unpacked_dataset(folder: Path) -> Path | None:
    """The images of a folder that `datasets` has written, or that is one of Parquet files; None for any other folder.

    Args:
        folder: A folder in which no image was found.

    Raises:
        FieldError: As `unpacked`, and the others too.
    """
    files = [] if isinstance(folder, RemotePath) else dataset_files(folder)
    return _write_dataset(files, folder.resolve().name) if files and holds_images(files) else None


def _write_dataset(files: Sequence[Path], stem: str) -> Path:
    return _once(files, stem, lambda folder: write_rows(iterate_tables(files), folder, str(files[0])))


def _once(files: Sequence[Path], stem: str, write: Callable[[Path], object]) -> Path:
    """The folder that was written for these files as they are now."""
    facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    place = cache_folder() / "unpacked" / hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    folder = place / stem
    if not folder.is_dir():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FieldError(
                f"{files[0]} is unpacked into {place.parent}, which cannot be written ({error.strerror}). Let HF_HOME "
                "name a folder that can be written, or unpack it yourself and give the folder."
            ) from error
        with claim_folder(place, wait=True):
            if not folder.is_dir():  # another process may have written it meanwhile
                with write_folder_atomically(folder) as staging:
                    write(staging)
                    # What is unpacked again later has the same times: a run that was begun is resumed.
                    newest = max(time for *_, time in facts)
                    for path in staging.rglob("*"):
                        os.utime(path, ns=(newest, newest))
    if not any(folder.iterdir()):
        raise FieldError(f"{files[0]} is empty, expected images.")
    return folder


def _inner(folder: Path) -> Path:
    """The folder itself, or the only one in it, as most archives of a folder have it."""
    if is_zarr_folder(folder):
        return folder
    content = [path for path in folder.iterdir() if not is_system_file(path.name)]
    return content[0] if len(content) == 1 and content[0].is_dir() else folder
