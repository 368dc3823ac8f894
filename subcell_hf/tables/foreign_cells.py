"""What another tool's table says of its cells, in the columns of an embedding table."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.storage.foreign_tables import ForeignTable
from subcell_hf.tables.embedding_table import CELL_ID, FIELD_OF_VIEW

ID_COLUMNS = (CELL_ID, "id", "Metadata_cell_id", "cell_ids", "ids")
"""Columns that may contain the ids of cells; the first that exists is used."""

_BLOCKS = re.compile(r"embedding|probabilities(_.*)?", re.DOTALL)  # names of what a table holds beside its cells
_WHOLE_NUMBERS = re.compile(r"label|top|left|height|width|cell_count|field_count|antibody_count")
_NUMBERS = re.compile(r"qc_.*|top_probability_\d+")


def cells_of(table: ForeignTable, names: Sequence[str], ids: Sequence[str] | None = None) -> pd.DataFrame:
    """The columns about cells: places and quality as numbers, all else as text.

    Args:
        table: Of another tool.
        names: Which of its columns are about cells.
        ids: Of the cells; None: in a column of `ID_COLUMNS`, else in the unnamed first column, else made.

    Raises:
        InputError: If a column holds neither texts nor numbers.
    """
    id_column = None
    if ids is None:
        id_column = next((name for name in ID_COLUMNS if name in names), None)
        made = table.row_names or map(str, range(len(table)))
        ids = list(made) if id_column is None else table.text(id_column)
    columns: dict[str, Any] = {CELL_ID: np.array(ids, object), FIELD_OF_VIEW: np.full(len(ids), "", object)}
    kept = [name for name in names if name not in (id_column, CELL_ID)]
    columns |= {(f"metadata_{n}" if _BLOCKS.fullmatch(n) else n): _values(table, n) for n in kept}
    return pd.DataFrame(columns)


def _values(table: ForeignTable, name: str) -> npt.NDArray[Any]:
    """Numbers or truth values where the column's name says so and its values are, else texts."""
    texts = np.array(table.text(name), object)
    whole = _WHOLE_NUMBERS.fullmatch(name) is not None
    if not whole and not _NUMBERS.fullmatch(name):
        return texts
    words = [text.lower() for text in texts]
    if words and set(words) <= {"true", "false"}:
        return np.array([word == "true" for word in words])
    if not table.holds_numbers(name):
        return texts
    numbers = table.numbers(name)
    return numbers.astype(np.int64) if whole and (numbers == np.rint(numbers)).all() else numbers
