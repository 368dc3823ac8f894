"""Whether a label mask gives every cell a number of its own, by areas and pieces of its labels."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.measure import label as label_pieces

from subcell_hf.batches import FieldOfView
from subcell_hf.data.images.files import FieldError
from subcell_hf.data.segmentation import NUCLEUS_CHANNEL, nuclei_of_labels

# A mask of classes has a handful of labels, and each lies all over the field. A cell's label is one piece, save for
# specks, or for a cell that a neighbour's process crosses.
_FEW_LABELS = 8
_SPECK_SHARE = 0.25
_SPECK_UM2 = 15.0
_DUST_PX = 20
_CROSSED_SHARE = 0.25
_CROSSING_WIDTH = 0.25  # of the cell's diameter
# Cells that touch are one piece of such a mask, and nuclei tell how many. Two in a cell are common, three are not; no
# cell of the cultures that SubCell knows is smaller than this with as many.
_MOST_NUCLEI = 2
_AREA_OF_THREE_UM2 = 400.0

_REMEDY = (
    "Give every cell a number of its own (of a mask of classes, skimage.measure.label(mask) numbers the pieces, but "
    "does not part cells that touch), or remove the file to have the field segmented."
)


@dataclass(frozen=True)
class _Pieces:
    """Connected pieces of one label each.

    Attributes:
        labels: `[labels]`, those that occur.
        map: `[height, width]`, number of the piece from 1 on, 0 outside.
        owners: `[pieces]`, position of a piece's label.
        areas_px: `[pieces]`.
    """

    labels: npt.NDArray[np.int32]
    map: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    areas_px: npt.NDArray[np.int64]


def check_instances(field: FieldOfView, where: str) -> None:
    """Refuse a mask that gives classes, or shares numbers between cells.

    Args:
        field: With its mask, of at least one label.
        where: Names the mask in messages.

    Raises:
        FieldError: If labels lie in several pieces, one spans several nuclei, or the background is a label.
    """
    if field.label_mask is None:
        return
    pieces = _find_pieces(field.label_mask)
    _check_background(field.label_mask, pieces, where)
    _check_pieces(pieces, field.pixel_size_um, where)
    _check_nuclei(field, pieces, where)


def _find_pieces(mask: npt.NDArray[np.int32]) -> _Pieces:
    found, count = label_pieces(mask, background=0, return_num=True, connectivity=2)
    of_piece = np.zeros(count + 1, mask.dtype)
    of_piece[found.ravel()] = mask.ravel()
    labels, owners = np.unique(of_piece[1:], return_inverse=True)
    return _Pieces(labels, found, owners, np.bincount(found.ravel(), minlength=count + 1)[1:])


def _check_background(mask: npt.NDArray[np.int32], pieces: _Pieces, where: str) -> None:
    """Refuse a mask of a few labels without a 0 of which one spans the field, as ilastik's segmentations do."""
    if len(pieces.labels) > _FEW_LABELS or not mask.all():
        return
    sides = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    spanning = [label for label in pieces.labels.tolist() if all((side == label).any() for side in sides)]
    if spanning:
        raise FieldError(
            f"{where} has no pixel of background (0), and its label {spanning[0]} reaches all four sides; expected 0 "
            f"outside of the cells. Programs that number classes from 1, such as ilastik, write so. {_REMEDY}"
        )


def _check_pieces(pieces: _Pieces, pixel_size_um: float, where: str) -> None:
    """Refuse a mask of which labels lie in several places."""
    totals = np.bincount(pieces.owners, pieces.areas_px)
    largest = np.zeros(len(pieces.labels), np.int64)
    np.maximum.at(largest, pieces.owners, pieces.areas_px)
    least_px = np.maximum(_SPECK_SHARE * largest[pieces.owners], _SPECK_UM2 / pixel_size_um**2)
    large = np.bincount(pieces.owners[pieces.areas_px >= least_px], minlength=len(pieces.labels))
    scattered = (large > 1) | ((largest < totals / 2) & (totals >= _DUST_PX))
    if not scattered.any():
        return
    owners = np.flatnonzero(scattered)
    if len(owners) <= _CROSSED_SHARE * len(pieces.labels) and not any(
        _lie_apart(pieces, int(owner)) for owner in owners
    ):
        return
    worst = int(owners[np.argmax(totals[owners])])
    areas = np.sort(pieces.areas_px[pieces.owners == worst])[::-1] * pixel_size_um**2
    raise FieldError(
        f"{where} has {len(owners)} of {len(pieces.labels)} labels in separate pieces, such as label "
        f"{pieces.labels[worst]} in {len(areas)} of {', '.join(f'{area:.3g}' for area in areas[:3])} um2"
        f"{' and so on' if len(areas) > 3 else ''}; expected one piece for each cell. {_REMEDY}"
    )


def _lie_apart(pieces: _Pieces, owner: int) -> bool:
    """Whether the two largest pieces of a label lie farther apart than the process that may cross a cell is wide."""
    own = np.flatnonzero(pieces.owners == owner)
    own = own[np.argsort(pieces.areas_px[own])[::-1][:2]]
    if len(own) < 2:
        return False
    boxes = [ndimage.find_objects((pieces.map == number + 1).astype(np.uint8))[0] for number in own]
    gaps = [max(a.start, b.start) - min(a.stop, b.stop) for a, b in zip(*boxes, strict=True)]
    diameter_px = np.sqrt(4 / np.pi * pieces.areas_px[own[0]])
    return bool(max(gaps) > _CROSSING_WIDTH * diameter_px)


def _check_nuclei(field: FieldOfView, pieces: _Pieces, where: str) -> None:
    """Refuse a mask of a few labels of which one spans several nuclei."""
    if field.label_mask is None or len(pieces.labels) > _FEW_LABELS or NUCLEUS_CHANNEL not in field.channels:
        return
    areas_um2 = np.bincount(pieces.owners, pieces.areas_px) * field.pixel_size_um**2
    if areas_um2.max() < _AREA_OF_THREE_UM2:
        return
    nuclei = nuclei_of_labels(field)
    for label, area_um2 in zip(pieces.labels.tolist(), areas_um2, strict=True):
        if nuclei.get(label, 0) > _MOST_NUCLEI and area_um2 >= _AREA_OF_THREE_UM2:
            raise FieldError(
                f"{where} has a label, {label}, of {area_um2:.0f} um2 over {nuclei[label]} nuclei, as a mask of "
                f"classes has where cells touch; expected one label for each cell. {_REMEDY}"
            )
