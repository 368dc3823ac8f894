"""What a microscope's layout says of its planes.

A layout (`images.layouts`) knows how one instrument or program arranges its files. It is recognised by what lies in a
folder, and lists planes. What is the same for all of them happens in `layouts.gathered_planes`: planes become channels,
Z-stacks and fields.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from subcell_hf.errors import InputError
from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.folder_contents import FolderContent
from subcell_hf.images.listed_fields import FilePlace
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.wells import well_name

SEPARATORS = re.compile(r"[/\\]")
_REMEMBERED_SIZES = 64
_REMEMBERED_POSITIONS = 4096
"""The planes of a field have one, and most instruments count the same positions in every well."""


class ListedPlane(NamedTuple):
    """One plane of one channel, as a layout lists it.

    Attributes:
        file: Where it should lie; with page and position, where the file holds several planes.
        channel: The instrument's name of the channel.
        plate: Name of the plate; empty where nothing says it.
        well: As `A01`; empty where there are no wells.
        site: Number or name of the position in the well, as the instrument counts.
        z: Orders the planes of a stack.
        time: Orders time points.
        pixel_size_um: Edge of a pixel in micrometres, as the layout's own metadata say; None where they do not.
        stage_um: Position of the centre in micrometres (x, y), where the layout says it.
        field_name: Name of the field, where it is not made of plate, well and site.
        metadata: What else is known of the field; None: nothing. What its planes disagree on is left out.
        illumination: Illumination function that the plane is divided by.
        problem: Why the field that it belongs to cannot be used, where the metadata alone show it.
    """

    file: FilePlace
    channel: str
    plate: str = ""
    well: str = ""
    site: str = ""
    z: int = 0
    time: int = 0
    pixel_size_um: float | None = None
    stage_um: tuple[float, float] | None = None
    field_name: str = ""
    metadata: Mapping[str, str] | None = None
    illumination: FilePlace | None = None
    problem: str | None = None


@dataclass(frozen=True)
class PlaneListing:
    """What a layout knows of a plate, or of a folder whose planes it does not list plate by plate.

    Attributes:
        planes: In the order of the instrument's channels.
        plate: Name of the plate, where it is one: no other of the input may have it.
        shape: Its rows and columns, as far as known.
        pixel_size_from: What says the pixel size, such as `Index.idx.xml`.
        size_wins: Whether that is right where the image files say something else, as Harmony's do.
        left_out: File → why it is no plane on purpose: thumbnails, corrections, projections.
        problems: Name of what should have been a field → why it cannot be listed.
        prefix: Begins the names of all fields, where they lie in one file.
        remedy: What to do where files are missing.
    """

    planes: Iterable[ListedPlane] = ()
    plate: str = ""
    shape: tuple[int, int] | None = None
    pixel_size_from: str = ""
    size_wins: bool = False
    left_out: Mapping[FilePlace, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    remedy: str = "Copy the whole plate; if it is still being written, wait until it is."


@dataclass(frozen=True)
class Layout:
    """How one instrument or program arranges its files.

    Attributes:
        name: Of the instrument and its program, for people.
        recognise: From what lies in a folder to one phrase that says by what the layout was recognised; None where it
            was not.
        list_planes: From what lies in a folder that was recognised to its planes; plate by plate where it can, so that
            memory does not grow with their number. Raises `FieldError` where its metadata cannot be read.
        index_names: Patterns, in small letters, of files that represent the whole plate where a user gives one.
    """

    name: str
    recognise: Callable[[FolderContent], str | None]
    list_planes: Callable[[FolderContent, ReadingOptions], Iterable[PlaneListing]]
    index_names: tuple[str, ...] = ()


def list_plates(
    indices: Collection[Path], read: Callable[[Path], PlaneListing], *, size_from: str = "", size_wins: bool = True
) -> Iterator[PlaneListing]:
    """List the plates of several indices, one after the other.

    Args:
        indices: Files that describe one plate each.
        read: Reads one. What Python raises for values that are not there, or no numbers, is explained here.
        size_from: What says the pixel size; default: the index.
        size_wins: As `PlaneListing` says it.

    Yields:
        The plates; an index that cannot be read, as when its plate is still being written, is a problem.

    Raises:
        FieldError: If no index can be read, or two plates have one name.
    """
    owners: dict[str, Path] = {}
    first_problem, found = None, False
    parent = os.path.commonpath([index.parent for index in indices]) if indices else ""
    for index in indices:
        try:
            plate = read(index)
            plate = replace(plate, planes=list(plate.planes))
        except InputError as error:
            problem = str(error)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"
            problem = (
                f"{index} lacks what belongs there, or holds something else ({reason}). Copy or export the plate again."
            )
        else:
            if plate.plate in owners:
                raise FieldError(
                    f"Two plates are called {plate.plate!r}: {owners[plate.plate]} and {index}. Give the folder of one."
                )
            owners[plate.plate] = index
            found = found or bool(plate.planes)
            plate = replace(plate, pixel_size_from=size_from or index.name, size_wins=size_wins)
            yield plate
            del plate  # before the next one is read
            continue
        first_problem = first_problem or problem
        yield PlaneListing(problems={SEPARATORS.sub("-", os.path.relpath(index, parent)): problem})
    if first_problem and not found:
        raise FieldError(first_problem)


@lru_cache(_REMEMBERED_SIZES)
def square_pixel_um(width: float | str, height: float | str, where: object, factor: float = 1.0) -> float:
    """The edge of a pixel in micrometres.

    Args:
        width: In any unit.
        height: In the same.
        where: Names the source in messages.
        factor: Micrometres per unit.

    Raises:
        FieldError: If pixels are not square.
    """
    x, y = float(width) * factor, float(height) * factor
    if not abs(x - y) <= 0.01 * max(x, y):
        raise FieldError(f"{where}: pixels are {x:g} x {y:g} um, expected square ones. Give square images.")
    return x


@lru_cache(_REMEMBERED_POSITIONS)
def stage_position(x: str | None, y: str | None, factor: float = 1.0) -> tuple[float, float] | None:
    """Where the stage was, in micrometres; None where it is not said.

    Args:
        x: In any unit.
        y: In the same.
        factor: Micrometres per unit.
    """
    return (float(x) * factor, float(y) * factor) if x and y else None


@lru_cache(_REMEMBERED_POSITIONS)
def numbered_place(row: str, column: str, z: str | None, time: str | None) -> tuple[str, int, int]:
    """Well, Z-plane and time point by the numbers of an index, which the channels and sites of a well share.

    Args:
        row: From 1.
        column: From 1.
        z: Number of the plane; 0 where the index says none.
        time: Number of the time point; 0 where the index says none.

    Raises:
        ValueError: If one is no number, or no plate has such a well.
    """
    return well_name(int(row), int(column)), int(z or 0), int(time or 0)


def channel_labels(names: Sequence[str], count: int, options: ReadingOptions) -> tuple[list[str], str | None]:
    """What the channels of an image are called, and why they have no names where they have none.

    Args:
        names: As its metadata say them.
        count: How many channels there are.
        options: Names that the user gave come first.
    """
    given = options.channel_names or names
    if len(given) == count:
        return list(given), None
    said = f"{len(given)} channel names ({', '.join(given)})" if given else "no channel names"
    problem = (
        f"it has {count} channel{'' if count == 1 else 's'} and {said}. Give one name per channel (--channel-names), "
        "in the order of the file."
    )
    return [f"channel {number}" for number in range(count)], problem


def documents_named(content: FolderContent, *patterns: str) -> list[Path]:
    """The files of a folder that are no images and whose names, in small letters, fit a pattern."""
    return [file.path for file in content.documents if any(fnmatch(file.name.lower(), pattern) for pattern in patterns)]


def recognised_by(found: Sequence[Path]) -> str | None:
    """The phrase for `Layout.recognise`: by the first of some files."""
    return f"{found[0].name} in {found[0].parent}" if found else None
