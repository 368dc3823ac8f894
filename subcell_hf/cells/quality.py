"""Quality columns of a cell: what may make its crop useless, for the user to filter on."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

DOUBTFUL_CHANNELS = "qc_doubtful_channels"
"""Column of what `doubtful_channels` says of a cell's field."""

FOCUS_OF = "qc_focus_"
"""Begin of the columns of the focus of each channel, `qc_focus_red` and so on."""

_CAMERA_MAXIMA = (4095, 16_383, 65_535)  # 12, 14 and 16 bit, all stored in 16


def saturation_level(pixels: npt.NDArray[Any]) -> int | None:
    """The value at which a pixel of a field is saturated.

    Args:
        pixels: All channels of a field.

    Returns:
        255 for 8-bit images; for 16-bit images the smallest maximum of a 12-, 14- or 16-bit camera that no pixel
        exceeds; None for float images, whose scale nobody knows.
    """
    if pixels.dtype == np.uint8:
        return 255
    if pixels.dtype == np.uint16:
        brightest = int(pixels.max(initial=0))
        return next(maximum for maximum in _CAMERA_MAXIMA if brightest <= maximum)
    return None


def saturated_fraction(pixels: npt.NDArray[Any], inside: npt.NDArray[np.bool_], level: int | None) -> float | None:
    """Share of a cell's pixels that are saturated, in the channel where it is largest.

    Args:
        pixels: `[channels, height, width]`, as acquired.
        inside: `[height, width]`, True in the cell.
        level: See `saturation_level`; None gives None.
    """
    count = int(np.count_nonzero(inside))
    if level is None or count == 0:
        return None
    saturated = np.count_nonzero((pixels >= level) & inside, axis=(1, 2))
    return float(saturated.max() / count)


def focus(pixels: npt.NDArray[Any], inside: npt.NDArray[np.bool_]) -> tuple[float | None, ...]:
    """Sharpness of a cell in each channel: energy of the Laplacian over variance of the intensities.

    The ratio does not depend on gain or offset. It falls with blur; it rises with noise, so compare only fields that
    were taken alike.

    Args:
        pixels: `[channels, height, width]` of a crop.
        inside: `[height, width]`, True in the cell.

    Returns:
        A number ≥ 0 for each channel; None where the cell is too small or the channel does not vary.
    """
    inner = inside[1:-1, 1:-1]
    count = int(np.count_nonzero(inner))
    if count == 0:
        return (None,) * len(pixels)
    # Relative to one pixel of the cell, which leaves both terms as they are and a constant channel at exactly 0.
    values = pixels.astype(np.float32)
    values -= values[:, 1:-1, 1:-1].reshape(len(values), -1)[:, [int(inner.argmax())]][:, :, None]
    centre = values[:, 1:-1, 1:-1]
    laplacian = values[:, :-2, 1:-1] + values[:, 2:, 1:-1] + values[:, 1:-1, :-2] + values[:, 1:-1, 2:] - 4 * centre
    weights = inner.ravel().astype(np.float32) / count
    energy, square, mean = (
        plane.reshape(len(values), -1) @ weights for plane in (np.square(laplacian), np.square(centre), centre)
    )
    variance = square - np.square(mean)
    return tuple(float(e / v) if v > 0 else None for e, v in zip(energy, variance, strict=True))


def empty_channels(pixels: npt.NDArray[Any], inside: npt.NDArray[np.bool_], channels: tuple[str, ...]) -> str:
    """Names of the channels that have one value all over a cell, joined by `;`.

    Such a cell is kept: the protein channel of a negative control may well be empty.

    Args:
        pixels: `[channels, height, width]`.
        inside: `[height, width]`, True in the cell.
        channels: Name of every channel.
    """
    if not inside.any():
        return ""
    any_value = pixels.reshape(len(pixels), -1)[:, [int(inside.argmax())]][:, :, None]
    varies = ((pixels != any_value) & inside).any(axis=(1, 2))
    return ";".join(name for name, varying in zip(channels, varies, strict=True) if not varying)


def doubtful_channels(pixels: npt.NDArray[Any], channels: tuple[str, ...]) -> str:
    """Channels that are constant all over an image, or equal to an earlier one: `red constant; green = blue`.

    Such an image is kept, since a negative control may be black; two channels from one exported file are not noticed
    otherwise.

    Args:
        pixels: `[channels, height, width]` of a whole image.
        channels: Name of every channel.
    """
    said = []
    for number, (name, plane) in enumerate(zip(channels, pixels, strict=True)):
        equal = [other for other, earlier in zip(channels[:number], pixels, strict=False) if _are_equal(plane, earlier)]
        if plane.min() == plane.max():
            said.append(f"{name} constant")
        elif equal:
            said.append(f"{name} = {equal[0]}")
    return "; ".join(said)


def _are_equal(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    # A few rows tell most planes apart.
    return np.array_equal(one[::64], other[::64]) and np.array_equal(one, other)


def count_doubtful_channels(cells: pa.Table) -> list[dict[str, Any]]:
    """What `doubtful_channels` says in a table of cells: the channels, and of how many fields, and the first of them.

    Args:
        cells: Any table; one without the column has none.
    """
    if not {DOUBTFUL_CHANNELS, "field_of_view"} <= set(cells.column_names):
        return []
    grouped = cells.select([DOUBTFUL_CHANNELS, "field_of_view"]).group_by(DOUBTFUL_CHANNELS)
    counted = grouped.aggregate([("field_of_view", "count_distinct"), ("field_of_view", "min")]).to_pylist()
    rows = [
        {
            "channels": row[DOUBTFUL_CHANNELS],
            "fields": row["field_of_view_count_distinct"],
            "first": row["field_of_view_min"],
        }
        for row in counted
        if row[DOUBTFUL_CHANNELS]
    ]
    return sorted(rows, key=lambda row: (-row["fields"], row["channels"]))
