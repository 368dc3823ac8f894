"""The same cells in every table, and the same units at every level."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.tables.files import EmbeddingTable

LEVELS = {"cell": None, "field": "field_of_view", "antibody": "antibody", "gene": "gene"}
"""Level at which scores are reported → the column whose cells are joined."""


@dataclass(frozen=True)
class AlignedCells:
    """Cells that all tables have.

    Attributes:
        cells: Their metadata, from the first table and in its order.
        rows: Table → `[cells]`, rows of these cells in it.
        left_out: `cell_id` and `reason` of cells that some table lacks.
    """

    cells: pd.DataFrame
    rows: Mapping[str, npt.NDArray[np.int64]]
    left_out: pd.DataFrame


def align_cells(tables: Mapping[str, EmbeddingTable]) -> AlignedCells:
    """Find the cells that all tables have, by `cell_id`.

    Args:
        tables: Name → table; the first one gives order and metadata.

    Raises:
        InputError: If there is no common cell.
    """
    names = list(tables)
    ids = pd.Index(tables[names[0]].cells["cell_id"])
    rows = {name: pd.Index(tables[name].cells["cell_id"]).get_indexer(ids) for name in names}
    common = np.logical_and.reduce([found >= 0 for found in rows.values()])
    if not common.any():
        examples = ", ".join(f"{name}: {tables[name].cells['cell_id'].iloc[0]!r}" for name in names)
        raise InputError(f"The tables have no cell in common ({examples}). Make them from the same crops.")
    reasons: dict[str, str] = {}
    for name in names:
        lacking = ids[rows[name] < 0]
        reasons |= {cell: f"not in the table {name}" for cell in lacking if cell not in reasons}
        known = pd.Index(tables[name].cells["cell_id"])
        reasons |= {cell: f"only in the table {name}" for cell in known.difference(ids) if cell not in reasons}
    left_out = pd.DataFrame({"cell_id": list(reasons), "reason": list(reasons.values())}, dtype=str)
    cells = tables[names[0]].cells[common].reset_index(drop=True)
    return AlignedCells(cells, {name: found[common] for name, found in rows.items()}, left_out)


@dataclass(frozen=True)
class Level:
    """Cells joined to units.

    Attributes:
        name: One of `LEVELS`.
        unit: `[cells]`, number of the unit of each cell.
        cluster: `[units]`, number of what is resampled: the unit's antibody, or the gene itself.
    """

    name: str
    unit: npt.NDArray[np.int64]
    cluster: npt.NDArray[np.int64]

    def join(self, probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Mean probabilities of the cells of each unit: `[cells, classes]` → `[units, classes]`."""
        if self.name == "cell":
            return probabilities
        count = np.bincount(self.unit)
        joined = [np.bincount(self.unit, column) / count for column in probabilities.T]
        return np.stack(joined, axis=1).astype(np.float32)

    def join_targets(self, targets: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """What any cell of a unit has: `[cells, classes]` → `[units, classes]`."""
        if self.name == "cell":
            return targets
        joined = [np.bincount(self.unit, column) > 0 for column in targets.T]
        return np.stack(joined, axis=1).astype(np.uint8)


def make_levels(cells: pd.DataFrame) -> tuple[list[Level], list[str]]:
    """The levels that the metadata allow.

    Args:
        cells: Metadata with `antibody`.

    Returns:
        The levels, and a note for each that cannot be made.
    """
    antibody, _ = pd.factorize(cells["antibody"], sort=True)
    levels, notes = [], []
    for name, column in LEVELS.items():
        if column is not None and (column not in cells or (cells[column] == "").any()):
            notes.append(f"No scores at the level {name}: the column {column} is missing or has gaps.")
            continue
        # Cells of one field that were stained by two antibodies are two units.
        keys = np.arange(len(cells)) if column is None else cells[column].astype(str) + "\0" + cells["antibody"]
        if name == "gene":
            keys = cells[column].astype(str)
        unit, _ = pd.factorize(keys)
        first = np.unique(unit, return_index=True)[1]
        cluster = np.arange(len(first)) if name == "gene" else antibody[first]
        levels.append(Level(name, unit.astype(np.int64), cluster.astype(np.int64)))
    return levels, notes
