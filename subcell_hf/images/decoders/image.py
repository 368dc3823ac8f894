"""What every reader of image files returns, raises and checks."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError
from subcell_hf.images.decoders.file_metadata import ImageMetadata

MAX_DECODED_BYTES = 4 * 2**30
"""Largest image that is decoded: four 16-bit channels of 16,384 x 16,384 pixels take half of it."""


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
        metadata: Channel names and pixel size, as far as the file contains them.
        has_palette: Whether the pixels are indices of a palette that is no ramp from black to one colour: they may be
            labels, but are no intensities.
        palette_numbers: `[height, width]`, where the pixels are the colours of a PNG's palette: the number of each in
            the palette, which is its label where the file is a mask.
    """

    path: Path
    pixels: npt.NDArray[Any]
    axes: str
    metadata: ImageMetadata
    has_palette: bool = False
    palette_numbers: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class ImageHeader:
    """What one file says of its image, without a pixel.

    Attributes:
        shape: Of the image.
        axes: As `Image` has them.
        metadata: Channel names and pixel size, as far as the file contains them.
    """

    shape: tuple[int, ...]
    axes: str
    metadata: ImageMetadata

    def count(self, axis: str) -> int:
        """Entries along an axis; 1 where the image has no such axis."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1


def too_large(path: Path, got: str, max_decoded_bytes: int) -> FieldError:
    """The error for an image above the limit."""
    return FieldError(
        f"{path} is too large: {got}, expected at most {max_decoded_bytes:,} bytes once decoded. If the image is what "
        "you think it is, cut it into tiles or raise max_decoded_bytes (--max-decoded-gib)."
    )


def check_size(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any] | int, max_decoded_bytes: int) -> None:
    """Refuse an image by what its header announces.

    Args:
        path: Its file.
        shape: Its shape.
        dtype: Its dtype, or the bytes of one value.
        max_decoded_bytes: The limit.

    Raises:
        FieldError: If it is too large, or has no pixel.
    """
    if min(shape, default=0) < 1:
        raise FieldError(f"{path} has the shape {shape}, expected an image with pixels. Copy or export the file again.")
    item_bytes = dtype if isinstance(dtype, int) else dtype.itemsize
    if math.prod(shape) * item_bytes > max_decoded_bytes:
        raise too_large(path, f"shape {shape} of {item_bytes} bytes each", max_decoded_bytes)


def without_alpha(samples: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    """Drop a last sample that is transparency.

    Args:
        samples: `[..., samples]`, the last of them transparency.
        path: For the message.

    Raises:
        FieldError: If the transparency varies: what the colours mean depends on it.
    """
    alpha = samples[..., -1]
    if alpha.min() != alpha.max():
        raise FieldError(
            f"{path} has a transparency that varies, expected plain intensities. Save it without alpha; if these are "
            "stains, save them as planes [channels, height, width] rather than as colours."
        )
    return samples[..., :-1]


def refuse_frames(path: Path, count: int) -> None:
    """Refuse an animation or a file of several pictures, of which a decoder would give the first.

    Raises:
        FieldError: If there is more than one.
    """
    if count > 1:
        raise FieldError(f"{path} holds {count} pictures, expected one. Save every picture as a separate file.")


def refuse_orientation(path: Path, orientation: int) -> None:
    """Refuse an image whose rows and columns are to be turned: programs that made its mask may have done so, or not.

    Args:
        path: Its file.
        orientation: The tag `Orientation` of TIFF and EXIF: 1 as stored, 2 to 8 turned or mirrored, others unknown.

    Raises:
        FieldError: If it is to be turned or mirrored.
    """
    if 2 <= orientation <= 8:
        raise FieldError(
            f"{path} has the orientation {orientation}: it is stored turned or mirrored, and programs differ in "
            "whether they turn it back; expected 1. Save it, and its mask alike, as it should be, without the tag."
        )
