"""Uploaded files → planes by channel, and their cells; lies beside `app.py` on the Hub.

Files come from strangers: their size and what their headers announce are checked before anything is decoded, see
`endpoint_images`.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from subcell_hf.hub.endpoint.endpoint_images import (
    CELL_MASK,
    ORIENTATION,
    Budget,
    Limits,
    RequestError,
    decode_image,
    only_colour,
    refuse_orientation,
)

LIMITS = Limits(max_request_bytes=64_000_000, max_decoded_bytes=256_000_000, max_edge_px=3072)
KINDS = [".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy"]

_JPEG_SIGNATURE = b"\xff\xd8\xff"

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class Picture:
    """What was uploaded.

    Attributes:
        planes: Channel of the model → `[height, width]` in the file's dtype.
        cells: `[height, width]` int32 labels, 0 is background; None if the cells are unknown.
        pixel_size_um: Edge of a pixel in micrometres; None if unknown.
        is_size_assumed: Whether nobody gave it, so that the model's own was taken.
    """

    planes: Mapping[str, Pixels]
    cells: npt.NDArray[np.int32] | None
    pixel_size_um: float | None
    is_size_assumed: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        height, width = next(iter(self.planes.values())).shape
        return height, width

    @property
    def cell_labels(self) -> list[int]:
        """Labels of the cells, the largest first that touch no border, then the others."""
        if self.cells is None:
            return []
        labels, sizes = np.unique(self.cells[self.cells > 0], return_counts=True)
        border = np.concatenate([self.cells[0], self.cells[-1], self.cells[:, 0], self.cells[:, -1]])
        order = sorted(range(len(labels)), key=lambda index: (labels[index] in border, -int(sizes[index])))
        return [int(labels[index]) for index in order]


def read_channel_files(files: Mapping[str, str | None]) -> dict[str, Pixels]:
    """Read one file per channel.

    Args:
        files: Channel → path of the uploaded file, None where there is none.

    Raises:
        RequestError: If a file is missing, too large, damaged, of another size than the others, or a composite.
    """
    missing = [channel for channel, path in files.items() if path is None]
    if missing:
        raise RequestError(f"No file for {', '.join(missing)}: this model requires {', '.join(files)}.")
    budget = Budget(LIMITS)
    planes = {channel: _read_plane(Path(path), channel, budget) for channel, path in files.items() if path}
    return _check_sizes(planes)


def read_stack(path: str | None, names: Sequence[str], channels: Sequence[str]) -> dict[str, Pixels]:
    """Read one file that holds all channels.

    Args:
        path: The uploaded file.
        names: Channel of each plane, in the order of the file.
        channels: Those that the model needs.

    Raises:
        RequestError: If there is no file, it is too large or damaged, or the names do not fit.
    """
    if path is None:
        raise RequestError("No file selected: choose a TIFF or .npy file with one plane per channel.")
    lacking = [channel for channel in channels if channel not in names]
    if lacking or len(set(names)) != len(names):
        raise RequestError(
            f"The order of the channels is {', '.join(names) or 'empty'}: it must contain each of "
            f"{', '.join(channels)} once; planes that the model does not use may have any other name."
        )
    stack = _decode(Path(path), Budget(LIMITS))
    if stack.ndim == 3 and stack.shape[0] != len(names) == stack.shape[2]:
        stack = np.moveaxis(stack, 2, 0)
    if stack.ndim != 3 or len(stack) != len(names):
        raise RequestError(
            f"{Path(path).name} has the shape {list(stack.shape)}, but the number of channel names is {len(names)} "
            f"({', '.join(names)}): give one name per plane."
        )
    return _check_sizes({channel: stack[list(names).index(channel)] for channel in channels})


def read_mask(path: str, shape: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Read labels of cells, or a picture that is black outside of one cell.

    Raises:
        RequestError: If the file is no such mask, or of another size than the image.
    """
    mask = _decode(Path(path), Budget(LIMITS), CELL_MASK)
    if mask.shape != shape:
        raise RequestError(f"The mask has the shape {list(mask.shape)}, the channels have {list(shape)}.")
    if not np.isfinite(mask).all() or (mask != np.round(mask)).any() or mask.min() < 0 or not mask.any():
        raise RequestError(
            "The mask contains no whole numbers above 0: expected the number of the cell in each of its pixels."
        )
    if mask.max() > np.iinfo(np.uint16).max:
        raise RequestError(f"The mask has the label {mask.max()}: expected at most 65,535.")
    return mask.astype(np.int32)


