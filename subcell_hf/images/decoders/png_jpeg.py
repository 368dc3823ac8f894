"""PNG and JPEG → arrays: their numbers as stored, and what else such a file may hold."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

from subcell_hf.images.decoders.file_metadata import ImageMetadata
from subcell_hf.images.decoders.image import (
    FieldError,
    Image,
    check_size,
    refuse_frames,
    refuse_orientation,
    without_alpha,
)

_PNG_HEADER_BYTES = 8
_PNG_GREY, _PNG_RGB, _PNG_PALETTE = 0, 2, 3
_PNG_SAMPLES = {_PNG_GREY: 1, _PNG_RGB: 3, _PNG_PALETTE: 4, 4: 2, 6: 4}
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_SCAN, _JPEG_EXIF, _JPEG_PICTURES = 0xDA, 0xE1, 0xE2

# Tags of EXIF and of the Multi-Picture Format (CIPA DC-007), both of which are written as TIFF writes its own.
_ORIENTATION, _NUMBER_OF_PICTURES = 0x0112, 0xB001
_TAG_FORMATS = {3: "H", 4: "I"}


def decode_png(data: bytes, path: Path, max_decoded_bytes: int) -> Image:
    """Decode a PNG; the numbers of a palette's colours are kept beside them, for they may be labels.

    Raises:
        FieldError: If it is truncated, too large, animated, to be turned, or has a transparency that varies.
        Exception: Whatever the decoder raises for a damaged file.
    """
    width, height, bit_depth, colour_type = struct.unpack(">IIBB", data[16:26])
    samples = _PNG_SAMPLES.get(colour_type, 4)
    check_size(path, (height, width, samples), max(1, bit_depth // 8), max_decoded_bytes)
    if b"IEND" not in data[-64:]:
        raise FieldError(f"{path} is a truncated PNG: its end mark is missing. Copy or export the file again.")
    chunks = {kind: slice(start, end) for kind, start, end in _png_chunks(data)}
    if b"acTL" in chunks:
        refuse_frames(path, int.from_bytes(data[chunks[b"acTL"]][:4], "big"))
    refuse_orientation(path, _tag(data[chunks.get(b"eXIf", slice(0))], _ORIENTATION))
    pixels = imagecodecs.png_decode(data)
    if colour_type == _PNG_PALETTE:
        return _with_palette(pixels, data, chunks[b"PLTE"], path)
    if colour_type in (_PNG_GREY, _PNG_RGB) and pixels.ndim == 3:
        # One value that is shown as transparent becomes an alpha; the values stay what they are.
        pixels = pixels[:, :, :samples]
    elif pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels = without_alpha(pixels, path)
    return _plain_image(path, pixels)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the content of every chunk."""
    position = _PNG_HEADER_BYTES
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, position + 8, position + 8 + length
        position += length + 12


def _with_palette(pixels: npt.NDArray[Any], data: bytes, palette: slice, path: Path) -> Image:
    """Grey values where the palette is grey; else colours, or where these are transparent the numbers alone."""
    colours = np.frombuffer(data[palette], np.uint8).reshape(-1, 3)
    if (colours == colours[:, :1]).all():
        return _plain_image(path, (without_alpha(pixels, path) if pixels.shape[2] == 4 else pixels)[:, :, :1])
    # With the palette's numbers in place of its colours, the decoder gives the numbers.
    numbers = b"PLTE" + np.repeat(np.arange(len(colours), dtype=np.uint8), 3).tobytes()
    numbered = data[: palette.start - 4] + numbers + struct.pack(">I", zlib.crc32(numbers)) + data[palette.stop + 4 :]
    labels = np.ascontiguousarray(imagecodecs.png_decode(numbered)[:, :, 0])
    if pixels.shape[2] == 4 and pixels[..., 3].min() != pixels[..., 3].max():
        return Image(path, labels, "YX", ImageMetadata(), has_palette=True)
    return Image(path, pixels[:, :, :3], "YXS", ImageMetadata(), palette_numbers=labels)


def decode_jpeg(data: bytes, path: Path, max_decoded_bytes: int) -> Image:
    """Decode a JPEG.

    Raises:
        FieldError: If it is truncated, too large, of several pictures, to be turned, or neither grey nor RGB.
        Exception: Whatever the decoder raises for a damaged file.
    """
    segments = list(_jpeg_segments(data))
    shapes = [struct.unpack_from(">HHB", content, 1) for marker, content in segments if marker in _JPEG_FRAMES]
    if not shapes:
        raise FieldError(
            f"{path} is a truncated or corrupt JPEG: it has no frame header. Copy or export the file again."
        )
    height, width, samples = shapes[0]
    if samples not in (1, 3):
        raise FieldError(f"{path} is a JPEG of {samples} samples (CMYK), expected grey or RGB. Save it as a grey TIFF.")
    check_size(path, (height, width, samples), 1, max_decoded_bytes)
    # libjpeg fills what is missing with grey and says nothing; but no end mark occurs inside of a scan.
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise FieldError(f"{path} is a truncated JPEG: its end mark is missing. Copy or export the file again.")
    for marker, content in segments:
        if marker == _JPEG_PICTURES and content.startswith(b"MPF\0"):
            refuse_frames(path, _tag(content[4:], _NUMBER_OF_PICTURES))
        if marker == _JPEG_EXIF and content.startswith(b"Exif\0\0"):
            refuse_orientation(path, _tag(content[6:], _ORIENTATION))
    return _plain_image(path, imagecodecs.jpeg_decode(data))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of what lies before a JPEG's first scan."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF or marker in _JPEG_WITHOUT_LENGTH:
            position += 1 if marker == 0xFF else 2
            continue
        if marker == _JPEG_SCAN:
            return
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, data[position + 4 : end]
        position = end


def _tag(block: bytes, wanted: int) -> int:
    """The whole number of a tag in a block that is written as a TIFF; 1 where it is not there, or cut."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", block, place)
            if tag == wanted:
                return int(struct.unpack_from(order + _TAG_FORMATS[kind], block, place + 8)[0])
    except (struct.error, KeyError):
        pass
    return 1


def _plain_image(path: Path, pixels: npt.NDArray[Any]) -> Image:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return Image(path, pixels, "YX" if pixels.ndim == 2 else "YXS", ImageMetadata())
