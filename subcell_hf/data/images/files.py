"""Image files → arrays: PNG, JPEG, TIFF, OME-TIFF, gzip around any of them, NumPy and OME-Zarr.

Every file is recognised by its first bytes, and its size is read from its header before a pixel is decoded. The bit
depth stays what it is.
"""

import gzip
import io
import json
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile
import zarr

from subcell_hf.data.images.file_metadata import (
    ImageMetadata,
    metadata_from_imagej,
    metadata_from_ome_xml,
    metadata_from_ome_zarr,
    metadata_from_tiff_tags,
)
from subcell_hf.errors import InputError

MAX_DECODED_BYTES = 4 * 2**30
"""Largest image that is decoded: four 16-bit channels of 16,384 x 16,384 pixels take half of it."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".tif.gz", ".tiff.gz", ".npy")

_GZIP_BLOCK_BYTES = 2**20
_MOST_CHANNELS = 16
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_MARKERS_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})


class FieldError(InputError):
    """A field of view that cannot be used; the message says what, where, got, expected and the remedy."""


@dataclass(frozen=True)
class Image:
    """What one file holds.

    Attributes:
        path: Where it was read from.
        pixels: Any shape and dtype, as stored.
        axes: One letter per axis of `pixels`: `T` time, `C` channel, `Z` plane, `Y` row, `X` column, `S` sample of a
            red-green-blue image, `Q` unknown.
        metadata: Channel names and pixel size, as far as the file tells them.
    """

    path: Path
    pixels: npt.NDArray[Any]
    axes: str
    metadata: ImageMetadata


def image_suffix(path: Path) -> str | None:
    """The part of a file's name that marks it as an image, `.zarr` folders included; None for any other file."""
    name = path.name.lower()
    if name.endswith(".zarr"):
        return name[-len(".zarr") :]
    matches = [suffix for suffix in (".ome.tif", ".ome.tiff", *IMAGE_SUFFIXES) if name.endswith(suffix)]
    return max(matches, key=len) if matches else None


def read_image(path: Path, max_decoded_bytes: int = MAX_DECODED_BYTES) -> Image:
    """Read one image file, or one OME-Zarr folder at full resolution.

    Args:
        path: The file.
        max_decoded_bytes: Larger images are refused before they are decoded, and gzip streams stop there.

    Raises:
        FieldError: If the file is missing, empty, truncated, corrupt, too large or of an unknown kind.
    """
    if path.is_dir():
        return _read_ome_zarr(path, max_decoded_bytes)
    try:
        if path.stat().st_size > max_decoded_bytes:
            raise _too_large(path, f"a file of {path.stat().st_size:,} bytes", max_decoded_bytes)
        data = path.read_bytes()
    except OSError as error:
        raise FieldError(f"Cannot read {path}: {error.strerror}. Give a path to an image that exists.") from error
    if data[:2] == b"\x1f\x8b":
        data = _gunzip(data, path, max_decoded_bytes)
    if not data:
        raise FieldError(f"{path} is empty (0 bytes), expected an image. Copy the file again from its source.")
    for magic, decode in _DECODERS.items():
        if data.startswith(magic):
            return _decode(decode, data, path, max_decoded_bytes)
    raise FieldError(
        f"{path} is no image that can be read: it begins with {data[:8]!r}, expected PNG, JPEG, TIFF, NumPy or gzip "
        "around one of them. Convert it to TIFF or PNG."
    )


def _decode(decode: "_Decoder", data: bytes, path: Path, max_decoded_bytes: int) -> Image:
    """Run a decoder and give its many exceptions one face."""
    try:
        return decode(data, path, max_decoded_bytes)
    except FieldError:
        raise
    except (ValueError, RuntimeError, OSError, KeyError, IndexError, TypeError, struct.error) as error:
        # imagecodecs raises RuntimeError, tifffile ValueError and, on damaged tags, nearly anything that Python can.
        raise FieldError(f"{path} is truncated or corrupt: {error}. Copy or export the file again.") from error


def _gunzip(data: bytes, path: Path, max_decoded_bytes: int) -> bytes:
    """Unpack gzip, never further than the limit."""
    unpacked = io.BytesIO()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            while block := stream.read(_GZIP_BLOCK_BYTES):
                unpacked.write(block)
                if unpacked.tell() > max_decoded_bytes:
                    raise _too_large(path, f"more than {unpacked.tell():,} bytes of gzip content", max_decoded_bytes)
    except (EOFError, OSError, zlib.error) as error:
        raise FieldError(f"{path} is a truncated or corrupt gzip file: {error}. Copy the file again.") from error
    return unpacked.getvalue()


def _too_large(path: Path, got: str, max_decoded_bytes: int) -> FieldError:
    return FieldError(
        f"{path} is too large: {got}, expected at most {max_decoded_bytes:,} bytes once decoded. If the image is what "
        "you think it is, cut it into tiles or raise max_decoded_bytes (--max-decoded-gib)."
    )


def _check_size(path: Path, shape: tuple[int, ...], item_bytes: int, max_decoded_bytes: int) -> None:
    if math.prod(shape) * item_bytes > max_decoded_bytes:
        raise _too_large(path, f"shape {shape} of {item_bytes} bytes each", max_decoded_bytes)


def _plain_image(path: Path, pixels: npt.NDArray[Any]) -> Image:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return Image(path, pixels, "YX" if pixels.ndim == 2 else "YXS", ImageMetadata())


