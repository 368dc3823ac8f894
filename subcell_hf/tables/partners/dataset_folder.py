"""Embeddings and pictures of cells as a folder that `datasets.load_dataset` reads and streams."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import pyarrow as pa
from datasets import Features, Image

from subcell_hf.errors import InputError
from subcell_hf.storage.folders import write_folder_atomically
from subcell_hf.tables.cell_pictures import CellPicture
from subcell_hf.tables.embedding_table import CELL_ID, EmbeddingTable
from subcell_hf.tables.parquet import arrow_table, open_parquet_writer, table_schema

DATA_FILE = "data/train-00000-of-00001.parquet"
IMAGE = "image"

_PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
_CARD = """\
---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
---
# Embeddings of cells

One row per cell, written by subcell_hf: `embedding`, `probabilities` of locations, what is known of the cell, and
`image`, a picture of some of the cells.
"""


def write_dataset(blocks: Iterable[EmbeddingTable], pictures: Iterator[CellPicture], folder: Path) -> int:
    """Write `data/train-00000-of-00001.parquet` and a card.

    Args:
        blocks: Parts of one table, in order.
        pictures: Of some or none of the cells, in the order of the table.
        folder: A new folder; it appears when it is complete.

    Returns:
        Number of rows.

    Raises:
        InputError: If a column is called `image`, or a picture is of no cell.
    """
    given = iter(blocks)
    first = next(given)
    rows, waiting = 0, next(pictures, None)
    with write_folder_atomically(folder) as staging:
        (staging / "README.md").write_text(_CARD, encoding="utf-8")
        with open_parquet_writer(staging / DATA_FILE, _schema(first)) as writer:
            for block in chain([first], given):
                images: list[dict[str, bytes | None] | None] = []
                for cell in block.cells[CELL_ID]:
                    if waiting is None or waiting.cell_id != cell:
                        images.append(None)
                        continue
                    images.append({"bytes": waiting.composite, "path": None})
                    waiting = next(pictures, None)
                table = arrow_table(block).append_column(IMAGE, pa.array(images, _PICTURE))
                writer.write_table(table.cast(writer.schema))
                rows += len(block)
        if waiting is not None:
            raise InputError(
                f"The picture of {waiting.cell_id!r} is of no cell of the table, or not in its order. Give the "
                "folder of one run."
            )
    return rows


def _schema(block: EmbeddingTable) -> pa.Schema:
    """Columns of a block and the picture, with what `datasets` reads to know that it is one."""
    schema = table_schema(block)
    if IMAGE in schema.names:
        raise InputError(f"The table has a column {IMAGE!r}, the name of the picture. Rename it.")
    features = Features.from_arrow_schema(schema)
    features[IMAGE] = Image()
    return schema.append(pa.field(IMAGE, _PICTURE)).with_metadata(
        {"huggingface": json.dumps({"info": {"features": features.to_dict()}})}
    )
