"""Classical features of single-cell crops: the baseline that needs no learning.

What a CellProfiler user would measure: intensity, texture, granularity and radial distribution of every channel inside
the cell, the overlap of every pair of channels, and where each channel lies relative to the nucleus.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.feature import graycomatrix
from skimage.measure import perimeter

from subcell_hf.errors import InputError, counted
from subcell_hf.ontology import CHANNEL_STAINS

Features = dict[str, float]
"""Name of a feature → its value for one cell."""
Measures = dict[str, npt.NDArray[Any]]
"""Name of a measure → its value for each channel of one cell, `[channels]`."""
Planes = npt.NDArray[np.float32]
"""Every channel of one cell, `[channels, height, width]`: measured together, in a third of the calls."""
Values = npt.NDArray[np.float64]
"""The same inside the cell, `[channels, pixels]`."""
Mask = npt.NDArray[np.bool_]

NUCLEUS_CHANNEL = next(name for name, stain in CHANNEL_STAINS.items() if stain.startswith("nucleus"))

_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_RINGS = 4
_GREY_LEVELS = 16
_GREY_DISTANCES_PX = (1, 4)
_GREY_ANGLES = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
_NEIGHBOURS = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
"""Around a pixel at (1, 1), one after the other."""


def _pattern_of_code() -> npt.NDArray[np.int64]:
    """Number of brighter neighbours where they lie together, else one number for all other codes."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    changes = (bits != np.roll(bits, 1, axis=1)).sum(axis=1)
    return np.where(changes <= 2, bits.sum(axis=1), len(_NEIGHBOURS) + 1)


_PATTERN_OF_CODE = _pattern_of_code()
_GRANULE_EDGES_PX = (3, 5, 9, 17)
_TINY = 1e-6


def measure_cells(
    pixels: npt.NDArray[np.generic], cell_masks: npt.NDArray[np.bool_], channels: Sequence[str]
) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Measure every cell.

    Args:
        pixels: `[cells, channels, height, width]`, uint8, uint16 or float32. Integers count as shares of their range.
        cell_masks: `[cells, height, width]` bool, True inside.
        channels: Name of each plane.

    Returns:
        `[cells, features]` float32, all finite, and the features' names (`<channel>_<measure>`,
        `<channel>_<channel>_<measure>`, `cell_<measure>`).

    Raises:
        InputError: If shapes and names do not fit, pixels are not finite, or a mask is empty.

    Source:
        Haralick et al. 1973 (co-occurrence), Ojala et al. 2002 (binary patterns), Carpenter et al. 2006 (CellProfiler),
        Manders et al. 1993 (overlap).
    """
    check_crops(pixels, cell_masks, channels)
    measured = [measure_cell(crop, inside, channels) for crop, inside in zip(pixels, cell_masks, strict=True)]
    names = tuple(measured[0])
    values = np.array([[cell[name] for name in names] for cell in measured], np.float32)
    return values, names


def check_crops(pixels: npt.NDArray[np.generic], cell_masks: npt.NDArray[np.bool_], channels: Sequence[str]) -> None:
    """Refuse crops that cannot be measured.

    Raises:
        InputError: If shapes and names do not fit, pixels are not finite, or a mask is empty.
    """
    expected = (len(cell_masks), len(channels), *cell_masks.shape[1:])
    if pixels.ndim != 4 or pixels.shape != expected or not len(pixels):
        raise InputError(
            f"Pixels have the shape {pixels.shape}; expected {expected}: cells, {', '.join(channels)}, height, width."
        )
    if np.issubdtype(pixels.dtype, np.floating) and not np.isfinite(pixels).all():
        raise InputError("Pixels contain NaN or infinite values; expected finite intensities.")
    empty = np.flatnonzero(~cell_masks.any(axis=(1, 2)))
    if len(empty):
        raise InputError(
            f"Empty masks: {counted(len(empty), 'cell')}, first number {empty[0]}; expected pixels in each."
        )


def measure_cell(crop: npt.NDArray[np.generic], inside: Mask, channels: Sequence[str]) -> Features:
    """Measure one cell.

    Args:
        crop: `[channels, height, width]`.
        inside: `[height, width]`, True in the cell.
        channels: Name of each plane.

    Returns:
        Name of the feature → value, always in the same order.
    """
    rows, columns = ndimage.find_objects(inside.astype(np.int8))[0]
    inside = inside[rows, columns]
    top = float(np.iinfo(crop.dtype.name).max) if np.issubdtype(crop.dtype, np.integer) else 1.0
    planes = np.asarray(crop[:, rows, columns], np.float32) / np.float32(top)
    values = _inside(planes, inside)
    bright = inside & (planes > _otsu(values)[:, None, None])
    measured = {
        **_intensity(values.astype(np.float64)),
        **_spots(bright, inside),
        **_radial(values.astype(np.float64), inside),
        **_granularity(planes, inside),
        **_co_occurrence(planes, inside),
        **_binary_patterns(planes, inside),
    }
    features = _shape(inside, "cell")
    for number, name in enumerate(channels):
        features |= {f"{name}_{measure}": float(found[number]) for measure, found in measured.items()}
    overlaps = _overlap(values.astype(np.float64), _inside(bright, inside))
    for first, second in combinations(range(len(channels)), 2):
        pair = f"{channels[first]}_{channels[second]}"
        features |= {f"{pair}_{measure}": float(found[first, second]) for measure, found in overlaps.items()}
    if NUCLEUS_CHANNEL in channels:
        nucleus, around = _around_nucleus(planes, bright[list(channels).index(NUCLEUS_CHANNEL)], inside)
        features |= nucleus
        for number, name in enumerate(channels):
            features |= {f"{name}_{measure}": float(found[number]) for measure, found in around.items()}
    return features


def _inside(planes: npt.NDArray[Any], region: Mask) -> npt.NDArray[Any]:
    """The pixels of a region, `[channels, pixels]`; by `planes[:, region]` they would not lie side by side."""
    return planes.reshape(len(planes), -1).take(np.flatnonzero(region), axis=1)


def _shape(region: Mask, name: str) -> Features:
    """Size and form of a region, in pixels; the equations are those of scikit-image's `regionprops`."""
    places = np.stack(np.nonzero(region)).astype(np.float64)  # [axes, pixels]
    centred = places - places.mean(axis=1, keepdims=True)
    short, long = np.maximum(np.linalg.eigvalsh(centred @ centred.T), 0)
    return {
        f"{name}_area_px": float(places.shape[1]),
        f"{name}_eccentricity": float(np.sqrt(1 - short / long)) if long else 0.0,
        f"{name}_extent": float(places.shape[1] / (np.ptp(places, axis=1) + 1).prod()),
        f"{name}_perimeter_px": float(perimeter(region)),
    }


