"""Segmentation by a function of the user: what it may return, and which version of it ran."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.cells.custom_functions import import_function, source_checksum
from subcell_hf.images.files import FieldError
from subcell_hf.images.masks.instances import check_instances
from subcell_hf.images.planes import MAX_LABELS
from subcell_hf.types import FieldOfView


def describe_segmentation(method: str) -> str:
    """A method of segmentation as a record of a run names it: a custom one with a checksum of its source file."""
    if ":" not in method:
        return method
    checksum = source_checksum(import_function(method))
    return f"{method} {checksum[:16]}" if checksum else method


def run_custom(
    segmenter: Callable[..., Any], field: FieldOfView, name: object, *, trusted: bool = False, **options: Any
) -> npt.NDArray[np.int32]:
    """Segment a field by a function that is not ours, and check what it returns.

    Args:
        segmenter: Takes the field, returns labels.
        field: The field.
        name: Names the segmenter in messages.
        trusted: Whether to take every label as one cell, without the checks of `check_instances`.
        options: Passed on to the segmenter.

    Returns:
        `[height, width]` int32 labels, 0 is background.

    Raises:
        FieldError: If the function fails, or returns anything but labels of single cells.
    """
    where = f"Field {field.name!r}: the segmentation by {name}"
    try:
        labels = np.asarray(segmenter(field, **options))
    except (FieldError, MemoryError):
        raise
    except Exception as error:
        raise FieldError(f"{where} failed with {type(error).__name__}: {error}.") from error
    if labels.shape != field.pixels.shape[1:]:
        raise FieldError(f"{where} has shape {labels.shape}, expected {field.pixels.shape[1:]}.")
    if not np.issubdtype(labels.dtype, np.integer):
        raise FieldError(f"{where} is {labels.dtype}, expected whole numbers: 0 outside, and one for each cell.")
    if labels.min() < 0 or labels.max() > np.iinfo(np.int32).max or len(np.unique(labels)) > MAX_LABELS + 1:
        raise FieldError(
            f"{where} has labels {labels.min()} to {labels.max()}, expected 0 outside and at most {MAX_LABELS:,} cells."
        )
    labels = labels.astype(np.int32)
    if labels.any() and not trusted:
        check_instances(replace(field, label_mask=labels), where)
    return labels
