"""`FieldOfView` without masks → label mask."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import sobel, threshold_li, threshold_otsu
from skimage.morphology import disk, h_maxima
from skimage.segmentation import expand_labels, watershed

from subcell_hf.batches import FieldOfView
from subcell_hf.data.images.files import FieldError
from subcell_hf.errors import InputError
from subcell_hf.ontology import PROTEIN_CHANNEL

NUCLEUS_CHANNEL = "blue"
CELL_BODY_CHANNELS = ("red", "yellow")

# Lengths and areas in micrometres, so that they hold at any pixel size. Set by eye on HPA fields of A-431 (confluent
# and sparse) and against the instance mask of an HPA field of U-251 MG.
_WORKING_PIXEL_UM = 0.32  # a nucleus is still 30 px wide, and 16 times fewer pixels than HPA's are worked on
_SMOOTHING_UM = 0.5
_NUCLEUS_OPENING_UM = 0.8
_MIN_NUCLEUS_AREA_UM2 = 15.0
_NUCLEUS_SPLIT_DEPTH_UM = 1.2  # a waist this much narrower than both halves splits touching nuclei, not lobed ones
_BODY_CLOSING_UM = 1.0
_BODY_OPENING_UM = 1.6
_BODY_SMOOTHING_UM = 0.8
_BODY_THRESHOLD_FACTOR = 1.15
_EDGE_WEIGHT_UM = 3.2
_SEED_MARGIN_UM = 1.2  # carries the seed over the nuclear rim, which is an edge like the cell's own
_PAD_UM = 2.6


class Segmenter(Protocol):
    """Anything that finds the cells of a field."""

    def __call__(self, field: FieldOfView) -> npt.NDArray[np.int32]:
        """Segment a field.

        Args:
            field: Pixels `[channels, height, width]` with their names and pixel size.

        Returns:
            `[height, width]` int32 labels from 1 on without gaps, 0 is background.

        Raises:
            FieldError: If the field lacks a channel or has no cell.
        """


def segment_cells(field: FieldOfView, method: str | Segmenter = "watershed", **options: Any) -> npt.NDArray[np.int32]:
    """Find the cells of a field.

    Args:
        field: The field; its own label mask, if any, is not looked at.
        method: One of `SEGMENTERS`: `"watershed"` needs nothing but the field, `"cellpose"` the extra of that name; or
            a segmenter of your own.
        options: Passed on to the method.

    Returns:
        `[height, width]` int32 labels, 0 is background; those of `SEGMENTERS` run from 1 on without gaps, in reading
        order.

    Raises:
        FieldError: If the field lacks a needed channel or no cell is found.
        ImportError: If the method's package is not installed.
        InputError: If the method is unknown.
    """
    if isinstance(method, str) and method not in SEGMENTERS:
        raise InputError(f"Unknown segmentation method {method!r}: choose one of {', '.join(SEGMENTERS)}.")
    segmenter: Callable[..., npt.NDArray[np.int32]] = SEGMENTERS[method] if isinstance(method, str) else method
    labels = segmenter(field, **options)
    if labels.shape != field.pixels.shape[1:]:
        raise FieldError(
            f"Field {field.name!r}: the segmentation has shape {labels.shape}, expected {field.pixels.shape[1:]}."
        )
    if not labels.any():
        raise FieldError(
            f"Field {field.name!r}: no cell was found by {method}, expected at least one nucleus in channel "
            f"{NUCLEUS_CHANNEL}. Look at the image; give a mask, or leave the field out."
        )
    return labels


def segment_by_watershed(field: FieldOfView) -> npt.NDArray[np.int32]:
    """Nuclei as seeds, grown over the cell bodies; where bodies touch, along the edge between them.

    Nuclei come from `blue`, bodies from `red` and `yellow` as far as there, else from the protein. A seeded watershed
    climbs a landscape of edges minus brightness, so that borders fall on dark seams and on steps of brightness alike.

    Raises:
        FieldError: If a channel is missing.
    """
    body_channels = [name for name in CELL_BODY_CHANNELS if name in field.channels] or [PROTEIN_CHANNEL]
    factor = max(1, round(_WORKING_PIXEL_UM / field.pixel_size_um))
    pixel_um = field.pixel_size_um * factor
    nucleus = _shrink(_channel(field, NUCLEUS_CHANNEL), factor)
    nuclei = _find_nuclei(nucleus, pixel_um)
    bodies = [_normalise(_shrink(_channel(field, name), factor), pixel_um) for name in body_channels]
    labels = _grow_cells(nuclei, np.sqrt(np.mean(bodies, axis=0)), pixel_um)
    return _number_in_reading_order(_enlarge(labels, factor, field.pixels.shape[1:]))


def segment_by_cellpose(field: FieldOfView, diameter_um: float = 25.0, gpu: bool = False) -> npt.NDArray[np.int32]:
    """Cells as Cellpose 4 finds them, with its default model, whose weights it fetches when it is first used.

    Args:
        field: The field.
        diameter_um: Usual diameter of a cell in micrometres: Cellpose sees the field at a size at which such a cell is
            30 px wide. It would take pixels as they come otherwise, and was trained on cells of up to 120 px, a third
            of a cell's width in HPA images.
        gpu: Whether Cellpose may use a GPU.

    Raises:
        FieldError: If a channel is missing.
        ImportError: If Cellpose is not installed.
    """
    try:
        from cellpose.models import CellposeModel
    except ImportError as error:
        raise ImportError(
            "Segmentation with Cellpose needs the package cellpose, which is not installed. "
            "Install it with: pip install subcell-hf[cellpose]"
        ) from error
    body = next((name for name in (*CELL_BODY_CHANNELS, PROTEIN_CHANNEL) if name in field.channels), PROTEIN_CHANNEL)
    body_plane, nucleus_plane = _channel(field, body), _channel(field, NUCLEUS_CHANNEL)
    image = np.stack([body_plane, nucleus_plane, np.zeros_like(body_plane)])  # it takes three channels, in any order
    labels = CellposeModel(gpu=gpu).eval(image, channel_axis=0, diameter=diameter_um / field.pixel_size_um)[0]
    return _number_in_reading_order(np.asarray(labels, np.int32))


SEGMENTERS: dict[str, Callable[..., npt.NDArray[np.int32]]] = {
    "watershed": segment_by_watershed,
    "cellpose": segment_by_cellpose,
}


def nuclei_of_labels(field: FieldOfView) -> dict[int, int]:
    """Nuclei within each label of a field's mask, as far as the built-in method finds them.

    Args:
        field: With a mask.

    Returns:
        Label → number of nuclei that lie in it for the most part; labels without one are left out.

    Raises:
        FieldError: If the field has no nuclei's channel.
    """
    factor = max(1, round(_WORKING_PIXEL_UM / field.pixel_size_um))
    nuclei = _find_nuclei(_shrink(_channel(field, NUCLEUS_CHANNEL), factor), field.pixel_size_um * factor)
    counts: Counter[int] = Counter()
    if field.label_mask is not None:
        nuclei = np.kron(nuclei, np.ones((factor, factor), np.int32))[: field.pixels.shape[1], : field.pixels.shape[2]]
        for nucleus, window in enumerate(ndimage.find_objects(nuclei), start=1):
            if window is not None:
                labels, sizes = np.unique(field.label_mask[window][nuclei[window] == nucleus], return_counts=True)
                counts[int(labels[sizes.argmax()])] += 1
    return {label: count for label, count in counts.items() if label}


def _channel(field: FieldOfView, name: str) -> npt.NDArray[Any]:
    if name not in field.channels:
        raise FieldError(
            f"Field {field.name!r} has channels {', '.join(field.channels)}; segmentation needs {name}. Map one of "
            "yours to it (--channel-mapping), or give label masks."
        )
    plane: npt.NDArray[Any] = field.pixels[field.channels.index(name)]
    return plane


def _shrink(plane: npt.NDArray[Any], factor: int) -> npt.NDArray[np.float32]:
    """Mean of `factor` x `factor` blocks; the last row and column are repeated to fill the last blocks."""
    height, width = plane.shape
    padded = np.pad(plane, ((0, -height % factor), (0, -width % factor)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor)
    return np.asarray(blocks.mean(axis=(1, 3)), np.float32)


def _find_nuclei(nucleus: npt.NDArray[np.float32], pixel_um: float) -> npt.NDArray[np.int32]:
    """Label nuclei; dim ones beside bright ones, and lobed ones in one piece."""
    # The root evens out bright (mitotic) and dim nuclei.
    brightness = np.sqrt(ndimage.gaussian_filter(nucleus, _SMOOTHING_UM / pixel_um))
    if brightness.min() == brightness.max():
        return np.zeros(nucleus.shape, np.int32)
    # Otsu alone loses dim nuclei, Li alone takes in haze: the geometric mean of both.
    threshold = np.sqrt(threshold_otsu(brightness) * threshold_li(brightness))
    inside = _smooth_outline(brightness > threshold, 0.0, _NUCLEUS_OPENING_UM, pixel_um)
    pad = round(_PAD_UM / pixel_um)
    depth = ndimage.distance_transform_edt(np.pad(inside, pad, mode="edge"))[pad:-pad, pad:-pad]
    depth = ndimage.gaussian_filter(depth, _SMOOTHING_UM / pixel_um)
    seeds, _ = ndimage.label(h_maxima(depth, _NUCLEUS_SPLIT_DEPTH_UM / pixel_um) & inside, np.ones((3, 3)))
    nuclei = watershed(-depth, seeds, mask=inside)
    keep = np.bincount(nuclei.ravel()) * pixel_um**2 >= _MIN_NUCLEUS_AREA_UM2
    keep[0] = False
    return np.asarray(nuclei * keep[nuclei], np.int32)


def _normalise(plane: npt.NDArray[np.float32], pixel_um: float) -> npt.NDArray[np.float32]:
    """Smooth and scale to 0–1 between background and nearly the brightest."""
    smooth = ndimage.gaussian_filter(plane, _SMOOTHING_UM / pixel_um)
    low, high = np.percentile(smooth, [1, 99.5])
    return np.asarray(np.clip((smooth - low) / max(high - low, 1e-6), 0, 1), np.float32)


def _grow_cells(
    nuclei: npt.NDArray[np.int32], brightness: npt.NDArray[np.float32], pixel_um: float
) -> npt.NDArray[np.int32]:
    """Grow every nucleus over the foreground."""
    seeds = expand_labels(nuclei, _SEED_MARGIN_UM / pixel_um)
    inside = seeds > 0
    if brightness.min() < brightness.max():
        threshold = _BODY_THRESHOLD_FACTOR * min(threshold_otsu(brightness), threshold_li(brightness))
        inside = (
            _smooth_outline(inside | (brightness > threshold), _BODY_CLOSING_UM, _BODY_OPENING_UM, pixel_um) | inside
        )
    smooth = ndimage.gaussian_filter(brightness, _BODY_SMOOTHING_UM / pixel_um)
    landscape = _EDGE_WEIGHT_UM / pixel_um * sobel(smooth) - smooth
    return np.asarray(watershed(landscape, seeds, mask=inside), np.int32)


def _smooth_outline(
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


def _enlarge(labels: npt.NDArray[np.int32], factor: int, shape: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """Bring labels back to the field's size, with outlines rounded instead of stepped."""
    height, width = shape
    if factor == 1:
        return labels[:height, :width]
    enlarged = np.kron(labels, np.ones((factor, factor), np.int32))
    for label, window in enumerate(ndimage.find_objects(labels), start=1):
        if window is None:
            continue
        rows, columns = (slice(max(0, side.start - 1), side.stop + 1) for side in window)
        inside = labels[rows, columns] == label
        share = ndimage.zoom(inside.astype(np.float32), factor, order=1, mode="nearest", grid_mode=True)
        target = enlarged[rows.start * factor : rows.stop * factor, columns.start * factor : columns.stop * factor]
        # Only the background side is rounded: the border between two cells stays where the watershed put it.
        target[(target == label) & (share < 0.5)] = 0
        target[(target == 0) & (share >= 0.5)] = label
    return np.ascontiguousarray(enlarged[:height, :width])


def _number_in_reading_order(labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Number labels 1, 2, … by their first pixel, row by row, so that numbers do not depend on a method's habits."""
    # Memory by pixels, not by the largest label.
    found, first, places = np.unique(labels.ravel(), return_index=True, return_inverse=True)
    numbers = np.zeros(len(found), np.int32)
    ordered = np.argsort(first)
    numbers[ordered[found[ordered] > 0]] = np.arange(1, np.count_nonzero(found > 0) + 1)
    return numbers[places].reshape(labels.shape)
