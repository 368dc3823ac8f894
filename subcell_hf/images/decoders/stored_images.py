"""Files of microscopes that hold many images: Zeiss CZI, Leica LIF and Nikon ND2, one plane at a time.

What a file holds is read from its metadata; of the pixels, only the plane that is asked for is decoded. Planes are
numbered through the file: by image, then by time point, Z-plane and channel.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from subcell_hf.extras import explain_missing
from subcell_hf.images.decoders.file_metadata import ImageMetadata
from subcell_hf.images.decoders.image import FieldError, Image, ImageHeader, check_size, too_large

_MOST_PLANES = 5_000_000
"""A small file can announce any number of planes, each of which would take memory when it is listed."""


@dataclass(frozen=True)
class StoredImage:
    """One image of a file: a position, scene or series.

    Attributes:
        number: Which image of the file, from 0.
        name: As the file calls it; may be empty.
        times: How many time points there are.
        z_planes: How many Z-planes.
        channels: How many channels.
        height: Rows.
        width: Columns.
        dtype: Of the pixels.
        metadata: Channel names and pixel size, as far as the file says them.
        well: As `A01`; empty where the file says none.
        stage_um: Position of the centre in micrometres (x, y), where the file says it.
        problem: Why it cannot be read; None where it can.
    """

    number: int
    name: str
    times: int
    z_planes: int
    channels: int
    height: int
    width: int
    dtype: np.dtype[Any]
    metadata: ImageMetadata
    well: str = ""
    stage_um: tuple[float, float] | None = None
    problem: str | None = None

    @property
    def planes(self) -> int:
        """Planes of all channels, Z-planes and time points."""
        return self.times * self.z_planes * self.channels

    def places(self) -> Iterator[tuple[int, int, int]]:
        """Time point, Z-plane and channel of every plane, in the order of their numbers."""
        for plane in range(self.planes):
            yield self.place(plane)

    def place(self, plane: int) -> tuple[int, int, int]:
        """Time point, Z-plane and channel of the plane of a number within this image."""
        rest, channel = divmod(plane, self.channels)
        return *divmod(rest, self.z_planes), channel


class StoredImages(Protocol):
    """An open file."""

    images: Sequence[StoredImage]

    def read_plane(self, image: StoredImage, time: int, z: int, channel: int) -> npt.NDArray[Any]:
        """One plane: `[height, width]`, or `[height, width, 3]` red-green-blue."""


Open = Callable[[Path], AbstractContextManager[StoredImages]]

_FORMATS = {".czi": "czi", ".lif": "lif", ".nd2": "nd2"}
"""Ending → our module that opens such a file with `open_images`; imported on use, for its library is optional."""

STORED_SUFFIXES = tuple(_FORMATS)
"""Endings of files that hold many images."""

STORED_MAGICS = {b"ZISRAWFI": ".czi", b"\x70\x00\x00\x00": ".lif", b"\xda\xce\xbe\x0a": ".nd2"}
"""First bytes of a file → the ending that it should have."""


def list_stored_images(path: Path) -> Sequence[StoredImage]:
    """The images of a file.

    Raises:
        FieldError: If it cannot be read, or its library is not installed.
    """
    suffix = path.suffix.lower()
    try:
        with _opener(suffix, path)(path) as file:
            images = file.images
    except FieldError:
        raise
    except Exception as error:  # on damaged files, decoders raise nearly anything that Python can
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise FieldError(f"{path} is truncated or corrupt ({reason}). Copy or export the file again.") from error
    if not images:
        raise FieldError(f"{path} holds no image, expected at least one. Copy or export the file again.")
    planes = sum(image.planes for image in images)
    if planes > _MOST_PLANES:
        raise FieldError(f"{path} announces {planes:,} planes, expected at most {_MOST_PLANES:,}. Split the file.")
    return images


def decode_stored(suffix: str, path: Path, max_decoded_bytes: int, number: int | None) -> Image:
    """Decode one plane of a file, or the whole file where it holds one image of one time point.

    Args:
        suffix: The ending of such files.
        path: The file.
        max_decoded_bytes: The limit.
        number: Of the plane, counted through the file; None for all.

    Raises:
        FieldError: If the plane is not there, too large, or one of several images where none is chosen.
        Exception: Whatever the file's library raises for a damaged file.
    """
    with _opener(suffix, path)(path) as file:
        if number is None:
            return _whole_image(file, path, max_decoded_bytes)
        return _one_plane(file, *_find(file, number, path), path, max_decoded_bytes)


def stored_header(suffix: str, path: Path, number: int | None) -> ImageHeader:
    """What a file says of one plane, or of the one image that it holds; arguments and errors as in `decode_stored`."""
    with _opener(suffix, path)(path) as file:
        if number is not None:
            image, _ = _find(file, number, path)
            return ImageHeader((image.height, image.width), "YX", ImageMetadata())
        image = _only_image(file, path)
        return ImageHeader((image.z_planes, image.channels, image.height, image.width), "ZCYX", image.metadata)


def _find(file: StoredImages, number: int, path: Path) -> tuple[StoredImage, tuple[int, int, int]]:
    """The image of a plane, and its time point, Z-plane and channel."""
    first = 0
    for image in file.images:
        if number < first + image.planes:
            return image, image.place(number - first)
        first += image.planes
    raise FieldError(f"{path} holds {first} planes, asked for plane {number}, counted from 0: it was changed.")


def _opener(suffix: str, path: Path) -> Open:
    try:
        opener: Open = import_module(f"subcell_hf.images.decoders.{_FORMATS[suffix]}").open_images
    except ModuleNotFoundError as error:
        message = explain_missing(error.name)
        raise FieldError(f"{path} cannot be read: {message or error}") from error
    return opener


def _one_plane(
    file: StoredImages, image: StoredImage, place: tuple[int, int, int], path: Path, max_decoded_bytes: int
) -> Image:
    if image.problem:
        raise FieldError(f"{path}: {image.problem}")
    check_size(path, (image.height, image.width), image.dtype, max_decoded_bytes)
    pixels = file.read_plane(image, *place)
    if pixels.shape[:2] != (image.height, image.width):
        raise FieldError(
            f"{path} is truncated or corrupt: it holds a plane of {pixels.shape[0]} x {pixels.shape[1]} px, its "
            f"metadata announce {image.height} x {image.width} px. Copy or export the file again."
        )
    return Image(path, pixels, "YXS"[: pixels.ndim], ImageMetadata())


def _only_image(file: StoredImages, path: Path) -> StoredImage:
    if len(file.images) != 1 or file.images[0].times != 1:
        raise FieldError(
            f"{path} holds {len(file.images)} images of {file.images[0].times if file.images else 0} time points, "
            "expected one image here. Save every image as a separate file."
        )
    return file.images[0]


def _whole_image(file: StoredImages, path: Path, max_decoded_bytes: int) -> Image:
    image = _only_image(file, path)
    if image.planes * image.height * image.width * image.dtype.itemsize > max_decoded_bytes:
        raise too_large(path, f"{image.planes} planes of {image.height} x {image.width} px", max_decoded_bytes)
    planes = [_one_plane(file, image, place, path, max_decoded_bytes).pixels for place in image.places()]
    pixels = np.stack(planes).reshape(image.z_planes, image.channels, *planes[0].shape)
    return Image(path, pixels, "ZCYXS"[: pixels.ndim], image.metadata)
