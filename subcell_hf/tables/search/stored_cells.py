"""The cells of a table without holding it: embeddings in a stream or of some rows, columns on demand."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from subcell_hf.errors import InputError
from subcell_hf.storage.parquet_files import check_rows, open_parquet
from subcell_hf.tables.embedding_table import CELL_ID, EmbeddingTable, check_block
from subcell_hf.tables.files import EMBEDDINGS_FILE, read_table
from subcell_hf.tables.parquet import (
    CELLS_PER_GROUP,
    EMBEDDING,
    block_columns,
    cells_frame,
    facts_of,
    numbers_of,
    parquet_facts,
)

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class SearchedCells(Protocol):
    """What search and reports read of a table.

    Attributes:
        name: What to call the table in messages.
        path: File of a table that is read in a stream; None where it is in memory.
        count: Number of cells.
        width: Numbers of an embedding.
        columns: Names of what is known of a cell.
        classes: Names of the classifier's classes; empty where there is none.
        provenance: Where the embeddings come from.
    """

    name: str
    path: Path | None
    count: int
    width: int
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    provenance: Mapping[str, Any]

    def embeddings(self, wanted: Mask | None = None) -> Iterator[tuple[int, Floats]]:
        """Blocks of embeddings in order, each with the row of its first cell; those without a wanted cell left out."""

    def cells(self, columns: Collection[str] | None = None, rows: Sequence[int] | None = None) -> pd.DataFrame:
        """Some or all columns of some or all cells, in the order of `rows`, with the index 0, 1, …."""


class StoredCells:
    """A Parquet file of ours, of which a row group is held at a time.

    Args:
        path: File of `write_parquet` or `join_parquet`.

    Raises:
        InputError: If it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path: Path | None = path
        self.name, self._file = str(path), path
        with open_parquet(path) as file:
            facts = facts_of(file, path)
            blocks = block_columns(file, facts, path)
            self.count, self.width = file.metadata.num_rows, blocks[EMBEDDING]
            self.columns = tuple(name for name in file.schema_arrow.names if name not in blocks)
        self.classes: tuple[str, ...] = tuple(facts["classes"])
        self.provenance: Mapping[str, Any] = facts["provenance"]

    def embeddings(self, wanted: Mask | None = None) -> Iterator[tuple[int, Floats]]:
        """See `SearchedCells`.

        Raises:
            InputError: If the file is damaged, or numbers are missing or not finite.
        """
        with open_parquet(self._file) as file:
            start = 0
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                if wanted is None or wanted[start:stop].any():
                    for batch in file.iter_batches(CELLS_PER_GROUP, row_groups=[group], columns=[EMBEDDING]):
                        where = f"{self.name}, {EMBEDDING}, from row {start}"
                        block = numbers_of(batch.column(EMBEDDING), self.width, where)
                        check_block(block, (len(batch), self.width), where)
                        yield start, block
                        start += len(batch)
                    if start != stop:
                        raise pa.ArrowInvalid(f"row group {group} ends at row {start}, expected {stop}")
                start = stop

    def cells(self, columns: Collection[str] | None = None, rows: Sequence[int] | None = None) -> pd.DataFrame:
        """See `SearchedCells`.

        Raises:
            InputError: If the file is damaged.
        """
        names = [name for name in self.columns if columns is None or name in columns]
        with open_parquet(self._file) as file:
            if rows is None:
                table = file.read(columns=names)
                check_rows(len(table), file)
                return cells_frame(table)
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            starts = np.cumsum([0, *sizes])
            groups = [int(group) for group in np.searchsorted(starts, rows, side="right") - 1]
            read = {group: file.read_row_group(group, columns=names) for group in sorted(set(groups))}
            schema = pa.schema([file.schema_arrow.field(name) for name in names])
            found = [read[group].slice(row - int(starts[group]), 1) for row, group in zip(rows, groups, strict=True)]
            return cells_frame(pa.concat_tables([schema.empty_table(), *found]))


class LoadedCells:
    """A table in memory.

    Args:
        table: The table.
        name: What to call it in messages.
    """

    def __init__(self, table: EmbeddingTable, name: str = "The table") -> None:
        self.path: Path | None = None
        self.name, self._table = name, table
        self.count, self.width = table.embeddings.shape
        self.columns = tuple(map(str, table.cells.columns))
        self.classes, self.provenance = table.classes, table.provenance

    def embeddings(self, wanted: Mask | None = None) -> Iterator[tuple[int, Floats]]:
        """See `SearchedCells`."""
        for start in range(0, self.count, CELLS_PER_GROUP):
            rows = slice(start, start + CELLS_PER_GROUP)
            if wanted is None or wanted[rows].any():
                yield start, self._table.embeddings[rows]

    def cells(self, columns: Collection[str] | None = None, rows: Sequence[int] | None = None) -> pd.DataFrame:
        """See `SearchedCells`."""
        chosen = self._table.cells[[name for name in self.columns if columns is None or name in columns]]
        return chosen if rows is None else chosen.iloc[list(rows)].reset_index(drop=True)


def open_table(path: Path | str) -> SearchedCells:
    """Open a table of which only a part is needed at a time.

    Args:
        path: As `read_table` takes it; Parquet files of ours are not read whole.

    Raises:
        InputError: If it cannot be read.
    """
    path = Path(path)
    path = path / EMBEDDINGS_FILE if (path / EMBEDDINGS_FILE).is_file() else path
    stored = path.is_file() and path.name.lower().endswith(".parquet") and parquet_facts(path) is not None
    return StoredCells(path) if stored else LoadedCells(read_table(path), str(path))


def read_embeddings(cells: SearchedCells, rows: npt.NDArray[np.int64]) -> Floats:
    """Embeddings of some cells of a table, holding no others but those of a row group.

    Args:
        cells: The table.
        rows: `[rows]`, each at most once, in any order.

    Returns:
        `[rows, width]`, in the same order.

    Raises:
        InputError: If the table is damaged.
    """
    wanted = np.zeros(cells.count, np.bool_)
    wanted[rows] = True
    order = np.argsort(rows)
    ordered = rows[order]
    found = np.empty((len(rows), cells.width), np.float32)
    for start, block in cells.embeddings(wanted):
        first, last = np.searchsorted(ordered, (start, start + len(block)))
        found[order[first:last]] = block[ordered[first:last] - start]
    return found


def open_cells(table: EmbeddingTable | Path | str) -> SearchedCells:
    """Open a table for search.

    Args:
        table: A table in memory; or a path as `open_table` takes it.

    Raises:
        InputError: If it cannot be read, or has no cells or no ids.
    """
    found = LoadedCells(table) if isinstance(table, EmbeddingTable) else open_table(table)
    if not found.count or CELL_ID not in found.columns:
        raise InputError(f"{found.name} contains {found.count} cells, expected cells with a {CELL_ID} to search among.")
    return found
