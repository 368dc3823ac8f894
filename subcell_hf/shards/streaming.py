"""Shards → batches, for training and validation, on any number of processes and workers.

```python
reader = ShardReader("hf://datasets/someone/cells")
loader = training_loader(reader, BatchSettings(antibodies_per_batch=112, seed=0), split="train", workers=4)
for epoch in range(300):
    loader.set_epoch(epoch)
    for batch in loader:  # a ShardBatch
        generator = torch.Generator().manual_seed(batch["view_seed"])
        where = {"first_cell": batch["first_cell"], "global_cells": batch["global_cells"]}
        views = view_maker(batch, channels, generator, **where)
        ...
        state = loader.state_dict()  # {"epoch": …, "step": …, …}: loader.load_state_dict(state) resumes here
```

A batch is looked up, not drawn: the plan says which cells are in it, and each is fetched by one range read. So the
order depends on (seed, epoch) alone, the whole state is the number of the next batch, and workers hold none: more of
them than there are shards is no special case, and each process sees the same number of batches by construction. The
loader shares the batches out by itself; do not give it to `accelerator.prepare`.

Why nothing else was built upon: with the same decoders on the same shards of 448 px crops, in one process, 8 of every
24 cells used (`benchmarks/data.py --libraries`, three runs on a 2-core machine, cells/s relative to this loader):

| | speed | resume |
| --- | --- | --- |
| this loader, torch's DataLoader inside | 1 | exact: (epoch, step) |
| torchdata's StatefulDataLoader around the same plan | 1.0 to 1.3 | as exact; a state per worker |
| webdataset, samples in the order of the tar | 0.6 to 0.9 | none; shuffling needs a buffer that is lost |
| datasets, streaming, samples in the order of the tar | 0.5 to 0.8 | exact but for its shuffle buffer |

The sequential readers move every byte to use a third of them, which a disk cache hides and a network does not. Shards
stay plain WebDataset files that both can read, through `shards.codec.decode_sample`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from subcell_hf.errors import InputError
from subcell_hf.parallel.processes import Processes
from subcell_hf.shards.batch_plan import BatchPlan, BatchSettings, InOrderPlan, Plan, explain_difference
from subcell_hf.shards.kept_cells import KeptCells
from subcell_hf.shards.reader import ShardReader
from subcell_hf.types import CropBatch


class ShardBatch(CropBatch):
    """A `CropBatch` with its place in the epoch.

    `torch.Generator().manual_seed(batch["view_seed"])` gives the views of the global batch, after a resume the same
    ones; with `first_cell` and `global_cells` a `ViewMaker` makes those of this process, however many there are.
    """

    repeated: Tensor  # [cells] bool, True where a cell only fills up; leave it out when every cell shall count once
    fields_of_view: Tensor  # [cells] int64, position in the table's list of fields of view
    cell_lines: Tensor  # [cells] int64, position in the index's list of cell lines
    view_seed: int  # in [0, 2**63), different for every batch, the same for all processes
    first_cell: int  # position of these cells in the global batch
    global_cells: int  # cells of a full global batch
    epoch: int
    step: int


class ShardDataset(Dataset[ShardBatch]):
    """Batches by (epoch, step), as one process sees them.

    Args:
        reader: The shards.
        plan: Which cells are in which batch.
        rank: Number of this process.
        world_size: Processes that share each batch.
        cells: What keeps cells that were read; None to read every batch from the shards.

    Raises:
        InputError: If so many processes cannot share a batch evenly.
    """

    def __init__(
        self, reader: ShardReader, plan: Plan, rank: int = 0, world_size: int = 1, cells: KeptCells | None = None
    ) -> None:
        plan.check_world_size(world_size)
        if not 0 <= rank < world_size:
            raise InputError(f"rank must be at least 0 and less than world_size, got {rank} of {world_size}.")
        self.reader = reader
        self.cells = cells or reader
        self.plan = plan
        self.rank = rank
        self.world_size = world_size

    def __getitem__(self, epoch_and_step: tuple[int, int]) -> ShardBatch:
        """Read one batch.

        Raises:
            InputError: If a cell's bytes are damaged.
            OSError: If a shard cannot be read.
            UnreachableError: If a server does not answer.
        """
        planned = self.plan.batch(*epoch_and_step, self.rank, self.world_size)
        rows, cells = planned.rows, self.reader.cells
        pixels, cell_masks = self.cells.read(rows)
        return ShardBatch(
            pixels=torch.from_numpy(pixels),
            cell_masks=torch.from_numpy(cell_masks),
            antibodies=torch.from_numpy(cells.antibody[rows].astype("int64")),
            locations=torch.from_numpy(cells.location_sets[cells.location_set[rows]]),
            fields_of_view=torch.from_numpy(cells.field_of_view[rows].astype("int64")),
            cell_lines=torch.from_numpy(cells.cell_line[rows].astype("int64")),
            cell_ids=cells.names(rows),
            repeated=torch.from_numpy(planned.repeated),
            view_seed=planned.view_seed,
            first_cell=planned.first_cell,
            global_cells=planned.global_cells,
            epoch=planned.epoch,
            step=planned.step,
        )


class _Steps(Sampler[tuple[int, int]]):
    """Which batches come next; set by the loader before each epoch."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.epoch = 0
        self.first = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(self.epoch, step) for step in range(self.first, self.count)])

    def __len__(self) -> int:
        return self.count


