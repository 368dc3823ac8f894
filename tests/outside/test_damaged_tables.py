"""A table that was damaged after it was written is refused in one sentence, never read with other values."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from subcell_hf.cells.folder import write_crop_table
from subcell_hf.errors import InputError
from subcell_hf.evaluation.proteome_map.field_means import average_fields
from subcell_hf.shards.cell_table import CELL_COLUMNS, cells_parquet
from subcell_hf.storage.parquet_files import read_parquet_file
from subcell_hf.tables.attention_maps import CellAttention, iterate_attention, write_attention
from subcell_hf.tables.cell_pictures import CellPicture, iterate_pictures, write_pictures
from subcell_hf.tables.files import (
    EmbeddingTable,
    h5ad_from_parquet,
    iterate_parquet,
    join_parquet,
    read_table,
    write_parquet,
)


def _table(cells: int = 200) -> EmbeddingTable:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"cell_id": [f"c{n}" for n in range(cells)], "field_of_view": "f", "gene": [f"G{n % 9}" for n in range(cells)]}
    )
    return EmbeddingTable(frame, generator.standard_normal((cells, 8)).astype(np.float32))


def _pages(path: Path) -> list[int]:
    """Bytes of data near the end of every column's pages."""
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    starts = [column.dictionary_page_offset or column.data_page_offset for column in columns]
    return [start + column.total_compressed_size - 5 for start, column in zip(starts, columns, strict=True)]


def _flipped(path: Path, position: int) -> Path:
    content = bytearray(path.read_bytes())
    content[position] ^= 16
    other = path.with_name("flipped.parquet")
    other.write_bytes(content)
    return other


def _content(table: EmbeddingTable) -> tuple[object, ...]:
    return table.cells.to_json(), table.embeddings.tobytes(), table.classes, dict(table.provenance)


def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_parquet(_table(), path)
    whole, refused = _content(read_table(path)), 0
    for position in range(4, path.stat().st_size, 11):
        try:
            found = _content(read_table(_flipped(path, position)))
        except InputError:
            refused += 1
        else:
            assert found == whole, position
    assert refused > path.stat().st_size / 11 * 0.8


@pytest.mark.parametrize(
    "read",
    [
        average_fields,
        lambda path: h5ad_from_parquet(path, path.with_suffix(".h5ad")),
        lambda path: join_parquet([path], path.with_name("joined.parquet")),
        lambda path: [len(block) for block in iterate_parquet(path, 7)],
    ],
)
def test_whoever_reads_verifies(tmp_path: Path, read: Callable[[Path], object]) -> None:
    write_parquet(_table(), tmp_path / "t.parquet")
    read(tmp_path / "t.parquet")
    for position in _pages(tmp_path / "t.parquet"):
        with pytest.raises(InputError, match=r"flipped\.parquet cannot be read as Parquet.*damaged"):
            read(_flipped(tmp_path / "t.parquet", position))


def test_every_parquet_of_ours_has_checksums(tmp_path: Path) -> None:
    write_crop_table(tmp_path / "crops.parquet", [{"cell_id": f"c{n}", "qc_focus": n * 0.7} for n in range(99)])
    rows = {name: [str(n * 7) if name in CELL_COLUMNS[:6] else n for n in range(99)] for name in CELL_COLUMNS}
    (tmp_path / "cells.parquet").write_bytes(cells_parquet(rows))
    pictures = [CellPicture(f"c{n}", bytes([n] * 50), bytes([n] * 9), np.ones((2, 3, 3), np.float16)) for n in range(9)]
    write_pictures(pictures, tmp_path / "pictures.parquet")
    write_attention(
        [CellAttention(f"c{n}", np.full((2, 3, 3), n, np.float16), (9, 9)) for n in range(9)], tmp_path / "at.parquet"
    )
    for name in ("crops", "cells", "pictures", "at"):
        for position in _pages(tmp_path / f"{name}.parquet"):
            with pytest.raises(InputError, match="cannot be read as Parquet"):
                read_parquet_file(_flipped(tmp_path / f"{name}.parquet", position))
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        list(iterate_pictures(_flipped(tmp_path / "pictures.parquet", _pages(tmp_path / "pictures.parquet")[2])))
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        list(iterate_attention(_flipped(tmp_path / "at.parquet", _pages(tmp_path / "at.parquet")[2])))


def test_truncated_files_are_one_sentence(tmp_path: Path) -> None:
    write_parquet(_table(), tmp_path / "t.parquet")
    content = (tmp_path / "t.parquet").read_bytes()
    for kept in (0, 3, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.parquet").write_bytes(content[:kept])
        with pytest.raises(InputError, match=r"cut\.parquet cannot be read as Parquet") as raised:
            read_table(tmp_path / "cut.parquet")
        assert "\n" not in str(raised.value)


def test_a_folder_called_name_equals_value_adds_no_column(tmp_path: Path) -> None:
    write_parquet(_table(), tmp_path / "plate=3" / "t.parquet")
    assert "plate" not in read_parquet_file(tmp_path / "plate=3" / "t.parquet").column_names
