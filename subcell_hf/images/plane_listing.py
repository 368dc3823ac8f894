"""What a microscope's layout says of its planes → fields of view, checked against the disk.

A layout (`images.layouts`) knows how one instrument or program arranges its files. It is recognised by what lies in a
folder, and lists planes; everything that is the same for all of them happens here: planes become channels, Z-stacks
and fields, and what cannot be right is said for the field that it concerns.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path

from subcell_hf.errors import InputError, counted
from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.folder_contents import FolderContent
from subcell_hf.images.image_tables.listed_files import FilesOnDisk
from subcell_hf.images.listed_fields import ListedField, Listing, PlaneFile
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.wells import well_position

_MOST_NAMED = 3
_LARGEST_PLATE = (32, 48)
_SEPARATORS = re.compile(r"[/\\]")


@dataclass(frozen=True, slots=True)
class ListedPlane:
    """One plane of one channel, as a layout lists it.

    Attributes:
        file: Where it should lie.
        channel: The instrument's name of the channel.
        plate: Name of the plate; empty where nothing says it.
        well: As `A01`; empty where there are no wells.
        site: Number or name of the position in the well, as the instrument counts.
        z: Orders the planes of a stack.
        time: Orders time points.
        page: Which page of a TIFF, where it holds several planes.
        pixel_size_um: Edge of a pixel in micrometres, as the layout's own metadata say; None where they do not.
        stage_um: Position of the centre in micrometres (x, y), where the layout says it.
        position: Which image of the file, where it holds several; `page` then counts within it.
        field_name: Name of the field, where it is not made of plate, well and site.
        metadata: What else is known of the field; None: nothing. What its planes disagree on is left out.
        illumination: Illumination function that the plane is divided by.
        problem: Why the field that it belongs to cannot be used, where the metadata alone show it.
    """

    file: Path
    channel: str
    plate: str = ""
    well: str = ""
    site: str = ""
    z: int = 0
    time: int = 0
    page: int | None = None
    pixel_size_um: float | None = None
    stage_um: tuple[float, float] | None = None
    position: int | None = None
    field_name: str = ""
    metadata: Mapping[str, str] | None = None
    illumination: Path | None = None
    problem: str | None = None


@dataclass(frozen=True)
class PlaneListing:
    """What a layout knows of a folder.

    Attributes:
        planes: In the order of the instrument's channels.
        pixel_size_from: What says the pixel size, such as `Index.idx.xml`.
        size_wins: Whether that is right where the image files say something else, as Harmony's do.
        shapes: Plate → its rows and columns, as far as known.
        left_out: File → why it is no plane on purpose: thumbnails, corrections, projections.
        problems: Name of what should have been a field → why it cannot be listed.
        prefix: Begins the names of all fields, where they lie in one file.
        remedy: What to do where files are missing.
    """

    planes: Iterable[ListedPlane]
    pixel_size_from: str = ""
    size_wins: bool = False
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    left_out: Mapping[Path, str] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    remedy: str = "Copy the whole plate; if it is still being written, wait until it is."


@dataclass(frozen=True)
class ListedPlate:
    """What one index says.

    Attributes:
        name: Of the plate.
        planes: In the order of the instrument's channels.
        shape: Its rows and columns, as far as known.
    """

    name: str
    planes: Iterable[ListedPlane]
    shape: tuple[int, int] | None = None


@dataclass(frozen=True)
class Layout:
    """How one instrument or program arranges its files.

    Attributes:
        name: Of the instrument and its program, for people.
        recognise: From what lies in a folder to one phrase that says by what the layout was recognised; None where it
            was not.
        list_planes: From what lies in a folder that was recognised to its planes. Raises `FieldError` where its
            metadata cannot be read.
        index_names: Patterns, in small letters, of files that represent the whole plate where a user gives one.
    """

    name: str
    recognise: Callable[[FolderContent], str | None]
    list_planes: Callable[[FolderContent, ReadingOptions], PlaneListing]
    index_names: tuple[str, ...] = ()


def list_plates(
    indices: Iterable[Path], read: Callable[[Path], ListedPlate], *, size_from: str = "", size_wins: bool = True
) -> PlaneListing:
    """List the plates of several indices.

    Args:
        indices: Files that describe one plate each.
        read: Reads one. What Python raises for values that are not there, or no numbers, is explained here.
        size_from: What says the pixel size; default: the index.
        size_wins: As `PlaneListing` says it.

    Returns:
        The planes of all plates; an index that cannot be read, as when its plate is still being written, is a problem.

    Raises:
        FieldError: If no index can be read, or two plates have one name.
    """
    planes: list[ListedPlane] = []
    shapes: dict[str, tuple[int, int]] = {}
    owners: dict[str, Path] = {}
    problems: dict[Path, str] = {}
    for index in indices:
        try:
            plate = read(index)
            listed = list(plate.planes)
        except InputError as error:
            problems[index] = str(error)
            continue
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"
            problems[index] = (
                f"{index} lacks what belongs there, or holds something else ({reason}). Copy or export the plate again."
            )
            continue
        if plate.name in owners:
            raise FieldError(
                f"Two plates are called {plate.name!r}: {owners[plate.name]} and {index}. Give the folder of one."
            )
        owners[plate.name] = index
        if plate.shape is not None:
            shapes[plate.name] = plate.shape
        planes += listed
    if problems and not planes:
        raise FieldError(next(iter(problems.values())))
    source = size_from or " and ".join(sorted({path.name for path in owners.values()}))
    parent = os.path.commonpath([path.parent for path in (*owners.values(), *problems)])
    named = {_SEPARATORS.sub("-", os.path.relpath(path, parent)): problem for path, problem in problems.items()}
    return PlaneListing(planes, pixel_size_from=source, size_wins=size_wins, shapes=shapes, problems=named)


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
    return [path for path in content.documents if any(fnmatch(path.name.lower(), pattern) for pattern in patterns)]


def recognised_by(found: Sequence[Path]) -> str | None:
    """The phrase for `Layout.recognise`: by the first of some files."""
    return f"{found[0].name} in {found[0].parent}" if found else None


def fields_of_planes(listing: PlaneListing, root: Path | None, options: ReadingOptions) -> Listing:
    """Gather planes into fields of view.

    A field is called `<plate>_<well>_<site>`, with `_t<time point>` where a plate, or a site of no plate, has several,
    and with `-` for the separators of paths.

    Args:
        listing: What a layout lists.
        root: Folder of the input; planes outside of it are refused. None: they may lie anywhere.
        options: Channels that are not asked for may be missing.
    """
    groups: dict[tuple[str, str, str, str, int], list[ListedPlane]] = {}
    times: dict[tuple[str, str], set[int]] = {}
    for plane in listing.planes:
        groups.setdefault((plane.field_name, plane.plate, plane.well, plane.site, plane.time), []).append(plane)
        times.setdefault(_series_of(plane), set()).add(plane.time)
    on_disk = FilesOnDisk(root)
    fields = []
    for (field_name, plate, well, site, _), planes in groups.items():
        suffix = f"t{planes[0].time}" if len(times[_series_of(planes[0])]) > 1 else ""
        parts = (
            (field_name,)
            if field_name
            else [_SEPARATORS.sub("-", part) for part in (listing.prefix, plate, well, site)]
        )
        name = "_".join(part for part in (*parts, suffix) if part)
        here = [_as_on_disk(plane, on_disk) for plane in planes]
        fields.append(_field_of(name, here, listing, on_disk, options))
    on_disk.note_renamed()
    fields += [ListedField(name=name, problem=problem) for name, problem in listing.problems.items()]
    return Listing(tuple(fields), {str(path): reason for path, reason in listing.left_out.items()})


def _series_of(plane: ListedPlane) -> tuple[str, str]:
    return plane.plate, "" if plane.plate else plane.site


def _as_on_disk(plane: ListedPlane, disk: FilesOnDisk) -> ListedPlane:
    """A plane whose files are called as on the disk."""
    file, light = plane.file, plane.illumination
    if disk.holds(file) and (light is None or disk.holds(light)):
        return plane
    try:
        return replace(plane, file=disk.find(file), illumination=light and disk.find(light))
    except FieldError as error:
        return replace(plane, problem=plane.problem or str(error))


def _field_of(
    name: str, planes: Sequence[ListedPlane], listing: PlaneListing, disk: FilesOnDisk, options: ReadingOptions
) -> ListedField:
    first = planes[0]
    channels: dict[str, list[ListedPlane]] = {}
    for plane in planes:
        channels.setdefault(_mapped(plane.channel, options), []).append(plane)
    needed = dict.fromkeys(file for plane in planes for file in (plane.file, plane.illumination) if file is not None)
    missing = [file for file in needed if not disk.holds(file)]
    metadata = {"plate": first.plate, "well": first.well, "site": first.site}
    if first.stage_um is not None:
        metadata |= {"stage_x_um": f"{first.stage_um[0]:.6g}", "stage_y_um": f"{first.stage_um[1]:.6g}"}
    sizes = sorted({plane.pixel_size_um for plane in planes if plane.pixel_size_um is not None})
    wanted = [channel for channel in channels if options.channels is None or channel in options.channels]
    problem = next(_problems(name, channels, wanted, bool(missing), sizes, listing, disk), None)
    return ListedField(
        name=name,
        channel_planes={
            channel: tuple(
                PlaneFile(plane.file, plane.page, plane.position) for plane in sorted(stack, key=lambda plane: plane.z)
            )
            for channel, stack in channels.items()
        },
        illumination={
            channel: stack[0].illumination for channel, stack in channels.items() if stack[0].illumination is not None
        },
        metadata={key: value for key, value in {**metadata, **_shared_metadata(planes), **metadata}.items() if value},
        pixel_size_um=sizes[0] if sizes else None,
        pixel_size_from=listing.pixel_size_from if sizes else "",
        pixel_size_wins=listing.size_wins,
        files_missing=tuple(_as_written(path) for path in missing),
        problem=problem,
    )


def _shared_metadata(planes: Sequence[ListedPlane]) -> dict[str, str]:
    """What all planes of a field say alike."""
    known = list({id(plane.metadata): plane.metadata for plane in planes if plane.metadata is not None}.values())
    first = known[0] if known else {}
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in known[1:])}


def _as_written(path: Path) -> str:
    """A path, or an address that was taken for one and lost a stroke."""
    return re.sub(r"^([a-z][a-z0-9]+):/(?!/)", r"\1://", str(path))


def _mapped(channel: str, options: ReadingOptions) -> str:
    return options.channel_mapping.get(channel, channel)


def _problems(
    name: str,
    channels: Mapping[str, Sequence[ListedPlane]],
    wanted: Iterable[str],
    has_gaps: bool,
    sizes: Sequence[float],
    listing: PlaneListing,
    disk: FilesOnDisk,
) -> Iterator[str]:
    """What makes a field unusable, one sentence each."""
    planes = [plane for stack in channels.values() for plane in stack]
    first = planes[0]
    yield from (f"Field {name!r}: {plane.problem}" for plane in planes if plane.problem)
    outside = next((plane.file for plane in planes if not disk.is_inside(plane.file)), None)
    if outside is not None:
        yield f"Field {name!r}: {outside} lies outside of the input. Give the folder that holds the whole plate."
    shape, position = listing.shapes.get(first.plate, _LARGEST_PLATE), well_position(first.well)
    if position is not None and (position[0] > shape[0] or position[1] > shape[1]):
        yield (
            f"Field {name!r}: well {first.well} lies beyond plate {first.plate!r} of {shape[0]} rows and {shape[1]} "
            "columns. One of both is wrong: correct the metadata, or leave the well out."
        )
    for channel, stack in channels.items():
        names = {plane.channel for plane in stack}
        if len(names) > 1:
            yield f"Field {name!r}: {' and '.join(sorted(names))} are both mapped to {channel}, expected one of them."
        if len({plane.z for plane in stack}) < len(stack):
            repeated = next(plane.z for plane in stack if sum(other.z == plane.z for other in stack) > 1)
            paths = [plane.file for plane in stack if plane.z == repeated]
            differ = len({path.name for path in paths}) == len(paths)
            files = ", ".join(path.name if differ else str(path) for path in paths)
            yield f"Field {name!r} has several planes {repeated} of channel {channel}: {files}. Remove all but one."
    places: dict[tuple[Path, int | None, int | None], str] = {}
    for channel, stack in channels.items():
        for plane in stack:
            other = places.setdefault((plane.file, plane.page, plane.position), channel)
            if other != channel:
                yield f"Field {name!r} has one file for {other} and {channel}: {plane.file}. Give each its own."
    if len(sizes) > 1 and sizes[-1] > 1.01 * sizes[0]:
        yield (
            f"Field {name!r}: its planes have pixel sizes of {sizes[0]:g} and {sizes[-1]:g} um, expected one. Give the "
            "true size (--pixel-size-um)."
        )
    lacking = dict.fromkeys(
        file
        for channel in (wanted if has_gaps else ())
        for plane in channels[channel]
        for file in (plane.file, plane.illumination)
        if file is not None and not disk.holds(file)
    )
    if lacking:
        named = ", ".join(path.name for path in list(lacking)[:_MOST_NAMED])
        named += ", …" if len(lacking) > _MOST_NAMED else ""
        functions = {plane.illumination for plane in planes if plane.illumination is not None}
        also = f" and {counted(len(functions), 'illumination function')}" if functions else ""
        lost = sum(not disk.holds(file) for file in (*(plane.file for plane in planes), *functions))
        yield (
            f"Field {name!r}: {lost} of {counted(len(planes), 'listed plane')}{also} "
            f"{'is' if lost == 1 else 'are'} not on the disk: {named}. {listing.remedy}"
        )
