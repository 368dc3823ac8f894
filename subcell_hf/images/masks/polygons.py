"""Masks of cells → their outlines as polygons, from which the same masks can be drawn again."""

import numpy as np
import numpy.typing as npt
from skimage.measure import find_contours
from skimage.measure import label as label_pieces

Ring = npt.NDArray[np.float64]


def polygons_of_mask(inside: npt.NDArray[np.bool_], top: int = 0, left: int = 0) -> list[list[Ring]]:
    """Outline a cell so that exactly the centres of its pixels lie inside.

    Args:
        inside: `[height, width]`, True in the cell.
        top: Row of the field that the first row is.
        left: Column of the field that the first column is.

    Returns:
        A polygon for each connected piece (pixels that share a corner are connected): its outer ring, then its holes.
        A ring is `[corners, 2]` x and y in pixels from the upper left corner of the field, where the centre of the
        first pixel is (0.5, 0.5); the first corner is repeated at the end.
    """
    pieces, count = label_pieces(inside, connectivity=2, return_num=True)
    polygons = []
    for number in range(1, count + 1):
        contours = find_contours(np.pad(pieces == number, 1).astype(np.float64), 0.5, fully_connected="high")
        rings = [contour[:, ::-1] + (left - 0.5, top - 0.5) for contour in contours]
        # The outer ring encloses the others.
        polygons.append(sorted(rings, key=lambda ring: -float(np.ptp(ring, axis=0).prod())))
    return polygons
