"""Image files + masks + pixel size → `FieldOfView`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from subcell_hf.images.decoders.ome_zarr import is_zarr_folder
from subcell_hf.images.decoders.remote_paths import RemotePath, path_of
from subcell_hf.images.decoders.unread_formats import why_unread
from subcell_hf.images.field_source import FieldSource, channel_order
from subcell_hf.images.file_names import legible
from subcell_hf.images.files import IMAGE_SUFFIXES, FieldError, image_suffix
from subcell_hf.images.image_tables.plate_maps import describe_join, join_plate_maps, read_plate_map
from subcell_hf.images.layouts.channel_names import list_file
from subcell_hf.images.listed_fields import ListedField, refuse_duplicates
from subcell_hf.images.masks.inner_labels import with_inner_labels
from subcell_hf.images.masks.named_masks import MaskPattern, with_named_masks
from subcell_hf.images.packed.unpacking import unpacked, unpacked_dataset
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.recognition import layout_of_index, list_any, list_any_table
from subcell_hf.images.tables import (
    METADATA_FILE,
    TABLE_SUFFIXES,
    is_table,
    join_metadata,
    read_field_metadata,
    rows_without_field,
)
from subcell_hf.types import FieldOfView

__all__ = [
    "UNUSABLE",
    "FieldError",
    "FieldSource",
    "FoundFields",
    "ReadingOptions",
    "find_fields",
    "iterate_fields",
    "list_fields",
    "reason_of",
    "size_and_time",
]


UNUSABLE = (ValueError, OSError, MemoryError)
"""Errors of a field that cannot be used, while it is read, segmented and cut; other fields are processed."""


def reason_of(error: BaseException) -> str:
    """The message of an error of `UNUSABLE`."""
    if isinstance(error, MemoryError):
        return f"It needs more memory than there is ({error or 'out of memory'}). Cut the image into tiles."
    return str(error)


def size_and_time(path: Path) -> tuple[int, ...]:
    """Bytes and time of the last change of a file; nothing where it is not there."""
    try:
        found = path.stat()
    except OSError:  # reported when it is read
        return ()
    return found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class FoundFields:
    """What an input holds, before a pixel is read.

    Attributes:
        fields: Fields of view sorted by name. One that is found to be wrong is there too, and its `read` raises.
        unused: Image-like file or folder → why it belongs to no field; a table of metadata → which of its rows do not.
        layout: What the input was recognised as.
        recognised_by: By what.
    """

    fields: tuple[FieldSource, ...]
    unused: Mapping[str, str]
    layout: str = ""
    recognised_by: str = ""


def find_fields(source: str | Path, options: ReadingOptions | None = None) -> list[FieldSource]:
    """List the fields of view of a folder, a table or a file, without reading pixels.

    Args:
        source: As for `list_fields`.
        options: How the images are to be read.

    Returns:
        The fields of `list_fields`, in order.
    """
    return list(list_fields(source, options).fields)


def list_fields(source: str | Path, options: ReadingOptions | None = None) -> FoundFields:
    """List the fields of view of a folder, a table or a file, without reading pixels.

    Args:
        source: A folder of files named `<plate>_<well>_<sample>_<colour>.<png|jpg|tif|tif.gz>`; a folder of
            multi-channel images; one multi-channel image (TIFF, OME-TIFF, OME-Zarr, .npy); an OME-Zarr plate or well,
            on a disk or behind `https://` or `s3://`; a SpatialData store; a CSV with one row per field, as in
            SubCellPortable; an archive of any of these, or a dataset of Hugging Face with columns of images, which are
            unpacked first (see `images.packed`). Folders are searched to any depth; where two of them hold fields of
            one name, every field is named with its folder, such as `plate1/A1_1`. Files and plates that hold several
            images give one field for each, see `images.positions`.
        options: How to read what is found.

    Returns:
        Fields, and the images that are not used.

    Raises:
        FieldError: If the source does not exist, holds no image, or a table is wrong.
        InputError: If a plate map is wrong, or says nothing of any well.
    """
    options, source = options or ReadingOptions(), path_of(source)
    if legible(str(source)) != str(source):
        raise FieldError(f"The name {legible(str(source))} is not UTF-8, expected one that is. Rename it.")
    if not source.exists():
        raise FieldError(f"{source} does not exist, expected a folder of images, an image or a CSV table.")
    source = unpacked(source)
    _refuse_meaningless(source, options)
    table = options.metadata
    is_image = is_zarr_folder(source) or (image_suffix(source) is not None and not isinstance(source, RemotePath))
    if isinstance(source, RemotePath) and not is_image:
        raise FieldError(f"{source} is no OME-Zarr: there are no attributes of a group. Give the URL of one.")
    if source.is_dir() and not is_image:
        listing = list_any(source, options)
        if table is None and (source / METADATA_FILE).is_file():
            table = source / METADATA_FILE
    elif layout_of_index(source) is not None:
        listing = list_any(source.parent, options, source)
    elif is_table(source):
        listing = list_any_table(source, options)
    elif is_image:
        listing = list_file(source, options)
    elif (reason := why_unread(source.name)) is not None:
        raise FieldError(f"{source} cannot be read: {reason}.")
    else:
        raise FieldError(
            f"{source} is neither a folder nor a table ({', '.join(TABLE_SUFFIXES)}) nor an image "
            f"({', '.join(IMAGE_SUFFIXES)}, .zarr)."
        )
    if not listing.fields and source.is_dir() and (folder := unpacked_dataset(source)) is not None:
        return list_fields(folder, options)
    if not listing.fields:
        others = [f" Not used: {file}: {reason}." for file, reason in (*listing.unused.items(), *_unread_in(source))]
        raise FieldError(
            f"{source} holds no image, expected files such as 800_A1_1_green.png ({', '.join(IMAGE_SUFFIXES)})."
            + "".join(others[:1])
        )
    listing = with_inner_labels(listing, options.labels)
    checked = _demand_channels(refuse_duplicates(listing.fields), options)
    unused = dict(listing.unused)
    if table is not None:
        rows = read_field_metadata(table)
        names = Counter(item.plain_name for item in checked)
        every = (name for item in checked for name in (item.name, item.name_with_folder, item.plain_name))
        unused |= rows_without_field(table, rows, every)
        checked = [_with_metadata(item, names[item.plain_name] == 1, rows, table) for item in checked]
    if options.plate_maps:
        checked, said = _with_plate_maps(checked, options.plate_maps)
        unused |= said
    if options.masks is not None:
        checked, unused = with_named_masks(checked, unused, MaskPattern(options.masks), source)
    sources = (FieldSource(item, options) for item in sorted(checked, key=lambda item: item.name))
    return FoundFields(tuple(sources), unused, listing.layout, listing.recognised_by)


def _unread_in(source: Path) -> list[tuple[Path, str]]:
    """The first file of a folder without images that is of a known kind."""
    files = sorted(source.rglob("*")) if source.is_dir() and not isinstance(source, RemotePath) else []
    return [(path, reason) for path in files if (reason := why_unread(path.name))][:1]


def iterate_fields(source: str | Path, options: ReadingOptions | None = None) -> Iterator[FieldOfView]:
    """Read the fields of view of a source one after the other; see `find_fields`.

    Yields:
        One field after the other.

    Raises:
        FieldError: At the first field that cannot be used.
    """
    for found in find_fields(source, options):
        yield found.read()


def _refuse_meaningless(source: Path, options: ReadingOptions) -> None:
    """An option that would be ignored is a mistake."""
    if (options.path_mapping or options.illumination) and not is_table(source):
        raise FieldError(
            f"{source} is no table: --path-mapping and --illumination are for tables that list images. Leave them out, "
            "or give the table."
        )
    if options.pattern is not None and not source.is_dir():
        raise FieldError(f"{source} is no folder: --pattern is for the names of files in one. Leave it out.")
    if options.masks is not None and options.labels is not None:
        raise FieldError("--masks and --labels both choose the masks of every field. Leave one of them out.")


def _demand_channels(listed: list[ListedField], options: ReadingOptions) -> list[ListedField]:
    """Mark fields that lack a channel file that the others have, or that was asked for."""
    present = {name for item in listed for name in item.channel_planes}
    wanted = options.channels or tuple(sorted(sorted(present), key=channel_order))
    checked = []
    for item in listed:
        missing = [name for name in wanted if name not in item.channel_planes]
        if item.problem or item.stack_file is not None or not missing:
            checked.append(item)
            continue
        problem = (
            f"Field {item.name!r}: channel {missing[0]} is missing: found {', '.join(item.channel_planes) or 'none'}, "
            f"expected {', '.join(wanted)}. Add its file, or choose fewer channels (a smaller --model, or --channels)."
        )
        checked.append(replace(item, problem=problem))
    return checked


def _with_plate_maps(listed: list[ListedField], paths: Sequence[Path]) -> tuple[list[ListedField], dict[str, str]]:
    """Join what plate maps say of the wells, and say of which wells and rows there is no other."""
    maps = [read_plate_map(path) for path in paths]
    joined = []
    for item in listed:
        plate, well = item.metadata.get("plate", ""), item.metadata.get("well", "")
        problem = item.problem
        known = join_plate_maps(maps, plate, well)
        differing = next((name for name, value in known.items() if item.metadata.get(name, value) != value), None)
        if differing is not None:
            problem = problem or (
                f"Field {item.name!r}: its metadata say {item.metadata[differing]!r} of {differing}, the plate map "
                f"{known[differing]!r}. Correct one of them."
            )
        joined.append(replace(item, metadata={**known, **item.metadata}, problem=problem))
    placed = [item.metadata for item in joined if item.metadata.get("well")]
    return joined, describe_join(maps, [(known.get("plate", ""), known["well"]) for known in placed])


def _with_metadata(
    item: ListedField, is_only_one: bool, rows: dict[str, list[dict[str, str]]], table: Path
) -> ListedField:
    """Join a field's row, found by its name, with or without its folder."""
    if item.problem:
        return item
    names = dict.fromkeys((item.name, item.name_with_folder, *([item.plain_name] if is_only_one else [])))
    try:
        return replace(item, metadata=join_metadata(tuple(names), item.metadata, rows, table))
    except FieldError as error:
        return replace(item, problem=str(error))
