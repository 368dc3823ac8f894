"""OME-Zarr folders: one image → an array; a plate, a well or a converted file → its images."""

import itertools
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from subcell_hf.images.decoders.file_metadata import metadata_from_ome_zarr
from subcell_hf.images.decoders.image import FieldError, Image, ImageHeader, check_size

_GROUP_FILES = (".zgroup", ".zattrs", "zarr.json")
_CODECS_THAT_RUN_CODE = frozenset({"pickle"})
_MOST_CHUNKS = 1_000_000
_MOST_LEVEL_CHUNK_BYTES = 2**30
_DEEPEST_IMAGE = 3
"""Row, column and image lie between a plate's folder and the arrays."""
_CONVERTED = "bioformats2raw.layout"


_Region = tuple[slice, ...]


@dataclass(frozen=True)
class ZarrImage:
    """One image inside of an OME-Zarr folder.

    Attributes:
        path: Its folder.
        name: What its field of view is called.
        metadata: Plate, well and sample of a plate's image.
    """

    path: Path
    name: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def is_zarr_folder(path: Path) -> bool:
    """Whether a folder is a Zarr group, whatever its name is."""
    try:
        return path.is_dir() and any((path / name).is_file() for name in _GROUP_FILES)
    except OSError:  # a folder that may not be read, which is reported when it is listed
        return False


def read_ome_zarr(path: Path, max_decoded_bytes: int) -> Image:
    """Read one image at full resolution.

    Raises:
        FieldError: If the folder is no image, too large, or lacks pixels.
        Exception: Whatever zarr raises for damaged pixels.
    """
    group, attributes, array, dataset, header = _open_image(path)
    metadata, axes = header.metadata, header.axes
    _refuse_code(array, path)
    check_size(path, array.shape, array.dtype, max_decoded_bytes)
    check_size(path, _stored_chunk(array), array.dtype, max_decoded_bytes)
    stored, missing = _chunks(array, path / dataset)
    _check_blosc(array, [file for file, _ in stored], path)
    pixels = np.asarray(array[...])
    if missing:
        present = [pixels[region] for _, region in stored]
        is_lost = _has_content_elsewhere(group, attributes, array, missing)
        _check_missing(array, present, len(missing), path, is_lost, is_label="image-label" in attributes)
    return Image(path, pixels, axes, metadata)


def zarr_header(path: Path) -> ImageHeader:
    """What an OME-Zarr image says of itself at full resolution.

    Raises:
        FieldError: If the folder is no image.
    """
    return _open_image(path)[-1]


def _open_image(path: Path) -> tuple[zarr.Group, Mapping[str, Any], zarr.Array[Any], str, ImageHeader]:
    """Group, attributes, array of the full resolution, its name, and what all of them say."""
    try:
        group = zarr.open_group(path, mode="r")
        attributes = _attributes(group)
        metadata, axes, dataset = metadata_from_ome_zarr(attributes)
        array = group[dataset]
        if not isinstance(array, zarr.Array):
            raise TypeError(f"{dataset!r} is no array")
        if len(axes) != array.ndim:
            raise ValueError(f"axes {axes} do not fit the shape {array.shape}")
    except Exception as error:  # metadata of strangers: zarr raises nearly anything
        raise FieldError(
            f"{path} is no OME-Zarr image that can be read: {type(error).__name__} {error}. Expected a group with "
            "`multiscales`, or in its place a plate, a well or a converted file that lists such groups."
        ) from error
    return group, attributes, array, dataset, ImageHeader(tuple(array.shape), axes, metadata)


