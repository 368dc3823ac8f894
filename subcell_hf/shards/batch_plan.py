"""Which cells are in which batch: pure functions of (seed, epoch, step).

There is no shuffle buffer and no state, so training resumes exactly at any step, with any number of workers, and a
global batch does not depend on the number of processes.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError
from subcell_hf.shards.cell_table import CellTable

# What a stream of random numbers is for; the first entries of its key are seed and epoch.
_ORDER, _CELLS, _VIEWS = 0, 1, 2


@dataclass(frozen=True)
class PlannedBatch:
    """The cells of one batch.

    Attributes:
        rows: `[cells]` int64, rows of the table of cells.
        repeated: `[cells]` bool, True for cells that only fill up a batch.
        view_seed: Seed for the random views of the global batch.
        first_cell: Position of the first of these cells in the global batch.
        global_cells: Cells that a full global batch has.
        epoch: Number of the epoch, from 0.
        step: Number of the batch in the epoch, from 0.
    """

    rows: npt.NDArray[np.int64]
    repeated: npt.NDArray[np.bool_]
    view_seed: int
    first_cell: int
    global_cells: int
    epoch: int
    step: int


class Plan(Protocol):
    """What a loader goes by."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch, the same for every process."""

    def batch(self, epoch: int, step: int, rank: int = 0, world_size: int = 1) -> PlannedBatch:
        """The share of one process in one global batch; the shares of all, one after the other, are that batch."""

    def check_world_size(self, world_size: int) -> None:
        """Raise InputError if global batches cannot be shared evenly by so many processes."""

    def identity(self) -> dict[str, Any]:
        """What must be equal for two plans to give equal batches, as plain JSON values."""


@dataclass(frozen=True)
class BatchSettings:
    """How training batches are made.

    Attributes:
        antibodies_per_batch: A, antibodies in a global batch, all different.
        cells_per_antibody: N, cells of each.
        seed: Seed of the order and of every choice, not negative.
        last_batch: What becomes of antibodies that do not fill a last batch: `"repeat"` fills it up with the epoch's
            first antibodies (other cells of theirs are drawn), `"drop"` leaves them out of this epoch.
        short_antibodies: What becomes of antibodies with fewer than N cells: `"repeat"` takes all of them once, then
            again in a new random order; `"drop"` never uses them.
    """

    antibodies_per_batch: int
    cells_per_antibody: int = 8
    seed: int = 0
    last_batch: str = "repeat"
    short_antibodies: str = "repeat"

    def __post_init__(self) -> None:
        if self.antibodies_per_batch < 1 or self.cells_per_antibody < 1 or self.seed < 0:
            raise InputError(
                "antibodies_per_batch and cells_per_antibody must be at least 1 and seed at least 0, got "
                f"{self.antibodies_per_batch}, {self.cells_per_antibody} and {self.seed}."
            )
        for name in ("last_batch", "short_antibodies"):
            if getattr(self, name) not in ("repeat", "drop"):
                raise InputError(f"{name} must be 'repeat' or 'drop', got {getattr(self, name)!r}.")


