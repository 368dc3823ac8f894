"""Image files → arrays: PNG, JPEG, TIFF, OME-TIFF, gzip around any of them, NumPy, OME-Zarr, CZI, LIF and ND2.

Every file is recognised by its first bytes, and its size is read from its header before a pixel is decoded. The bit
depth stays what it is.
"""

import gzip
import io
import math
import os
import stat
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from subcell_hf.errors import UnreachableError
from subcell_hf.images.decoders.file_metadata import ImageMetadata
from subcell_hf.images.decoders.image import MAX_DECODED_BYTES, FieldError, Image, ImageHeader, check_size, too_large
from subcell_hf.images.decoders.ome_zarr import read_ome_zarr, zarr_header
from subcell_hf.images.decoders.png_jpeg import decode_jpeg, decode_png
from subcell_hf.images.decoders.stored_images import STORED_MAGICS, STORED_SUFFIXES, decode_stored, stored_header
from subcell_hf.images.decoders.tiff import Position, decode_tiff, decode_tiff_page, tiff_header, tiff_positions

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_DECODED_BYTES",
    "FieldError",
    "Image",
    "image_positions",
    "image_suffix",
    "read_header",
    "read_image",
]

# numpy parses these as Python, which Python 3.11 before 3.11.8 may fail to do in two threads at once (gh-106905).
_NPY_HEADERS = threading.Lock()
_TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf2", ".tf8", ".tif.gz", ".tiff.gz")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", *_TIFF_SUFFIXES, ".npy")
"""File name endings of the images that are read; OME-Zarr folders end in `.zarr`."""

_UNPACKED_SUFFIXES = (*IMAGE_SUFFIXES, *(f".ome{suffix}" for suffix in _TIFF_SUFFIXES))
_KNOWN_SUFFIXES = frozenset(
    (*_UNPACKED_SUFFIXES, *(f"{suffix}.gz" for suffix in _UNPACKED_SUFFIXES), ".zarr", ".ome.zarr", *STORED_SUFFIXES)
)
_MOST_SUFFIX_PARTS = 3
_REMEMBERED_ENDINGS = 1024
_GZIP_BLOCK_BYTES = 2**20
_MOST_CHANNELS = 16
_EMPTY = "{path} is empty (0 bytes), expected an image. Copy the file again from its source."


class Named(Protocol):
    """A file's path, or what else knows its name."""

    @property
    def name(self) -> str:
        """Without the folder."""


def image_suffix(file: Named) -> str | None:
    """The part of a file's name that marks it as an image, `.zarr` folders included; None for any other file."""
    return longest_suffix(file.name, _KNOWN_SUFFIXES)


def longest_suffix(name: str, known: frozenset[str]) -> str | None:
    """The longest ending of a file's name, such as `.ome.tif.gz`, that is among the known ones; None where none is."""
    _, dot, ending = name.partition(".")
    return _longest_of_ending(ending, known) if dot else None


@lru_cache(_REMEMBERED_ENDINGS)
def _longest_of_ending(ending: str, known: frozenset[str]) -> str | None:
    """Of what follows the first dot: most files of a folder have that in common."""
    parts = ending.lower().rsplit(".", _MOST_SUFFIX_PARTS - 1)
    for first in range(len(parts)):
        suffix = f".{'.'.join(parts[first:])}"
        if suffix in known:
            return suffix
    return None


def refuse_empty(path: Path) -> None:
    """Raise `FieldError` for a file of 0 bytes, as interrupted copies leave them; one that is not there is none."""
    if path.is_file() and path.stat().st_size == 0:
        raise FieldError(_EMPTY.format(path=path))


