"""Uploaded files → planes by channel, and their cells; lies beside `app.py` on the Hub.

Files come from strangers: their size and what their headers announce are checked before anything is decoded, see
`endpoint_images`. What a picture shows is decided by the model's image processor, as in the pipeline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.hub.endpoint.endpoint_images import (
    Budget,
    Decoded,
    Limits,
    RequestError,
    read_file,
    read_plane,
    read_planes,
)

LIMITS = Limits(max_request_bytes=64_000_000, max_decoded_bytes=256_000_000, max_edge_px=3072)
KINDS = [".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy"]

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


def read_channel_files(files: Mapping[str, str | None], processor: Any) -> dict[str, Pixels]:
    """Read one file per channel.

    Args:
        files: Channel → path of the uploaded file, None where there is none.
        processor: The model's image processor.

    Raises:
        RequestError: If a file is missing, too large, damaged, of another size than the others, or a composite.
    """
    missing = [channel for channel, path in files.items() if path is None]
    if missing:
        raise RequestError(f"No file for {', '.join(missing)}: this model requires {', '.join(files)}.")
    budget = Budget(LIMITS)
    planes = {}
    for channel, path in files.items():
        name, decoded = _read(path, budget)
        if isinstance(decoded, np.ndarray) and decoded.ndim == 3:
            raise RequestError(
                f"{name} has the shape {list(decoded.shape)}: expected one plane of {channel}. Open a file with all "
                "channels in the other tab."
            )
        planes[channel] = read_plane(decoded, processor, channel, name)
    return _check(planes)


def read_stack(path: str | None, names: Sequence[str], channels: Sequence[str], processor: Any) -> dict[str, Pixels]:
    """Read one file that holds all channels.

    Args:
        path: The uploaded file.
        names: Channel of each plane or of each picture of a sheet, in the order of the file.
        channels: Those that the model needs.
        processor: The model's image processor.

    Raises:
        RequestError: If there is no file, it is too large or damaged, or the names do not fit.
    """
    if path is None:
        raise RequestError(
            "No file selected: choose a channel sheet, or a TIFF or .npy file with one plane per channel."
        )
    lacking = [channel for channel in channels if channel not in names]
    if lacking or len(set(names)) != len(names):
        raise RequestError(
            f"The order of the channels is {', '.join(names) or 'empty'}: it must contain each of "
            f"{', '.join(channels)} once; planes that the model does not use may have any other name."
        )
    name, decoded = _read(path, Budget(LIMITS), len(names))
    # In the model's own order nothing is said: a picture in colours shows red, green and blue.
    planes = read_planes(decoded, processor, channels, None if list(names) == list(channels) else names, name)
    return _check({channel: planes[channel] for channel in channels})


def read_mask(path: str, shape: tuple[int, int], processor: Any) -> npt.NDArray[np.int32]:
    """Read labels of cells, or a picture that is black outside of one cell.

    Raises:
        RequestError: If the file is no such mask, or of another size than the image.
    """
    name, decoded = _read(path, Budget(LIMITS))
    mask = read_plane(decoded, processor, None, name)
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


def _read(path: Any, budget: Budget, tiles: int = 1) -> tuple[str, Decoded]:
    """The name of an uploaded file, and what it holds."""
    file = Path(path)
    size = file.stat().st_size
    if size == 0:
        raise RequestError(f"{file.name} is empty: choose the file again.")
    if size > LIMITS.max_request_bytes:
        raise RequestError(f"{file.name} is larger than {LIMITS.max_request_bytes:,} bytes: choose a smaller one.", 413)
    return file.name, read_file(file.read_bytes(), file.name, LIMITS, budget, tiles)


def _check(planes: dict[str, Pixels]) -> dict[str, Pixels]:
    shapes = {channel: plane.shape for channel, plane in planes.items()}
    if len(set(shapes.values())) != 1:
        listed = ", ".join(f"{channel} {shape[1]}×{shape[0]}" for channel, shape in shapes.items())
        raise RequestError(f"The channels differ in size ({listed} px): choose files of the same image.")
    if min(next(iter(shapes.values()))) < 16:
        raise RequestError("The image is smaller than 16 px: choose a larger one.")
    for channel, plane in planes.items():
        if plane.dtype.kind == "f" and not np.isfinite(plane).all():
            raise RequestError(f"{channel} contains NaN or infinite values: save the image without them.")
    return planes
