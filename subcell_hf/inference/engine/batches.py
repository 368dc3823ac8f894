"""Blocks of cells → batches for a model, read ahead in the background."""

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from subcell_hf.inference.models.variants import Variant
from subcell_hf.inference.sources.blocks import CellBlock, CellSource, Skipped, with_pictures
from subcell_hf.parallel.worker_pool import map_ahead
from subcell_hf.tables.cell_pictures import CellPicture, PictureBudget


class Place(NamedTuple):
    """Position of a cell: number of its block within the part, and position in the block."""

    block: int
    cell: int


@dataclass(frozen=True)
class Batch:
    """Cells of one model and one shape.

    Attributes:
        variant: Which model.
        channels: Names of the planes.
        pixel_size_um: Edge of a pixel.
        pixels: `[cells, planes, height, width]`, uint8, uint16 or float32; in page-locked memory for a GPU.
        cell_masks: `[cells, height, width]` bool, or None.
        places: `[cells]`.
    """

    variant: Variant
    channels: tuple[str, ...]
    pixel_size_um: float
    pixels: Tensor
    cell_masks: Tensor | None
    places: tuple[Place, ...]


@dataclass(frozen=True)
class BlockNotes:
    """What is known of a block once its pixels are gone.

    Attributes:
        records: One per cell.
        model: Which model its cells go to; empty where it has none.
        skipped: What could not be used.
        pictures: Position in the block → picture, without attention.
    """

    records: tuple[Mapping[str, Any], ...]
    model: str
    skipped: tuple[Skipped, ...]
    pictures: Mapping[int, CellPicture]

    @classmethod
    def of(cls, block: CellBlock) -> "BlockNotes":
        """Notes of a block."""
        records = () if block.crops is None else block.crops.cells
        return cls(records, block.variant.name if block.variant else "", block.skipped, block.pictures)


@dataclass(frozen=True)
class ReadPart:
    """Says that all cells of a part have been handed out.

    Attributes:
        part: Its number.
        blocks: What was read, in order.
    """

    part: int
    blocks: tuple[BlockNotes, ...]


class _Kind(NamedTuple):
    """What the cells of one batch have in common."""

    model: str
    channels: tuple[str, ...]
    pixel_size_um: float
    shape: tuple[int, ...]
    dtype: str
    has_masks: bool


class _Cell(NamedTuple):
    variant: Variant
    pixels: npt.NDArray[Any]  # [planes, height, width]
    cell_mask: npt.NDArray[np.bool_] | None  # [height, width]
    place: Place


class Batcher:
    """Makes batches of the blocks of one part after the other, for one run.

    Args:
        cells_per_batch: Cells of a batch; fewer where a part, a shape or a model ends.
        pin_memory: Whether batches go into page-locked memory.
    """

    def __init__(self, cells_per_batch: int, pin_memory: bool = False) -> None:
        self.cells_per_batch, self.pin_memory = cells_per_batch, pin_memory
        self._waiting: dict[_Kind, list[_Cell]] = {}
        self._notes: list[BlockNotes] = []

    def take(self, block: CellBlock) -> Iterator[Batch]:
        """Take the next block of the part, and hand out what is full.

        Args:
            block: The block.
        """
        number = len(self._notes)
        self._notes.append(BlockNotes.of(block))
        for kind, cell in _cells(number, block):
            cells = self._waiting.setdefault(kind, [])
            cells.append(cell)
            if len(cells) == self.cells_per_batch:
                yield self._stack(kind, self._waiting.pop(kind))

    def finish(self, part: int) -> Iterator[Batch | ReadPart]:
        """Hand out the rest of a part, and last that it is complete.

        Args:
            part: Its number.
        """
        for kind, cells in self._waiting.items():
            yield self._stack(kind, cells)
        notes, self._waiting, self._notes = tuple(self._notes), {}, []
        yield ReadPart(part, notes)

    def _stack(self, kind: _Kind, cells: Sequence[_Cell]) -> Batch:
        pixels = torch.stack([torch.from_numpy(cell.pixels) for cell in cells])
        given = [torch.from_numpy(cell.cell_mask) for cell in cells if cell.cell_mask is not None]
        masks = torch.stack(given) if given else None
        if self.pin_memory:
            pixels, masks = pixels.pin_memory(), None if masks is None else masks.pin_memory()
        places = tuple(cell.place for cell in cells)
        return Batch(cells[0].variant, kind.channels, kind.pixel_size_um, pixels, masks, places)


class BatchReader:
    """Reads blocks and hands out batches; a batch never spans two parts, so parts do not depend on each other.

    Args:
        source: Where cells come from.
        budget: Which cells get a picture.
        cells_per_batch: Cells of a batch; fewer where a part, a shape or a model ends.
        workers: Processes that read; 0: a thread of this process.
        pin_memory: Whether batches go into page-locked memory.
    """

    def __init__(
        self,
        source: CellSource,
        budget: PictureBudget,
        cells_per_batch: int,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.source, self.budget = source, budget
        self.cells_per_batch, self.workers, self.pin_memory = cells_per_batch, workers, pin_memory

    def batches(self, parts: Sequence[tuple[int, Sequence[str]]]) -> Iterator[Batch | ReadPart]:
        """Batches of one part after the other, each part followed by its `ReadPart`.

        Args:
            parts: Number of a part, and names of its blocks.
        """
        return read_ahead(self._batches(parts))

    def _batches(self, parts: Sequence[tuple[int, Sequence[str]]]) -> Iterator[Batch | ReadPart]:
        names = [name for _, names in parts for name in names]
        blocks = zip(names, map_ahead(self.source.read, names, self.workers), strict=True)
        batcher = Batcher(self.cells_per_batch, self.pin_memory)
        for part, own in parts:
            for name, block in islice(blocks, len(own)):
                yield from batcher.take(with_pictures(block, name, self.budget))
            yield from batcher.finish(part)


def _cells(number: int, block: CellBlock) -> Iterator[tuple[_Kind, _Cell]]:
    """Every cell of a block with its kind."""
    crops, variant = block.crops, block.variant
    if crops is None or variant is None:
        return
    shape, dtype = crops.pixels.shape[1:], crops.pixels.dtype.name
    kind = _Kind(variant.name, crops.channels, crops.pixel_size_um, shape, dtype, block.has_masks)
    for cell in range(len(block)):
        mask = crops.cell_masks[cell] if block.has_masks else None
        yield kind, _Cell(variant, crops.pixels[cell], mask, Place(number, cell))


def read_ahead(items: Iterator[Any], depth: int = 3) -> Iterator[Any]:
    """Run an iterator in a thread, a few items ahead of whoever takes them.

    Args:
        items: What to run.
        depth: Items that may wait.

    Yields:
        The items; an exception of the iterator is raised where its item would have come.
    """
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(kind: str, item: Any) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((kind, item), timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def run() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except Exception as error:  # handed over, and raised where the item is waited for
            put("error", error)

    thread = threading.Thread(target=run, name="subcell-read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