def read_image(
    path: Path,
    max_decoded_bytes: int = MAX_DECODED_BYTES,
    position: int | None = None,
    page: int | None = None,
    time: int | None = None,
    wanted: Mapping[str, Sequence[int]] | None = None,
) -> Image:
    """Read one image file, or one OME-Zarr folder at full resolution.

    Args:
        path: The file.
        max_decoded_bytes: Larger images are refused before they are decoded, and gzip streams stop there.
        position: Which image of a TIFF that holds several, see `image_positions`; None demands that there is one.
        page: Which page of a TIFF, where metadata elsewhere say what each page is, or which plane of a CZI, LIF or ND2;
            None reads the whole image. With a position, pages of a TIFF count within that image.
        time: Which time point of a TIFF that has several; None reads all.
        wanted: Of an OME-Zarr: axis → indices in ascending order that are read; all of every other axis.

    Raises:
        FieldError: If the file is missing, empty, truncated, corrupt, too large, of an unknown kind, or holds several
            images.
    """
    try:
        if path.is_dir():
            image = read_ome_zarr(path, max_decoded_bytes, wanted)
        else:
            image = _read_file(path, max_decoded_bytes, position, page, time)
        if len(image.axes) != image.pixels.ndim:
            raise ValueError(f"axes {image.axes} do not fit the shape {image.pixels.shape}")
        return image
    except (FieldError, UnreachableError):
        raise
    except MemoryError as error:
        raise FieldError(
            f"{path} needs more memory than there is ({error}). If it is not damaged, cut it into tiles."
        ) from error
    except Exception as error:  # on damaged files, decoders raise nearly anything that Python can
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise FieldError(f"{path} is truncated or corrupt ({reason}). Copy or export the file again.") from error


def read_header(path: Path, position: int | None = None, page: int | None = None) -> ImageHeader:
    """What a file says of its image. Only kinds that hold nothing but pixels, PNG and JPEG among them, are decoded.

    Args:
        path: The file.
        position: As in `read_image`.
        page: As in `read_image`.

    Raises:
        FieldError: If the file cannot be read.
    """
    try:
        if path.is_dir():
            return zarr_header(path)
        with _open(path, MAX_DECODED_BYTES) as stream:
            start = stream.read(_MAGIC_BYTES)
            stream.seek(0)
            for magic, suffix in STORED_MAGICS.items():
                if start.startswith(magic):
                    return stored_header(suffix, path, page)
            if start.startswith(_TIFF_MAGICS):
                return tiff_header(stream, path, position, page)
    except (FieldError, UnreachableError):
        raise
    except Exception as error:  # as in `read_image`
        raise FieldError(f"{path} is truncated or corrupt ({type(error).__name__}: {error}). Copy it again.") from error
    image = read_image(path)
    return ImageHeader(image.pixels.shape, image.axes, image.metadata)


def _read_file(path: Path, max_decoded_bytes: int, position: int | None, page: int | None, time: int | None) -> Image:
    with _open(path, max_decoded_bytes) as stream:
        start = stream.read(_MAGIC_BYTES)
        for magic, suffix in STORED_MAGICS.items():
            if start.startswith(magic):
                return decode_stored(suffix, path, max_decoded_bytes, page)
        stream.seek(0)
        if start.startswith(_TIFF_MAGICS):
            if page is not None:
                return decode_tiff_page(stream, path, max_decoded_bytes, page, position)
            return decode_tiff(stream, path, max_decoded_bytes, position, time)
        for magic, decode in _DECODERS.items():
            if start.startswith(magic):
                return decode(_all_bytes(stream, path, max_decoded_bytes), path, max_decoded_bytes)
    if not start:
        raise FieldError(_EMPTY.format(path=path))
    raise FieldError(
        f"{path} is no image that can be read: it begins with {start!r}, expected PNG, JPEG, TIFF, NumPy or gzip "
        "around one of them. Convert it to TIFF or PNG."
    )


def read_bytes(path: Path, max_decoded_bytes: int = MAX_DECODED_BYTES) -> bytes:
    """The content of a file, unpacked where it is gzip.

    Args:
        path: Any file.
        max_decoded_bytes: Larger ones are refused.

    Raises:
        FieldError: If it cannot be read or is larger.
    """
    with _open(path, max_decoded_bytes) as stream:
        return _all_bytes(stream, path, max_decoded_bytes)


