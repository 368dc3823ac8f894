"""Nuclei of a field, by threshold and watershed: the seeds of cells, and a check of masks."""

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import threshold_li, threshold_otsu
from skimage.morphology import disk, local_maxima
from skimage.segmentation import watershed

from subcell_hf.images.files import FieldError
from subcell_hf.types import FieldOfView

NUCLEUS_CHANNEL = "blue"

# Lengths and areas in micrometres, so that they hold at any pixel size. Set by eye on HPA fields of A-431 (confluent
# and sparse) and against the instance mask of an HPA field of U-251 MG.
WORKING_PIXEL_UM = 0.32  # a nucleus is still 30 px wide, and 16 times fewer pixels than HPA's are worked on
SMOOTHING_UM = 0.5
_NUCLEUS_OPENING_UM = 0.8
_MIN_NUCLEUS_AREA_UM2 = 15.0
_NUCLEUS_SPLIT_DEPTH_UM = 1.2  # a waist this much narrower than both halves splits touching nuclei, not lobed ones
_PAD_UM = 2.6


def nuclei_of_labels(field: FieldOfView) -> dict[int, int]:
    """Nuclei within each label of a field's mask, as far as the built-in method finds them.

    Args:
        field: With a mask.

    Returns:
        Label → number of nuclei that lie in it for the most part; labels without one are left out.

    Raises:
        FieldError: If the field has no nuclei's channel.
    """
    factor = max(1, round(WORKING_PIXEL_UM / field.pixel_size_um))
    nuclei = find_nuclei(shrink(channel_of(field, NUCLEUS_CHANNEL), factor), field.pixel_size_um * factor)
    counts: Counter[int] = Counter()
    if field.label_mask is not None:
        nuclei = np.kron(nuclei, np.ones((factor, factor), np.int32))[: field.pixels.shape[1], : field.pixels.shape[2]]
        for nucleus, window in enumerate(ndimage.find_objects(nuclei), start=1):
            if window is not None:
                labels, sizes = np.unique(field.label_mask[window][nuclei[window] == nucleus], return_counts=True)
                counts[int(labels[sizes.argmax()])] += 1
    return {label: count for label, count in counts.items() if label}


def channel_of(field: FieldOfView, name: str) -> npt.NDArray[Any]:
    if name not in field.channels:
        raise FieldError(
            f"Field {field.name!r} has channels {', '.join(field.channels)}; segmentation needs {name}. Map one of "
            "yours to it (--channel-mapping), or give label masks."
        )
    plane: npt.NDArray[Any] = field.pixels[field.channels.index(name)]
    return plane