def _decode_png(data: bytes, path: Path, max_decoded_bytes: int) -> Image:
    width, height, bit_depth, colour_type = struct.unpack(">IIBB", data[16:26])
    samples = {0: 1, 2: 3, 3: 4, 4: 2, 6: 4}.get(colour_type, 4)
    _check_size(path, (height, width, samples), max(1, bit_depth // 8), max_decoded_bytes)
    if b"IEND" not in data[-64:]:
        raise FieldError(f"{path} is a truncated PNG: its end mark is missing. Copy or export the file again.")
    return _plain_image(path, imagecodecs.png_decode(data))


def _decode_jpeg(data: bytes, path: Path, max_decoded_bytes: int) -> Image:
    height, width, samples = _jpeg_shape(data, path)
    _check_size(path, (height, width, samples), 1, max_decoded_bytes)
    # libjpeg fills what is missing with grey and says nothing; but no end mark occurs inside of a scan.
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise FieldError(f"{path} is a truncated JPEG: its end mark is missing. Copy or export the file again.")
    return _plain_image(path, imagecodecs.jpeg_decode(data))


def _jpeg_shape(data: bytes, path: Path) -> tuple[int, int, int]:
    """Height, width and samples per pixel from a JPEG's frame header."""
    position = 2
    while position + 9 < len(data):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker in _JPEG_FRAME_MARKERS:
            height, width, samples = struct.unpack(">HHB", data[position + 5 : position + 10])
            return height, width, samples
        if marker == 0xFF or marker in _JPEG_MARKERS_WITHOUT_LENGTH:
            position += 1 if marker == 0xFF else 2
        else:
            position += 2 + struct.unpack(">H", data[position + 2 : position + 4])[0]
    raise FieldError(f"{path} is a truncated or corrupt JPEG: it has no frame header. Copy or export the file again.")


def _decode_tiff(data: bytes, path: Path, max_decoded_bytes: int) -> Image:
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        series = tiff.series[0]
        _check_size(path, series.shape, series.dtype.itemsize, max_decoded_bytes)
        _check_segments(tiff, len(data), path)
        if tiff.is_ome:
            metadata = metadata_from_ome_xml(tiff.ome_metadata or "")
        elif tiff.is_imagej:
            metadata = metadata_from_imagej(tiff)
        else:
            metadata = metadata_from_tiff_tags(tiff.pages[0])
        # tifffile calls an axis that no metadata explains Q or I ("image series").
        axes = series.axes.replace("I", "Q")
        return Image(path, series.asarray(maxworkers=1), axes, metadata)


def _check_segments(tiff: tifffile.TiffFile, file_bytes: int, path: Path) -> None:
    """Refuse a TIFF that lacks pixels: a decoder would take zeros, or whatever it finds, in their place."""
    for page in tiff.series[0].pages:
        if page is None:
            raise FieldError(
                f"{path} is one of several files that make up an OME-TIFF image; expected all planes in one file. Save "
                "the image as a single file."
            )
        for offset, length in zip(getattr(page, "dataoffsets", ()), getattr(page, "databytecounts", ()), strict=True):
            if length == 0 or offset + length > file_bytes:
                raise FieldError(
                    f"{path} is a truncated TIFF: {length:,} bytes of pixels should lie at byte {offset:,}, the file "
                    f"ends at {file_bytes:,}. Copy or export the file again."
                )


def _decode_npy(data: bytes, path: Path, max_decoded_bytes: int) -> Image:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read_header(stream)
    if dtype.hasobject:
        raise FieldError(
            f"{path} holds Python objects, expected numbers. Save a plain array with np.save(allow_pickle=False)."
        )
    _check_size(path, shape, dtype.itemsize, max_decoded_bytes)
    pixels = np.frombuffer(data, dtype, count=math.prod(shape), offset=stream.tell())
    pixels = pixels.reshape(shape, order="F" if fortran_order else "C")
    # Channels first or last: a field of view is wider than it has channels.
    channels_last = pixels.ndim == 3 and shape[2] <= _MOST_CHANNELS < min(shape[:2])
    return Image(path, pixels, "YXQ" if channels_last else "Q" * (pixels.ndim - 2) + "YX", ImageMetadata())


def _read_ome_zarr(path: Path, max_decoded_bytes: int) -> Image:
    try:
        group = zarr.open_group(path, mode="r")
        metadata, axes, dataset = metadata_from_ome_zarr(dict(group.attrs))
        array = group[dataset]
        if not isinstance(array, zarr.Array):
            raise TypeError(f"{dataset!r} is no array")
        _check_size(path, array.shape, array.dtype.itemsize, max_decoded_bytes)
        pixels = np.asarray(array[...])
    except FieldError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, OSError, RuntimeError, json.JSONDecodeError) as error:
        raise FieldError(
            f"{path} is no OME-Zarr image that can be read: {type(error).__name__} {error}. Expected a group with "
            "`multiscales`; of a plate give the folder of one image, such as plate.zarr/A/1/0."
        ) from error
    return Image(path, pixels, axes, metadata)


_Decoder = Callable[[bytes, Path, int], Image]
_DECODERS: dict[bytes, _Decoder] = {
    b"\x89PNG\r\n\x1a\n": _decode_png,
    b"\xff\xd8\xff": _decode_jpeg,
    b"II*\x00": _decode_tiff,
    b"MM\x00*": _decode_tiff,
    b"II+\x00": _decode_tiff,
    b"MM\x00+": _decode_tiff,
    b"\x93NUMPY": _decode_npy,
}
