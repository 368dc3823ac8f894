"""Embeddings as a LanceDB database, for searching cells by similarity."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from subcell_hf.errors import InputError
from subcell_hf.storage.folders import write_folder_atomically
from subcell_hf.tables.embedding_table import EmbeddingTable
from subcell_hf.tables.parquet import EMBEDDING, arrow_table

TABLE = "cells"
VECTOR = "vector"
"""LanceDB's own name for the column that it searches."""


def write_lance(blocks: Iterable[EmbeddingTable], folder: Path) -> int:
    """Write the table `cells` of a database: the columns of the embedding table, with the embedding as `vector`.

    Args:
        blocks: Parts of one table, in order.
        folder: A new folder; it appears when it is complete.

    Returns:
        Number of rows.

    Raises:
        InputError: If a column is called `vector`.
        ModuleNotFoundError: If lancedb is not installed.
    """
    import lancedb

    arrow = (_with_vector(block) for block in blocks)
    first = next(arrow)

    def batches() -> Iterator[pa.RecordBatch]:
        yield from first.to_batches()
        for other in arrow:
            yield from other.cast(first.schema).to_batches()

    with write_folder_atomically(folder) as staging:
        table = lancedb.connect(staging).create_table(TABLE, batches(), schema=first.schema)
        rows: int = table.count_rows()
    return rows


def _with_vector(block: EmbeddingTable) -> pa.Table:
    table = arrow_table(block)
    if VECTOR in table.column_names:
        raise InputError(f"The table has a column {VECTOR!r}, the name that LanceDB searches. Rename it.")
    return table.rename_columns([VECTOR if name == EMBEDDING else name for name in table.column_names])
