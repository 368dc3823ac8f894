"""Exact search by cosine: embeddings are read in a stream, so memory does not grow with the table."""

import numpy as np

from subcell_hf.errors import InputError
from subcell_hf.tables.search.stored_cells import Floats, Mask, SearchedCells


def directions_of(embeddings: Floats) -> Floats:
    """Embeddings brought to length 1; those of length 0 have no direction and stay 0.

    Args:
        embeddings: `[cells, width]`.
    """
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    found: Floats = (embeddings / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)
    return found


def mean_direction(cells: SearchedCells, rows: Mask) -> Floats:
    """The direction of the mean of some cells, each of which counts with its direction alone.

    Args:
        cells: The table.
        rows: `[cells]`, True for the cells.

    Returns:
        `[width]`, of length 1.

    Raises:
        InputError: If there are none, or their directions cancel out.
    """
    total = np.zeros(cells.width)
    for start, block in cells.embeddings(rows):
        total += directions_of(block[rows[start : start + len(block)]]).sum(axis=0, dtype=np.float64)
    return unit_direction(total, f"the {int(rows.sum())} cells of the query")


def unit_direction(vector: np.ndarray[tuple[int], np.dtype[np.floating]], what: str) -> Floats:
    """A vector brought to length 1.

    Args:
        vector: `[width]`.
        what: What it belongs to, for the message.

    Raises:
        InputError: If it has no direction.
    """
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length < 1e-9:
        raise InputError(f"The mean of {what} has no direction (length {length:.3g}). Search for other cells.")
    return (vector / length).astype(np.float32)


class NearestCells:
    """The cells most similar to each of several directions, among blocks that come one after the other.

    Args:
        directions: `[queries, width]`, each of length 1.
        k: How many cells for each.
    """

    def __init__(self, directions: Floats, k: int) -> None:
        self._directions, self._k = directions, k
        self.rows = np.full((len(directions), 0), -1, np.int64)
        self.similarities = np.zeros((len(directions), 0), np.float32)

    def add(self, start: int, directions: Floats, allowed: Mask | None = None) -> None:
        """Take a block into account; cells without a direction are never among the nearest.

        Args:
            start: Row of its first cell.
            directions: `[cells, width]`, of length 1 or 0.
            allowed: `[cells]`; None: all.
        """
        found = self._directions @ directions.T  # [queries, cells]
        kept = directions.any(axis=1) if allowed is None else allowed & directions.any(axis=1)
        rows = np.broadcast_to(start + np.flatnonzero(kept), (len(found), int(kept.sum())))
        self.merge(rows, found[:, kept])

    def merge(self, rows: np.ndarray[tuple[int, int], np.dtype[np.int64]], similarities: Floats) -> None:
        """Keep the best of what is known and what comes; of equal ones the first.

        Args:
            rows: `[queries, cells]`.
            similarities: `[queries, cells]`.
        """
        rows = np.hstack([self.rows, rows])
        similarities = np.hstack([self.similarities, similarities])
        if similarities.shape[1] > 4 * self._k:  # sorting a whole block would take longer than comparing it
            least = np.partition(similarities, -self._k, axis=1)[:, -self._k]
            wide = (similarities >= least[:, None]).sum(axis=1).max()
            chosen = np.sort(np.argpartition(-similarities, wide - 1, axis=1)[:, :wide], axis=1)
            rows = np.take_along_axis(rows, chosen, 1)
            similarities = np.take_along_axis(similarities, chosen, 1)
        order = np.lexsort((rows, -similarities), axis=1)[:, : self._k]
        self.rows = np.take_along_axis(rows, order, 1)
        self.similarities = np.take_along_axis(similarities, order, 1)


def search_exactly(cells: SearchedCells, direction: Floats, k: int, allowed: Mask) -> NearestCells:
    """Compare a direction with every allowed cell.

    Args:
        cells: The table.
        direction: `[width]`, of length 1.
        k: How many cells to find at most.
        allowed: `[cells]`, which may be found.

    Raises:
        InputError: If the table is damaged.
    """
    nearest = NearestCells(direction[None], k)
    for start, block in cells.embeddings(allowed):
        nearest.add(start, directions_of(block), allowed[start : start + len(block)])
    return nearest