def shrink(plane: npt.NDArray[Any], factor: int) -> npt.NDArray[np.float32]:
    """Mean of `factor` x `factor` blocks; the last row and column are repeated to fill the last blocks."""
    height, width = plane.shape
    padded = np.pad(plane, ((0, -height % factor), (0, -width % factor)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor)
    return np.asarray(blocks.mean(axis=(1, 3)), np.float32)


def find_nuclei(nucleus: npt.NDArray[np.float32], pixel_um: float) -> npt.NDArray[np.int32]:
    """Label nuclei; dim ones beside bright ones, and lobed ones in one piece."""
    # The root evens out bright (mitotic) and dim nuclei.
    brightness = np.sqrt(ndimage.gaussian_filter(nucleus, SMOOTHING_UM / pixel_um))
    if brightness.min() == brightness.max():
        return np.zeros(nucleus.shape, np.int32)
    # Otsu alone loses dim nuclei, Li alone takes in haze: the geometric mean of both.
    threshold = np.sqrt(threshold_otsu(brightness) * threshold_li(brightness))
    inside = smooth_outline(brightness > threshold, 0.0, _NUCLEUS_OPENING_UM, pixel_um)
    pad = round(_PAD_UM / pixel_um)
    depth = ndimage.distance_transform_edt(np.pad(inside, pad, mode="edge"))[pad:-pad, pad:-pad]
    depth = ndimage.gaussian_filter(depth, SMOOTHING_UM / pixel_um)
    seeds, _ = ndimage.label(find_peaks(depth, _NUCLEUS_SPLIT_DEPTH_UM / pixel_um) & inside, np.ones((3, 3)))
    nuclei = watershed(-depth, seeds, mask=inside)
    keep = np.bincount(nuclei.ravel()) * pixel_um**2 >= _MIN_NUCLEUS_AREA_UM2
    keep[0] = False
    return np.asarray(nuclei * keep[nuclei], np.int32)


def find_peaks(depth: npt.NDArray[np.float64], height: float) -> npt.NDArray[np.bool_]:
    """Peaks that rise by `height` above the highest saddle to a higher one.

    These are those of `skimage.morphology.h_maxima`, save that of peaks of exactly the same height, between which
    nothing is lower by `height`, one is left. That function sorts all pixels twice, which took two thirds of finding
    nuclei. Here basins are flooded from all peaks (watershed, by which the saddle between neighbours is the highest
    place of their border), then joined from the highest saddle down.

    Args:
        depth: `[height, width]`, 0 outside of everything.
        height: Above 0.

    Returns:
        `[height, width]`, True on the peaks.
    """
    every, count = ndimage.label(local_maxima(depth, connectivity=2), np.ones((3, 3)))
    if height > np.ptp(depth):
        return np.zeros(depth.shape, np.bool_)
    tops = np.concatenate([[0.0], ndimage.maximum(depth, every, np.arange(1, count + 1))])
    basins = watershed(-depth, every, connectivity=2, mask=depth > 0)
    parent = list(range(len(tops)))

    def root(basin: int) -> int:
        while parent[basin] != basin:
            parent[basin] = parent[parent[basin]]
            basin = parent[basin]
        return basin

    rise = tops.copy()
    for saddle, one, other in sorted(_saddles(depth, basins), reverse=True):
        lower, higher = sorted((root(one), root(other)), key=lambda basin: tops[basin])
        if lower != higher:
            rise[lower], parent[lower] = tops[lower] - saddle, higher
    return np.asarray((rise >= height)[every] & (every > 0))


def _saddles(depth: npt.NDArray[np.float64], basins: npt.NDArray[np.int32]) -> list[tuple[float, int, int]]:
    """Highest place on the border of each two basins that touch: depth and both numbers."""
    found: dict[tuple[int, int], float] = {}
    for rows, columns in ((0, 1), (1, 0), (1, 1), (1, -1)):
        height, width = depth.shape
        here = (slice(0, height - rows), slice(max(0, -columns), width - max(0, columns)))
        there = (slice(rows, height), slice(max(0, columns), width - max(0, -columns)))
        one, other = basins[here], basins[there]
        touching = (one != other) & (one > 0) & (other > 0)
        levels = np.minimum(depth[here][touching], depth[there][touching])
        for a, b, level in zip(one[touching].tolist(), other[touching].tolist(), levels.tolist(), strict=True):
            pair = (min(a, b), max(a, b))
            found[pair] = max(found.get(pair, 0.0), level)
    return [(level, a, b) for (a, b), level in found.items()]


def smooth_outline(
    inside: npt.NDArray[np.bool_], closing_um: float, opening_um: float, pixel_um: float
) -> npt.NDArray[np.bool_]:
    """Close gaps, fill holes, open; the field is continued over its border so that cut cells keep their rim."""
    pad = round(_PAD_UM / pixel_um)
    padded = np.pad(inside, pad, mode="edge")
    if round(closing_um / pixel_um):
        padded = ndimage.binary_closing(padded, disk(round(closing_um / pixel_um)))
    padded = ndimage.binary_fill_holes(padded)
    padded = ndimage.binary_opening(padded, disk(max(1, round(opening_um / pixel_um))))
    return np.asarray(padded[pad:-pad, pad:-pad], np.bool_)
