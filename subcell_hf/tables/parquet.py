"""Embedding tables as Parquet: whole, in blocks, and joined from parts, with memory that stays flat.

Columns: those of `EmbeddingTable.cells`, then `embedding`, `probabilities` and `probabilities_<pass>` as lists of one
length of float32. The schema's metadata hold `table_facts` as JSON under the key `subcell_hf`.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from subcell_hf.errors import InputError
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.parquet_files import WRITING, check_rows, open_parquet, read_parquet_schema
from subcell_hf.tables.embedding_table import (
    CELL_ID,
    METADATA_KEY,
    EmbeddingTable,
    check_table,
    facts_from_json,
    facts_to_json,
    refuse_repeated_ids,
    table_facts,
)

CELLS_PER_GROUP = 4096
"""Rows of a row group: 25 MB of embeddings of the published width, which bounds what streaming holds."""

EMBEDDING, PROBABILITIES = "embedding", "probabilities"
PASS_PREFIX = "probabilities_"


def write_parquet(table: EmbeddingTable, path: Path | str) -> None:
    """Write a table whole or not at all; the same table gives the same bytes.

    Args:
        table: The table.
        path: File to write; it appears when it is complete.

    Raises:
        InputError: If the table's parts do not fit together.
    """
    check_table(table, f"The table for {path}")
    with open_parquet_writer(path, table_schema(table)) as writer:
        for start in range(0, max(len(table), 1), CELLS_PER_GROUP):
            writer.write_table(arrow_table(table.select(slice(start, start + CELLS_PER_GROUP))).cast(writer.schema))


def read_parquet(path: Path, facts: Mapping[str, Any] | None = None) -> EmbeddingTable:
    """Read a table that `write_parquet` or `join_parquet` wrote; the embeddings are copied once.

    Args:
        path: The file.
        facts: What `parquet_facts` says of the file, if it was read before.

    Raises:
        InputError: If the file is damaged, of an unknown version, or its columns do not fit together.
    """
    with open_parquet(path) as file:
        facts = facts or facts_of(file, path)
        blocks = block_columns(file, facts, path)
        rows = file.metadata.num_rows
        arrays = {name: np.empty((rows, width), np.float32) for name, width in blocks.items()}
        start = 0
        for batch in batches_of(file, list(blocks)):
            for name, array in arrays.items():
                array[start : start + len(batch)] = numbers_of(batch.column(name), blocks[name], f"{path}, {name}")
            start += len(batch)
        cells = cells_frame(file.read(columns=[n for n in file.schema_arrow.names if n not in blocks]))
    return check_table(_assemble(cells, arrays, facts), str(path))


def iterate_parquet(path: Path | str, cells_per_block: int = CELLS_PER_GROUP) -> Iterator[EmbeddingTable]:
    """Read a table block by block, for tables that memory does not hold.

    Args:
        path: A `.parquet` file, or a folder with `embeddings.parquet`.
        cells_per_block: Rows of a block at most; blocks end with row groups, too.

    Yields:
        Tables in order, each with its own index from 0.

    Raises:
        InputError: As `read_parquet`; of ids that occur in two blocks only after the last one.
    """
    path = Path(path)
    path = path / "embeddings.parquet" if path.is_dir() else path
    with open_parquet(path) as file:
        facts = facts_of(file, path)
        blocks = block_columns(file, facts, path)
        # Eight bytes of each id: ten million take 80 MB. All ids are read again only if two are the same there.
        hashes, start = np.empty(file.metadata.num_rows, np.uint64), 0
        for batch in batches_of(file, None, cells_per_block):
            cells = cells_frame(pa.Table.from_batches([batch]).drop_columns(list(blocks)))
            arrays = {n: numbers_of(batch.column(n), width, f"{path}, {n}") for n, width in blocks.items()}
            table = check_table(_assemble(cells, arrays, facts), str(path))
            ids = cells[CELL_ID].to_numpy(dtype=object)
            hashes[start : start + len(ids)] = pd.util.hash_array(ids, categorize=False)
            start += len(ids)
            yield table
        hashes.sort()
        if (hashes[1:] == hashes[:-1]).any():
            refuse_repeated_ids(cells_frame(file.read(columns=[CELL_ID]))[CELL_ID], str(path))


def join_parquet(parts: Sequence[Path], path: Path | str, facts: Mapping[str, Any] | None = None) -> int:
    """Join tables one after the other into one file, holding no more than a row group at a time.

    Columns that a part lacks are empty there. What comes out depends only on the content and order of the rows, not on
    how they are cut into parts.

    Args:
        parts: Files of `write_parquet`, in order.
        path: File to write.
        facts: `table_facts` of the whole; None: those of the first part.

    Returns:
        The number of rows.

    Raises:
        InputError: If there is no part, or embeddings or probabilities differ in width.
    """
    if not parts:
        raise InputError(f"Nothing to write to {path}: got no parts, expected at least one.")
    schemas = [read_parquet_schema(part) for part in parts]
    facts = facts or facts_from_json(schemas[0].metadata[METADATA_KEY.encode()], str(parts[0]))
    schema = _joined_schema(schemas, parts, facts)
    waiting: list[pa.Table] = []
    rows = 0
    with open_parquet_writer(path, schema) as writer:
        for part in parts:
            with open_parquet(part) as file:
                for batch in batches_of(file):
                    waiting.append(_fitted(pa.Table.from_batches([batch]), schema))
                    rows += len(batch)
                    waiting = _write_full_groups(writer, waiting)
        if waiting or not rows:
            writer.write_table(pa.concat_tables(waiting) if waiting else schema.empty_table())
    return rows


def _write_full_groups(writer: pq.ParquetWriter, waiting: list[pa.Table]) -> list[pa.Table]:
    """Write as many whole row groups as are there; returns what is left."""
    if sum(map(len, waiting)) < CELLS_PER_GROUP:
        return waiting
    joined = pa.concat_tables(waiting)
    whole = len(joined) // CELLS_PER_GROUP * CELLS_PER_GROUP
    for start in range(0, whole, CELLS_PER_GROUP):
        writer.write_table(joined.slice(start, CELLS_PER_GROUP).combine_chunks())
    return [joined.slice(whole)] if whole < len(joined) else []


def _joined_schema(schemas: Sequence[pa.Schema], parts: Sequence[Path], facts: Mapping[str, Any]) -> pa.Schema:
    """Every column of any part: ids and blocks in their places, the others by name."""
    blocks: dict[str, Any] = {}
    scalars: dict[str, Any] = {}
    for schema, part in zip(schemas, parts, strict=True):
        for item in schema:
            known = blocks if pa.types.is_fixed_size_list(item.type) else scalars
            before = known.setdefault(item.name, item.type)
            if known is blocks and before != item.type:
                raise InputError(
                    f"{part} has {item.name} of {item.type}, the parts before of {before}; expected one width."
                )
            known[item.name] = before if known is blocks else _wider(before, item.type)
    firsts = [name for name in (CELL_ID, "field_of_view") if name in scalars]
    order = [*firsts, *sorted(scalars.keys() - {*firsts})]
    fields = [pa.field(name, pa.string() if scalars[name] == pa.null() else scalars[name]) for name in order]
    fields += [pa.field(name, blocks[name]) for name in sorted(blocks)]
    return pa.schema(fields, {METADATA_KEY: facts_to_json(facts)})


def _wider(one: Any, other: Any) -> Any:
    """A type that holds the values of both."""
    if one == other or other == pa.null():
        return one
    if one == pa.null():
        return other
    numbers = (pa.bool_(), pa.int64(), pa.float32(), pa.float64())
    return pa.float64() if one in numbers and other in numbers else pa.string()


def _fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The same rows with the columns of the whole."""
    columns = [
        table[item.name].cast(item.type) if item.name in table.column_names else pa.nulls(len(table), item.type)
        for item in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def table_schema(table: EmbeddingTable) -> pa.Schema:
    """The Parquet schema of a table, with its facts."""
    head = arrow_table(table.select(slice(0, 0))).schema
    scalars = pa.Table.from_pandas(_plain(table.cells), preserve_index=False).schema if len(table) else head
    fields = [
        pa.field(i.name, _column_type(scalars.field(i.name).type)) if i.name in table.cells.columns else i for i in head
    ]
    return pa.schema(fields, {METADATA_KEY: facts_to_json(table_facts(table))})


def arrow_table(table: EmbeddingTable) -> pa.Table:
    """A table as Arrow has it; texts, whole numbers, floats and bools keep their kind, anything else becomes text."""
    cells = pa.Table.from_pandas(_plain(table.cells), preserve_index=False)
    columns = {name: cells[name].cast(_column_type(cells[name].type)) for name in cells.column_names}
    columns[EMBEDDING] = _lists(table.embeddings)
    if table.probabilities is not None:
        columns[PROBABILITIES] = _lists(table.probabilities)
    columns |= {PASS_PREFIX + name: _lists(values) for name, values in table.pass_probabilities.items()}
    return pa.table(columns, metadata={METADATA_KEY: facts_to_json(table_facts(table))})


def _plain(cells: pd.DataFrame) -> pd.DataFrame:
    """Columns of mixed kinds as text, since Arrow refuses them."""
    mixed = {
        name: [None if value is None or value is pd.NA or value != value else str(value) for value in cells[name]]
        for name in cells.columns
        if cells[name].dtype == object
        and pd.api.types.infer_dtype(cells[name], skipna=True) in ("mixed", "mixed-integer")
    }
    return cells.assign(**mixed) if mixed else cells


def _column_type(found: Any) -> Any:
    """Few kinds of columns, so that parts of one run agree."""
    if pa.types.is_boolean(found) or pa.types.is_null(found) or found == pa.float32():
        return found
    if pa.types.is_integer(found):
        return pa.int64()
    return pa.float64() if pa.types.is_floating(found) else pa.string()


def _lists(values: npt.NDArray[np.float32]) -> Any:
    flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


@contextmanager
def open_parquet_writer(path: Path | str, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A Parquet file that appears under its name when it is complete.

    Args:
        path: File to write.
        schema: Its columns and metadata.
    """
    texts = [item.name for item in schema if pa.types.is_string(item.type)]
    # Numbers of a network hardly compress: bytes of equal weight side by side give what there is to win.
    lists = [f"{item.name}.list.element" for item in schema if pa.types.is_fixed_size_list(item.type)]
    with write_atomically(path) as file:
        writer = pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=texts,
            use_byte_stream_split=lists,
            **WRITING,
        )
        with writer:
            yield writer


def batches_of(
    file: pq.ParquetFile, columns: Sequence[str] | None = None, cells_per_batch: int = CELLS_PER_GROUP
) -> Iterator[Any]:
    """The rows of a file in batches, a row group at a time: asked for all at once, Arrow keeps what it has read.

    Args:
        file: An open file.
        columns: Names of the columns; None for all.
        cells_per_batch: Rows of a batch at most.
    """
    rows = 0
    for group in range(file.num_row_groups):
        for batch in file.iter_batches(cells_per_batch, row_groups=[group], columns=columns):
            rows += len(batch)
            yield batch
    check_rows(rows, file)


def parquet_facts(path: Path | str) -> dict[str, Any] | None:
    """`table_facts` of a file; None where it is Parquet of somebody else.

    Raises:
        InputError: If it is no Parquet file.
    """
    with open_parquet(Path(path)) as file:
        metadata = file.schema_arrow.metadata or {}
        # Footers have no checksum: where ours holds facts that Arrow does not find, some bit of it is wrong.
        ours = METADATA_KEY.encode() in metadata or b'"schema_version"' in _read_footer(Path(path))
        return facts_of(file, Path(path)) if ours else None


def _read_footer(path: Path) -> bytes:
    """The bytes that describe a Parquet file; before its last four, their number."""
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, os.SEEK_END)
        return file.read(length)


def facts_of(file: pq.ParquetFile, path: Path) -> dict[str, Any]:
    metadata = file.schema_arrow.metadata or {}
    if METADATA_KEY.encode() not in metadata:
        raise InputError(f"{path} is not an embedding table of subcell_hf: its schema lacks the key {METADATA_KEY!r}.")
    return facts_from_json(metadata[METADATA_KEY.encode()], str(path))


def block_columns(file: pq.ParquetFile, facts: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Width of every column of lists; refuses a file that lacks one its facts promise."""
    schema, metadata = file.schema_arrow, file.metadata
    held_bytes = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    widths = {item.name: item.type.list_size for item in schema if pa.types.is_fixed_size_list(item.type)}
    wanted = [EMBEDDING, *([PROBABILITIES] if facts["classes"] else ()), *(PASS_PREFIX + n for n in facts["passes"])]
    missing = [name for name in wanted if name not in widths]
    if missing:
        raise InputError(
            f"{path} lacks the column {missing[0]} (lists of one length); it has {', '.join(schema.names)}."
        )
    announced_bytes = metadata.num_rows * sum(widths[name] for name in wanted) * np.dtype(np.float32).itemsize
    if announced_bytes > held_bytes:
        raise InputError(
            f"{path} announces {announced_bytes} bytes of numbers and holds {held_bytes}: it is damaged. Copy it again."
        )
    return {name: widths[name] for name in wanted}


def numbers_of(column: Any, width: int, where: str) -> npt.NDArray[np.float32]:
    flat = column.flatten()
    if column.null_count or flat.null_count:
        raise InputError(f"{where} has missing values, expected {width} numbers in every row. Leave such cells out.")
    numbers: npt.NDArray[np.float32] = flat.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return numbers.reshape(len(column), width)


def cells_frame(columns: pa.Table) -> pd.DataFrame:
    """The columns about cells; missing texts are empty."""
    for place, item in enumerate(columns.schema):
        if pa.types.is_string(item.type) or pa.types.is_large_string(item.type) or pa.types.is_null(item.type):
            columns = columns.set_column(place, item.name, columns[item.name].cast(pa.string()).fill_null(""))
    return columns.replace_schema_metadata(None).to_pandas()


def _assemble(
    cells: pd.DataFrame, arrays: Mapping[str, npt.NDArray[np.float32]], facts: Mapping[str, Any]
) -> EmbeddingTable:
    return EmbeddingTable(
        cells,
        arrays[EMBEDDING],
        arrays.get(PROBABILITIES),
        tuple(facts["classes"]),
        {name: arrays[PASS_PREFIX + name] for name in facts["passes"]},
        facts["provenance"],
    )
