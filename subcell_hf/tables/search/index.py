"""An index of a large table: opened for search, and refused where it does not fit its table. See `index_files`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from subcell_hf.errors import InputError
from subcell_hf.storage.records import find_damage, read_record, sha256_of
from subcell_hf.tables.search.exact import NearestCells
from subcell_hf.tables.search.index_files import AXES_FILE, INDEX_FILE, Axes, Effort, open_parts, search_parts
from subcell_hf.tables.search.stored_cells import Floats, Mask, SearchedCells

INDEX_SUFFIX = ".search"


def index_folder(table: Path) -> Path:
    """Where the index of a table lies.

    Args:
        table: The Parquet file.
    """
    return table.with_name(table.name + INDEX_SUFFIX)


def has_index(table: Path) -> bool:
    """Whether a table has a complete index, of this or an earlier state of it.

    Args:
        table: The Parquet file.
    """
    return read_record(index_folder(table) / INDEX_FILE) is not None


def file_of(cells: SearchedCells) -> Path:
    """The file of a table that can have an index.

    Args:
        cells: The table.

    Raises:
        InputError: If it is in memory, or a file of another kind.
    """
    if cells.path is None:
        raise InputError(f"{cells.name} is no Parquet file of `subcell embed`, expected one: only these have an index.")
    return cells.path


@dataclass(frozen=True)
class IndexFacts:
    """What is known of a complete index.

    Attributes:
        folder: Where it lies.
        cells: Number of cells.
        lists: Number of lists.
        effort: How much a search of all cells compares.
        recall: Share of the ten most similar cells of a sample that this finds.
        size_bytes: Size of its files.
    """

    folder: Path
    cells: int
    lists: int
    effort: Effort
    recall: float
    size_bytes: int


class SearchIndex:
    """An index that is complete and fits its table.

    Args:
        cells: The table.

    Attributes:
        facts: What is known of it.

    Raises:
        InputError: If there is none, it is damaged, or the table has changed since it was built.
    """

    def __init__(self, cells: SearchedCells) -> None:
        path = file_of(cells)
        folder = index_folder(path)
        record = read_record(folder / INDEX_FILE)
        if record is None:
            raise InputError(f"{folder} holds no complete index. Build it, or resume building it, with --index.")
        _refuse_changed(path, cells, record, folder)
        if damage := find_damage(folder, record["files"], read_bytes=False):
            raise InputError(f"{folder} is damaged: {'; '.join(damage)}. Build it again with --index.")
        with np.load(folder / AXES_FILE) as axes:
            self._axes = Axes(axes["components"], axes["centroids"])
        self._parts = open_parts(folder, record["parts"])
        size = sum(item["bytes"] for item in record["files"].values())
        lists, effort = len(self._axes.centroids), Effort(**record["effort"])
        self.facts = IndexFacts(folder, cells.count, lists, effort, record["recall"], size)

    def search(self, direction: Floats, k: int, allowed: Mask | None = None) -> NearestCells:
        """Find the cells most similar to a direction; see `search_parts`.

        Args:
            direction: `[width]`, of length 1.
            k: How many cells to find at most.
            allowed: `[cells]`, which may be found; None: all.

        Returns:
            As many cells as are allowed and have a direction, at most k; similarities are within 0.0005 of the exact
            ones, the rounding of half precision.
        """
        return search_parts(self._parts, self._axes, direction, k, allowed, self.facts.effort)


def _refuse_changed(path: Path, cells: SearchedCells, record: dict[str, Any], folder: Path) -> None:
    """Refuse an index of another table; its checksum is computed only where its time differs, as of a copy."""
    size, built = path.stat(), record["table"]
    same = (size.st_size, cells.count) == (built["bytes"], built["rows"])
    if same and (size.st_mtime_ns == record["mtime_ns"] or sha256_of(path) == built["sha256"]):
        return
    raise InputError(
        f"{path} has changed since {folder.name} was built: it has {cells.count} cells in {size.st_size} bytes, the "
        f"index was built from {built['rows']} cells in {built['bytes']} bytes, checksum {built['sha256'][:12]}. Build "
        "it again with --index, or search without it (--exact)."
    )
