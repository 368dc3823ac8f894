"""Square windows of a field, brought to a size: linear for pixels, nearest for masks, zeros outside of the field.

One definition serves every scale: output pixel i of a window that begins at `start` is sampled at
`start + (i + 0.5) * scale - 0.5`, in input pixels.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

_ROWS_AT_ONCE = 256  # a block of so many rows stays in the processor's cache


def sample_positions(start: float, scale: float, size_px: int) -> npt.NDArray[np.float64]:
    """Where the pixels of a window are sampled along one axis, `[size_px]`, in input pixels."""
    return np.asarray(start + (np.arange(size_px) + 0.5) * scale - 0.5)


def resample_windows(
    pixels: npt.NDArray[Any], starts: Sequence[tuple[float, float]], scale: float, size_px: int
) -> npt.NDArray[Any]:
    """Cut square windows and resize them linearly; integers are rounded half to even.

    Args:
        pixels: `[channels, height, width]`.
        starts: First row and column of every window, in input pixels; windows may hang over the borders.
        scale: Input pixels per output pixel. Above 2 the kernel widens with the scale, so that no pixel is skipped.
        size_px: Edge of the output.

    Returns:
        `[windows, channels, size_px, size_px]` of the input's dtype.
    """
    windows = np.zeros((len(starts), pixels.shape[0], size_px, size_px), pixels.dtype)
    if scale in (1, 2) and all(float(row).is_integer() and float(column).is_integer() for row, column in starts):
        whole = [(int(row), int(column)) for row, column in starts]
        # One channel after the other, since a plane and its halves stay in the cache where all channels would not.
        for channel, plane in enumerate(pixels):
            _cut_windows(plane, whole, int(scale), windows[:, channel])
    else:
        for window, (row, column) in zip(windows, starts, strict=True):
            _interpolate_window(pixels, row, column, scale, window)
    return windows


def _cut_windows(
    plane: npt.NDArray[Any], starts: Sequence[tuple[int, int]], scale: int, windows: npt.NDArray[Any]
) -> None:
    """Windows at scale 1 or 2 are slices of the plane, or of one of the four ways to halve it.

    Linear sampling at scale 2 is the mean of 2 x 2 pixels; which pixels go together depends only on whether a window
    begins on an even or odd row and column. So a plane is halved at most four times instead of once per cell.
    """
    if scale == 1:
        for window, (row, column) in zip(windows, starts, strict=True):
            _copy_window(plane, row, column, window)
        return
    odd_rows: dict[int, set[int]] = {}
    for row, column in starts:
        odd_rows.setdefault(column % 2, set()).add(row % 2)
    halved = {odd_column: _halve(plane, odd_column, of_column) for odd_column, of_column in odd_rows.items()}
    for window, (row, column) in zip(windows, starts, strict=True):
        odd_row, odd_column = row % 2, column % 2
        _copy_window(halved[odd_column][odd_row], (row + odd_row) // 2, (column + odd_column) // 2, window)


def _copy_window(source: npt.NDArray[Any], row: int, column: int, window: npt.NDArray[Any]) -> None:
    """Copy what a window and the source have in common; the rest of the window stays as it is."""
    height, width = window.shape[-2:]
    top, left = max(row, 0), max(column, 0)
    bottom, right = min(row + height, source.shape[-2]), min(column + width, source.shape[-1])
    if top < bottom and left < right:
        window[..., top - row : bottom - row, left - column : right - column] = source[..., top:bottom, left:right]


def _halve(plane: npt.NDArray[Any], odd_column: int, odd_rows: Collection[int]) -> dict[int, npt.NDArray[Any]]:
    """Mean of 2 x 2 pixels, with zeros around the plane.

    Args:
        plane: `[height, width]`.
        odd_column: 1 for blocks that begin one column before the plane, 0 for blocks that begin with it.
        odd_rows: The same of rows; 0, 1 or both.

    Returns:
        For each of `odd_rows`, `[height // 2 + 1, (width + odd_column + 1) // 2]`.
    """
    height, width = (plane.shape[0] + 2) // 2, (plane.shape[1] + odd_column + 1) // 2
    halved = {odd_row: np.empty((height, width), plane.dtype) for odd_row in odd_rows}
    for row in range(0, height, _ROWS_AT_ONCE):
        block = np.zeros((2 * min(_ROWS_AT_ONCE, height - row) + 1, 2 * width), plane.dtype)
        _copy_window(plane, 2 * row - 1, -odd_column, block)
        pairs = _add_neighbours(block)
        for odd_row, half in halved.items():
            total = pairs[1 - odd_row : -1 : 2] + pairs[2 - odd_row :: 2]
            half[row : row + _ROWS_AT_ONCE] = _quarter(total)
    return halved


def _add_neighbours(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Sums of columns 0 and 1, 2 and 3, …; of integers in twice the width."""
    if block.dtype.kind != "u":
        return np.asarray(block[:, 0::2] + block[:, 1::2])
    # Two neighbours are read as one wide integer and added by shift and mask: nothing is strided, so it runs at the
    # speed of memory.
    bits = 8 * block.dtype.itemsize
    wide = np.dtype(f"u{2 * block.dtype.itemsize}").type
    pairs = block.view(wide)
    sums = pairs >> wide(bits)
    sums += pairs & wide(2**bits - 1)
    return np.asarray(sums)


