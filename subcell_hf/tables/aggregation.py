"""Embedding tables of cells → one row per field of view, well, antibody or gene."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.storage.text_values import text_values, warn_of_case
from subcell_hf.tables.files import EmbeddingTable, top_locations
from subcell_hf.tables.groups import Codes, GroupedNumbers, GroupedValues, Groups

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

_MODEL = "model"
_EMBEDDING, _PROBABILITIES, _PASS = "embedding", "probabilities", "probabilities_"
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
    """Average the embeddings of the cells of each group; see `aggregate_blocks`.

    Args:
        table: One row per cell.
        by: A key of `GROUP_KEYS`.
        probabilities: `"mean"`, or `"max"`: the most that any cell of the group shows, which keeps rare locations.

    Returns:
        The groups. Cells without a name for theirs are left out and listed.

    Raises:
        InputError: As `aggregate_blocks`.
    """
    starts = range(0, max(len(table), 1), _ROWS_AT_ONCE)
    blocks = (table.select(slice(start, start + _ROWS_AT_ONCE)) for start in starts)
    return aggregate_blocks(blocks, by, probabilities=probabilities)


def aggregate_blocks(blocks: Iterable[EmbeddingTable], by: str, *, probabilities: str = "mean") -> Aggregation:
    """Average the embeddings of the cells of each group, in memory that does not grow with the number of cells.

    Sums are taken in float64, so that neither the order of the cells nor the blocks make a difference to the float32
    result. Metadata that are the same in every cell of each group are kept, `qc_` numbers are averaged, and the top
    locations are those of the aggregated probabilities.

    Args:
        blocks: One or more parts of a table with one row per cell; see `iterate_table`.
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
    found = _Aggregator(by, probabilities)
    for block in blocks:
        found.add(block)
    return found.result()


