"""What is known of fields of view before they are read, and how their names are kept apart."""

import filecmp
import gc
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

_HEAD_BYTES = 4096


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Pause Python's search for garbage while the objects of a listing are made.

    It is repeated with every few hundred new objects, whether garbage or not: a third of the time of listing a plate.
    What reads image files, whose readers leave garbage, does not belong here.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class FilePlace(NamedTuple):
    """Where a file lies, or a plane in it, in texts: a `Path` of every file takes longer than listing their folder.

    Attributes:
        folder: As `str(path.parent)` has it.
        name: Without a folder.
        page: Which page of a TIFF, from 0; None where the file holds one plane alone, or a whole stack.
        position: Which image of the file, where it holds several; the page is then one of that image.
    """

    folder: str
    name: str
    page: int | None = None
    position: int | None = None

    @classmethod
    def of(cls, path: Path) -> "FilePlace":
        """The place of a path."""
        return cls(str(path.parent), path.name)

    @classmethod
    def below(cls, folder: str, way: str) -> "FilePlace":
        """The place of a file by the way to it from a folder, most often its name."""
        return cls.of(Path(folder, way)) if "/" in way or way in ("", os.curdir) else cls(folder, way)

    @property
    def path(self) -> Path:
        """The same as a path."""
        return Path(self.folder, self.name)

    @property
    def parent(self) -> Path:
        """Its folder as a path."""
        return Path(self.folder)

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class ListedField:
    """What a listing knows of a field.

    Attributes:
        name: The field's id.
        channel_planes: Our channel name → the Z-planes of that channel, from below; one where a file holds the plane
            or the stack. Empty where one file holds all channels.
        stack_file: The file that holds all channels.
        stack_position: Which image of that file, where it holds several.
        stack_time: Which time point of that image, where each is a field.
        mask_file: Instance labels.
        metadata: Column → value.
        default_pixel_size_um: Pixel size to take where nothing else says it.
        default_pixel_size_from: Where that size comes from.
        folder: Folder that it was found in, below the one that was searched; empty for that itself, and for tables.
        problem: Why the field cannot be used, found while listing.
        pixel_size_um: Pixel size as the layout's own metadata say.
        pixel_size_from: What these metadata are, such as `Index.idx.xml`.
        pixel_size_wins: Whether they are right where the image files say something else.
        files_missing: Files that the layout lists and that are not there.
        illumination: Our channel name → the illumination function that its planes are divided by.
    """

    name: str
    channel_planes: Mapping[str, tuple[FilePlace, ...]] = field(default_factory=dict)
    stack_file: Path | None = None
    mask_file: Path | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    default_pixel_size_um: float | None = None
    default_pixel_size_from: str = ""
    folder: str = ""
    problem: str | None = None
    stack_position: int | None = None
    stack_time: int | None = None
    pixel_size_um: float | None = None
    pixel_size_from: str = ""
    pixel_size_wins: bool = False
    files_missing: tuple[str, ...] = ()
    illumination: Mapping[str, Path] = field(default_factory=dict)

    @property
    def channel_files(self) -> dict[str, Path]:
        """Our channel name → the first of its files."""
        return {channel: planes[0].path for channel, planes in self.channel_planes.items()}

    @property
    def files(self) -> tuple[Path, ...]:
        """All its files, the mask's last."""
        optional = [path for path in (self.stack_file, self.mask_file) if path is not None]
        planes = dict.fromkeys(plane.path for stack in self.channel_planes.values() for plane in stack)
        return (*planes, *dict.fromkeys(self.illumination.values()), *optional)

    @property
    def origin(self) -> str:
        """The first of its files."""
        return str(self.files[0]) if self.files else "no file"

    @property
    def plain_name(self) -> str:
        """The name without the folder that it was found in."""
        return self.name.removeprefix(f"{self.folder}/") if self.folder else self.name

    @property
    def name_with_folder(self) -> str:
        """The name that is different from those of equal names in other folders."""
        return f"{self.folder}/{self.plain_name}" if self.folder else self.name


@dataclass(frozen=True)
class Listing:
    """What was found in an input.

    Attributes:
        fields: Fields of view, those that cannot be used included.
        unused: Image-like file or folder → why it is no part of any field.
        layout: What the input was recognised as.
        recognised_by: By what.
    """

    fields: tuple[ListedField, ...]
    unused: Mapping[str, str] = field(default_factory=dict)
    layout: str = ""
    recognised_by: str = ""


