"""Which files lie in a folder of images: links followed once, system files left out, nothing passed by silently."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from subcell_hf.images.decoders.ome_zarr import is_zarr_folder
from subcell_hf.images.file_names import is_system_file, is_thumbnail, legible, other_image_suffix
from subcell_hf.images.files import image_suffix
from subcell_hf.images.listed_fields import FilePlace, garbage_kept

CROPS_FILE = "crops.json"
"""Marks a folder as one of crops; such a folder inside of a folder of images is passed by."""

_OUTPUT_FILES = (CROPS_FILE, "run.json")
"""Our own outputs: nobody wants the pictures of an earlier run as its input."""

_ZARR = ".zarr"
_LEAST_SHARE = 0.5
_DIGITS = str.maketrans("123456789", "000000000")
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
        names: Folder → the name of everything in it, also of what is left out → its place.
        linked: Folders in which two names may mean one file.
    """

    root: Path = field(default_factory=Path)
    images: list[FilePlace] = field(default_factory=list)
    others: list[FilePlace] = field(default_factory=list)
    problems: dict[Path, str] = field(default_factory=dict)
    unused: dict[Path | FilePlace, str] = field(default_factory=dict)
    documents: list[FilePlace] = field(default_factory=list)
    names: dict[str, dict[str, FilePlace]] = field(default_factory=dict)
    linked: set[str] = field(default_factory=set)

    @cached_property
    def shapes(self) -> Counter[str]:
        """The names of images with `0` for every digit → how many have them: a plate has few, of thousands of names."""
        counted = Counter[str]()
        for _, images in groupby(self.images, attrgetter("folder")):
            names = "\0".join([image.name for image in images])  # no name has that character
            counted.update(names.translate(_DIGITS).split("\0"))
        return counted


@garbage_kept()
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
            entries = sorted(found, key=attrgetter("name"))
    except OSError as error:
        content.problems[parent] = f"The folder {parent} cannot be listed: {error.strerror}."
        return
    folder = str(parent)
    content.names[folder] = places = {entry.name: FilePlace(folder, entry.name) for entry in entries}
    # Asked of all names at once, as a plate has tens of thousands.
    together = "".join(places)
    are_legible, may_be_thumbnails = legible(together) == together, "thumb" in together.lower()
    if may_be_output and any(name in places for name in _OUTPUT_FILES):
        return
    if len({entry.inode() for entry in entries}) < len(entries) or any(entry.is_symlink() for entry in entries):
        content.linked.add(folder)
    for entry in entries:
        name = entry.name
        if is_system_file(name):
            continue
        place = places[name]
        kind: list[FilePlace] | None = None
        if _is_folder(entry):
            if name.lower().endswith(_ZARR) or is_zarr_folder(place.path):
                kind = content.images
        elif image_suffix(place) is not None:
            kind = content.images
        elif other_image_suffix(place) is not None:
            kind = content.others
        # A link that leads nowhere may have led to a folder.
        elif not entry.is_symlink() or _FILE_SUFFIX.search(name) or place.path.exists():
            content.documents.append(place)
            continue
        if not are_legible and legible(name) != name:
            content.problems[place.path] = (
                f"The name {legible(name)} in {parent} is not UTF-8. Rename it, for example with convmv."
            )
        elif may_be_thumbnails and is_thumbnail(name):
            content.unused[place] = "a thumbnail, by its name"
        elif kind is not None:
            kind.append(place)
        elif entry.is_symlink():
            links.append(place.path)
        else:
            yield place.path


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


def recognised_by_names(content: FolderContent, pattern: re.Pattern[str]) -> str | None:
    """The phrase that says by which names a layout was recognised: at least half of the images must have such a name.

    Args:
        content: Of a folder.
        pattern: Of the whole names of images; it must not distinguish digits.
    """
    count = sum(images for shape, images in content.shapes.items() if pattern.fullmatch(shape))
    if not count or count < _LEAST_SHARE * len(content.images):
        return None
    return f"names such as {next(image.name for image in content.images if pattern.fullmatch(image.name))}"
