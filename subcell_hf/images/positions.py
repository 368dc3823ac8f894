"""The fields of view of one file or folder: one, or one per position, scene, well, series or time point."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.decoders.ome_zarr import is_zarr_folder
from subcell_hf.images.decoders.stored_images import STORED_SUFFIXES, StoredImage, list_stored_images
from subcell_hf.images.decoders.tiff import Position
from subcell_hf.images.files import image_positions
from subcell_hf.images.layouts.gathered_planes import fields_of_planes
from subcell_hf.images.layouts.ome_zarr import list_zarr_images
from subcell_hf.images.listed_fields import FilePlace, ListedField
from subcell_hf.images.plane_listing import ListedPlane, PlaneListing, channel_labels
from subcell_hf.images.reading_options import ReadingOptions

_NO_FOLDERS = str.maketrans("/\\", "__")


def list_positions(path: Path, stem: str, options: ReadingOptions) -> list[ListedField]:
    """The images of a file or an OME-Zarr folder as fields of view, named so that they stay apart.

    Positions of a TIFF are called `<stem>_0`, `<stem>_1` and so on, or `<plate>_<well>_<site>` where its OME-XML lists
    a plate, with `_t<time point>` where there are several, as are the series of an OME-Zarr that was converted from
    such a file; images of an OME-Zarr plate `<stem>_<well>_<site>`. Scenes, positions and series of CZI, LIF and ND2
    are called `<stem>_<well>_<site>` or `<stem>_<name>`, with `_t<time point>` where there are several. What cannot be
    read is one field; reading it says why.

    Args:
        path: The file or folder.
        stem: Its name without the suffix.
        options: Names of channels, where the file does not say them.
    """
    if is_zarr_folder(path):
        return [
            ListedField(name=image.name, stack_file=image.path, metadata=image.metadata)
            for image in list_zarr_images(path, stem)
        ]
    if path.suffix.lower() in STORED_SUFFIXES:
        return _list_stored(path, stem, options)
    positions = image_positions(path)
    if not positions:
        return [ListedField(name=stem, stack_file=path)]
    if len(positions) == 1:
        only = replace(_field_of_position(positions[0], 0, path, stem), name=stem, problem=None)
        return _time_points(only, positions[0], options)
    fields = [_field_of_position(position, index, path, stem) for index, position in enumerate(positions)]
    return [
        field
        for item, position in zip(fields, positions, strict=True)
        for field in _time_points(item, position, options)
    ]


def _field_of_position(position: Position, index: int, path: Path, stem: str) -> ListedField:
    place = {} if position.sample is None else asdict(position.sample)
    return ListedField(
        name="_".join(place.values()) if place else f"{stem}_{index}",
        stack_file=path,
        stack_position=position.number,
        metadata=place,
        problem=position.problem and f"{path}, image {position.number}: {position.problem}",
    )


def _time_points(item: ListedField, position: Position, options: ReadingOptions) -> list[ListedField]:
    """One field for each time point. Where there is no channel beside them, some writers call channels time points."""
    if position.times == 1 or (position.channels == 1 and len(options.channel_names) != 1):
        return [item]
    return [replace(item, name=f"{item.name}_t{time}", stack_time=time) for time in range(position.times)]


def _list_stored(path: Path, stem: str, options: ReadingOptions) -> list[ListedField]:
    try:
        images = list_stored_images(path)
    except FieldError as error:
        return [ListedField(name=stem, stack_file=path, problem=f"Field {stem!r}: {error}")]
    planes: list[ListedPlane] = []
    place = FilePlace.of(path)
    for image, site in zip(images, _sites(images), strict=True):
        names, nameless = channel_labels(image.metadata.channel_names, image.channels, options)
        is_given = options.pixel_size_um is not None
        problem = image.problem or nameless or (None if is_given else image.metadata.pixel_size_problem)
        first = len(planes)
        planes += [
            ListedPlane(
                file=place._replace(page=first + number),
                channel=names[channel],
                well=image.well,
                site=site,
                z=z,
                time=time,
                pixel_size_um=image.metadata.pixel_size_um,
                stage_um=image.stage_um,
                problem=f"{path}: {problem}" if problem else None,
            )
            for number, (time, z, channel) in enumerate(image.places())
        ]
    listing = PlaneListing(planes, pixel_size_from=path.name, size_wins=True, prefix=stem)
    return list(fields_of_planes([listing], path.parent, options).fields)


def _sites(images: Sequence[StoredImage]) -> list[str]:
    """What images are called: numbers within their wells, names where these differ, else numbers in the file."""
    if len(images) == 1 and not images[0].well:
        return [""]
    if all(image.well for image in images):
        seen = Counter[str]()
        sites = []
        for image in images:
            seen[image.well] += 1
            sites.append(str(seen[image.well]))
        return sites
    names = [image.name.translate(_NO_FOLDERS) for image in images]
    return names if all(names) and len(set(names)) == len(names) else [str(image.number) for image in images]