def name_apart(listed: Iterable[ListedField]) -> list[ListedField]:
    """Put the folder before the names of all fields, where two folders hold different fields of one name.

    Plates are often one folder each, with equal names in them. Where names are there twice only because a field was
    copied, or not at all, they stay as they are; a copy is refused.

    Args:
        listed: Fields of one input, with their folders.
    """
    listed = list(listed)
    if len({item.name for item in listed}) == len(listed):
        return listed
    by_name: dict[str, list[ListedField]] = {}
    for item in listed:
        by_name.setdefault(item.name, []).append(item)
    originals = {id(item): original for items in by_name.values() for item, original in _copies(items)}
    if not any(len({item.folder for item in items if id(item) not in originals}) > 1 for items in by_name.values()):
        return listed
    apart = []
    for item in listed:
        named = replace(item, name=item.name_with_folder)
        if id(item) in originals and not item.problem:
            original = originals[id(item)].name_with_folder
            named = replace(named, problem=f"Field {named.name!r} is a copy of {original!r}. Remove one of them.")
        apart.append(named)
    return apart


def _copies(items: Sequence[ListedField]) -> Iterator[tuple[ListedField, ListedField]]:
    """Fields with the same bytes in every channel as an earlier one, and that one."""
    if len(items) == 1:
        return
    alike: dict[object, list[ListedField]] = {}
    for item in items:
        alike.setdefault(_sketch(item), []).append(item)
    for sketch, group in alike.items():
        for number, item in enumerate(group if sketch is not None else ()):
            original = next((other for other in group[:number] if _is_copy(other, item)), None)
            if original is not None:
                yield item, original


def _sketch(item: ListedField) -> tuple[object, ...] | None:
    """What copies have in common and is known soon: channels, sizes, and how the first file begins."""
    files = [path for path in item.files if path != item.mask_file]
    try:
        with files[0].open("rb") as file:
            return (*item.channel_planes, *(path.stat().st_size for path in files), file.read(_HEAD_BYTES))
    except (OSError, IndexError):  # folders, and what cannot be read
        return None


def _is_copy(one: ListedField, other: ListedField) -> bool:
    pairs = [
        (plane.path, same.path)
        for channel, planes in one.channel_planes.items()
        for plane, same in zip(planes, other.channel_planes[channel], strict=False)
    ]
    pairs += [(one.stack_file, other.stack_file)] if one.stack_file and other.stack_file else []
    try:
        return all(filecmp.cmp(a, b, shallow=False) for a, b in pairs)
    except OSError:
        return False


def refuse_duplicates(listed: Iterable[ListedField]) -> list[ListedField]:
    """Mark every field whose name occurs more than once, because the name is ambiguous."""
    listed = list(listed)
    if len({item.name for item in listed}) == len(listed):
        return listed
    by_name: dict[str, list[ListedField]] = {}
    for item in listed:
        by_name.setdefault(item.name, []).append(item)
    unique = []
    for name, items in by_name.items():
        if len(items) == 1:
            unique.append(items[0])
            continue
        places = "; ".join(item.origin for item in items)
        problem = (
            f"Field {name!r} is there {len(items)} times ({places}), expected every id once. Rename or remove one."
        )
        unique.append(replace(items[0], problem=problem))
    return unique


def one_file_twice(name: str, files: Mapping[str, Path]) -> str | None:
    """What is wrong where one file, however it is spelt, is named for two channels; None where none is.

    Args:
        name: The field's.
        files: Channel, or mask → file.
    """
    seen: dict[object, tuple[str, Path]] = {}
    for other, same in files.items():
        try:
            found = same.stat()
            identity: object = (found.st_dev, found.st_ino)
        except OSError:  # a file that is not there is reported when it is read
            identity = os.path.normpath(same)
        one, file = seen.setdefault(identity, (other, same))
        if one != other:
            return (
                f"Field {name!r} has one file for {one} and {other}: {file}"
                f"{'' if str(file) == str(same) else f' and {same}'}. Give each its own file, or leave one out."
            )
    return None