def list_zarr_images(path: Path, stem: str) -> list[ZarrImage]:
    """The images of an OME-Zarr folder: itself, those of a plate or a well, or the series of a converted file.

    An image that is given by itself is named as where the plate around it is given.

    Args:
        path: The folder.
        stem: Name of the folder without its suffix.

    Returns:
        At least one. What cannot be read is listed as an image, and reading it says why.
    """
    outer, inside = _enclosing(path)
    if inside:
        stem = re.sub(r"(\.ome)?\.zarr$", "", outer.name, flags=re.IGNORECASE)
    try:
        images = list(_images_inside(path)) or [()]
    except Exception:  # `read_ome_zarr` reports it when the image's turn comes
        images = [()]
    is_only = len(images) == 1 and not inside
    return [_listed(path.joinpath(*parts), stem, (*inside, *parts), is_only) for parts in images]


def _enclosing(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The outermost Zarr folder around a folder, and the way from there; rows of a plate may be plain folders."""
    path = path.absolute()
    outer = next((parent for parent in reversed(path.parents[:_DEEPEST_IMAGE]) if is_zarr_folder(parent)), path)
    return outer, path.relative_to(outer).parts


def _images_inside(path: Path) -> Iterator[tuple[str, ...]]:
    """The way to every image of a folder."""
    attributes = _attributes(zarr.open_group(path, mode="r"))
    if "multiscales" in attributes:
        yield ()
    elif "plate" in attributes:
        for well in attributes["plate"]["wells"]:
            parts = tuple(str(well["path"]).split("/"))
            yield from ((*parts, *inner) for inner in _images_of_well(path.joinpath(*parts)))
    elif "well" in attributes:
        yield from _images_of_well(path)
    elif _CONVERTED in attributes:
        yield from ((name,) for name in _series_of_converted(path))
    else:
        yield ()


def _images_of_well(path: Path) -> list[tuple[str, ...]]:
    try:
        images = _attributes(zarr.open_group(path, mode="r"))["well"]["images"]
        return [tuple(str(image["path"]).split("/")) for image in images]
    except Exception:  # a well that is lost or damaged: its own folder is listed, and reading it says why
        return [()]


def _series_of_converted(path: Path) -> Sequence[str]:
    """Names of the images that bioformats2raw wrote: as its group `OME` lists them, else 0, 1, 2 and so on."""
    described = path / "OME"
    series = _attributes(zarr.open_group(described, mode="r")).get("series") if is_zarr_folder(described) else None
    if series:
        return [str(name) for name in series]
    return list(itertools.takewhile(lambda name: is_zarr_folder(path / name), map(str, itertools.count())))


def _listed(path: Path, stem: str, parts: tuple[str, ...], is_only: bool) -> ZarrImage:
    if len(parts) == 3:  # row, column and image of a plate
        well, sample = "".join(parts[:2]), parts[2]
        return ZarrImage(path, f"{stem}_{well}_{sample}", {"plate": stem, "well": well, "sample": sample})
    return ZarrImage(path, "_".join((stem, *parts)) if parts and not is_only else stem)


def _attributes(group: zarr.Group) -> Mapping[str, Any]:
    """What OME-Zarr says of a group; version 0.5 has it under a key of its own."""
    attributes: dict[str, Any] = dict(group.attrs)
    inner = attributes.get("ome", attributes)
    if not isinstance(inner, Mapping):
        raise TypeError(f"its attributes `ome` are {type(inner).__name__}, expected an object")
    return inner


def _refuse_code(array: zarr.Array[Any], path: Path) -> None:
    """Refuse values that are no numbers, and codecs that could run code."""
    codecs = [*getattr(array, "filters", ()), *getattr(array, "compressors", ())]
    names = {str(getattr(codec, "codec_id", "")) for codec in codecs}
    if array.dtype.kind not in "buifc" or names & _CODECS_THAT_RUN_CODE:
        raise FieldError(f"{path} holds Python objects or {array.dtype}, expected numbers. Save it as plain numbers.")


def _stored_chunk(array: zarr.Array[Any]) -> tuple[int, ...]:
    return tuple(array.shards or array.chunks)


def _chunks(array: zarr.Array[Any], folder: Path) -> tuple[list[tuple[Path, _Region]], list[_Region]]:
    """File and region of every chunk that is stored, and regions of those that are not."""
    steps = _stored_chunk(array)
    grid = [range(math.ceil(length / step)) for length, step in zip(array.shape, steps, strict=True)]
    total = math.prod(map(len, grid))
    if total > _MOST_CHUNKS:
        raise FieldError(f"{folder} has {total:,} chunks, expected at most {_MOST_CHUNKS:,}. Store it in larger ones.")
    stored, missing = [], []
    for place in itertools.product(*grid):
        file = folder / array.metadata.encode_chunk_key(place)
        region = tuple(slice(index * step, (index + 1) * step) for index, step in zip(place, steps, strict=True))
        if file.is_file():
            stored.append((file, region))
        else:
            missing.append(region)
    return stored, missing


def _has_content_elsewhere(
    group: zarr.Group, attributes: Mapping[str, Any], array: zarr.Array[Any], missing: Sequence[_Region]
) -> bool:
    """Whether the next level of the pyramid shows something where the full resolution has no chunk."""
    try:
        level = group[str(attributes["multiscales"][0]["datasets"][1]["path"])]
        if not isinstance(level, zarr.Array) or math.prod(level.shape) > math.prod(array.shape):
            return False
        _refuse_code(level, Path(level.path))
        check_size(Path(level.path), _stored_chunk(level), level.dtype, _MOST_LEVEL_CHUNK_BYTES)
        shrunk = np.asarray(level[...])
        factors = [full / small for full, small in zip(array.shape, shrunk.shape, strict=True)]
    except Exception:  # no such level, or a damaged one, shows nothing
        return False
    for region in missing:
        # The pixels at the rim of a shrunk region may be mixed with their neighbours.
        inner = tuple(
            slice(math.ceil(part.start / factor) + (factor > 1), math.floor(part.stop / factor) - (factor > 1))
            for part, factor in zip(region, factors, strict=True)
        )
        if (shrunk[inner] != (array.fill_value or 0)).any():
            return True
    return False


def _check_blosc(array: zarr.Array[Any], files: Iterable[Path], path: Path) -> None:
    """Refuse chunks that are cut: Blosc decodes whatever lies behind them in memory."""
    is_blosc = any(type(codec).__name__ in ("Blosc", "BloscCodec") for codec in array.compressors)
    if not is_blosc or array.shards is not None:
        return
    for file in files:
        with file.open("rb") as stream:
            header = stream.read(16)
        announced = int.from_bytes(header[12:], "little")
        if len(header) < 16 or file.stat().st_size < announced:
            raise FieldError(f"{path} is truncated: its chunk {file} is cut. Copy or export it again.")


def _check_missing(
    array: zarr.Array[Any],
    present: Sequence[npt.NDArray[Any]],
    missing: int,
    path: Path,
    is_lost: bool,
    is_label: bool,
) -> None:
    """Refuse an array that has lost chunks, as far as that can be seen; Zarr reads them as its fill value.

    Most writers leave out chunks that hold nothing but the fill value, so a chunk that is not there may be right. It is
    lost where such chunks are stored, where no stored pixel of an image has the fill value, or where the next level of
    the pyramid shows something.
    """
    fill = array.fill_value or 0
    total = missing + len(present)
    are_empty_stored = any((chunk == fill).all() for chunk in present)
    never_fill = not is_label and not any((chunk == fill).any() for chunk in present)
    if is_lost or are_empty_stored or never_fill:
        raise FieldError(
            f"{path} is truncated: {missing:,} of its {total:,} chunks are missing, which would be read as {fill}. "
            "Copy or export it again."
        )
    if not is_label:
        warnings.warn(
            f"{path}: {missing:,} of its {total:,} chunks are not stored and are read as {fill}. This is right where "
            "the image is empty there; if the folder was not copied completely, copy it again.",
            stacklevel=2,
        )