class _Aggregator:
    """What is known of the groups of the blocks that were added."""

    def __init__(self, by: str, probabilities: str) -> None:
        self._by, self._probabilities = by, probabilities
        self._keys: tuple[str, ...] = ()
        self._notes: tuple[str, ...] = ()
        self._groups = Groups()
        self._sizes = GroupedNumbers(np.add, np.int64)
        self._numbers: dict[str, GroupedNumbers] = {}
        self._values: dict[str, GroupedValues] = {}
        self._quality: dict[str, GroupedNumbers] = {}
        self._texts: set[str] = set()
        self._skipped: dict[str, str] = {}
        self._like: EmbeddingTable | None = None

    def add(self, table: EmbeddingTable) -> None:
        """Add the cells of a block."""
        cells = table.cells
        if self._like is None:
            self._keys, self._notes = _key_columns(cells, self._by)
            self._like = table.select(slice(0, 0))
        named = {key: text_values(cells[key], key, verbatim=key == FIELD_OF_VIEW) for key in self._keys}
        keys = pd.DataFrame(named, dtype=object)
        complete = (keys != "").all(axis=1).to_numpy()
        codes = np.full(len(cells), -1, dtype=np.intp)
        codes[complete] = self._groups.codes(keys[complete])
        reason = f"no value in {' or '.join(self._keys)}"
        self._skipped |= {str(cell): reason for cell in cells["cell_id"].to_numpy()[codes < 0]}
        self._sizes.add(codes, np.ones((len(cells), 1)))
        self._add_numbers(_EMBEDDING, codes, table.embeddings, largest=False)
        largest = self._probabilities == "max"
        if table.probabilities is not None:
            self._add_numbers(_PROBABILITIES, codes, table.probabilities, largest=largest)
        for name, values in table.pass_probabilities.items():
            self._add_numbers(_PASS + name, codes, values, largest=largest)
        self._add_metadata(cells, codes)

    def _add_numbers(self, name: str, codes: Codes, values: Any, *, largest: bool) -> None:
        if name not in self._numbers:
            self._numbers[name] = GroupedNumbers(*((np.maximum, np.float32) if largest else (np.add, np.float64)))
        self._numbers[name].add(codes, values)

    def _add_metadata(self, cells: pd.DataFrame, codes: Codes) -> None:
        for column in map(str, cells.columns):
            if column in ("cell_id", *_COUNTS) or column.startswith(("top_location_", "top_probability_")):
                continue
            values = cells[column]
            every = column in (*_COUNTED.values(), _MODEL)
            self._values.setdefault(column, GroupedValues(every=every)).add(codes, values)
            if not column.startswith("qc_"):
                continue
            if not pd.api.types.is_numeric_dtype(values):
                self._texts.add(column)
                continue
            known = values.notna().to_numpy()
            numbers = np.where(known, values.to_numpy(dtype=np.float64, na_value=np.nan), 0)
            grouped = self._quality.setdefault(column, GroupedNumbers(np.add, np.float64))
            grouped.add(codes, np.column_stack([numbers, known]))

    def result(self) -> Aggregation:
        """The groups, sorted by their names."""
        like, by = self._like, self._by
        if like is None or not len(self._groups):
            raise InputError(
                f"No cell has a value in {' and '.join(self._keys) or by}, so there is nothing to aggregate by {by}."
            )
        all_names = self._groups.names()
        order = sorted(range(len(all_names)), key=all_names.__getitem__)
        names = pd.DataFrame([all_names[group] for group in order], columns=list(self._keys))
        for key in self._keys:
            warn_of_case(names[key], f"Column {key}")
        self._refuse_mixed_models(order, names)
        counts = self._sizes.of(order)[:, 0]
        numbers = {name: self._reduced(name, order, counts) for name in self._numbers}
        cells, dropped = self._metadata(order, names)
        aggregated = numbers.get(_PROBABILITIES)
        if aggregated is not None:
            cells = cells.assign(**top_locations(aggregated, like.classes))
        cells.insert(1, "cell_count", counts)
        facts = {"by": by, "probabilities": self._probabilities, "cells": int(counts.sum())}
        grouped = EmbeddingTable(
            cells=cells,
            embeddings=numbers[_EMBEDDING],
            probabilities=aggregated,
            classes=like.classes,
            pass_probabilities={name: numbers[_PASS + name] for name in like.pass_probabilities},
            provenance={**like.provenance, "aggregation": facts},
        )
        return Aggregation(grouped, self._skipped, dropped, self._notes)

    def _reduced(self, name: str, order: list[int], counts: Any) -> Any:
        """Mean or largest value of each group, float32 [groups, width]."""
        found = self._numbers[name].of(order)
        if found.dtype == np.float32:
            return found
        return (found / counts[:, None]).astype(np.float32)

    def _refuse_mixed_models(self, order: list[int], names: pd.DataFrame) -> None:
        if _MODEL not in self._values:
            return
        models = [self._values[_MODEL].of(group) for group in order]
        mixed = [row for row, found in enumerate(models) if len(found) > 1]
        if mixed:
            raise InputError(
                f"The cells of {'/'.join(names.iloc[mixed[0]])} were embedded by {len(models[mixed[0]])} models "
                f"({', '.join(map(str, models[mixed[0]]))}), whose embeddings cannot be averaged; {len(mixed)} of "
                f"{len(names)} groups are so. Embed with one --model, or aggregate to smaller groups."
            )

    def _metadata(self, order: list[int], names: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
        """Names of the groups, counts, constant metadata and averaged quality; and the columns that were dropped."""
        columns: dict[str, Any] = {"cell_id": names.agg("/".join, axis=1)}
        columns |= {
            count: [len({*self._values[column].of(group)} - {None}) for group in order]
            for count, column in _COUNTED.items()
            if column in self._values and column not in self._keys
        }
        columns |= {key: names[key] for key in self._keys}
        dropped = []
        for column, found in self._values.items():
            if column in columns:
                continue
            if column in self._quality and column not in self._texts:
                sums, known = self._quality[column].of(order).T
                with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of a group without a number
                    columns[column] = (sums / known).astype(found.number_type())
            elif found.differing is None:
                columns[column] = found.column(order)
            else:
                dropped.append(column)
        if FIELD_OF_VIEW in dropped:  # which every table has, empty where unknown
            dropped.remove(FIELD_OF_VIEW)
            columns[FIELD_OF_VIEW] = ""
        return pd.DataFrame(columns), tuple(dropped)


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
