"""Cells as their model sees them, for whoever runs the model otherwise than to embed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subcell_hf.inference.engine.batches import Batch, BatchReader, Place, ReadPart
from subcell_hf.inference.engine.forward import BatchEmbedder
from subcell_hf.inference.models.loading import ModelFolder
from subcell_hf.inference.sources.blocks import CellSource
from subcell_hf.tables.cell_pictures import PictureBudget


@dataclass(frozen=True)
class PreparedCells:
    """Cells of one block.

    Attributes:
        images: `[cells, channels, height, width]` float32, scaled and masked.
        records: What is known of each cell, such as `cell_id` and `locations`.
    """

    images: Tensor
    records: tuple[Mapping[str, Any], ...]


def prepare_cells(source: CellSource, model: ModelFolder, names: Sequence[str]) -> Iterator[PreparedCells]:
    """Read blocks, one after the other; cells that the model cannot be given are left out.

    Args:
        source: Where the cells come from.
        model: The model, with one pass per cell.
        names: Names of the blocks to read.

    Yields:
        The cells of each block that has any.
    """
    embedder = BatchEmbedder([model], torch.device("cpu"), "fp32")
    reader = BatchReader(source, PictureBudget(0, 0), embedder.batch_size)
    images: list[Tensor] = []
    places: list[Place] = []
    for item in reader.batches([(part, [name]) for part, name in enumerate(names)]):
        if isinstance(item, Batch):
            found, kept = embedder.prepare(item, {})
            images += [] if found is None else [found.float()]
            places += kept
        elif isinstance(item, ReadPart):
            if images:
                records = tuple(item.blocks[place.block].records[place.cell] for place in places)
                yield PreparedCells(torch.cat(images), records)
            images, places = [], []
