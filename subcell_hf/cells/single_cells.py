"""`FieldOfView` → `FieldCrops`: which cells are taken, and how they are cut."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from subcell_hf.cells.pixel_sizes import PIXEL_SIZE, PIXEL_SIZE_FROM
from subcell_hf.cells.quality import (
    DOUBTFUL_CHANNELS,
    FOCUS_OF,
    doubtful_channels,
    empty_channels,
    focus,
    saturated_fraction,
    saturation_level,
)
from subcell_hf.cells.resampling import dilate, nearest_window, resample_windows, sample_positions
from subcell_hf.errors import InputError
from subcell_hf.images.files import FieldError
from subcell_hf.images.tables import CellBox, check_boxes
from subcell_hf.ontology import PUBLISHED_PIXEL_SIZE_UM
from subcell_hf.settings import Setting
from subcell_hf.types import FieldCrops, FieldOfView

_WHOLE_SCALE_TOLERANCE = 2e-3
"""Relative difference of pixel sizes below which crops are not resampled: 0.08 is often written for 0.0800885 um."""

_REACH_PX = 2
"""Pixels around a window that its resampling may look at."""


@dataclass(frozen=True)
class CropSettings:
    """How crops are cut; the defaults are those of the published models' training data.

    Attributes:
        crop_px: Width of a crop in pixels of 0.0800885 um. In Python, of `reference_pixel_size_um`.
        reference_pixel_size_um: Pixel size that `crop_px` and `dilation_px` refer to. A field with another one is cut
            so that crops cover the same micrometres.
        output_px: Width of the stored crop in pixels.
        dilation_px: Edge of the square by which a cell's mask grows; odd, 1 for none.
        min_area_um2: Exclude cells smaller than this.
        max_area_um2: Exclude cells larger than this.
        exclude_border: Exclude cells that touch the border of their field.
        max_saturation: Exclude cells with a larger fraction (0 to 1) of saturated pixels in some channel.
    """

    crop_px: Annotated[int, Setting("--crop-size-px")] = 896
    reference_pixel_size_um: float = PUBLISHED_PIXEL_SIZE_UM
    output_px: Annotated[int, Setting("--output-size-px")] = 448
    dilation_px: int = 7
    min_area_um2: float | None = None
    max_area_um2: float | None = None
    exclude_border: bool = False
    max_saturation: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that no crop can have.

        Raises:
            InputError: Naming the setting.
        """
        for name in ("crop_px", "output_px"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least 1.")
        if self.dilation_px < 1 or self.dilation_px % 2 == 0:
            raise InputError(f"dilation_px is {self.dilation_px}, expected an odd number; 1 for no dilation.")
        if not self.reference_pixel_size_um > 0:
            raise InputError(f"reference_pixel_size_um is {self.reference_pixel_size_um}, expected more than 0.")
        if self.max_saturation is not None and not 0 <= self.max_saturation <= 1:
            raise InputError(f"max_saturation is {self.max_saturation}, expected a share from 0 to 1.")
        if self.min_area_um2 is not None and self.max_area_um2 is not None and self.min_area_um2 > self.max_area_um2:
            raise InputError(
                f"min_area_um2 {self.min_area_um2} exceeds max_area_um2 {self.max_area_um2}: every cell would "
                f"be excluded."
            )

    @property
    def output_pixel_size_um(self) -> float:
        """Edge of a stored crop's pixel in micrometres."""
        return self.crop_px * self.reference_pixel_size_um / self.output_px

    def scale(self, pixel_size_um: float) -> float:
        """Pixels of a field per pixel of a stored crop."""
        scale = self.output_pixel_size_um / pixel_size_um
        whole = round(scale)
        return float(whole) if abs(scale - whole) <= _WHOLE_SCALE_TOLERANCE * scale else scale

    def dilation_radius_px(self, pixel_size_um: float) -> int:
        """Half of the dilation's square, in pixels of a field."""
        return round(self.dilation_px // 2 * self.reference_pixel_size_um / pixel_size_um)


@dataclass(frozen=True)
class Cell:
    """One cell of a field.

    Attributes:
        box: Its bounding box, on which the crop is centred.
        origin: Row and column of the first pixel of `inside` in the field.
        inside: `[height, width]`, True in the cell.
        record: The columns that are known before cutting.
    """

    box: CellBox
    origin: tuple[int, int]
    inside: npt.NDArray[np.bool_]
    record: Mapping[str, Any]


def crop_field(
    field: FieldOfView, settings: CropSettings | None = None, boxes: Sequence[CellBox] | None = None
) -> FieldCrops:
    """Cut all cells of a field that pass the filters.

    A crop is centred on the cell's bounding box and keeps the surroundings; the cell's own mask lies beside it.

    Args:
        field: The field, with a label mask unless boxes are given.
        settings: Sizes and filters; None for the published ones.
        boxes: Bounding boxes to centre on instead of those of the label mask; in a field without a mask, the box is the
            cell.

    Returns:
        The crops in order of labels, of the field's dtype; none where every cell is filtered out.

    Raises:
        FieldError: If there is neither mask nor box, if boxes and mask disagree, or if the mask is empty.
    """
    settings = settings or CropSettings()
    kept, _ = select_cells(field, settings, boxes)
    return cut_cells(field, kept, settings)


def select_cells(
    field: FieldOfView, settings: CropSettings, boxes: Sequence[CellBox] | None = None
) -> tuple[list[Cell], list[tuple[Cell, str]]]:
    """Find and measure the cells of a field.

    Args:
        field: See `crop_field`.
        settings: The filters.
        boxes: See `crop_field`.

    Returns:
        The cells to cut, and those that are filtered out with the reason.

    Raises:
        FieldError: See `crop_field`.
    """
    level = saturation_level(field.pixels)
    if settings.max_saturation is not None and level is None:
        raise FieldError(
            f"Field {field.name!r} is {field.pixels.dtype}: the value of saturation is unknown. Leave out "
            "max_saturation (--max-saturation), or give 8- or 16-bit images."
        )
    kept, filtered = [], []
    of_field = {DOUBTFUL_CHANNELS: doubtful_channels(field.pixels, field.channels)}
    for box, origin, inside in _find_cells(field, boxes):
        cell = Cell(box, origin, inside, {**_measure(field, box, origin, inside, level), **of_field})
        reason = _filter_reason(cell.record, settings)
        if reason is None:
            kept.append(cell)
        else:
            filtered.append((cell, reason))
    return kept, filtered


def cut_cells(field: FieldOfView, cells: Sequence[Cell], settings: CropSettings) -> FieldCrops:
    """Cut cells that `select_cells` has found.

    Args:
        field: Their field.
        cells: Any number of them.
        settings: Sizes.
    """
    scale = settings.scale(field.pixel_size_um)
    radius = settings.dilation_radius_px(field.pixel_size_um)
    starts = [_window_start(cell.box, scale * settings.output_px) for cell in cells]
    pixels = resample_windows(field.pixels, starts, scale, settings.output_px)
    masks = np.zeros((len(cells), settings.output_px, settings.output_px), np.bool_)
    records = []
    height, width = field.pixels.shape[1:]
    for index, (cell, start) in enumerate(zip(cells, starts, strict=True)):
        origin = (cell.origin[0] - radius, cell.origin[1] - radius)
        masks[index] = nearest_window(dilate(cell.inside, radius), origin, start, scale, settings.output_px)
        # The zeros around the field are no signal: quality is measured where the crop lies in the field.
        rows = _part_in_field(start[0], scale, settings.output_px, height)
        columns = _part_in_field(start[1], scale, settings.output_px, width)
        quality = _measure_crop(pixels[index][:, rows, columns], masks[index][rows, columns], field.channels)
        records.append({**cell.record, **quality})
    return FieldCrops(field.name, pixels, masks, field.channels, settings.output_pixel_size_um, tuple(records))


def window_around(
    box: CellBox, settings: CropSettings, pixel_size_um: float, shape: tuple[int, int]
) -> tuple[slice, slice]:
    """The rows and columns of a field that the crop of a cell is made of.

    Args:
        box: The cell's bounding box.
        settings: Sizes.
        pixel_size_um: Edge of the field's pixels in micrometres.
        shape: Height and width of the field.
    """
    window_px = settings.scale(pixel_size_um) * settings.output_px
    rows, columns = (
        slice(min(max(int(start) - _REACH_PX, 0), length), max(math.ceil(start + window_px) + _REACH_PX, 0))
        for start, length in zip(_window_start(box, window_px), shape, strict=True)
    )
    return rows, columns


def _window_start(box: CellBox, window_px: float) -> tuple[float, float]:
    """First row and column of the window around a box.

    Windows of whole pixels begin at whole pixels; half pixels are cut off towards zero, as in the published crops.
    """
    row, column = box.top + (box.height - window_px) / 2, box.left + (box.width - window_px) / 2
    return (float(math.trunc(row)), float(math.trunc(column))) if window_px.is_integer() else (row, column)


def _part_in_field(start: float, scale: float, size_px: int, length: int) -> slice:
    """The part of a window's axis that is sampled inside of the field."""
    positions = sample_positions(start, scale, size_px)
    inside = np.flatnonzero((positions >= 0) & (positions <= length - 1))
    return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)


_Found = tuple[CellBox, tuple[int, int], npt.NDArray[np.bool_]]


def _find_cells(field: FieldOfView, boxes: Sequence[CellBox] | None) -> list[_Found]:
    """Box, origin and inside of every cell."""
    if boxes is not None:
        check_boxes(boxes, field.name)
    if field.label_mask is None:
        if not boxes:
            raise FieldError(
                f"Field {field.name!r} has neither label mask nor boxes. Segment it first, or give one of them."
            )
        return [_cell_of_box(field, box) for box in boxes]
    regions = _regions(field.label_mask)
    if not regions:
        raise FieldError(f"Field {field.name!r} has an empty label mask, expected at least one cell.")
    if boxes is None:
        boxes = [_box_of_region(label, region) for label, region in regions.items()]
    strangers = [box.label for box in boxes if box.label not in regions]
    if strangers:
        raise FieldError(
            f"Field {field.name!r}: box {strangers[0]} has no pixel in the label mask. Give boxes of that mask."
        )
    found = []
    for box in boxes:
        rows, columns = regions[box.label]
        found.append((box, (rows.start, columns.start), field.label_mask[rows, columns] == box.label))
    return found


def _regions(mask: npt.NDArray[Any]) -> dict[int, tuple[slice, slice]]:
    """Rows and columns of every label; takes memory by pixels, whatever number the labels have."""
    labels: npt.NDArray[Any] | range = range(int(mask.max(initial=0)) + 1)
    if len(labels) > mask.size:
        labels, places = np.unique(mask, return_inverse=True)
        mask = places.reshape(mask.shape) + int(labels[0] != 0)
        labels = labels if labels[0] == 0 else np.concatenate([[0], labels])
    found = enumerate(ndimage.find_objects(mask), start=1)
    return {int(labels[position]): region for position, region in found if region is not None}


def _box_of_region(label: int, region: tuple[slice, slice]) -> CellBox:
    rows, columns = region
    return CellBox(label, rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)


def _cell_of_box(field: FieldOfView, box: CellBox) -> _Found:
    """A cell of which only the box is known: the part of the box that lies in the field."""
    top, left = max(box.top, 0), max(box.left, 0)
    bottom, right = min(box.top + box.height, field.pixels.shape[1]), min(box.left + box.width, field.pixels.shape[2])
    if top >= bottom or left >= right:
        raise FieldError(
            f"Field {field.name!r}: box {box} lies outside of the field of {field.pixels.shape[1]} x "
            f"{field.pixels.shape[2]} px. Give boxes in pixels of the full-resolution image."
        )
    return box, (top, left), np.ones((bottom - top, right - left), np.bool_)


def _measure(
    field: FieldOfView, box: CellBox, origin: tuple[int, int], inside: npt.NDArray[np.bool_], level: int | None
) -> dict[str, Any]:
    """A cell's record, as far as it is known before cutting."""
    (top, left), (height, width) = origin, inside.shape
    own = {"cell_id": f"{field.name}_{box.label}", "field_of_view": field.name, "label": box.label}
    place = {"top": box.top, "left": box.left, "height": box.height, "width": box.width}
    scale = {PIXEL_SIZE: field.pixel_size_um, PIXEL_SIZE_FROM: field.pixel_size_from}
    # The size that is used comes from the metadata, or was set above them.
    metadata = {name: value for name, value in field.metadata.items() if name != PIXEL_SIZE}
    clash = [n for n in metadata if n in own or n in place or n in scale or n.startswith("qc_")]
    if clash:
        raise FieldError(f"Field {field.name!r} has a metadata column {clash[0]!r}, a name that crops need. Rename it.")
    at_border = top == 0 or left == 0 or top + height == field.pixels.shape[1] or left + width == field.pixels.shape[2]
    return {
        **own,
        **metadata,
        **place,
        **scale,
        "qc_cut_by_border": at_border,
        "qc_area_um2": float(np.count_nonzero(inside) * field.pixel_size_um**2),
        "qc_saturation": saturated_fraction(field.pixels[:, top : top + height, left : left + width], inside, level),
    }


def _measure_crop(pixels: npt.NDArray[Any], mask: npt.NDArray[np.bool_], channels: tuple[str, ...]) -> dict[str, Any]:
    """The quality columns that are taken from a finished crop."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows):
        around = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        pixels, mask = pixels[:, *around], mask[around]
    found = focus(pixels, mask)
    known = [value for value in found if value is not None]
    return {
        "qc_focus": float(np.median(known)) if known else None,
        **{f"{FOCUS_OF}{channel}": value for channel, value in zip(channels, found, strict=True)},
        "qc_empty_channels": empty_channels(pixels, mask, channels),
    }


def _filter_reason(record: Mapping[str, Any], settings: CropSettings) -> str | None:
    """Why a cell is filtered out; None where it is kept."""
    area, saturation = record["qc_area_um2"], record["qc_saturation"]
    if settings.exclude_border and record["qc_cut_by_border"]:
        return "cut by the border"
    if settings.min_area_um2 is not None and area < settings.min_area_um2:
        return f"area {area:.1f} um2 below {settings.min_area_um2:g}"
    if settings.max_area_um2 is not None and area > settings.max_area_um2:
        return f"area {area:.1f} um2 above {settings.max_area_um2:g}"
    if settings.max_saturation is not None and saturation is not None and saturation > settings.max_saturation:
        return f"saturated share {saturation:.4f} above {settings.max_saturation:g}"
    return None
