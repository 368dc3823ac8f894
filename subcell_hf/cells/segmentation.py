"""`FieldOfView` without masks → label mask."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import sobel, threshold_li, threshold_otsu
from skimage.segmentation import expand_labels, watershed

from subcell_hf.cells.custom_functions import import_function
from subcell_hf.cells.custom_segmentation import run_custom
from subcell_hf.errors import InputError, UnreachableError
from subcell_hf.images.files import FieldError
from subcell_hf.images.masks.nuclei import (
    NUCLEUS_CHANNEL,
    SMOOTHING_UM,
    WORKING_PIXEL_UM,
    channel_of,
    find_nuclei,
    shrink,
    smooth_outline,
)
from subcell_hf.ontology import PROTEIN_CHANNEL
from subcell_hf.types import FieldOfView

CELL_BODY_CHANNELS = ("red", "yellow")

# Lengths and areas in micrometres, so that they hold at any pixel size. Set by eye on HPA fields of A-431 (confluent
# and sparse) and against the instance mask of an HPA field of U-251 MG.
_BODY_CLOSING_UM = 1.0
_BODY_OPENING_UM = 1.6
_BODY_SMOOTHING_UM = 0.8
_BODY_THRESHOLD_FACTOR = 1.15
_EDGE_WEIGHT_UM = 3.2
# Set on simulated fields, so that the cells of the HPA field, which its protein fills, stay as they are.
_SMALLEST_CELL_PER_NUCLEUS = 1.7
_PARTIAL_CELL_UM = 8.0
_STARDIST_PIXEL_UM = 0.5
_SEED_MARGIN_UM = 1.2  # carries the seed over the nuclear rim, which is an edge like the cell's own


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


def segment_cells(
    field: FieldOfView, method: str | Segmenter = "watershed", *, trusted: bool = False, **options: Any
) -> npt.NDArray[np.int32]:
    """Find the cells of a field.

    Args:
        field: The field; its own label mask, if any, is not looked at.
        method: One of `SEGMENTERS`: `"watershed"` needs nothing but the field, `"cellpose"` and `"stardist"` the extras
            of these names; or a custom segmenter, or where it lies: `"module:function"` or `"file.py:function"`.
        trusted: Whether to take every label of a custom segmenter as one cell, without the checks of
            `check_instances`.
        options: Passed on to the method.

    Returns:
        `[height, width]` int32 labels, 0 is background; those of `SEGMENTERS` run from 1 on without gaps, in reading
        order.

    Raises:
        FieldError: If the field lacks a needed channel, no cell is found, or a custom segmenter fails or returns what
            are no labels of single cells.
        ImportError: If the method's package is not installed.
        InputError: If the method is unknown.
    """
    segmenter = find_segmenter(method)
    if segmenter in SEGMENTERS.values():
        labels = segmenter(field, **options)
    else:
        labels = run_custom(segmenter, field, method, trusted=trusted, **options)
    if not labels.any():
        raise FieldError(
            f"Field {field.name!r}: no cell was found by {method}, expected at least one nucleus in channel "
            f"{NUCLEUS_CHANNEL}. Check the image, give a mask, or leave the field out."
        )
    return labels


def find_segmenter(method: str | Segmenter) -> Callable[..., npt.NDArray[np.int32]]:
    """The function of a method of segmentation.

    Args:
        method: As for `segment_cells`.

    Raises:
        InputError: If it is unknown, or a custom one cannot be imported.
    """
    if not isinstance(method, str):
        return method
    if method in SEGMENTERS:
        return SEGMENTERS[method]
    if ":" in method:
        return import_function(method)
    raise InputError(
        f"Unknown segmentation method {method!r}: choose one of {', '.join(SEGMENTERS)}, or a function of yours, as "
        "my_module.py:function or module:function."
    )


def segment_by_watershed(field: FieldOfView) -> npt.NDArray[np.int32]:
    """Nuclei as seeds, grown over the cell bodies; where bodies touch, along the edge between them.

    Nuclei come from `blue`, bodies from `red` and `yellow` as far as there, else from the protein; where that fills no
    more than the surroundings of a nucleus, the cell is what lies within 8 um of it. A seeded watershed climbs a
    landscape of edges minus brightness, so that borders fall on dark seams and on steps of brightness alike.

    Args:
        field: The field; its pixel size must be known.

    Returns:
        `[height, width]` int32 labels: 0 is background, each cell has a different number.

    Raises:
        FieldError: If a channel is missing.
    """
    factor = _working_factor(field)
    nuclei = find_nuclei(shrink(channel_of(field, NUCLEUS_CHANNEL), factor), field.pixel_size_um * factor)
    return _grow_over_bodies(field, nuclei, factor)


def grow_nuclei(field: FieldOfView, nuclei: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Cells around nuclei that another program found, grown as those of the built-in method.

    Args:
        field: The field; its pixel size must be known.
        nuclei: `[height, width]` labels of nuclei, 0 elsewhere; each becomes one cell.

    Returns:
        `[height, width]` int32 labels: 0 is background, each cell has a different number.

    Raises:
        FieldError: If the nuclei are of another size than the field, or the field has no channel of cell bodies.
    """
    if nuclei.shape != field.pixels.shape[1:]:
        raise FieldError(f"Field {field.name!r}: nuclei have shape {nuclei.shape}, expected {field.pixels.shape[1:]}.")
    factor = _working_factor(field)
    height, width = nuclei.shape
    numbered = np.unique(nuclei, return_inverse=True)[1].reshape(nuclei.shape) + int(nuclei.all())
    padded = np.pad(numbered.astype(np.int32), ((0, -height % factor), (0, -width % factor)), mode="edge")
    return _grow_over_bodies(field, np.ascontiguousarray(padded[factor // 2 :: factor, factor // 2 :: factor]), factor)


def _working_factor(field: FieldOfView) -> int:
    return max(1, round(WORKING_PIXEL_UM / field.pixel_size_um))


def _grow_over_bodies(field: FieldOfView, nuclei: npt.NDArray[np.int32], factor: int) -> npt.NDArray[np.int32]:
    """Grow nuclei, whose pixel is `factor` of the field's, and bring the cells to the field's size."""
    pixel_um = field.pixel_size_um * factor
    body_channels = [name for name in CELL_BODY_CHANNELS if name in field.channels]
    stained = body_channels or [PROTEIN_CHANNEL]
    bodies = [_normalise(shrink(channel_of(field, name), factor), pixel_um) for name in stained]
    labels = _grow_cells(nuclei, np.sqrt(np.mean(bodies, axis=0)), pixel_um)
    if not body_channels:
        labels = _complete_cells(labels, nuclei, pixel_um)
    return _number_in_reading_order(_enlarge(labels, factor, field.pixels.shape[1:]))


def segment_by_cellpose(field: FieldOfView, diameter_um: float = 25.0, gpu: bool = False) -> npt.NDArray[np.int32]:
    """Cells as Cellpose 4 finds them, with its default model, whose weights it fetches when it is first used.

    Args:
        field: The field.
        diameter_um: Usual diameter of a cell in micrometres: Cellpose sees the field at a size at which such a cell is
            30 px wide. It would take pixels as they come otherwise, and was trained on cells of up to 120 px, a third
            of a cell's width in HPA images.
        gpu: Whether Cellpose may use a GPU.

    Returns:
        `[height, width]` int32 labels: 0 is background, each cell has a different number.

    Raises:
        FieldError: If a channel is missing.
        ImportError: If Cellpose is not installed.
    """
    try:
        from cellpose.models import CellposeModel
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Segmentation with Cellpose requires the package cellpose, not installed here. "
            "Install with: pip install subcell-hf[cellpose]",
            name="cellpose",
        ) from error
    body = next((name for name in (*CELL_BODY_CHANNELS, PROTEIN_CHANNEL) if name in field.channels), PROTEIN_CHANNEL)
    body_plane, nucleus_plane = channel_of(field, body), channel_of(field, NUCLEUS_CHANNEL)
    image = np.stack([body_plane, nucleus_plane, np.zeros_like(body_plane)])  # it takes three channels, in any order
    labels = CellposeModel(gpu=gpu).eval(image, channel_axis=0, diameter=diameter_um / field.pixel_size_um)[0]
    return _number_in_reading_order(np.asarray(labels, np.int32))


def segment_by_stardist(field: FieldOfView, weights: str | Path | None = None) -> npt.NDArray[np.int32]:
    """Nuclei as StarDist's model `2D_versatile_fluo` finds them, grown over the cell bodies by the built-in method.

    The model runs on the CPU through cellcast, which fetches its weights when they are first used, and keeps them in
    `~/.cache/cellcast/weights`.

    Args:
        field: The field; the model sees `blue` at about 0.5 um per pixel, at which nuclei are 20 to 40 px wide.
        weights: A file of weights in cellcast's format (`.bpk`); None: those that cellcast fetches.

    Returns:
        `[height, width]` int32 labels: 0 is background, each cell has a different number.

    Raises:
        FieldError: If a channel is missing, or the model fails on the field.
        ImportError: If cellcast is not installed.
        UnreachableError: If the weights can be neither fetched nor read.
    """
    height, width = field.pixels.shape[1:]
    factor = max(1, round(_STARDIST_PIXEL_UM / field.pixel_size_um))
    plane = shrink(channel_of(field, NUCLEUS_CHANNEL), factor)
    model = _load_stardist(None if weights is None else str(weights))
    try:
        nuclei = np.asarray(model.predict_fluo(plane))
    except BaseException as error:
        if not _is_panic(error):
            raise
        said = f"Field {field.name!r}: StarDist failed ({error}). Leave the field out, or give a mask."
        raise FieldError(said) from error
    enlarged = np.kron(nuclei.astype(np.int32), np.ones((factor, factor), np.int32))
    return grow_nuclei(field, enlarged[:height, :width])


@cache
def _load_stardist(weights: str | None) -> Any:
    try:
        from cellcast.models import StarDist2D
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Segmentation with StarDist requires the package cellcast, not installed here. "
            "Install with: pip install subcell-hf[stardist]",
            name="cellcast",
        ) from error
    try:
        return StarDist2D.init_fluo(weights, False)
    except BaseException as error:
        if not _is_panic(error):
            raise
        place = weights or "~/.cache/cellcast/weights/stardist_2d_versatile_fluo.bpk"
        raise UnreachableError(
            f"The weights of StarDist can be neither fetched nor read: {error} Run the same command again with a "
            f"network, or copy the file {place} from a machine that has it; if it is there, it is damaged: remove it."
        ) from error


def _is_panic(error: BaseException) -> bool:
    """Whether code in Rust has failed, which is no `Exception` in Python."""
    return type(error).__name__ == "PanicException"


SEGMENTERS: dict[str, Callable[..., npt.NDArray[np.int32]]] = {
    "watershed": segment_by_watershed,
    "cellpose": segment_by_cellpose,
    "stardist": segment_by_stardist,
}
"""Methods of `segment_cells` by name."""


def _normalise(plane: npt.NDArray[np.float32], pixel_um: float) -> npt.NDArray[np.float32]:
    """Smooth and scale to 0–1 between background and nearly the brightest."""
    smooth = ndimage.gaussian_filter(plane, SMOOTHING_UM / pixel_um)
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
            smooth_outline(inside | (brightness > threshold), _BODY_CLOSING_UM, _BODY_OPENING_UM, pixel_um) | inside
        )
    smooth = ndimage.gaussian_filter(brightness, _BODY_SMOOTHING_UM / pixel_um)
    landscape = _EDGE_WEIGHT_UM / pixel_um * sobel(smooth) - smooth
    return np.asarray(watershed(landscape, seeds, mask=inside), np.int32)


def _complete_cells(
    cells: npt.NDArray[np.int32], nuclei: npt.NDArray[np.int32], pixel_um: float
) -> npt.NDArray[np.int32]:
    """Grow the cells of which the protein shows a part alone by one length around their nuclei, over the background.

    A nuclear protein, or one in few vesicles, outlines no cell.
    """
    cell_px, nucleus_px = (np.bincount(labels.ravel(), minlength=nuclei.max() + 1) for labels in (cells, nuclei))
    is_partial = cell_px < _SMALLEST_CELL_PER_NUCLEUS * nucleus_px
    near = expand_labels(nuclei, _PARTIAL_CELL_UM / pixel_um)
    return np.asarray(np.where((cells == 0) & is_partial[near], near, cells), np.int32)


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