def image_positions(path: Path) -> list[Position]:
    """The images of a TIFF that may be fields of view; empty for every other kind of file, and for a damaged one.

    A TIFF within gzip has none either, for it would be unpacked only to count them.
    """
    try:
        with _open_file(path) as stream:
            if not stream.read(_MAGIC_BYTES).startswith(_TIFF_MAGICS):
                return []
            stream.seek(0)
            return tiff_positions(stream, path)
    except Exception:  # `read_image` reports it when the file's turn comes
        return []


class _Unnamed(io.RawIOBase):
    """An open file without `fileno` and name: tifffile would look for further files beside it."""

    def __init__(self, path: Path):
        self._file = path.open("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        return self._file.readinto(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


def _open_file(path: Path) -> BinaryIO:
    """Open a file of a disk.

    Raises:
        FieldError: If it cannot be opened, or is a pipe or device, which may never end.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise FieldError(f"{path} is no regular file, expected an image. Give a path to an image on a disk.")
        return io.BufferedReader(_Unnamed(path))
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        if isinstance(error, FieldError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise FieldError(f"Cannot read {path}: {reason}. Give a path to an image that exists.") from error


def _open(path: Path, max_decoded_bytes: int) -> BinaryIO:
    """Open an image file, unpacked where it is gzip."""
    stream = _open_file(path)
    if stream.read(2) != b"\x1f\x8b":
        stream.seek(0)
        return stream
    with stream:
        stream.seek(0)
        return io.BytesIO(_gunzip(_all_bytes(stream, path, max_decoded_bytes), path, max_decoded_bytes))


def _all_bytes(stream: BinaryIO, path: Path, max_decoded_bytes: int) -> bytes:
    size = stream.seek(0, os.SEEK_END)
    if size > max_decoded_bytes:
        raise too_large(path, f"a file of {size:,} bytes", max_decoded_bytes)
    stream.seek(0)
    return stream.read()


def _gunzip(data: bytes, path: Path, max_decoded_bytes: int) -> bytes:
    """Unpack gzip, never further than the limit."""
    unpacked = io.BytesIO()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            while block := stream.read(_GZIP_BLOCK_BYTES):
                unpacked.write(block)
                if unpacked.tell() > max_decoded_bytes:
                    raise too_large(path, f"more than {unpacked.tell():,} bytes of gzip content", max_decoded_bytes)
    except (EOFError, OSError, zlib.error) as error:
        raise FieldError(f"{path} is a truncated or corrupt gzip file: {error}. Copy the file again.") from error
    return unpacked.getvalue()


def _decode_npy(data: bytes, path: Path, max_decoded_bytes: int) -> Image:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with _NPY_HEADERS:
        shape, fortran_order, dtype = read_header(stream)
    if dtype.hasobject:
        raise FieldError(
            f"{path} holds Python objects, expected numbers. Save a plain array with np.save(allow_pickle=False)."
        )
    check_size(path, shape, dtype, max_decoded_bytes)
    announced, stored = math.prod(shape) * dtype.itemsize, len(data) - stream.tell()
    if announced != stored:
        raise FieldError(
            f"{path} is truncated or corrupt: its header announces {announced:,} bytes of pixels, {stored:,} follow. "
            "Copy or export the file again."
        )
    pixels = np.frombuffer(data, dtype, count=math.prod(shape), offset=stream.tell())
    pixels = pixels.reshape(shape, order="F" if fortran_order else "C")
    while pixels.ndim > 3 and pixels.shape[0] == 1:
        pixels = pixels[0]
    # Channels first or last: a field of view is wider than it has channels.
    channels_last = pixels.ndim == 3 and shape[2] <= _MOST_CHANNELS < min(shape[:2])
    return Image(path, pixels, "YXQ" if channels_last else "Q" * (pixels.ndim - 2) + "YX", ImageMetadata())


_Decoder = Callable[[bytes, Path, int], Image]
_MAGIC_BYTES = 8
_TIFF_MAGICS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_DECODERS: dict[bytes, _Decoder] = {
    b"\x89PNG\r\n\x1a\n": decode_png,
    b"\xff\xd8\xff": decode_jpeg,
    b"\x93NUMPY": _decode_npy,
}
