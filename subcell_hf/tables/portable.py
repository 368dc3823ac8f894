"""Files as SubCellPortable writes them, for scripts that were made for it.

| file | content |
| --- | --- |
| `result.csv` | `id`, `top_class_name`, `top_class`, `top_3_classes_names`, `top_3_classes`, `prob00`…, `feat0000`… |
| `<prefix>_embedding.npy` | float32 `[width]` |
| `<prefix>_probabilities.npy` | float32 `[classes]` |
| `<prefix>_attention_map.png` | the pooling heads side by side, as large as what the model saw, each brought to 0…255 |

Two forms are in use. That of 2024 lists the numbers of `top_3_classes` from the third to the first, though their names
from the first to the third, and draws attention dark on white; since 2025 both lists begin with the first, and
attention is bright on black. Probabilities here are the model's, as SubCellPortable gave them in 2024; its later
softmax over probabilities is not repeated.

Tables in Parquet are read block by block, so that memory does not grow with them. A call that was interrupted leaves
`.subcell_portable.json`, by which the same call knows the files that it need not write again.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.folder_lock import claim_folder
from subcell_hf.storage.parquet_files import open_parquet
from subcell_hf.tables.attention_maps import CellAttention, draw_attention
from subcell_hf.tables.files import EmbeddingTable, iterate_parquet

RESULT_FILE = "result.csv"
PREFIX_COLUMN = "output_prefix"
FORMS = ("2024", "2025")
"""Forms of the files, by the year in which SubCellPortable began to write them."""

_ROWS_AT_ONCE = 2048
_PLAN_FILE = ".subcell_portable.json"


@dataclass(frozen=True)
class PortableReport:
    """What was written.

    Attributes:
        cells: Rows of `result.csv`.
        attention_maps: Pictures written; only cells whose attention was kept have one.
    """

    cells: int
    attention_maps: int


def write_portable_files(
    table: EmbeddingTable | Path,
    folder: Path,
    *,
    form: str = "2025",
    single_files: bool = True,
    attention: Iterable[CellAttention] = (),
) -> PortableReport:
    """Write a table as SubCellPortable would have.

    Args:
        table: One row per cell, or a Parquet file of such a table, which may be larger than memory. A cell's prefix is
            its `output_prefix` where the table has that column and no value comes twice, else its `cell_id`.
        folder: Folder to write; files of the same names are replaced.
        form: One of `FORMS`.
        single_files: Whether to write the `.npy` files of every cell beside `result.csv`.
        attention: Of some or all cells, in the table's order.

    Raises:
        InputError: If the form is unknown, or a prefix would lead out of the folder.
    """
    if form not in FORMS:
        raise InputError(f"Unknown form {form!r} of SubCellPortable's files: choose one of {', '.join(FORMS)}.")
    prefixes = _prefixes(table.cells if isinstance(table, EmbeddingTable) else _names(table))
    for prefix in prefixes:  # all of them before anything is written
        _path_in(folder, prefix)
    with claim_folder(folder):
        files = _CellFiles(form, single_files, iter(attention))
        blocks = iter([table]) if isinstance(table, EmbeddingTable) else iterate_parquet(table, _ROWS_AT_ONCE)
        start = 0
        with write_atomically(folder / RESULT_FILE) as file:
            for block in blocks:
                rows = slice(start, start + len(block))
                files.write(block, [_path_in(folder, prefix) for prefix in prefixes[rows]])
                for lines in _result_rows(block, prefixes[rows], form):
                    file.write(lines.to_csv(index=False, header=file.tell() == 0, lineterminator="\n").encode())
                start += len(block)
        return PortableReport(start, files.drawn)


class _CellFiles:
    """Writes the files of cells, one block of the table after the other."""

    def __init__(self, form: str, arrays: bool, attention: Iterator[CellAttention]) -> None:
        self.form, self.arrays = form, arrays
        self._attention = attention
        self._next = next(attention, None)
        self.drawn = 0

    def write(self, block: EmbeddingTable, paths: list[Path]) -> None:
        for row, (cell_id, path) in enumerate(zip(block.cells["cell_id"], paths, strict=True)):
            if self.arrays:
                self._write(path, "_embedding.npy", _array_file, block.embeddings[row])
                if block.probabilities is not None:
                    self._write(path, "_probabilities.npy", _array_file, block.probabilities[row])
            if self._next is not None and self._next.cell_id == cell_id:
                self._write(path, "_attention_map.png", self._picture_file, self._next)
                self.drawn += 1
                self._next = next(self._attention, None)

    def _write(self, path: Path, ending: str, encode: Callable[[Any], bytes], content: Any) -> None:
        target = path.with_name(path.name + ending)
        encoded = encode(content)
        # A file of an interrupted run stays, if it is sound.
        if not (target.is_file() and target.read_bytes() == encoded):
            with write_atomically(target) as file:
                file.write(encoded)

    def _picture_file(self, cell: CellAttention) -> bytes:
        content = io.BytesIO()
        draw_attention(cell.attention, cell.image_px, form=self.form).save(content, "PNG")
        return content.getvalue()


def _names(path: Path) -> pd.DataFrame:
    """The columns of a table that may name files."""
    with open_parquet(path) as file:
        known = [name for name in ("cell_id", PREFIX_COLUMN) if name in file.schema_arrow.names]
        return file.read(columns=known).to_pandas()


def _prefixes(cells: pd.DataFrame) -> list[str]:
    """What each cell's files and row are called."""
    if PREFIX_COLUMN in cells.columns:
        named = cells[PREFIX_COLUMN].fillna("").astype(str)
        if (named != "").all() and named.is_unique:
            return list(named)
    return list(cells["cell_id"].astype(str))


def _path_in(folder: Path, prefix: str) -> Path:
    """Beginning of the paths of a cell; a prefix may name sub-folders, as in SubCellPortable."""
    relative = PurePosixPath(prefix)
    if not prefix or relative.is_absolute() or ".." in relative.parts or "\0" in prefix or prefix.endswith("/"):
        raise InputError(
            f"The cell {prefix!r} cannot name files inside {folder}: expected a relative path without '..'."
        )
    return folder / relative


def _array_file(values: npt.NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(values, dtype=np.float32))
    return content.getvalue()


def _result_rows(table: EmbeddingTable, prefixes: list[str], form: str) -> Iterator[pd.DataFrame]:
    """Rows of `result.csv`, some at a time; at least one block, so that the header is written."""
    for start in range(0, max(len(table), 1), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        columns: list[pd.DataFrame] = [pd.DataFrame({"id": prefixes[rows]})]
        if table.probabilities is not None:
            probabilities = table.probabilities[rows]
            columns += [_top_classes(probabilities, table.classes, form), _numbered(probabilities, "prob", 2)]
        columns.append(_numbered(table.embeddings[rows], "feat", 4))
        yield pd.concat(columns, axis=1)


def _top_classes(probabilities: npt.NDArray[np.float32], classes: tuple[str, ...], form: str) -> pd.DataFrame:
    """The four columns that name the most probable classes; of equal ones the first comes first."""
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    numbers = top[:, ::-1] if form == "2024" else top
    return pd.DataFrame(
        {
            "top_class_name": [classes[row[0]] for row in top],
            "top_class": top[:, 0],
            "top_3_classes_names": [",".join(classes[number] for number in row) for row in top],
            "top_3_classes": [",".join(map(str, row)) for row in numbers],
        }
    )


def _numbered(values: npt.NDArray[np.float32], name: str, digits: int) -> pd.DataFrame:
    return pd.DataFrame(values, columns=[f"{name}{number:0{digits}d}" for number in range(values.shape[1])])
