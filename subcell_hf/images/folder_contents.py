"""Which files lie in a folder of images: links followed once, system files left out, nothing passed by silently."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from subcell_hf.images.decoders.ome_zarr import is_zarr_folder
from subcell_hf.images.file_names import is_system_file, is_thumbnail, legible, other_image_suffix
from subcell_hf.images.files import image_suffix

CROPS_FILE = "crops.json"
"""Marks a folder as one of crops; such a folder inside of a folder of images is passed by."""

_OUTPUT_FILES = (CROPS_FILE, "run.json")
"""Our own outputs: nobody wants the pictures of an earlier run as its input."""

_ZARR = ".zarr"
_LEAST_SHARE = 0.5
_FILE_SUFFIX = re.compile(r"\.[A-Za-z]\w{0,4}$")


@dataclass
class FolderContent:
    """What a folder of images holds.

    Attributes:
        root: The folder that was searched.
        images: Files and OME-Zarr folders of a kind that is read, sorted within each folder.
        others: Image files of a kind that is not read.
        problems: File or folder → why it could not even be listed; there may be images behind it.
        unused: File or folder → why it is left out on purpose.
        documents: All other files: indices, tables and notes.
    """

    root: Path = field(default_factory=Path)
    images: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    problems: dict[Path, str] = field(default_factory=dict)
    unused: dict[Path, str] = field(default_factory=dict)
    documents: list[Path] = field(default_factory=list)


def list_images(folder: Path) -> FolderContent:
    """List the images of a folder at any depth.

    Links are followed after all that is no link, so that what is there twice is listed under its own name.

    Args:
        folder: An existing folder.
    """
    content = FolderContent(folder)
    place = folder.resolve()
    seen: set[tuple[int, int] | None] = {_identity(folder)}
    above = {_identity(parent) for parent in place.parents}
    waiting = [folder]
    links: list[Path] = []
    while waiting or links:
        if not waiting:
            link = links.pop(0)
            try:
                identity = _identity(link)
            except OSError as error:
                content.problems[link] = f"{link} is a link that leads nowhere ({error.strerror})."
                continue
            if identity in seen or identity in above:
                content.unused[link] = f"a link to {link.resolve()}, which is read already or holds {folder} itself"
                continue
            waiting.append(link)
        parent = waiting.pop()
        seen.add(_identity_or_none(parent))
        folders = list(_list_one(parent, parent != folder, content, links))
        waiting += reversed(folders)
    return content


def _list_one(parent: Path, may_be_output: bool, content: FolderContent, links: list[Path]) -> Iterator[Path]:
    """Sort the entries of one folder into the content; yields the folders in it."""
    try:
        with os.scandir(parent) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        content.problems[parent] = f"The folder {parent} cannot be listed: {error.strerror}."
        return
    if may_be_output and any(entry.name in _OUTPUT_FILES for entry in entries):
        return
    for entry in entries:
        path = parent / entry.name
        if is_system_file(entry.name):
            continue
        is_folder = _is_folder(entry)
        is_zarr = is_folder and (entry.name.lower().endswith(_ZARR) or is_zarr_folder(path))
        is_read = is_zarr or image_suffix(path) is not None
        is_image = is_read or other_image_suffix(path) is not None
        if not (
            is_image or is_folder or (entry.is_symlink() and not path.exists() and not _FILE_SUFFIX.search(entry.name))
        ):
            content.documents.append(path)
            continue
        if legible(entry.name) != entry.name:
            content.problems[path] = (
                f"The name {legible(entry.name)} in {parent} is not UTF-8. Rename it, for example with convmv."
            )
        elif is_thumbnail(entry.name):
            content.unused[path] = "a thumbnail, by its name"
        elif is_folder and not is_zarr:
            if entry.is_symlink():
                links.append(path)
            else:
                yield path
        elif is_image:
            (content.images if is_read else content.others).append(path)
        else:
            links.append(path)  # a link that leads nowhere, and may have led to a folder


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _identity_or_none(path: Path) -> tuple[int, int] | None:
    try:
        return _identity(path)
    except OSError:  # reported when it is listed
        return None


def recognised_by_names(images: Sequence[Path], pattern: re.Pattern[str]) -> str | None:
    """The phrase that says by which names a layout was recognised: at least half of the images must have such a name.

    Args:
        images: Of a folder.
        pattern: Of their whole names.
    """
    fitting = [path for path in images if pattern.fullmatch(path.name)]
    return f"names such as {fitting[0].name}" if fitting and len(fitting) >= _LEAST_SHARE * len(images) else None
