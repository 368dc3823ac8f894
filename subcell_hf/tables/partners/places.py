"""Where the cells of a table lie in their fields of view, and whether masks at hand are those of the table."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage

from subcell_hf.errors import InputError
from subcell_hf.tables.embedding_table import CELL_ID, FIELD_OF_VIEW
from subcell_hf.types import FieldOfView

LABEL = "label"
PLACE_COLUMNS = (LABEL, "top", "left", "height", "width")


def rows_by_field(cells: pd.DataFrame) -> dict[str, npt.NDArray[np.int64]]:
    """Rows of the cells of each field of view, in the order of the table.

    Args:
        cells: Of an embedding table.

    Raises:
        InputError: If the table does not say where its cells lie.
    """
    missing = [name for name in PLACE_COLUMNS if name not in cells.columns]
    if missing:
        raise InputError(
            f"The table has no column {missing[0]!r}, expected the place of every cell in its field of view "
            f"({', '.join(PLACE_COLUMNS)}). Embed fields of view: images of single cells and shards do not have it."
        )
    fields = cells[FIELD_OF_VIEW].to_numpy(object)
    return {name: np.flatnonzero(fields == name) for name in dict.fromkeys(fields)}


def cells_in_field(cells: pd.DataFrame, field: FieldOfView) -> Iterator[tuple[int, int, int, npt.NDArray[np.bool_]]]:
    """Label, first row and column, and inside of each cell of a field.

    Args:
        cells: Rows of the table that belong to this field.
        field: With its mask.

    Yields:
        Label, row and column in the field, and `[height, width]` bool, in the order of the rows.

    Raises:
        InputError: If the mask is not the one that the table was made with.
    """
    if field.label_mask is None:
        raise InputError(f"Field {field.name!r} has no label mask, expected the mask of its cells.")
    boxes = ndimage.find_objects(field.label_mask)
    for cell_id, *place in cells[[CELL_ID, *PLACE_COLUMNS]].itertuples(index=False):
        label, top, left, height, width = map(int, place)
        box = boxes[label - 1] if 0 < label <= len(boxes) else None
        found = None if box is None else (box[0].start, box[1].start, box[0].stop, box[1].stop)
        if box is None or found != (top, left, top + height, left + width):
            raise InputError(
                f"Cell {cell_id!r} lies in rows {top}-{top + height} and columns {left}-{left + width} by the table, "
                f"but label {label} of field {field.name!r} {'is missing' if found is None else f'lies in {found}'}. "
                "The images, masks or the segmentation have changed: embed them again."
            )
        yield label, top, left, field.label_mask[box] == label