def _histograms(values: npt.NDArray[Any], low: npt.NDArray[Any], high: npt.NDArray[Any], bins: int) -> Values:
    """Of each channel between its lowest and highest value, `[channels, bins]`; numpy's for all channels at once."""
    edges = np.linspace(low, high, bins + 1, axis=1, dtype=values.dtype)
    number = ((values - low[:, None]) / (high - low)[:, None] * bins).astype(np.intp).clip(0, bins - 1)
    # As numpy does: what rounding has moved over an edge is moved back.
    number -= values < np.take_along_axis(edges, number, axis=1)
    number += (values >= np.take_along_axis(edges, number + 1, axis=1)) & (number < bins - 1)
    number += np.arange(len(values))[:, None] * bins
    return np.bincount(number.ravel(), minlength=len(values) * bins).reshape(len(values), bins).astype(np.float64)


def _otsu(values: npt.NDArray[np.float32], bins: int = 128) -> npt.NDArray[np.float32]:
    """Otsu's threshold of each channel `[channels]`, as scikit-image has it; in a flat one nothing lies above it."""
    low, high = values.min(axis=1), values.max(axis=1)
    flat = high <= low
    top = np.where(flat, low + 1, high)
    counts = _histograms(values, low, top, bins)
    edges = np.linspace(low, top, bins + 1, axis=1)
    centres = (edges[:, :-1] + edges[:, 1:]) / 2
    below, sum_below = counts.cumsum(axis=1)[:, :-1], (counts * centres).cumsum(axis=1)
    above, sum_above = values.shape[1] - below, sum_below[:, -1:] - sum_below[:, :-1]
    between = below * above * (sum_below[:, :-1] / below - sum_above / np.maximum(above, 1)) ** 2
    best = centres[np.arange(len(values)), between.argmax(axis=1)]
    thresholds: npt.NDArray[np.float32] = np.where(flat, high, best).astype(np.float32)
    return thresholds


