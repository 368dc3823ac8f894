"""Profiles as pycytominer and CellProfiler name them: `Metadata_…` columns, and features of the compartment `Cells`."""

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from subcell_hf.errors import InputError
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.parquet_files import WRITING
from subcell_hf.tables.embedding_table import EmbeddingTable

PROFILE_SUFFIXES = (".csv", ".parquet")
FEATURE_PREFIX = "Cells_SubCell_"
"""Of features; pycytominer finds them by the compartment before the first `_`."""

_PREFIX = "Metadata_"
_NAMES = {"plate": "Metadata_Plate", "well": "Metadata_Well"}


def write_profiles(blocks: Iterable[EmbeddingTable], path: Path) -> int:
    """Write `Metadata_Plate`, `Metadata_Well`, every other column as `Metadata_<name>`, and the embedding.

    Probabilities are left out; the most probable locations are `Metadata_top_location_1` to `3`.

    Args:
        blocks: Parts of one table, in order.
        path: `.csv`, or `.parquet`; it appears when it is complete. Numbers of a CSV read as float32 are the same.

    Returns:
        Number of rows.

    Raises:
        InputError: If the file has another ending, or two columns would have one name.
    """
    if path.suffix not in PROFILE_SUFFIXES:
        raise InputError(f"Cannot write {path}: expected a file ending in {' or '.join(PROFILE_SUFFIXES)}.")
    rows = 0
    writer: pq.ParquetWriter | None = None
    with write_atomically(path) as file:
        for block in blocks:
            frame = _profiles(block)
            rows += len(frame)
            if path.suffix == ".csv":
                file.write(frame.to_csv(index=False, header=file.tell() == 0, lineterminator="\n").encode())
                continue
            if writer is None:
                schema = pa.Schema.from_pandas(frame, preserve_index=False).remove_metadata()
                writer = pq.ParquetWriter(file, schema, compression="zstd", **WRITING)
            writer.write_table(pa.Table.from_pandas(frame, writer.schema, preserve_index=False).cast(writer.schema))
        if writer is not None:
            writer.close()
    return rows


def _profiles(block: EmbeddingTable) -> pd.DataFrame:
    """The rows of a block."""
    names = {str(name): _NAMES.get(str(name), _with_prefix(str(name))) for name in block.cells.columns}
    repeated = [name for name, other in names.items() if list(names.values()).count(other) > 1]
    if repeated:
        raise InputError(
            f"The columns {', '.join(repeated)} would all be called {names[repeated[0]]}. Rename all but one."
        )
    width = len(str(block.embeddings.shape[1] - 1))
    features = [f"{FEATURE_PREFIX}{number:0{width}d}" for number in range(block.embeddings.shape[1])]
    values = pd.DataFrame(block.embeddings, columns=features)
    return pd.concat([block.cells.rename(columns=names).reset_index(drop=True), values], axis=1)


def _with_prefix(name: str) -> str:
    return name if re.match(_PREFIX, name) else f"{_PREFIX}{name}"