def find_cells(planes: Mapping[str, Pixels], pixel_size_um: float | None) -> npt.NDArray[np.int32] | None:
    """Find cells where `subcell_hf` is installed with its readers of images and the image allows it; else None."""
    try:
        from subcell_hf.cells.segmentation import segment_cells
        from subcell_hf.images.files import FieldError
        from subcell_hf.types import FieldOfView
    except ModuleNotFoundError:
        return None
    if pixel_size_um is None or "blue" not in planes:
        return None
    field = FieldOfView("upload", np.stack(list(planes.values())), tuple(planes), pixel_size_um)
    try:
        return segment_cells(field)
    except FieldError:
        return None


def _read_plane(path: Path, channel: str, budget: Budget) -> Pixels:
    pixels = _decode(path, budget, channel)
    if pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8:
        return only_colour(pixels, channel, path.name)
    if pixels.ndim != 2:
        raise RequestError(
            f"{path.name} has the shape {list(pixels.shape)}: expected one plane of {channel}. Open a file with all "
            "channels in the other tab."
        )
    return pixels


def _decode(path: Path, budget: Budget, channel: str = "") -> Pixels:
    size = path.stat().st_size
    if size == 0:
        raise RequestError(f"{path.name} is empty: choose the file again.")
    budget.take(size, path.name)
    content = path.read_bytes()
    is_jpeg = content.startswith(_JPEG_SIGNATURE)
    if is_jpeg and channel == CELL_MASK:
        raise RequestError(f"{path.name} is a JPEG; its compression changes labels. Choose a PNG, TIFF or .npy mask.")
    pixels = _read_jpeg(content, path.name, budget) if is_jpeg else None
    if pixels is None:
        pixels = decode_image(content, path.name, LIMITS, budget, channel)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise RequestError(f"{path.name} contains NaN or infinite values: save the image without them.")
    return pixels


def _read_jpeg(content: bytes, name: str, budget: Budget) -> Pixels:
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as picture:
            width, height = picture.size
            if max(width, height) > LIMITS.max_edge_px:
                raise RequestError(f"{name} is {width}×{height} px: expected edges up to {LIMITS.max_edge_px} px.", 413)
            budget.take_decoded(width * height * 3, name)
            if picture.mode not in ("L", "RGB"):
                raise RequestError(f"{name} is a {picture.mode} JPEG: expected grey or RGB.")
            if getattr(picture, "n_frames", 1) > 1:
                raise RequestError(f"{name} contains several images: expected one.", 422)
            refuse_orientation(picture.getexif().get(ORIENTATION, 1), name)
            return np.asarray(picture)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{name} cannot be decoded ({error}): it may be damaged. Copy it again.", 422) from error


def _check_sizes(planes: dict[str, Pixels]) -> dict[str, Pixels]:
    shapes = {channel: plane.shape for channel, plane in planes.items()}
    if len(set(shapes.values())) != 1:
        listed = ", ".join(f"{channel} {shape[1]}×{shape[0]}" for channel, shape in shapes.items())
        raise RequestError(f"The channels differ in size ({listed} px): choose files of the same image.")
    if min(next(iter(shapes.values()))) < 16:
        raise RequestError("The image is smaller than 16 px: choose a larger one.")
    return planes
