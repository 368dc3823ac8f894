"""Columns that say at which pixel size a cell's field was read, and from where that size is known."""

from typing import Any

import pyarrow as pa

PIXEL_SIZE, PIXEL_SIZE_FROM = "pixel_size_um", "pixel_size_from"


def count_pixel_sizes(cells: pa.Table) -> list[dict[str, Any]]:
    """The pixel sizes of a table of cells, the most frequent first: size, where it comes from, number of cells.

    Args:
        cells: Any table; one that does not say where its pixel sizes come from has none.
    """
    if not {PIXEL_SIZE, PIXEL_SIZE_FROM} <= set(cells.column_names):
        return []
    counted = cells.group_by([PIXEL_SIZE, PIXEL_SIZE_FROM]).aggregate([([], "count_all")]).to_pylist()
    sizes = [{PIXEL_SIZE: row[PIXEL_SIZE], "from": row[PIXEL_SIZE_FROM], "cells": row["count_all"]} for row in counted]
    return sorted(sizes, key=lambda size: (-size["cells"], str(size)))
