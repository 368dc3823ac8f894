"""PNG of 8 bits → planes, compared with its checksums, as fast as its content can be unpacked.

The PNG decoders of imagecodecs unpack with zlib. libdeflate unpacks three times as fast, and of rows in which each
sample is stored as the difference to its left neighbour, which is OpenCV's way among others, only the window that is
wanted is summed. Files with other filters are decoded by libpng. `benchmarks/published_cells.py` compares them.
"""

import struct
import threading
from collections.abc import Iterator

import imagecodecs
import numpy as np
import numpy.typing as npt

from subcell_hf.images.decoders.image import FieldError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 4: 6}
"""Samples per pixel → colour type: grey, or red, green, blue and alpha."""
_HEADER = ">IIBBBBB"
_DIFFERENCES = 1
_MAX_EDGE_PX = 16_384


def png_shape(data: bytes, samples: int, where: str) -> tuple[int, int]:
    """Height and width of a PNG of 8 bits per sample.

    Args:
        data: The file.
        samples: Samples of a pixel: 1, or 4.
        where: What to call the file in messages.

    Raises:
        FieldError: If its beginning is not that of such a PNG.
    """
    kind, header = next(_chunks(data, where))
    if kind != b"IHDR" or len(header) != struct.calcsize(_HEADER):
        raise FieldError(f"{where} is a damaged PNG: it does not begin with a header. Download it again.")
    width, height, bits, colour_type, _, _, interlaced = struct.unpack(_HEADER, header)
    right_kind = (bits, colour_type, interlaced) == (8, _COLOUR_TYPES[samples], 0)
    if not right_kind or not 0 < min(width, height) <= max(width, height) <= _MAX_EDGE_PX:
        raise FieldError(
            f"{where} is a PNG of {width} x {height} px, {bits} bits, colour type {colour_type}, expected 8 bits and "
            f"{samples} sample{'s' if samples > 1 else ''} per pixel."
        )
    return height, width


def decode_png_planes(
    data: bytes, samples: int, where: str, rows: slice = slice(None), columns: slice = slice(None)
) -> npt.NDArray[np.uint8]:
    """Decode a window of a PNG of 8 bits per sample; an alpha is a plane like the others.

    Args:
        data: The file; all of it is compared with its checksums.
        samples: Samples of a pixel: 1, or 4.
        where: What to call the file in messages.
        rows: Rows of the window.
        columns: Columns of the window.

    Returns:
        `[samples, height, width]`, in the order of the file: red, green, blue, alpha.

    Raises:
        FieldError: If it is no such PNG, truncated, or differs from its checksums.
    """
    height, width = png_shape(data, samples, where)
    content = b"".join(chunk for kind, chunk in _chunks(data, where) if kind == b"IDAT")
    lines = _scratch.take(height, 1 + width * samples)  # a byte for its filter before each row
    try:
        unpacked = imagecodecs.deflate_decode(content, out=lines.reshape(-1).data)
    except imagecodecs.DeflateError as error:
        raise FieldError(f"{where} is a damaged PNG: {error}. Download it again.") from error
    if len(unpacked) != lines.size:
        raise FieldError(f"{where} is a damaged PNG: it holds {len(unpacked)} bytes, expected {lines.size}.")
    if (lines[:, 0] != _DIFFERENCES).any():
        pixels = imagecodecs.png_decode(data).reshape(height, width, -1)[rows, columns]
        return np.asarray(pixels.transpose(2, 0, 1).copy())
    differences = lines[:, 1:].reshape(height, width, samples)[rows, : columns.stop]
    planes = np.empty((samples, *differences.shape[:2]), np.uint8)
    imagecodecs.delta_decode(differences, axis=1, out=planes.transpose(1, 2, 0))
    return planes[:, :, columns]


class _Scratch(threading.local):
    """Memory of a thread for the rows of one file after the other: from the system, it costs as much as unpacking."""

    memory = np.empty(0, np.uint8)

    def take(self, height: int, width: int) -> npt.NDArray[np.uint8]:
        """An array whose content is whatever was there."""
        if self.memory.size < height * width:
            self.memory = np.empty(height * width, np.uint8)
        return self.memory[: height * width].reshape(height, width)


_scratch = _Scratch()


def _chunks(data: bytes, where: str) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of every chunk, compared with its checksum."""
    position, kind = len(_SIGNATURE), b""
    if data[:position] != _SIGNATURE:
        raise FieldError(f"{where} is no PNG: it begins with {data[:12]!r}. Download it again.")
    while kind != b"IEND":
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        if end + 4 > len(data):
            raise FieldError(f"{where} is a truncated PNG of {len(data):,} bytes. Download it again.")
        chunk = data[position + 4 : end]
        kind = chunk[:4]
        if imagecodecs.deflate_crc32(chunk) != int.from_bytes(data[end : end + 4], "big"):
            raise FieldError(
                f"{where} is a damaged PNG: the checksum of its chunk at byte {position} differs. Download it again."
            )
        yield kind, memoryview(chunk)[4:]
        position = end + 4