def _intensity(values: Values) -> Measures:
    """Distribution of each channel's intensities in the cell."""
    mean, spread = values.mean(axis=1), values.std(axis=1)
    centred = (values - mean[:, None]) / np.maximum(spread, _TINY)[:, None]
    squares = centred * centred  # a power of a float array costs ten times as much
    quantiles = np.quantile(values, _QUANTILES, axis=1)  # [quantiles, channels]
    return {
        "mean": mean,
        "log_mean": np.log(mean + _TINY),
        "std": spread,
        "variation": spread / (mean + _TINY),
        "skewness": (squares * centred).mean(axis=1),
        "kurtosis": (squares * squares).mean(axis=1),
        "entropy": _entropy(values),
        **{f"quantile_{q:g}": value for q, value in zip(_QUANTILES, quantiles, strict=True)},
        **{f"relative_quantile_{q:g}": value / (mean + _TINY) for q, value in zip(_QUANTILES, quantiles, strict=True)},
    }


def _entropy(values: Values) -> Values:
    """Entropy of each channel's histogram, in nats."""
    low = values.min(axis=1)
    shares = _histograms(values, low, np.maximum(values.max(axis=1), low + _TINY), 32) / values.shape[1]
    entropy: Values = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1)
    return entropy


def _spots(bright: Mask, inside: Mask) -> Measures:
    """How the part above Otsu's threshold is spread: one blob, or many dots."""
    count = np.array([ndimage.label(plane)[1] for plane in bright])
    area, total = bright.sum(axis=(1, 2)), inside.sum()
    return {
        "bright_share": area / total,
        "bright_spots": count,
        "bright_spot_size": area / np.maximum(count, 1) / total,
    }


def _rings(inside: Mask) -> npt.NDArray[np.int64]:
    """Number of the ring, 1 at the border to `_RINGS` in the middle; 0 outside."""
    padded = np.pad(inside, 1)
    depth = ndimage.distance_transform_edt(padded)[1:-1, 1:-1]
    share = np.minimum(depth / max(depth.max(), _TINY), 1 - _TINY)
    return np.where(inside, 1 + (share * _RINGS).astype(np.int64), 0)


def _radial(values: Values, inside: Mask) -> Measures:
    """Intensity by depth under the cell's border, and how uneven each ring is."""
    ring = _rings(inside)[inside] == np.arange(1, _RINGS + 1)[:, None]  # [rings, pixels]
    count = np.maximum(ring.sum(axis=1), 1)
    mean = values @ ring.T / count  # [channels, rings]
    spread = np.sqrt(np.maximum(values**2 @ ring.T / count - mean**2, 0))
    relative = mean / (values.mean(axis=1, keepdims=True) + _TINY)
    variation = spread / np.maximum(mean, _TINY)
    return {
        **{f"ring_{number + 1}_mean": relative[:, number] for number in range(_RINGS)},
        **{f"ring_{number + 1}_variation": variation[:, number] for number in range(_RINGS)},
    }


def _granularity(planes: Planes, inside: Mask) -> Measures:
    """Share of the intensity that openings of growing size remove: the size of grains."""
    masked = np.where(inside, planes, 0)
    left = total = masked.sum(axis=(1, 2), dtype=np.float64) + _TINY
    features = {}
    for edge in _GRANULE_EDGES_PX:
        masked = _slide(_slide(masked, edge, np.minimum, np.inf), edge, np.maximum, -np.inf)
        remaining = _inside(masked, inside).sum(axis=1, dtype=np.float64)
        features[f"granularity_{edge}px"] = (left - remaining) / total
        left = remaining
    return features


