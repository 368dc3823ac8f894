"""Whether a label mask gives every cell a separate number, by areas and pieces of its labels."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.measure import label as label_pieces

from subcell_hf.images.files import FieldError
from subcell_hf.images.masks.nuclei import NUCLEUS_CHANNEL, nuclei_of_labels
from subcell_hf.types import FieldOfView

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

_ENCLOSED_SHARE = 0.9  # of a label's outline

_TRUST = "If every number is one cell all the same, say so (--trust-masks, or trust_masks=True in Python)."
_REMEDY = (
    "Give every cell a separate number (of a mask of classes, skimage.measure.label(mask) numbers the pieces, but "
    f"does not part cells that touch), or remove the file to have the field segmented. {_TRUST}"
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
        FieldError: If labels lie in several pieces, one spans several nuclei, labels lie inside of others, or the
            background is a label.
    """
    if field.label_mask is None:
        return
    pieces = _find_pieces(field.label_mask)
    _check_background(field.label_mask, pieces, where)
    _check_pieces(pieces, field.pixel_size_um, where)
    _check_enclosed(field.label_mask, pieces.labels, where)
    _check_nuclei(field, pieces, where)


def mask_of_single_cell(image: FieldOfView, where: str, *, trusted: bool = False) -> npt.NDArray[np.bool_]:
    """The cell in an image of one cell: its only label, or of several the one in the centre.

    Args:
        image: With its mask, of at least one label.
        where: Names the mask in messages.
        trusted: Whether to leave out the checks of `check_instances`.

    Returns:
        `[height, width]`, True in the cell.

    Raises:
        FieldError: If no label is the cell's for sure, or a check fails. Neighbours that the image's border cuts into
            pieces are not looked at.
    """
    mask = np.zeros((0, 0), np.int32) if image.label_mask is None else image.label_mask
    labels = np.unique(mask[mask > 0])
    inside = mask > 0
    if len(labels) > 1:
        centre = mask[mask.shape[0] // 2, mask.shape[1] // 2]
        if not centre:
            raise FieldError(
                f"{where} has {len(labels)} labels and none in the centre of the image, expected that of its one cell "
                "there. Give a mask of this cell alone, or have the image cut up as a field (--fields-of-view)."
            )
        inside = mask == centre
    if not trusted:
        _check_enclosed(mask, labels, where)
        alone = np.where(inside, mask, 0)
        pieces = _find_pieces(alone)
        _check_pieces(pieces, image.pixel_size_um, where)
        _check_nuclei(replace(image, label_mask=alone), pieces, where)
    return inside


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
    # Where most cells are smaller than a speck, the scale is another than that of cultured cells.
    speck_px = min(_SPECK_UM2 / pixel_size_um**2, _SPECK_SHARE * float(np.median(largest)))
    least_px = np.maximum(_SPECK_SHARE * largest[pieces.owners], max(speck_px, _DUST_PX))
    large = np.bincount(pieces.owners[pieces.areas_px >= least_px], minlength=len(pieces.labels))
    scattered = (large > 1) | ((largest < totals / 2) & (totals >= _DUST_PX))
    if not scattered.any():
        return
    owners = np.flatnonzero(scattered)
    if len(owners) <= _CROSSED_SHARE * len(pieces.labels):
        boxes = ndimage.find_objects(pieces.map)
        if not any(_lie_apart(pieces, boxes, int(owner)) for owner in owners):
            return
    worst = int(owners[np.argmax(totals[owners])])
    areas = np.sort(pieces.areas_px[pieces.owners == worst])[::-1] * pixel_size_um**2
    raise FieldError(
        f"{where} has {len(owners)} of {len(pieces.labels)} labels in separate pieces, such as label "
        f"{pieces.labels[worst]} in {len(areas)} of {', '.join(f'{area:.3g}' for area in areas[:3])} um2"
        f"{' and so on' if len(areas) > 3 else ''}; expected one piece for each cell. {_REMEDY}"
    )


def _lie_apart(pieces: _Pieces, boxes: list[tuple[slice, ...]], owner: int) -> bool:
    """Whether the two largest pieces of a label lie farther apart than the process that may cross a cell is wide."""
    own = np.flatnonzero(pieces.owners == owner)
    own = own[np.argsort(pieces.areas_px[own])[::-1][:2]]
    if len(own) < 2:
        return False
    sides = zip(*(boxes[number] for number in own), strict=True)
    gaps = [max(a.start, b.start) - min(a.stop, b.stop) for a, b in sides]
    diameter_px = np.sqrt(4 / np.pi * pieces.areas_px[own[0]])
    return bool(max(gaps) > _CROSSING_WIDTH * diameter_px)


def _check_enclosed(mask: npt.NDArray[np.int32], labels: npt.NDArray[np.int32], where: str) -> None:
    """Refuse a mask of which at least every second label lies inside of another, as nuclei in cytoplasms do."""
    if len(labels) < 2 or mask.all():
        return
    own, other, lengths = _outlines(mask)
    totals = np.bincount(np.searchsorted(labels, own), lengths, len(labels))
    enclosed = np.flatnonzero((other > 0) & (lengths >= _ENCLOSED_SHARE * totals[np.searchsorted(labels, own)]))
    if 2 * len(enclosed) >= len(labels):
        raise FieldError(
            f"{where} has {len(enclosed)} of {len(labels)} labels inside of others, such as label {own[enclosed[0]]} "
            f"in label {other[enclosed[0]]}, as where nuclei and cytoplasms have separate numbers; expected one "
            f"label for each whole cell. {_REMEDY}"
        )


def _outlines(mask: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int64], ...]:
    """Label, what it borders on, and along how many edges of pixels, for all that adjoin; each `[pairs]`."""
    pairs = []
    for one, other in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
        differ = one != other
        one, other = one[differ].astype(np.int64), other[differ].astype(np.int64)
        pairs += [one << 32 | other, other << 32 | one]
    codes, lengths = np.unique(np.concatenate(pairs), return_counts=True)
    of_label = codes >= 1 << 32
    return codes[of_label] >> 32, codes[of_label] & 0xFFFFFFFF, lengths[of_label]


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