class ShardLoader:
    """Iterates over batches like a `DataLoader`, and resumes exactly.

    One iteration is one epoch, or what is left of it after `load_state_dict`; the next iteration is the next epoch
    unless `set_epoch` says otherwise. An iteration that is broken off begins anew, as with any DataLoader, unless its
    state was saved and loaded. `len(loader)` is the length of a whole epoch.

    Args:
        dataset: What to read.
        workers: Processes that read ahead; 0 reads in this process.
        prefetch: Batches that each worker reads ahead.
        pin_memory: Whether batches are put into page-locked memory, for quicker copies to a GPU.
    """

    def __init__(self, dataset: ShardDataset, *, workers: int = 0, prefetch: int = 2, pin_memory: bool = False) -> None:
        self.dataset = dataset
        self._steps = _Steps(dataset.plan.steps_per_epoch)
        self._epoch = 0
        self._step = 0
        self._resume_step = 0
        self._batches: DataLoader[ShardBatch] = DataLoader(
            dataset,
            batch_size=None,
            sampler=self._steps,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            collate_fn=_unchanged,
            # A DataLoader seeds its workers from torch's default generator if it has none of its own. Nothing is drawn
            # here, and reading must not change what a training draws from that.
            generator=torch.Generator().manual_seed(0),
        )

    def __len__(self) -> int:
        return self._steps.count

    def __iter__(self) -> Iterator[ShardBatch]:
        """The remaining batches of this epoch."""
        self._steps.epoch = self._epoch
        self._steps.first = self._step = self._resume_step
        self._resume_step = 0
        for batch in self._batches:
            # Counted when handed out: workers are ahead of it.
            self._step = batch["step"] + 1
            yield batch
        self.set_epoch(self._epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch; the epoch of a loaded state is resumed, any other begins at its start."""
        if epoch != self._epoch:
            self._epoch, self._step, self._resume_step = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Position of the loader after the last batch; plain JSON values."""
        done = self._step == len(self)
        return {
            "epoch": self._epoch + done,
            "step": 0 if done else self._step,
            "plan": self.dataset.plan.identity(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume after the batch at which the state was taken, also with another number of processes or workers.

        Args:
            state: What `state_dict` gave.

        Raises:
            InputError: If the state belongs to other cells, sizes or seeds, so that the batches would differ.
        """
        difference = explain_difference(state["plan"], self.dataset.plan.identity())
        if difference:
            raise InputError(
                f"Reading cannot be resumed: {difference}. Use the same shards, split, sizes and seed, or "
                "begin a new run."
            )
        self._epoch, self._step = int(state["epoch"]), int(state["step"])
        self._resume_step = self._step


def training_loader(
    reader: ShardReader,
    settings: BatchSettings,
    *,
    split: str | None = "train",
    rank: int | None = None,
    world_size: int | None = None,
    workers: int = 0,
    prefetch: int = 2,
    pin_memory: bool = False,
) -> ShardLoader:
    """Batches of A antibodies by N cells.

    Args:
        reader: The shards.
        settings: Sizes of the global batch, seed and what to do with remainders.
        split: Name of a split, None for all cells.
        rank: Number of this process; None asks torch.distributed, then the launcher's environment.
        world_size: Processes; None likewise.
        workers: Processes that read ahead.
        prefetch: Batches that each worker reads ahead.
        pin_memory: Whether batches are put into page-locked memory.

    Raises:
        InputError: If the split is unknown, too small, or cannot be shared by so many processes.
    """
    rows = reader.split_rows(split)
    plan = BatchPlan(reader.cells, rows, settings)
    dataset = ShardDataset(reader, plan, *_process(rank, world_size), KeptCells(reader, rows))
    return ShardLoader(dataset, workers=workers, prefetch=prefetch, pin_memory=pin_memory)


def in_order_loader(
    reader: ShardReader,
    cells_per_batch: int,
    *,
    split: str | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    workers: int = 0,
    prefetch: int = 2,
    pin_memory: bool = False,
) -> ShardLoader:
    """Every cell once, in the order of the shards; arguments as for `training_loader`.

    Args:
        reader: The shards.
        cells_per_batch: Cells in a global batch.
        split: Name of a split, None for all cells.
        rank: Number of this process.
        world_size: Processes.
        workers: Processes that read ahead.
        prefetch: Batches that each worker reads ahead.
        pin_memory: Whether batches are put into page-locked memory.

    Raises:
        InputError: If the split is unknown or empty, or a batch cannot be shared by so many processes.
    """
    plan = InOrderPlan(reader.split_rows(split), cells_per_batch)
    dataset = ShardDataset(reader, plan, *_process(rank, world_size))
    return ShardLoader(dataset, workers=workers, prefetch=prefetch, pin_memory=pin_memory)


def _process(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Number of this process and of all of them."""
    if rank is not None and world_size is not None:
        return rank, world_size
    if (rank is None) != (world_size is None):
        raise InputError(f"Give both rank and world_size, or neither; got {rank} and {world_size}.")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    processes = Processes.of_torch()
    return processes.rank, processes.world_size


def _unchanged(batch: Any) -> Any:
    """Batches come complete out of the dataset; nothing is left to collate."""
    return batch
