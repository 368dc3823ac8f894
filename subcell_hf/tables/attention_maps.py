"""Attention of the pooling heads for every cell of a run, kept for SubCellPortable's pictures: `attention.parquet`.

| column | kind | content |
| --- | --- | --- |
| `cell_id` | text | as in the table, in its order |
| `attention` | bytes | float16 `[heads, rows, columns]`, C order: pooling attention of the first pass, CLS left out |
| `attention_shape` | int32 list of 3 | heads, rows, columns |
| `image_px` | int32 list of 2 | height and width of what the model saw |
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from subcell_hf.errors import InputError
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.parquet_files import WRITING, open_parquet

ATTENTION_FILE = "attention.parquet"

_ROWS_AT_ONCE = 256
_SCHEMA = pa.schema(
    {
        "cell_id": pa.string(),
        "attention": pa.binary(),
        "attention_shape": pa.list_(pa.int32(), 3),
        "image_px": pa.list_(pa.int32(), 2),
    }
)


@dataclass(frozen=True)
class CellAttention:
    """Where the model looked in one cell.

    Attributes:
        cell_id: As in the table.
        attention: `[heads, rows, columns]`, one row and column per patch.
        image_px: Height and width of what the model saw.
    """

    cell_id: str
    attention: npt.NDArray[np.floating[Any]]
    image_px: tuple[int, int]


def write_attention(cells: Iterable[CellAttention], path: Path) -> None:
    """Write attention whole or not at all, holding some hundred cells at a time.

    Args:
        cells: Attention, cell by cell.
        path: File to write.
    """
    with write_atomically(path) as file, pq.ParquetWriter(file, _SCHEMA, compression="zstd", **WRITING) as writer:
        waiting: list[dict[str, Any]] = []
        for cell in cells:
            kept = np.asarray(cell.attention, np.float16)
            waiting.append(
                {
                    "cell_id": cell.cell_id,
                    "attention": kept.tobytes(),
                    "attention_shape": list(kept.shape),
                    "image_px": list(cell.image_px),
                }
            )
            if len(waiting) == _ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(waiting, _SCHEMA))
                waiting.clear()
        writer.write_table(pa.Table.from_pylist(waiting, _SCHEMA))


def iterate_attention(path: Path) -> Iterator[CellAttention]:
    """Read attention cell by cell.

    Args:
        path: A file of `write_attention`.

    Yields:
        One cell after the other.

    Raises:
        InputError: If it is none.
    """
    try:
        with open_parquet(path) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=_SCHEMA.names):
                for row in batch.to_pylist():
                    attention = np.frombuffer(row["attention"], np.float16).reshape(row["attention_shape"])
                    yield CellAttention(row["cell_id"], attention, tuple(row["image_px"]))
    except (ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read as attention of cells: {error}. Embed again to write it.") from error


def draw_attention(attention: npt.NDArray[Any], image_px: tuple[int, int], *, form: str = "2025") -> Image.Image:
    """Attention of the pooling heads side by side, each stretched to its own range.

    Args:
        attention: `[heads, rows, columns]`.
        image_px: Height and width of each head in the picture: as SubCellPortable, those of what the model saw.
        form: `"2024"` draws dark on white, `"2025"` bright on black.
    """
    height, width = image_px
    heads = []
    for head in attention.astype(np.float32):
        enlarged = np.asarray(Image.fromarray(head).resize((width, height), Image.Resampling.BILINEAR))
        low, high = float(enlarged.min()), float(enlarged.max())
        heads.append((enlarged - low) / max(high - low, 1e-5) * 255)
    picture = np.hstack(heads).clip(0, 255).astype(np.uint8)
    if form == "2024":
        picture = 255 - picture
    return Image.fromarray(np.repeat(picture[..., None], 3, axis=2))
