"""Files as SubCellPortable writes them, for scripts that were made for it.

| file | content |
| --- | --- |
| `result.csv` | `id`, `top_class_name`, `top_class`, `top_3_classes_names`, `top_3_classes`, `prob00`…, `feat0000`… |
| `<prefix>_embedding.npy` | float32 `[width]` |
| `<prefix>_probabilities.npy` | float32 `[classes]` |
| `<prefix>_attention_map.png` | the pooling heads side by side, each stretched to 0…255 |

Two forms are in use. That of 2024 lists the numbers of `top_3_classes` from the third to the first, though their names
from the first to the third, and draws attention dark on white; since 2025 both lists begin with the first, and
attention is bright on black. Probabilities here are the model's, as SubCellPortable gave them in 2024; its later
softmax over probabilities is not repeated.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from subcell_hf.data.atomic import write_atomically
from subcell_hf.errors import InputError
from subcell_hf.inference.tables import EmbeddingTable

RESULT_FILE = "result.csv"
PREFIX_COLUMN = "output_prefix"
FORMS = ("2024", "2025")
"""Forms of the files, by the year in which SubCellPortable began to write them."""

_ROWS_AT_ONCE = 2048


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
    table: EmbeddingTable,
    folder: Path,
    *,
    form: str = "2025",
    single_files: bool = True,
    attention: Mapping[str, npt.NDArray[Any]] | None = None,
    attention_px: int = 448,
) -> PortableReport:
    """Write a table as SubCellPortable would have.

    Args:
        table: One row per cell. A cell's prefix is its `output_prefix` where the table has that column and no value
            comes twice, else its `cell_id`.
        folder: Folder to write; files of the same names are replaced.
        form: One of `FORMS`.
        single_files: Whether to write the `.npy` files of every cell beside `result.csv`.
        attention: `cell_id` → attention of the pooling heads `[heads, rows, columns]`.
        attention_px: Edge of the drawn attention maps in pixels.

    Raises:
        InputError: If the form is unknown, or a prefix would lead out of the folder.
    """
    if form not in FORMS:
        raise InputError(f"Unknown form {form!r} of SubCellPortable's files: choose one of {', '.join(FORMS)}.")
    prefixes = _prefixes(table.cells)
    paths = [_path_in(folder, prefix) for prefix in prefixes]
    folder.mkdir(parents=True, exist_ok=True)
    if single_files:
        for row, path in enumerate(paths):
            _write_array(path, "_embedding.npy", table.embeddings[row])
            if table.probabilities is not None:
                _write_array(path, "_probabilities.npy", table.probabilities[row])
    drawn = 0
    for cell_id, path in zip(table.cells["cell_id"], paths, strict=True):
        if attention and cell_id in attention:
            picture = draw_attention(attention[cell_id], attention_px, form=form)
            with write_atomically(path.with_name(path.name + "_attention_map.png")) as file:
                picture.save(file, "PNG")
            drawn += 1
    with write_atomically(folder / RESULT_FILE) as file:
        for number, rows in enumerate(_result_rows(table, prefixes, form)):
            file.write(rows.to_csv(index=False, header=number == 0, lineterminator="\n").encode())
    return PortableReport(len(table), drawn)


def draw_attention(attention: npt.NDArray[Any], size_px: int, *, form: str = "2025") -> Image.Image:
    """Attention of the pooling heads side by side, each stretched to its own range.

    Args:
        attention: `[heads, rows, columns]`.
        size_px: Height of the picture and width of each head, in pixels.
        form: `"2024"` draws dark on white, `"2025"` bright on black.
    """
    heads = []
    for head in attention.astype(np.float32):
        enlarged = np.asarray(Image.fromarray(head).resize((size_px, size_px), Image.Resampling.BILINEAR))
        low, high = float(enlarged.min()), float(enlarged.max())
        heads.append((enlarged - low) / max(high - low, 1e-5) * 255)
    picture = np.hstack(heads).clip(0, 255).astype(np.uint8)
    if form == "2024":
        picture = 255 - picture
    return Image.fromarray(np.repeat(picture[..., None], 3, axis=2))


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


def _write_array(path: Path, ending: str, values: npt.NDArray[Any]) -> None:
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(values, dtype=np.float32))
    with write_atomically(path.with_name(path.name + ending)) as file:
        file.write(content.getvalue())


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
