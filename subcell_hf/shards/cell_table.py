"""The table of all cells in a folder of shards: `cells.parquet`, beside `index.json`.

Any cell can be fetched with one range read, from a disk or over a network, without walking through a tar.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from subcell_hf.errors import InputError
from subcell_hf.shards.index import CELLS_FILE, ShardIndex
from subcell_hf.storage.parquet_files import WRITING, read_parquet_file

TAR_BLOCK_BYTES = 512

# Columns of `cells.parquet` that reading needs; the others are the cell's metadata.
_NUMBER_COLUMNS = {
    "shard": np.int32,
    "part": np.int32,
    "offset": np.int64,
    "mask_bytes": np.int64,
    "pixels_bytes": np.int64,
    "crc32": np.uint32,
}
_NAME_COLUMNS = ("antibody", "gene", "field_of_view", "cell_line", "locations")

CELL_COLUMNS = ("cell_id", *_NAME_COLUMNS, *_NUMBER_COLUMNS)
"""Columns that every `cells.parquet` has; more hold whatever else is known of the cells."""


@dataclass(frozen=True)
class CellTable:
    """One row per cell, in the order of the shards. All arrays are `[cells]`.

    Attributes:
        cell_ids: Names of the cells.
        antibody: int32, position in the index's list of antibodies.
        field_of_view: int32, position in `fields_of_view`.
        cell_line: int32, position in the index's list of cell lines.
        location_set: int32, position in `location_sets`.
        shard: int32, position in the index's list of shards.
        part: int32, number of the part within the shard.
        offset: int64, where the cell's mask begins in the tar, in bytes.
        mask_bytes: int64, size of the compressed mask.
        pixels_bytes: int64, size of the compressed pixels, which follow the mask after one tar header.
        crc32: uint32, checksum of the bytes from the mask's first to the pixels' last.
        fields_of_view: Their names.
        location_sets: float32 `[sets, classes]`, the multi-hot targets that occur.
    """

    cell_ids: "pa.ChunkedArray"
    antibody: npt.NDArray[np.int32]
    field_of_view: npt.NDArray[np.int32]
    cell_line: npt.NDArray[np.int32]
    location_set: npt.NDArray[np.int32]
    shard: npt.NDArray[np.int32]
    part: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    mask_bytes: npt.NDArray[np.int64]
    pixels_bytes: npt.NDArray[np.int64]
    crc32: npt.NDArray[np.uint32]
    fields_of_view: tuple[str, ...]
    location_sets: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.antibody)

    @property
    def pixels_start(self) -> npt.NDArray[np.int64]:
        """Where a cell's pixels begin, in bytes from its `offset`: after the padded mask and one tar header."""
        return padded(self.mask_bytes) + TAR_BLOCK_BYTES

    @property
    def span_bytes(self) -> npt.NDArray[np.int64]:
        """Bytes from the first of the mask to the last of the pixels."""
        return self.pixels_start + self.pixels_bytes

    def names(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """Cell ids of some rows."""
        return [str(name) for name in self.cell_ids.take(pa.array(rows)).to_pylist()]

    @classmethod
    def from_parquet(cls, content: bytes, index: ShardIndex, where: str) -> "CellTable":
        """Read `cells.parquet` and check it against the index.

        Args:
            content: The file's bytes.
            index: The index in the same folder.
            where: What to call the file in messages.

        Raises:
            InputError: If the checksum differs, a column is missing or a row points outside its shard.
        """
        found = hashlib.sha256(content).hexdigest()
        if found != index.cells_sha256:
            raise InputError(
                f"{where} has sha256 {found}, but the index expects {index.cells_sha256}: the two belong to different "
                "runs or the file is damaged. Copy the whole folder again, or delete it and run `subcell shards` again."
            )
        needed = list(CELL_COLUMNS)
        try:
            columns = pq.read_table(pa.BufferReader(content), columns=needed, page_checksum_verification=True)
            missing = [name for name in needed if name not in columns.column_names]
        except pa.ArrowException as error:
            raise InputError(f"{where} is not a Parquet table ({error}).") from error
        if missing or len(columns) != index.cells:
            raise InputError(
                f"{where} has {len(columns)} rows and lacks the columns {missing or 'none'}; the index expects "
                f"{index.cells} rows and no missing column. Write the shards again with `subcell shards`."
            )
        codes = {name: _codes(columns[name]) for name in _NAME_COLUMNS}
        location_names = codes["locations"][1]
        table = cls(
            cell_ids=columns["cell_id"],
            antibody=_positions(codes["antibody"], index.antibodies, "antibody", where),
            field_of_view=codes["field_of_view"][0],
            cell_line=_positions(codes["cell_line"], index.cell_lines, "cell line", where),
            location_set=codes["locations"][0],
            fields_of_view=tuple(codes["field_of_view"][1]),
            location_sets=np.stack([location_targets(names, index.classes) for names in location_names])
            if location_names
            else np.zeros((0, len(index.classes)), np.float32),
            **{name: columns[name].to_numpy().astype(dtype) for name, dtype in _NUMBER_COLUMNS.items()},
        )
        table._check_bounds(index, where)
        return table

    def _check_bounds(self, index: ShardIndex, where: str) -> None:
        """Refuse rows that would read outside their shard."""
        sizes = np.array([shard.bytes for shard in index.shards], np.int64)
        good = (self.shard >= 0) & (self.shard < len(sizes)) & (self.offset >= 0)
        good &= (self.mask_bytes > 0) & (self.pixels_bytes > 0)
        if good.all():
            good = self.offset + self.span_bytes <= sizes[self.shard]
        if not good.all():
            names = self.names(np.flatnonzero(~good)[:5])
            raise InputError(
                f"{where}: {int((~good).sum())} cells lie outside their shard, first {', '.join(names)}. "
                "The table does not belong to these shards; write them again with `subcell shards`."
            )


def padded(size_bytes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Sizes rounded up to whole tar blocks."""
    return -(-size_bytes // TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES


def location_targets(locations: str, classes: Sequence[str]) -> npt.NDArray[np.float32]:
    """Multi-hot target of a cell.

    Args:
        locations: Names joined by `;`, empty where nothing is known.
        classes: Names of the classes, in order.

    Returns:
        `[classes]` float32, 1 where the name occurs.

    Raises:
        InputError: If a name is not among the classes.
    """
    targets = np.zeros(len(classes), np.float32)
    for name in filter(None, (part.strip() for part in locations.split(";"))):
        if name not in classes:
            raise InputError(
                f"Unknown location {name!r}: expected one of {', '.join(classes)}. Correct the name, or give your own "
                "list of classes (`subcell shards --classes FILE`)."
            )
        targets[classes.index(name)] = 1.0
    return targets


def read_cell_records(url: str) -> "pa.Table":
    """All columns of `cells.parquet`, unchecked against the index.

    Args:
        url: Folder or URL of the shards.

    Raises:
        InputError: If the file is damaged.
    """
    where = f"{url}/{CELLS_FILE}"
    with fsspec.open(where, "rb") as file:
        return read_parquet_file(file, where=where)


def cells_parquet(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """The bytes of `cells.parquet`; the same columns give the same bytes.

    Args:
        columns: Column name → one value per cell; columns with mixed kinds of values are stored as text.
    """
    arrays = {}
    for name, values in columns.items():
        if name in _NUMBER_COLUMNS:
            arrays[name] = pa.array(values, pa.from_numpy_dtype(_NUMBER_COLUMNS[name]))
        elif name in CELL_COLUMNS or len({type(value) for value in values if value is not None}) > 1:
            arrays[name] = pa.array([None if value is None else str(value) for value in values], pa.string())
        else:
            arrays[name] = pa.array(values)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays), sink, compression="zstd", **WRITING)
    return bytes(sink.getvalue())


def _codes(column: "pa.ChunkedArray") -> tuple[npt.NDArray[np.int32], list[str]]:
    """A text column as positions in the list of its distinct values; missing text counts as empty."""
    encoded = column.cast(pa.string()).fill_null("").combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32), encoded.dictionary.to_pylist()


def _positions(
    codes: tuple[npt.NDArray[np.int32], list[str]], names: Sequence[str], what: str, where: str
) -> npt.NDArray[np.int32]:
    """Positions of a text column's values in a list of the index."""
    position = {name: number for number, name in enumerate(names)}
    unknown = [name for name in codes[1] if name not in position]
    if unknown:
        raise InputError(f"{where} names the {what} {', '.join(unknown[:5])}, which the index does not list.")
    return np.array([position[name] for name in codes[1]], np.int32)[codes[0]]
