"""Parquet files: a checksum of every page is written, and verified on reading, so that damage is never read as data."""

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from subcell_hf.errors import InputError

WRITING = {"write_page_checksum": True}
"""Options of every `pq.ParquetWriter` and `pq.write_table` of this package."""


@contextmanager
def damage_named(where: str) -> Iterator[None]:
    """Make one sentence of whatever Arrow says while a file is read.

    Args:
        where: What to call the file.

    Raises:
        InputError: If the file is damaged or is not Parquet. Errors of the operating system pass.
    """
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        # What Arrow finds wrong with the content comes as a plain OSError without a number.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        reason = " ".join(str(error).split()).rstrip(".")
        kind = "Arrow" if where.endswith(".arrow") else "Parquet"
        raise InputError(
            f"{where} cannot be read as {kind}: {reason}. The file is damaged or incomplete: copy it again, or write "
            "it again."
        ) from error


@contextmanager
def open_parquet(source: Path | Any, where: str | None = None) -> Iterator[pq.ParquetFile]:
    """An open Parquet file, whose pages are verified as they are read.

    Args:
        source: Path, or an open binary file.
        where: What to call it in messages; default: its path.

    Raises:
        InputError: If the file is damaged or is not Parquet; also while the block reads from it.
    """
    with damage_named(where or str(source)), pq.ParquetFile(source, page_checksum_verification=True) as file:
        _check_footer(file)
        yield file


def read_parquet_file(source: Path | Any, columns: Sequence[str] | None = None, where: str | None = None) -> pa.Table:
    """A whole Parquet file, or some of its columns; names of folders above it add none.

    Raises:
        InputError: If the file is damaged or is not Parquet.
    """
    with open_parquet(source, where) as file:
        table = file.read(columns=None if columns is None else list(columns))
        check_rows(len(table), file)
        table.validate(full=True)  # whether texts are UTF-8, which Arrow does not ask on reading
        return table


def check_parquet(source: Path) -> None:
    """Read every page of a file, a row group at a time, and keep nothing.

    Raises:
        InputError: If the file is damaged or is not Parquet.
    """
    with open_parquet(source) as file:
        check_rows(sum(len(file.read_row_group(number)) for number in range(file.num_row_groups)), file)


def _check_footer(file: pq.ParquetFile) -> None:
    """Refuse a footer that contradicts itself: nothing else protects what is said there twice."""
    metadata = file.metadata
    check_rows(sum(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)), file)
    written = (metadata.metadata or {}).get(b"ARROW:schema")
    if written is None:
        return
    try:
        names = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(written, validate=True))).names
    except ValueError as error:
        raise pa.ArrowInvalid(f"its schema cannot be read ({error})") from error
    if names != file.schema_arrow.names:
        raise pa.ArrowInvalid("its names of columns contradict each other")


def check_rows(found: int, file: pq.ParquetFile) -> None:
    """Refuse fewer rows than the file announces: a page with a damaged header is passed over.

    Raises:
        pa.ArrowInvalid: Of which `damage_named` makes a sentence.
    """
    if found != file.metadata.num_rows:
        raise pa.ArrowInvalid(f"it holds {found} rows, expected {file.metadata.num_rows}")


def read_parquet_schema(source: Path) -> pa.Schema:
    """The columns and metadata of a Parquet file.

    Raises:
        InputError: If the file is damaged or is not Parquet.
    """
    with open_parquet(source) as file:
        return file.schema_arrow
