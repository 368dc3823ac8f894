"""Planes that a layout lists → fields of view, checked against the disk.

Planes become channels, Z-stacks and fields, and what cannot be right is said for the field that it concerns.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

from subcell_hf.errors import counted
from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.image_tables.listed_files import FilesOnDisk
from subcell_hf.images.listed_fields import FilePlace, ListedField, Listing
from subcell_hf.images.plane_listing import SEPARATORS, ListedPlane, PlaneListing
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.wells import well_position

_MOST_NAMED = 3
_LARGEST_PLATE = (32, 48)

_height_of = attrgetter("z")
_place_of = itemgetter(*map(ListedPlane._fields.index, ("field_name", "plate", "well", "site", "time")))


def fields_of_planes(
    listings: Iterable[PlaneListing],
    root: Path | None,
    options: ReadingOptions,
    names: Mapping[str, Collection[str]] | None = None,
) -> Listing:
    """Gather planes into fields of view.

    A field is called `<plate>_<well>_<site>`, with `_t<time point>` where a plate, or a site of no plate, has several,
    and with `-` for the separators of paths.

    Args:
        listings: What a layout lists; no field has planes of two of them.
        root: Folder of the input; planes outside of it are refused. None: they may lie anywhere.
        options: Channels that are not asked for may be missing.
        names: Folder → the names in it, of folders that have been looked through.
    """
    disk = FilesOnDisk(root, names)
    fields: list[ListedField] = []
    unused: dict[str, str] = {}
    for listing in listings:
        fields += _fields_of_listing(listing, disk, options)
        unused |= {str(file): reason for file, reason in listing.left_out.items()}
        del listing  # before the next plate is listed
    disk.note_renamed()
    return Listing(tuple(fields), unused)


def _fields_of_listing(listing: PlaneListing, disk: FilesOnDisk, options: ReadingOptions) -> Iterator[ListedField]:
    groups: defaultdict[tuple[str, str, str, str, int], list[ListedPlane]] = defaultdict(list)
    for plane in listing.planes:
        groups[_place_of(plane)].append(plane)
    times: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for _, plate, _, site, time in groups:
        times[plate, "" if plate else site].add(time)
    for (field_name, plate, well, site, time), planes in groups.items():
        parts = (listing.prefix, plate, well, site)
        name = field_name or SEPARATORS.sub("-", "_".join([part for part in parts if part]))
        if len(times[plate, "" if plate else site]) > 1:
            name = f"{name}_t{time}" if name else f"t{time}"
        yield _field_of(name, planes, listing, disk, options)
    yield from (ListedField(name=name, problem=problem) for name, problem in listing.problems.items())


def _as_on_disk(plane: ListedPlane, disk: FilesOnDisk) -> ListedPlane:
    """A plane whose files are called as on the disk."""
    try:
        return plane._replace(
            file=disk.find(plane.file), illumination=plane.illumination and disk.find(plane.illumination)
        )
    except FieldError as error:
        return plane._replace(problem=plane.problem or str(error))


def _places_of(stack: Sequence[ListedPlane]) -> tuple[FilePlace, ...]:
    """Where the planes of one channel lie, from below."""
    return (stack[0].file,) if len(stack) == 1 else tuple([plane.file for plane in sorted(stack, key=_height_of)])


class _Gathered:
    """The planes of one field.

    Attributes:
        planes: All of them.
        columns: The same, attribute by attribute.
        channels: Our channel name → its planes.
        stacks: Our channel name → where its planes lie, from below.
        sizes_um: Different pixel sizes, in ascending order.
    """

    def __init__(self, planes: Sequence[ListedPlane], mapping: Mapping[str, str]):
        self.planes = planes
        columns: Any = ListedPlane._make(zip(*planes, strict=True))
        self.columns = columns
        self.channels: dict[str, list[ListedPlane]] = {}
        for plane in planes:
            self.channels.setdefault(mapping.get(plane.channel, plane.channel), []).append(plane)
        self.stacks = {name: _places_of(stack) for name, stack in self.channels.items()}
        self.sizes_um = sorted([size for size in {*columns.pixel_size_um} if size is not None])

    def files(self) -> list[FilePlace]:
        """Where its planes and their illumination functions lie."""
        return [*self.columns.file, *(file for file in self.columns.illumination if file is not None)]

    def illumination(self) -> dict[str, Path]:
        """Our channel name → the illumination function of its planes."""
        if not any(self.columns.illumination):
            return {}
        lights = {channel: stack[0].illumination for channel, stack in self.channels.items()}
        return {channel: light.path for channel, light in lights.items() if light is not None}


def _field_of(
    name: str, planes: Sequence[ListedPlane], listing: PlaneListing, disk: FilesOnDisk, options: ReadingOptions
) -> ListedField:
    gathered = _Gathered(planes, options.channel_mapping)
    missing = disk.missing(gathered.files())
    if missing:
        gathered = _Gathered([_as_on_disk(plane, disk) for plane in planes], options.channel_mapping)
        missing = disk.missing(gathered.files())
    first = planes[0]
    metadata = {"plate": first.plate, "well": first.well, "site": first.site}
    if first.stage_um is not None:
        metadata |= {"stage_x_um": f"{first.stage_um[0]:.6g}", "stage_y_um": f"{first.stage_um[1]:.6g}"}
    if any(gathered.columns.metadata):
        metadata = {**metadata, **_shared_metadata(planes), **metadata}
    sizes_um = gathered.sizes_um
    return ListedField(
        name=name,
        channel_planes=gathered.stacks,
        illumination=gathered.illumination(),
        metadata={key: value for key, value in metadata.items() if value},
        pixel_size_um=sizes_um[0] if sizes_um else None,
        pixel_size_from=listing.pixel_size_from if sizes_um else "",
        pixel_size_wins=listing.size_wins,
        files_missing=tuple(dict.fromkeys(map(_as_written, missing))),
        problem=next(_problems(name, gathered, missing, listing, disk, options), None),
    )


def _shared_metadata(planes: Sequence[ListedPlane]) -> Mapping[str, str]:
    """What all planes of a field say alike."""
    known = list({id(plane.metadata): plane.metadata for plane in planes if plane.metadata is not None}.values())
    first = known[0] if known else {}
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in known[1:])}


def _as_written(file: FilePlace) -> str:
    """A path, or an address that was taken for one and lost a stroke."""
    return re.sub(r"^([a-z][a-z0-9]+):/(?!/)", r"\1://", str(file))


def _problems(
    name: str,
    gathered: _Gathered,
    missing: Sequence[FilePlace],
    listing: PlaneListing,
    disk: FilesOnDisk,
    options: ReadingOptions,
) -> Iterator[str]:
    """What makes a field unusable, one sentence each."""
    planes, columns, channels, sizes = gathered.planes, gathered.columns, gathered.channels, gathered.sizes_um
    first = planes[0]
    yield from (f"Field {name!r}: {problem}" for problem in columns.problem if problem)
    if not all(map(disk.is_inside, {file.folder for file in columns.file})):
        outside = next(file for file in columns.file if not disk.is_inside(file.folder))
        yield f"Field {name!r}: {outside} lies outside of the input. Give the folder that holds the whole plate."
    shape, position = listing.shape or _LARGEST_PLATE, well_position(first.well)
    if position is not None and (position[0] > shape[0] or position[1] > shape[1]):
        yield (
            f"Field {name!r}: well {first.well} lies beyond plate {first.plate!r} of {shape[0]} rows and {shape[1]} "
            "columns. One of both is wrong: correct the metadata, or leave the well out."
        )
    if len(channels) < len(planes):
        for channel, stack in channels.items():
            yield from _problems_of_stack(name, channel, stack)
    if len({*columns.file}) < len(planes):
        yield from _files_of_two_channels(name, channels)
    if len(sizes) > 1 and sizes[-1] > 1.01 * sizes[0]:
        yield (
            f"Field {name!r}: its planes have pixel sizes of {sizes[0]:g} and {sizes[-1]:g} um, expected one. Give the "
            "true size (--pixel-size-um)."
        )
    if missing:
        asked = options.channels
        wanted = [plane for channel, stack in channels.items() if asked is None or channel in asked for plane in stack]
        files = (file for plane in wanted for file in (plane.file, plane.illumination))
        lacking = list(dict.fromkeys(file.name for file in files if file is not None and file in missing))
        if lacking:
            yield _problem_of_gaps(name, planes, lacking, missing, listing)


def _problems_of_stack(name: str, channel: str, stack: Sequence[ListedPlane]) -> Iterator[str]:
    names = {plane.channel for plane in stack}
    if len(names) > 1:
        yield f"Field {name!r}: {' and '.join(sorted(names))} are both mapped to {channel}, expected one of them."
    if len({plane.z for plane in stack}) < len(stack):
        repeated = next(plane.z for plane in stack if sum(other.z == plane.z for other in stack) > 1)
        paths = [plane.file for plane in stack if plane.z == repeated]
        differ = len({path.name for path in paths}) == len(paths)
        files = ", ".join(path.name if differ else str(path) for path in paths)
        yield f"Field {name!r} has several planes {repeated} of channel {channel}: {files}. Remove all but one."


def _files_of_two_channels(name: str, channels: Mapping[str, Sequence[ListedPlane]]) -> Iterator[str]:
    places: dict[FilePlace, str] = {}
    for channel, stack in channels.items():
        for plane in stack:
            other = places.setdefault(plane.file, channel)
            if other != channel:
                yield f"Field {name!r} has one file for {other} and {channel}: {plane.file}. Give each its own."


def _problem_of_gaps(
    name: str,
    planes: Sequence[ListedPlane],
    lacking: Sequence[str],
    missing: Collection[FilePlace],
    listing: PlaneListing,
) -> str:
    named = ", ".join(lacking[:_MOST_NAMED])
    named += ", …" if len(lacking) > _MOST_NAMED else ""
    functions = {plane.illumination for plane in planes if plane.illumination is not None}
    also = f" and {counted(len(functions), 'illumination function')}" if functions else ""
    lost = sum(file in missing for file in (*(plane.file for plane in planes), *functions))
    return (
        f"Field {name!r}: {lost} of {counted(len(planes), 'listed plane')}{also} "
        f"{'is' if lost == 1 else 'are'} not on the disk: {named}. {listing.remedy}"
    )