def _slide(planes: Planes, edge: int, pick: np.ufunc, outside: float) -> Planes:
    """The lowest or highest value of every square of `edge` pixels about a pixel, of a few pixels' cost for any edge.

    Filters of scipy, one line at a time, take four times as long on planes of this size.
    """
    for axis in (1, 2):
        shape = list(planes.shape)
        shape[axis] += edge - 1
        lines = np.full(shape, outside, np.float32).swapaxes(0, axis)
        lines[edge // 2 : edge // 2 + planes.shape[axis]] = planes.swapaxes(0, axis)
        reach = 1  # every line holds the extreme of so many
        while reach < edge:
            step = min(reach, edge - reach)
            lines = pick(lines[:-step], lines[step:])
            reach += step
        planes = lines.swapaxes(0, axis)
    return planes


def _co_occurrence(planes: Planes, inside: Mask) -> Measures:
    """Haralick's measures of pairs of pixels that both lie in the cell, mean over four directions."""
    low, high = np.quantile(_inside(planes, inside), (0.001, 0.999), axis=1)[..., None, None]
    scaled = np.clip((planes - low) / np.maximum(high - low, _TINY), 0, 1 - _TINY)
    # Level 0 is the surroundings; its row and column are dropped.
    levels = np.where(inside, 1 + (scaled * _GREY_LEVELS).astype(np.uint8), 0).astype(np.uint8)
    counts = [
        graycomatrix(plane, _GREY_DISTANCES_PX, _GREY_ANGLES, _GREY_LEVELS + 1, symmetric=True)[1:, 1:]
        for plane in levels
    ]
    pairs = np.stack(counts).astype(np.float64).reshape(len(planes), _GREY_LEVELS**2, len(_GREY_DISTANCES_PX), -1)
    pairs /= np.maximum(pairs.sum(axis=1, keepdims=True), 1)  # [channels, levels², distances, angles]
    i, j = np.indices((_GREY_LEVELS, _GREY_LEVELS)).reshape(2, -1)
    weights = np.stack([(i - j) ** 2, np.abs(i - j), 1 / (1 + (i - j) ** 2), i, i * i, i * j])
    contrast, dissimilarity, homogeneity, mean, square, product = np.tensordot(weights, pairs, axes=(1, 1))
    measures = {
        "contrast": contrast,
        "dissimilarity": dissimilarity,
        "homogeneity": homogeneity,
        "energy": (pairs * pairs).sum(axis=1),
        "correlation": (product - mean**2) / np.maximum(square - mean**2, _TINY),
        "joint_entropy": -(pairs * np.log(np.maximum(pairs, 1e-12))).sum(axis=1),
    }
    return {
        f"{name}_{distance}px": found[:, number].mean(axis=-1)
        for name, found in measures.items()
        for number, distance in enumerate(_GREY_DISTANCES_PX)
    }


def _binary_patterns(planes: Planes, inside: Mask) -> Measures:
    """Histogram of uniform, rotation-invariant binary patterns of the eight pixels around each.

    On the pixel grid, which takes a tenth of the time of interpolating a circle.
    """
    padded = np.pad(planes, ((0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = inside.shape
    code = np.zeros(planes.shape, np.uint8)
    for bit, (row, column) in enumerate(_NEIGHBOURS):
        code |= (padded[:, row : row + height, column : column + width] >= planes).astype(np.uint8) << np.uint8(bit)
    patterns = _PATTERN_OF_CODE[_inside(code, inside)]
    shares = np.stack([np.bincount(found, minlength=len(_NEIGHBOURS) + 2) for found in patterns]) / inside.sum()
    return {f"pattern_{number}": share for number, share in enumerate(shares.T)}


def _overlap(values: Values, bright: Mask) -> Measures:
    """How far each two channels lie in the same places of the cell: `[channels, channels]` by name."""
    centred = values - values.mean(axis=1, keepdims=True)
    covariance, products, shown = centred @ centred.T, values @ values.T, bright.astype(np.float64)
    norm = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    length = np.sqrt(np.outer(np.diag(products), np.diag(products)))
    within = values @ shown.T / (values.sum(axis=1, keepdims=True) + _TINY)  # of the first, in the second's bright part
    both, area = shown @ shown.T, shown.sum(axis=1)
    return {
        "correlation": np.where(norm > _TINY, covariance / np.maximum(norm, _TINY), 0.0),
        "overlap": products / np.maximum(length, _TINY),
        "share_of_first_in_second": within,
        "share_of_second_in_first": within.T,
        "bright_overlap": both / np.maximum(area[:, None] + area - both, 1),
    }


def _around_nucleus(planes: Planes, bright: Mask, inside: Mask) -> tuple[Features, Measures]:
    """The nucleus, and every channel inside it, at its rim and by distance from it."""
    nucleus = ndimage.binary_fill_holes(ndimage.binary_opening(bright, iterations=2)) & inside
    if not nucleus.any():
        nucleus = bright if bright.any() else inside
    features = _shape(nucleus, "nucleus") | {"nucleus_share": float(nucleus.sum() / inside.sum())}
    rim = (ndimage.binary_dilation(nucleus, iterations=3) & ~ndimage.binary_erosion(nucleus, iterations=3)) & inside
    distance = ndimage.distance_transform_edt(~nucleus)[inside]
    values, within = _inside(planes, inside).astype(np.float64), _inside(planes, nucleus).astype(np.float64)
    total, mean, mean_within = values.sum(axis=1) + _TINY, values.mean(axis=1) + _TINY, within.mean(axis=1)
    at_rim = _inside(planes, rim).mean(axis=1, dtype=np.float64) if rim.any() else np.zeros(len(planes))
    return features, {
        "share_in_nucleus": within.sum(axis=1) / total,
        "nuclear_enrichment": mean_within / mean,
        "rim_enrichment": at_rim / mean,
        "distance_from_nucleus": values @ distance / total / max(float(distance.max()), 1.0),
        "nuclear_variation": within.std(axis=1) / (mean_within + _TINY),
    }
