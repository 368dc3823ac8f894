"""Typed names of everything that crosses a room's border."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FieldOfView:
    """One microscope image with all its channels.

    Attributes:
        name: Unique id, for example `"800_A6_1"` (plate, well, sample).
        pixels: `[channels, height, width]`, uint8, uint16 or float32, intensities as acquired.
        channels: Colour name of each plane of `pixels`.
        pixel_size_um: Edge of a pixel in micrometres.
        label_mask: `[height, width]` integer instance labels, 0 is background; None where cells are not segmented yet.
        metadata: Everything known of the field: `antibody`, `gene`, `locations` (joined by `;`), `cell_line`, `plate`,
            `well`, `sample` and whatever columns the user added.
        pixel_size_from: Where `pixel_size_um` comes from: `"option"`, `"metadata"`, `"file"`, `"HPA name"`,
            `"published"` for published cells, `"layer"` for layers of napari, or `"model"` for single cells that are
            taken to be at the model's scale; empty where nobody said.
    """

    name: str
    pixels: npt.NDArray[Any]
    channels: tuple[str, ...]
    pixel_size_um: float
    label_mask: npt.NDArray[Any] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    pixel_size_from: str = ""


@dataclass(frozen=True)
class FieldCrops:
    """The single-cell crops of one field of view.

    Attributes:
        field_of_view: Name of the field.
        pixels: `[cells, channels, height, width]`, uint8, uint16 or float32, of the field's dtype.
        cell_masks: `[cells, height, width]` bool, True inside the (dilated) cell.
        channels: Colour name of each plane.
        pixel_size_um: Edge of a crop's pixel in micrometres.
        cells: One record per cell: `cell_id` (`"<field>_<label>"`, unique), `field_of_view`, `label`, the field's
            metadata and the quality columns, which begin with `qc_`.
        skipped: Cells of the field that could not be used: name and reason.
    """

    field_of_view: str
    pixels: npt.NDArray[Any]
    cell_masks: npt.NDArray[np.bool_]
    channels: tuple[str, ...]
    pixel_size_um: float
    cells: tuple[Mapping[str, Any], ...]
    skipped: tuple[tuple[str, str], ...] = ()


class CropBatch(TypedDict):
    """Cells as they come out of the shards, before any view is made.

    A batch is antibody-major: the N cells of one antibody are consecutive.
    """

    pixels: "Tensor"  # [cells, channels, height, width] uint8, uint16 or float32
    cell_masks: "Tensor"  # [cells, height, width] bool, True = inside
    antibodies: "Tensor"  # [cells] int64, index into the shard index's list of antibodies
    locations: "Tensor"  # [cells, classes] float32, multi-hot
    cell_groups: NotRequired["Tensor"]  # [cells] int64, field of view or cell line: what cell contrast makes similar
    cell_ids: NotRequired[list[str]]


class MultiViewBatch(TypedDict):
    """What `SubCellForPreTraining.forward` takes."""

    pixel_values: "Tensor"  # [cells, views, channels, height, width] float32 in [0, 1] before intensity augmentation
    cell_masks: "Tensor"  # [cells, views, height, width] bool, True = inside; moved with the view's geometry
    antibodies: "Tensor"  # [cells] int64
    locations: "Tensor"  # [cells, classes] float32, multi-hot
    cell_groups: NotRequired["Tensor"]  # [cells] int64, as in the crops
