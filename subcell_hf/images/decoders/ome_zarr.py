"""One image of an OME-Zarr folder → an array, or those of its planes that are needed."""

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from subcell_hf.errors import InputError, UnreachableError
from subcell_hf.images.decoders.converted_zarr import with_converted_metadata
from subcell_hf.images.decoders.file_metadata import metadata_from_ome_zarr
from subcell_hf.images.decoders.image import FieldError, Image, ImageHeader, check_size
from subcell_hf.images.decoders.zarr_stores import CheckedStore, is_zarr_folder, open_store, read_facts

__all__ = ["is_zarr_folder", "read_ome_zarr", "zarr_header"]

_CODECS_THAT_RUN_CODE = frozenset({"pickle"})
_MOST_CHUNKS = 1_000_000
_MOST_LEVEL_CHUNK_BYTES = 2**30


_Region = tuple[slice, ...]


@dataclass(frozen=True)
class _Opened:
    """The array of an image's full resolution, and what its group says."""

    store: CheckedStore
    facts: Mapping[str, Any]
    array: zarr.Array[Any]
    dataset: str
    header: ImageHeader


@dataclass(frozen=True)
class _Chunk:
    """One chunk that is read: its key, where it lies in the array, and where among the pixels that are read."""

    key: str
    region: _Region
    place: _Region


def read_ome_zarr(path: Path, max_decoded_bytes: int, wanted: Mapping[str, Sequence[int]] | None = None) -> Image:
    """Read one image at full resolution.

    Args:
        path: Its folder, on a disk or behind a URL.
        max_decoded_bytes: Larger images are refused.
        wanted: Axis → indices in ascending order that are read; all of every other axis.

    Raises:
        FieldError: If the folder is no image, too large, or lacks pixels.
        Exception: Whatever zarr raises for damaged pixels.
    """
    opened = _open(path)
    array, header = opened.array, opened.header
    _refuse_code(array, path)
    indices = [
        range(length) if wanted is None else wanted.get(axis, range(length))
        for axis, length in zip(header.axes, array.shape, strict=True)
    ]
    check_size(path, tuple(map(len, indices)), array.dtype, max_decoded_bytes)
    check_size(path, _stored_chunk(array), array.dtype, max_decoded_bytes)
    chunks = list(_chunks(opened, indices, path))
    is_blosc = any(type(codec).__name__ in ("Blosc", "BloscCodec") for codec in array.compressors)
    if is_blosc and array.shards is None:
        opened.store.blosc_keys = {chunk.key for chunk in chunks}
    pixels = np.asarray(array.oindex[tuple(_selected(index) for index in indices)])
    missing = [chunk for chunk in chunks if chunk.key in opened.store.missing]
    metadata, is_label = header.metadata, "image-label" in opened.facts
    if missing:
        present = [pixels[chunk.place] for chunk in chunks if chunk.key not in opened.store.missing]
        is_lost = _has_content_elsewhere(opened, [chunk.region for chunk in missing])
        _check_missing(array, present, len(missing), path, is_lost, is_label)
        if not is_label:
            metadata = replace(metadata, chunks_missing=f"{len(missing)} of {len(chunks)}")
    if metadata.channel_names and "C" in (wanted or {}):
        own = tuple(metadata.channel_names[number] for number in indices[header.axes.index("C")])
        metadata = replace(metadata, channel_names=own)
    return Image(path, pixels, header.axes, metadata)


def zarr_header(path: Path) -> ImageHeader:
    """What an OME-Zarr image says of itself at full resolution.

    Raises:
        FieldError: If the folder is no image.
    """
    return _open(path).header


def chunks_not_stored(path: Path) -> str:
    """How many chunks of an OME-Zarr image on a disk are not there, such as `1 of 16`; empty where all are.

    Raises:
        FieldError: If the folder is no image.
    """
    opened = _open(path)
    keys = [chunk.key for chunk in _chunks(opened, [range(length) for length in opened.array.shape], path)]
    missing = sum(not (path / key).exists() for key in keys)
    return f"{missing} of {len(keys)}" if missing else ""


