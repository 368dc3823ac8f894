"""The labels of a field, of an image of labels or a file of outlines."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from subcell_hf.images.files import FieldError, read_image
from subcell_hf.images.masks.outlines import is_outlines, labels_of_outlines
from subcell_hf.images.planes import MAX_LABELS, check_label_mask


def read_labels(path: Path, shape: tuple[int, int], max_decoded_bytes: int) -> npt.NDArray[np.int32]:
    """Read the mask of a field.

    Args:
        path: An image of labels, see `check_label_mask`, or outlines, see `labels_of_outlines`.
        shape: Height and width of the field.
        max_decoded_bytes: Larger files are refused.

    Returns:
        `[height, width]` int32 labels, 0 is background.

    Raises:
        FieldError: If it cannot be read, or does not fit the field.
    """
    if not is_outlines(path):
        return check_label_mask(read_image(path, max_decoded_bytes), shape)
    labels = labels_of_outlines(path, shape, max_decoded_bytes)
    if labels.max() > MAX_LABELS:
        raise FieldError(f"outlines {path} has {labels.max():,} objects, expected at most {MAX_LABELS:,}.")
    return labels
