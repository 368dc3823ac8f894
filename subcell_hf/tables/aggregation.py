"""Embedding tables of cells → one row per field of view, well, antibody or gene."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.storage.text_values import text_values, warn_of_case
from subcell_hf.tables.files import EmbeddingTable, top_locations

GROUP_KEYS = {
    "field": ("field_of_view",),
    "well": ("plate", "well"),
    "antibody": ("antibody",),
    "gene": ("gene",),
}
"""Level of aggregation → the columns that identify a group."""

FIELD_OF_VIEW = "field_of_view"
_COUNTED = {"field_count": FIELD_OF_VIEW, "antibody_count": "antibody"}
_COUNTS = ("cell_count", *_COUNTED)
"""Counts of an earlier aggregation, which do not apply to a new one."""

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Aggregation:
    """Groups of cells as a table, and what did not go into it.

    Attributes:
        table: One row per group, sorted by its name. `cell_id` is that name; `cell_count`, `field_count` and
            `antibody_count` say how much a row represents.
        skipped: Id of every cell that names no group → the reason.
        dropped_columns: Metadata that differ within a group and so have no value for it.
        notes: What a reader of the table should know.
    """

    table: EmbeddingTable
    skipped: dict[str, str]
    dropped_columns: tuple[str, ...]
    notes: tuple[str, ...]


def aggregate(table: EmbeddingTable, by: str, *, probabilities: str = "mean") -> Aggregation:
    """Average the embeddings of the cells of each group.

    Sums are taken in float64 over blocks of rows, so that a table of a million cells needs little memory beside itself
    and the order of the cells makes no difference to the float32 result. Metadata that are the same in every cell of
    each group are kept, `qc_` numbers are averaged, and the top locations are those of the aggregated probabilities.

    Args:
        table: One row per cell.
        by: A key of `GROUP_KEYS`.
        probabilities: `"mean"`, or `"max"`: the most that any cell of the group shows, which keeps rare locations.

    Returns:
        The groups. Cells without a name for theirs are left out and listed.

    Raises:
        InputError: If the table has no column that names groups, or no cell with one, or cells of a group were embedded
            by different models, whose numbers have nothing to do with each other.
    """
    if by not in GROUP_KEYS:
        raise InputError(f"Cannot aggregate by {by!r}: choose one of {', '.join(GROUP_KEYS)}.")
    if probabilities not in ("mean", "max"):
        raise InputError(f"Probabilities are aggregated by 'mean' or 'max', got {probabilities!r}.")
    keys, notes = _key_columns(table.cells, by)
    codes, names = _group_codes(table.cells, keys)
    skipped = {
        str(table.cells["cell_id"].iloc[row]): f"no value in {' or '.join(keys)}" for row in np.flatnonzero(codes < 0)
    }
    if not len(names):
        raise InputError(f"No cell has a value in {' and '.join(keys)}, so there is nothing to aggregate by {by}.")
    _refuse_mixed_models(table.cells, codes, names)
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    reduce_probabilities = _mean if probabilities == "mean" else _max
    cells, dropped = _group_metadata(table.cells, codes, names, keys)
    aggregated = None
    if table.probabilities is not None:
        aggregated = reduce_probabilities(table.probabilities, codes, counts)
        cells = cells.assign(**top_locations(aggregated, table.classes))
    cells.insert(1, "cell_count", counts)
    grouped = EmbeddingTable(
        cells=cells,
        embeddings=_mean(table.embeddings, codes, counts),
        probabilities=aggregated,
        classes=table.classes,
        pass_probabilities={
            name: reduce_probabilities(values, codes, counts) for name, values in table.pass_probabilities.items()
        },
        provenance={
            **table.provenance,
            "aggregation": {"by": by, "probabilities": probabilities, "cells": int(counts.sum())},
        },
    )
    return Aggregation(grouped, skipped, dropped, notes)


def _key_columns(cells: pd.DataFrame, by: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns that name the groups, and a note where one of them is not there."""
    keys = GROUP_KEYS[by]
    if keys[-1] not in cells.columns:
        raise InputError(
            f"The table has no column {keys[-1]!r} to aggregate by {by}; it has {', '.join(map(str, cells.columns))}. "
            "Add it when embedding (--metadata), or choose another --by."
        )
    if by == "well" and "plate" not in cells.columns:
        return ("well",), ("The table has no column 'plate': wells of the same name count as one.",)
    return keys, ()