def _open(path: Path) -> _Opened:
    try:
        facts = read_facts(path)
        metadata, axes, dataset = metadata_from_ome_zarr(facts)
        metadata = with_converted_metadata(path, metadata)
        store = open_store(path)
        array = zarr.open_array(store, path=dataset, mode="r")
        if len(axes) != array.ndim:
            raise ValueError(f"axes {axes} do not fit the shape {array.shape}")
    except UnreachableError:
        raise
    except InputError as error:
        raise FieldError(str(error)) from error
    except Exception as error:  # metadata of strangers: zarr raises nearly anything
        raise FieldError(
            f"{path} is no OME-Zarr image that can be read: {type(error).__name__} {error}. Expected a group with "
            "`multiscales`, or in its place a plate, a well or a converted file that lists such groups."
        ) from error
    return _Opened(store, facts, array, dataset, ImageHeader(tuple(array.shape), axes, metadata))


def _selected(indices: Sequence[int]) -> slice | npt.NDArray[np.int64]:
    """A slice where indices follow one another."""
    first, last = indices[0], indices[-1]
    return slice(first, last + 1) if last + 1 - first == len(indices) else np.array(indices, np.int64)


def _refuse_code(array: zarr.Array[Any], path: Path) -> None:
    """Refuse values that are no numbers, and codecs that could run code."""
    codecs = [*getattr(array, "filters", ()), *getattr(array, "compressors", ())]
    names = {str(getattr(codec, "codec_id", "")) for codec in codecs}
    if array.dtype.kind not in "buifc" or names & _CODECS_THAT_RUN_CODE:
        raise FieldError(f"{path} holds Python objects or {array.dtype}, expected numbers. Save it as plain numbers.")


def _stored_chunk(array: zarr.Array[Any]) -> tuple[int, ...]:
    return tuple(array.shards or array.chunks)


def _chunks(opened: _Opened, indices: Sequence[Sequence[int]], path: Path) -> Iterator[_Chunk]:
    """The chunks that hold the pixels of some indices along every axis."""
    array, steps = opened.array, _stored_chunk(opened.array)
    grid: list[list[tuple[int, slice, slice]]] = []
    for index, step in zip(indices, steps, strict=True):
        along: dict[int, list[int]] = {}
        for place, position in enumerate(index):
            along.setdefault(position // step, []).append(place)
        grid.append(
            [
                (number, slice(number * step, (number + 1) * step), slice(places[0], places[-1] + 1))
                for number, places in along.items()
            ]
        )
    total = math.prod(map(len, grid))
    if total > _MOST_CHUNKS:
        raise FieldError(f"{path} has {total:,} chunks, expected at most {_MOST_CHUNKS:,}. Store it in larger ones.")
    for parts in itertools.product(*grid):
        numbers, regions, places = zip(*parts, strict=True)
        yield _Chunk(f"{opened.dataset}/{array.metadata.encode_chunk_key(numbers)}", regions, places)


def _has_content_elsewhere(opened: _Opened, missing: Sequence[_Region]) -> bool:
    """Whether the next level of the pyramid shows something where the full resolution has no chunk."""
    array = opened.array
    try:
        name = str(opened.facts["multiscales"][0]["datasets"][1]["path"])
        level = zarr.open_array(opened.store, path=name, mode="r")
        if math.prod(level.shape) > math.prod(array.shape):
            return False
        _refuse_code(level, Path(level.path))
        check_size(Path(level.path), _stored_chunk(level), level.dtype, _MOST_LEVEL_CHUNK_BYTES)
        shrunk = np.asarray(level[...])
        factors = [full / small for full, small in zip(array.shape, shrunk.shape, strict=True)]
    except UnreachableError:
        raise
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
