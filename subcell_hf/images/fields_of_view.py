"""Image files + masks + pixel size → `FieldOfView`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from subcell_hf.images.decoders.file_metadata import (
    MAX_PIXEL_SIZE_UM,
    MIN_PIXEL_SIZE_UM,
    ImageMetadata,
    is_sane_pixel_size,
)
from subcell_hf.images.decoders.ome_zarr import is_zarr_folder
from subcell_hf.images.file_names import legible
from subcell_hf.images.files import IMAGE_SUFFIXES, FieldError, Image, image_suffix, read_image
from subcell_hf.images.layouts.channel_names import list_file, list_folder
from subcell_hf.images.layouts.field_tables import list_table
from subcell_hf.images.listed_fields import ListedField, Listing, refuse_duplicates
from subcell_hf.images.masks.inner_labels import with_inner_labels
from subcell_hf.images.masks.instances import check_instances
from subcell_hf.images.metadata_columns import keep_apart
from subcell_hf.images.planes import (
    channel_stack,
    check_intensities,
    check_label_mask,
    single_plane,
    stack_planes,
)
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.tables import METADATA_FILE, join_metadata, read_field_metadata, rows_without_field
from subcell_hf.ontology import CHANNEL_STAINS, PROTEIN_CHANNEL
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
"""What a field that cannot be used may raise while it is read, segmented and cut: the others go on without it."""


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
class FieldSource:
    """A field of view that has been found and not yet read.

    Attributes:
        listed: Name, files and metadata.
        options: How to read them.
    """

    listed: ListedField
    options: ReadingOptions

    @property
    def name(self) -> str:
        """The field's unique id."""
        return self.listed.name

    @property
    def metadata(self) -> Mapping[str, str]:
        """Everything known of the field without reading an image, under names that no table of ours writes itself."""
        return keep_apart(self.listed.metadata)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that `read` opens."""
        return self.listed.files

    def read(self) -> FieldOfView:
        """Read the field's images and mask.

        Raises:
            FieldError: If anything about them is wrong: see `images.files` and `images.planes`.
        """
        if self.listed.problem:
            raise FieldError(self.listed.problem)
        try:
            pixels, channels, said_by_files = self._read_channels()
            size_um, size_from = self._pixel_size(said_by_files)
            mask = None
            if self.listed.mask_file is not None:
                image = read_image(self.listed.mask_file, self.options.max_decoded_bytes)
                mask = check_label_mask(image, pixels.shape[1:])
            field = FieldOfView(self.name, pixels, channels, size_um, mask, dict(self.metadata), size_from)
            if not self.options.trust_masks:
                check_instances(field, f"label mask {self.listed.mask_file}")
        except FieldError as error:
            raise FieldError(f"Field {self.name!r}: {error}") from error
        return field

    def _read_channels(self) -> tuple[npt.NDArray[Any], tuple[str, ...], list[ImageMetadata]]:
        """Pixels, their channels, and what the files say of themselves."""
        limit, projection = self.options.max_decoded_bytes, self.options.z_projection
        if self.listed.stack_file is not None:
            image = read_image(self.listed.stack_file, limit, self.listed.stack_position)
            stack = channel_stack(image, projection, len(self.options.channel_names))
            planes = dict(zip(self._stack_channels(image, len(stack)), stack, strict=True))
            said_by_files = [image.metadata]
        else:
            images = {name: read_image(path, limit) for name, path in self.listed.channel_files.items()}
            # Whoever maps a name says what its picture shows.
            mapped = {ours for name, ours in self.options.channel_mapping.items() if name != ours}
            planes = {
                name: single_plane(image, projection, None if name in mapped else name)
                for name, image in images.items()
            }
            said_by_files = [image.metadata for image in images.values()]
        wanted = self.options.channels or tuple(sorted(planes, key=_channel_order))
        missing = [name for name in wanted if name not in planes]
        if missing:
            raise FieldError(
                f"channel {missing[0]} is missing: found {', '.join(planes)}, expected {', '.join(wanted)}. Add its "
                "file, map another name to it (--channel-mapping), or choose fewer channels (a smaller --model, or "
                "--channels)."
            )
        pixels = stack_planes({name: check_intensities(planes[name], f"channel {name}") for name in wanted})
        if all(plane.min() == plane.max() for plane in pixels):
            raise FieldError("every channel is constant, expected at least one with signal. Take the field again.")
        return pixels, wanted, said_by_files

    def _stack_channels(self, image: Image, count: int) -> list[str]:
        """Our names of the planes of a multi-channel file."""
        names = self.options.channel_names or image.metadata.channel_names
        if count == 1 and not names:
            raise FieldError(
                f"{image.path} has one channel, and nothing says which. If each channel of a field has a file of its "
                "own, name the files <field of view>_<channel>, such as A1_1_blue.tif, or map your names of channels "
                "(--channel-mapping DAPI=blue, once for each); if there is only this one, give its name "
                "(--channel-names)."
            )
        if len(names) != count:
            given = f"{len(names)} channel names ({', '.join(names)})" if names else "no channel names"
            raise FieldError(
                f"{image.path} has {count} channel{'' if count == 1 else 's'} (shape {image.pixels.shape}, axes "
                f"{image.axes}) and {given}. Give one name per channel (--channel-names), in the order of the file, "
                "such as "
                f"{','.join(CHANNEL_STAINS)}."
            )
        mapped = [_mapped(name, self.options.channel_mapping) for name in names]
        repeated = {name for name in mapped if mapped.count(name) > 1}
        if repeated:
            raise FieldError(
                f"{image.path}: channels {', '.join(names)} include {sorted(repeated)[0]!r} more than once."
            )
        return mapped

    def _pixel_size(self, said_by_files: Sequence[ImageMetadata]) -> tuple[float, str]:
        """Edge of a pixel in micrometres, and where it comes from."""
        said = self.metadata.get("pixel_size_um")
        try:
            stated = float(said) if said else None
        except ValueError as error:
            raise FieldError(f"pixel_size_um is {said!r} in the metadata, expected one such as 0.08.") from error
        is_given = self.options.pixel_size_um is not None or stated is not None
        measured_um = None if is_given else _one_pixel_size(said_by_files)
        sizes = {"option": self.options.pixel_size_um, "metadata": stated, "file": measured_um}
        for source, size in (*sizes.items(), (self.listed.default_pixel_size_from, self.listed.default_pixel_size_um)):
            if size is None:
                continue
            if not is_sane_pixel_size(size):
                raise FieldError(
                    f"pixel size is {size} um, expected {MIN_PIXEL_SIZE_UM} to {MAX_PIXEL_SIZE_UM} um. Give the true "
                    "size in micrometres (--pixel-size-um, or a metadata column pixel_size_um)."
                )
            return size, source
        raise FieldError(
            "pixel size is unknown: neither its files nor its metadata say it, and they are not named as the Human "
            "Protein Atlas names its own, such as 800_A6_1_green. Give it in micrometres (--pixel-size-um, or a "
            "metadata column pixel_size_um)."
        )


def _channel_order(name: str) -> int:
    """Sort key: microtubules, ER, nucleus as SubCell stacks them, then others as they come, the protein last."""
    known = list(CHANNEL_STAINS)
    if name == PROTEIN_CHANNEL:
        return len(known) + 1
    return known.index(name) if name in known else len(known)


def _mapped(name: str, channel_mapping: Mapping[str, str]) -> str:
    """Our name of a channel: as mapped, else as it stands, colours in any case."""
    if name in channel_mapping:
        return channel_mapping[name]
    return name.lower() if name.lower() in CHANNEL_STAINS else name


def _one_pixel_size(said_by_files: Sequence[ImageMetadata]) -> float | None:
    """The pixel size on which the files of a field agree; None where they say nothing."""
    for metadata in said_by_files:
        if metadata.pixel_size_problem is not None:
            raise FieldError(
                f"{metadata.pixel_size_problem}. Give the true size in micrometres (--pixel-size-um, or a metadata "
                "column pixel_size_um)."
            )
    sizes = [metadata.pixel_size_um for metadata in said_by_files if metadata.pixel_size_um is not None]
    if sizes and max(sizes) > 1.01 * min(sizes):
        raise FieldError(
            f"channels differ in pixel size: {sizes} um, expected one. Give the true size (--pixel-size-um)."
        )
    return sizes[0] if sizes else None


@dataclass(frozen=True)
class FoundFields:
    """What an input holds, before a pixel is read.

    Attributes:
        fields: Fields of view sorted by name. One that is found to be wrong is there too, and its `read` raises.
        unused: Image-like file or folder → why it belongs to no field; a table of metadata → which of its rows do not.
    """

    fields: tuple[FieldSource, ...]
    unused: Mapping[str, str]


def find_fields(source: Path, options: ReadingOptions | None = None) -> list[FieldSource]:
    """The fields of `list_fields`."""
    return list(list_fields(source, options).fields)


def list_fields(source: Path, options: ReadingOptions | None = None) -> FoundFields:
    """List the fields of view of a folder, a table or a file, without reading pixels.

    Args:
        source: A folder of files named `<plate>_<well>_<sample>_<colour>.<png|jpg|tif|tif.gz>`; a folder of
            multi-channel images; one multi-channel image (TIFF, OME-TIFF, OME-Zarr, .npy); an OME-Zarr plate or well;
            or a CSV with one row per field, as in SubCellPortable. Folders are searched to any depth; where two of them
            hold fields of one name, every field is named with its folder, such as `plate1/A1_1`. Files and plates that
            hold several images give one field for each, see `images.positions`.
        options: How to read what is found.

    Returns:
        Fields, and the images that are not used.

    Raises:
        FieldError: If the source does not exist, holds no image, or a table is wrong.
    """
    options = options or ReadingOptions()
    if legible(str(source)) != str(source):
        raise FieldError(f"The name {legible(str(source))} is not UTF-8, expected one that is. Rename it.")
    if not source.exists():
        raise FieldError(f"{source} does not exist, expected a folder of images, an image or a CSV table.")
    table = options.metadata
    is_image = image_suffix(source) is not None or is_zarr_folder(source)
    if source.is_dir() and not is_image:
        listing = list_folder(source, options.channel_mapping, options.channels)
        if table is None and (source / METADATA_FILE).is_file():
            table = source / METADATA_FILE
    elif source.suffix.lower() == ".csv":
        listing = Listing(tuple(list_table(source, options.channel_mapping)))
    elif is_image:
        listing = list_file(source)
    else:
        raise FieldError(
            f"{source} is neither a folder nor a .csv table nor an image ({', '.join(IMAGE_SUFFIXES)}, .zarr)."
        )
    if not listing.fields:
        others = [f" Not used: {file}: {reason}." for file, reason in listing.unused.items()]
        raise FieldError(
            f"{source} holds no image, expected files such as 800_A1_1_green.png ({', '.join(IMAGE_SUFFIXES)})."
            + "".join(others[:1])
        )
    listing = with_inner_labels(listing)
    checked = _demand_channels(refuse_duplicates(listing.fields), options)
    unused = dict(listing.unused)
    if table is not None:
        rows = read_field_metadata(table)
        names = Counter(item.plain_name for item in checked)
        every = (name for item in checked for name in (item.name, item.name_with_folder, item.plain_name))
        unused |= rows_without_field(table, rows, every)
        checked = [_with_metadata(item, names[item.plain_name] == 1, rows, table) for item in checked]
    sources = (FieldSource(item, options) for item in sorted(checked, key=lambda item: item.name))
    return FoundFields(tuple(sources), unused)


def iterate_fields(source: Path, options: ReadingOptions | None = None) -> Iterator[FieldOfView]:
    """Read the fields of view of a source one after the other; see `find_fields`.

    Raises:
        FieldError: At the first field that cannot be used.
    """
    for found in find_fields(source, options):
        yield found.read()


def _demand_channels(listed: list[ListedField], options: ReadingOptions) -> list[ListedField]:
    """Mark fields that lack a channel file that the others have, or that was asked for."""
    present = {name for item in listed for name in item.channel_files}
    wanted = options.channels or tuple(sorted(sorted(present), key=_channel_order))
    checked = []
    for item in listed:
        missing = [name for name in wanted if name not in item.channel_files]
        if item.problem or item.stack_file is not None or not missing:
            checked.append(item)
            continue
        problem = (
            f"Field {item.name!r}: channel {missing[0]} is missing: found {', '.join(item.channel_files) or 'none'}, "
            f"expected {', '.join(wanted)}. Add its file, or choose fewer channels (a smaller --model, or --channels)."
        )
        checked.append(replace(item, problem=problem))
    return checked


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