class BatchPlan:
    """Batches of A antibodies by N cells. One epoch visits each antibody once, with N of its cells.

    Cells are chosen in turn from the antibody's (cell line, field of view) pairs in random order, at random within one.

    Args:
        cells: The table of cells.
        rows: Rows of the split at hand.
        settings: Sizes, seed and what to do with remainders.

    Attributes:
        antibodies: `[antibodies]` int64, labels of those in use, in ascending order.
        short_antibodies: `[…]` int64, labels of those with fewer than N cells, used or not as the settings say.

    Raises:
        InputError: If there are fewer than A antibodies.
    """

    def __init__(self, cells: CellTable, rows: npt.NDArray[np.int64], settings: BatchSettings) -> None:
        self.settings = settings
        labels, counts = np.unique(cells.antibody[rows], return_counts=True)
        is_short = counts < settings.cells_per_antibody
        self.short_antibodies = labels[is_short].astype(np.int64)
        self.antibodies = labels[~is_short if settings.short_antibodies == "drop" else slice(None)].astype(np.int64)
        if len(self.antibodies) < settings.antibodies_per_batch:
            raise InputError(
                f"A batch needs {settings.antibodies_per_batch} different antibodies, but only {len(self.antibodies)} "
                f"can be used ({int(is_short.sum())} of {len(labels)} have fewer than {settings.cells_per_antibody} "
                "cells). Choose fewer antibodies or cells per batch."
            )
        self._rows = rows[np.argsort(cells.antibody[rows], kind="stable")]
        self._first = dict(zip(labels.tolist(), (np.cumsum(counts) - counts).tolist(), strict=True))
        self._count = dict(zip(labels.tolist(), counts.tolist(), strict=True))
        self._strata = cells.cell_line.astype(np.int64) * len(cells.fields_of_view) + cells.field_of_view
        self._content = hashlib.sha256(self._rows.tobytes() + self._strata[self._rows].tobytes()).hexdigest()

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in an epoch; every process sees as many."""
        full, rest = divmod(len(self.antibodies), self.settings.antibodies_per_batch)
        return full + (1 if rest and self.settings.last_batch == "repeat" else 0)

    @property
    def repeated_antibodies_per_epoch(self) -> int:
        """Antibodies that an epoch visits twice because they fill up the last batch."""
        return max(0, self.steps_per_epoch * self.settings.antibodies_per_batch - len(self.antibodies))

    def batch(self, epoch: int, step: int, rank: int = 0, world_size: int = 1) -> PlannedBatch:
        """The share of one process in one global batch.

        Args:
            epoch: From 0.
            step: From 0, below `steps_per_epoch`.
            rank: Number of the process.
            world_size: Processes; must divide A.

        Returns:
            `A / world_size` antibodies by N cells, antibody-major. The shares of all processes, one after the other,
            are the global batch, which does not depend on their number.
        """
        settings = self.settings
        order = np.random.default_rng((settings.seed, epoch, _ORDER)).permutation(self.antibodies)
        share = settings.antibodies_per_batch // world_size
        first = step * settings.antibodies_per_batch + rank * share
        positions = np.arange(first, first + share)
        visits = positions // len(order)
        chosen = [
            self._choose(int(order[position % len(order)]), epoch, int(visit))
            for position, visit in zip(positions, visits, strict=True)
        ]
        repeated = np.concatenate([again for _, again in chosen]) | np.repeat(visits > 0, settings.cells_per_antibody)
        return PlannedBatch(
            rows=np.concatenate([rows for rows, _ in chosen]),
            repeated=repeated,
            view_seed=_view_seed(settings.seed, epoch, step),
            first_cell=rank * share * settings.cells_per_antibody,
            global_cells=settings.antibodies_per_batch * settings.cells_per_antibody,
            epoch=epoch,
            step=step,
        )

    def _choose(self, antibody: int, epoch: int, visit: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """N cells of an antibody, and which of them are there for the second time or more."""
        first, wanted = self._first[antibody], self.settings.cells_per_antibody
        rows = self._rows[first : first + self._count[antibody]]
        rng = np.random.default_rng((self.settings.seed, epoch, _CELLS, antibody, visit))
        rounds = -(-wanted // len(rows))
        order = np.concatenate([round_robin(self._strata[rows], rng) for _ in range(rounds)])[:wanted]
        return rows[order], np.arange(wanted) >= len(rows)

    def check_world_size(self, world_size: int) -> None:
        """Refuse numbers of processes that cannot share a global batch evenly.

        Raises:
            InputError: If A is no multiple of the number of processes.
        """
        if self.settings.antibodies_per_batch % world_size:
            raise InputError(
                f"{self.settings.antibodies_per_batch} antibodies per global batch cannot be shared by {world_size} "
                "processes: every process must get as many. Use a number of processes that divides it."
            )

    def identity(self) -> dict[str, Any]:
        """What must be equal for two plans to give equal global batches."""
        return {"kind": "antibodies", **vars(self.settings), "cells": self._content}


class InOrderPlan:
    """Every cell once, in the order of the shards, for validation and embedding.

    Where several processes share a batch, the last one is filled up with repeats of its last cell, marked `repeated`,
    so that every process gets as many cells.

    Args:
        rows: Rows of the split at hand.
        cells_per_batch: Cells in a global batch.
        seed: Seed of the views, if any are drawn.

    Raises:
        InputError: If the batch is empty.
    """

    def __init__(self, rows: npt.NDArray[np.int64], cells_per_batch: int, seed: int = 0) -> None:
        if cells_per_batch < 1 or seed < 0:
            raise InputError(f"cells_per_batch must be at least 1 and seed at least 0, got {cells_per_batch}, {seed}.")
        self.cells_per_batch = cells_per_batch
        self.seed = seed
        self._rows = rows

    @property
    def steps_per_epoch(self) -> int:
        """Global batches, the last one perhaps smaller."""
        return -(-len(self._rows) // self.cells_per_batch)

    def batch(self, epoch: int, step: int, rank: int = 0, world_size: int = 1) -> PlannedBatch:
        """The share of one process in one global batch; see `BatchPlan.batch`."""
        rows = self._rows[step * self.cells_per_batch : (step + 1) * self.cells_per_batch]
        share = -(-len(rows) // world_size)
        positions = np.arange(rank * share, (rank + 1) * share)
        return PlannedBatch(
            rows=rows[np.minimum(positions, len(rows) - 1)],
            repeated=positions >= len(rows),
            view_seed=_view_seed(self.seed, epoch, step),
            first_cell=rank * share,
            global_cells=self.cells_per_batch,
            epoch=epoch,
            step=step,
        )

    def check_world_size(self, world_size: int) -> None:
        """Refuse numbers of processes that cannot share a global batch evenly.

        Raises:
            InputError: If the cells of a batch are no multiple of the number of processes.
        """
        if self.cells_per_batch % world_size:
            raise InputError(
                f"{self.cells_per_batch} cells per global batch cannot be shared by {world_size} processes: every "
                "process must get as many. Use a number of processes that divides it."
            )

    def identity(self) -> dict[str, Any]:
        """What must be equal for two plans to give equal global batches."""
        content = hashlib.sha256(self._rows.tobytes()).hexdigest()
        return {"kind": "in order", "cells_per_batch": self.cells_per_batch, "seed": self.seed, "cells": content}


def round_robin(strata: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Order cells so that every stratum comes once before any comes again.

    Args:
        strata: `[cells]`, which stratum each cell belongs to.
        rng: Order of the strata and of the cells within each.

    Returns:
        `[cells]`, a permutation of their positions.
    """
    shuffled = rng.permutation(len(strata))
    _, codes = np.unique(strata, return_inverse=True)
    codes = codes[shuffled]
    rank_of_stratum = rng.permutation(codes.max() + 1)[codes]
    by_stratum = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    turn = np.empty(len(codes), np.int64)
    turn[by_stratum] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return shuffled[np.lexsort((rank_of_stratum, turn))]


def explain_difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Which entries of two identities differ, in words; empty where none does."""
    names = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    return "; ".join(f"{name} was {json.dumps(expected.get(name))}, is {json.dumps(found.get(name))}" for name in names)


def _view_seed(seed: int, epoch: int, step: int) -> int:
    """Seed of the views of a global batch, in [0, 2**63)."""
    state = np.random.SeedSequence((seed, epoch, _VIEWS, step)).generate_state(1, np.uint64)
    return int(state[0]) >> 1