def _quarter(total: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A fourth of sums, which are overwritten; integers are rounded half to even."""
    if total.dtype.kind != "u":
        return np.asarray(total / total.dtype.type(4))
    # Add 1, and 1 more where the quotient is odd, before the remainder is cut off.
    unit, two = total.dtype.type(1), total.dtype.type(2)
    total += (total >> two) & unit
    total += unit
    total >>= two
    return total


def _interpolate_window(
    pixels: npt.NDArray[Any], row: float, column: float, scale: float, window: npt.NDArray[Any]
) -> None:
    size = window.shape[-1]
    row_weights, rows = _linear_weights(sample_positions(row, scale, size), scale, pixels.shape[1])
    column_weights, columns = _linear_weights(sample_positions(column, scale, size), scale, pixels.shape[2])
    for channel, plane in enumerate(pixels):
        values = row_weights @ plane[rows, columns].astype(np.float32)
        values = (column_weights @ values.T).T
        window[channel] = np.rint(values) if pixels.dtype.kind == "u" else values


def _linear_weights(positions: npt.NDArray[np.float64], scale: float, length: int) -> tuple[sparse.csr_array, slice]:
    """Weights that sample an axis linearly, and the slice of the axis that they apply to.

    A triangle of half-width 1, or scale / 2 where that is more. Pixels outside of the axis are zero and keep their
    weight.
    """
    half_width = max(1.0, scale / 2)
    taps = np.floor(positions - half_width).astype(np.int64)[:, None] + np.arange(1, int(np.ceil(2 * half_width)) + 1)
    weights = np.clip(1 - np.abs(taps - positions[:, None]) / half_width, 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    inside = (taps >= 0) & (taps < length) & (weights > 0)
    if not inside.any():
        return sparse.csr_array((len(positions), 0), dtype=np.float32), slice(0, 0)
    first, last = int(taps[inside].min()), int(taps[inside].max())
    outputs = np.broadcast_to(np.arange(len(positions))[:, None], taps.shape)
    entries = (weights[inside].astype(np.float32), (outputs[inside], taps[inside] - first))
    return sparse.csr_array(entries, shape=(len(positions), last + 1 - first)), slice(first, last + 1)


def nearest_window(
    mask: npt.NDArray[np.bool_], origin: tuple[int, int], start: tuple[float, float], scale: float, size_px: int
) -> npt.NDArray[np.bool_]:
    """Cut a square window out of a mask that is False outside of its array.

    Args:
        mask: `[height, width]`, for example the surroundings of one cell.
        origin: Row and column of its first pixel in the field.
        start: First row and column of the window in the field.
        scale: Input pixels per output pixel.
        size_px: Edge of the output.

    Returns:
        `[size_px, size_px]` bool. A sample half way between two pixels takes the first.
    """
    window = np.zeros((size_px, size_px), np.bool_)
    targets, sources = list[slice](), list[npt.NDArray[np.int64]]()
    for axis in (0, 1):
        nearest = np.ceil(sample_positions(start[axis], scale, size_px) - 0.5).astype(np.int64) - origin[axis]
        first, last = np.searchsorted(nearest, (0, mask.shape[axis]))
        targets.append(slice(first, last))
        sources.append(nearest[first:last])
    if all(map(len, sources)):
        # At a whole scale, every so many pixels are taken, which needs no list of them.
        places = [slice(int(one[0]), int(one[-1]) + 1, int(scale)) for one in sources] if scale == int(scale) else None
        window[*targets] = mask[np.ix_(*sources)] if places is None else mask[*places]
    return window


def dilate(mask: npt.NDArray[np.bool_], radius_px: int) -> npt.NDArray[np.bool_]:
    """Grow a mask by a square of 2 · radius + 1 pixels; the result is larger by the radius on every side.

    Args:
        mask: `[height, width]`.
        radius_px: At least 0.

    Returns:
        `[height + 2 · radius, width + 2 · radius]`; with a radius of 0 the mask itself.
    """
    if not radius_px:
        return mask
    grown = np.pad(mask, ((0, 2 * radius_px), (0, 2 * radius_px)))
    for axis in (0, 1):
        lines = grown if axis == 0 else grown.T
        reach = 1  # every True pixel has been spread over so many pixels; doubled in each round
        while reach <= 2 * radius_px:
            step = min(reach, 2 * radius_px + 1 - reach)
            lines[step:] |= lines[:-step].copy()
            reach += step
    return grown
