"""The files of an index, in the folder TABLE.search beside its table, and what a search compares in them.

Cells are sorted into lists by the most similar of some centroids (inverted file, Jégou et al. 2011, doi
10.1109/TPAMI.2010.57), by their first 128 principal components. A search compares the query with the cells of a few
lists, by these components, and then the best of them by all numbers, in half precision. The folder contains

* `plan.json`: what the index is built from;
* `axes.npz`: the components and the centroids;
* for each 131,072 cells `part-00000.faiss` with the lists, `part-00000.npy` with the directions `[cells, width]`, and
  `part-00000.json`, which records both, so that an interrupted build resumes;
* `index.json`, written last.

Files are mapped into memory, so a search reads only what it compares.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from subcell_hf.errors import InputError
from subcell_hf.extras import explain_missing
from subcell_hf.tables.search.exact import NearestCells
from subcell_hf.tables.search.stored_cells import Floats, Mask

PLAN_FILE, INDEX_FILE, AXES_FILE = "plan.json", "index.json", "axes.npz"

_FEW_CELLS = 10_000
"""So many allowed cells are all compared by all numbers."""


def import_faiss() -> ModuleType:
    """The library of the lists.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise InputError(f"{explain_missing('faiss')}, or search without an index (--exact).") from error
    return faiss


@dataclass(frozen=True)
class Axes:
    """How cells are sorted into lists.

    Attributes:
        components: `[components, width]`, orthonormal.
        centroids: `[lists, components]`.
    """

    components: Floats
    centroids: Floats


@dataclass(frozen=True)
class Effort:
    """How much a search of all cells compares.

    Attributes:
        lists: How many lists.
        oversampling: How many times the wanted number of cells is compared by all numbers.
    """

    lists: int
    oversampling: int


@dataclass(frozen=True)
class IndexPart:
    """Some cells of an index.

    Attributes:
        lists: Index of faiss, by whose numbers the rows of the table are known.
        directions: `[cells, width]` float16.
        start: Row of the first cell.
    """

    lists: Any
    directions: np.ndarray[tuple[int, int], np.dtype[np.float16]]
    start: int


def open_parts(folder: Path, names: Sequence[str]) -> list[IndexPart]:
    """Map parts into memory.

    Args:
        folder: Folder of the index.
        names: Of the parts in order, without suffix.
    """
    faiss = import_faiss()
    parts, start = [], 0
    for name in names:
        lists = faiss.read_index(str(folder / f"{name}.faiss"), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        directions = np.load(folder / f"{name}.npy", mmap_mode="r")
        parts.append(IndexPart(lists, directions, start))
        start += len(directions)
    return parts


def search_parts(
    parts: Sequence[IndexPart], axes: Axes, direction: Floats, k: int, allowed: Mask | None, effort: Effort
) -> NearestCells:
    """Find the cells most similar to a direction.

    The fewer cells are allowed, the more lists are compared, so that the number of compared cells stays the same; few
    cells are all compared.

    Args:
        parts: All parts of an index.
        axes: Its axes.
        direction: `[width]`, of length 1.
        k: How many cells to find at most.
        allowed: `[cells]`, which may be found; None: all.
        effort: How much to compare if all are allowed.

    Returns:
        As many cells as are allowed and have a direction, at most k.
    """
    cells = sum(len(part.directions) for part in parts)
    count = cells if allowed is None else int(allowed.sum())
    if count <= max(_FEW_CELLS, k):
        rows = np.arange(cells) if allowed is None else np.flatnonzero(allowed)
        return _compare(parts, direction, k, rows)
    lists = min(len(axes.centroids), -(-effort.lists * cells // count))
    wanted = min(count, max(k * effort.oversampling, 100))
    rows = _candidates(parts, axes, direction, wanted, allowed, lists)
    while len(rows) < min(wanted, count) and lists < len(axes.centroids):
        lists = min(len(axes.centroids), 4 * lists)
        rows = _candidates(parts, axes, direction, wanted, allowed, lists)
    return _compare(parts, direction, k, np.sort(rows))


def _candidates(
    parts: Sequence[IndexPart], axes: Axes, direction: Floats, wanted: int, allowed: Mask | None, lists: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Rows of the cells of the most similar lists that are most similar by the components."""
    faiss = import_faiss()
    query = np.ascontiguousarray(axes.components @ direction, np.float32)
    scores = axes.centroids @ query
    chosen = np.argpartition(-scores, lists - 1)[:lists].astype(np.int64)
    distances = np.ascontiguousarray(scores[chosen], np.float32)
    bits = None if allowed is None else np.packbits(allowed, bitorder="little")
    selector = None if bits is None else faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
    options = faiss.SearchParametersIVF(nprobe=lists, sel=selector)
    nearest = NearestCells(query[None], wanted)
    for part in parts:
        most = min(wanted, len(part.directions))
        similarities, rows = np.empty((1, most), np.float32), np.empty((1, most), np.int64)
        # Of the two forms of this call only the one for arrays by their address takes options.
        arrays = (query, chosen, distances, similarities, rows)
        at_query, at_lists, at_distances, *at_results = (faiss.swig_ptr(array) for array in arrays)
        part.lists.search_preassigned_c(1, at_query, most, at_lists, at_distances, *at_results, False, options)
        found = rows[0] >= 0
        nearest.merge(rows[:, found], similarities[:, found])
    best: np.ndarray[tuple[int], np.dtype[np.int64]] = nearest.rows[0]
    return best


def _compare(
    parts: Sequence[IndexPart], direction: Floats, k: int, rows: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> NearestCells:
    """Compare some cells, by their rows in order, by all numbers."""
    nearest = NearestCells(direction[None], k)
    for part in parts:
        first, last = np.searchsorted(rows, (part.start, part.start + len(part.directions)))
        own = rows[first:last]
        for begin in range(0, len(own), 4096):
            some = own[begin : begin + 4096]
            directions = part.directions[some - part.start].astype(np.float32)
            kept = directions.any(axis=1)
            nearest.merge(some[None, kept], direction[None] @ directions[kept].T)
    return nearest