def _group_codes(cells: pd.DataFrame, keys: tuple[str, ...]) -> tuple[npt.NDArray[np.int64], pd.DataFrame]:
    """Group of every cell, -1 where it names none, and the groups' names in order: `[groups, keys]`."""
    named = pd.DataFrame({key: text_values(cells[key], key, verbatim=key == FIELD_OF_VIEW) for key in keys})
    for key in keys:
        warn_of_case(named[key], f"Column {key}")
    complete = (named != "").all(axis=1).to_numpy()
    grouping = named[complete].groupby(list(keys), sort=True)
    codes = np.full(len(cells), -1, dtype=np.int64)
    codes[complete] = grouping.ngroup().to_numpy()
    return codes, grouping.size().reset_index()[list(keys)]


def _refuse_mixed_models(cells: pd.DataFrame, codes: npt.NDArray[np.int64], names: pd.DataFrame) -> None:
    if "model" not in cells.columns:
        return
    named = codes >= 0
    models = cells["model"][named].groupby(codes[named], sort=True).unique()
    mixed = np.flatnonzero(models.map(len) > 1)
    if len(mixed):
        raise InputError(
            f"The cells of {'/'.join(names.iloc[mixed[0]])} were embedded by {len(models.iloc[mixed[0]])} models "
            f"({', '.join(map(str, models.iloc[mixed[0]]))}), whose embeddings cannot be averaged; {len(mixed)} of "
            f"{len(names)} groups are so. Embed with one --model, or aggregate to smaller groups."
        )


def _blocks(values: npt.NDArray[Any], codes: npt.NDArray[np.int64]) -> Iterator[tuple[Any, Any, Any]]:
    """Rows of a few thousand cells at a time, sorted by group: rows, where each group begins, its number."""
    for start in range(0, len(values), _ROWS_AT_ONCE):
        block = codes[start : start + _ROWS_AT_ONCE]
        order = np.argsort(block, kind="stable")
        order = order[np.count_nonzero(block < 0) :]
        if len(order):
            groups, begins = np.unique(block[order], return_index=True)
            yield values[start : start + _ROWS_AT_ONCE][order], begins, groups


def _mean(
    values: npt.NDArray[np.float32], codes: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Mean of the rows of each group: `[groups, width]`."""
    sums = np.zeros((len(counts), values.shape[1]))
    for rows, begins, groups in _blocks(values, codes):
        sums[groups] += np.add.reduceat(rows.astype(np.float64), begins, axis=0)
    return (sums / counts[:, None]).astype(np.float32)


def _max(
    values: npt.NDArray[np.float32], codes: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Largest value of each group and column: `[groups, width]`."""
    largest = np.full((len(counts), values.shape[1]), -np.inf, dtype=np.float32)
    for rows, begins, groups in _blocks(values, codes):
        largest[groups] = np.maximum(largest[groups], np.maximum.reduceat(rows, begins, axis=0))
    return largest


def _group_metadata(
    cells: pd.DataFrame, codes: npt.NDArray[np.int64], names: pd.DataFrame, keys: tuple[str, ...]
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Columns of the groups: their names, counts, constant metadata and averaged quality; and what was dropped."""
    named = codes >= 0
    grouping = cells[named].groupby(codes[named], sort=True)
    columns: dict[str, Any] = {"cell_id": names.agg("/".join, axis=1)}
    columns |= {
        count: grouping[column].nunique().to_numpy()
        for count, column in _COUNTED.items()
        if column in cells.columns and column not in keys
    }
    columns |= {key: names[key] for key in keys}
    dropped = []
    for column in cells.columns:
        if column in columns or column in _COUNTS or column.startswith(("top_location_", "top_probability_")):
            continue
        if pd.api.types.is_numeric_dtype(cells[column]) and column.startswith("qc_"):
            columns[column] = grouping[column].mean().to_numpy()
        elif (grouping[column].nunique(dropna=False) == 1).all():
            columns[column] = grouping[column].first().to_numpy()
        else:
            dropped.append(str(column))
    if FIELD_OF_VIEW in dropped:  # which every table has, empty where unknown
        dropped.remove(FIELD_OF_VIEW)
        columns[FIELD_OF_VIEW] = ""
    return pd.DataFrame(columns), tuple(dropped)
