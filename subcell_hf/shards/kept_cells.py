"""Decoded cells of a small split, which stay in memory from one epoch to the next."""

import numpy as np
import numpy.typing as npt

from subcell_hf.shards.reader import ShardReader

MOST_KEPT_BYTES = 128 * 2**20
"""Splits that are larger when decoded are read anew in every epoch."""


class KeptCells:
    """Reads cells as a `ShardReader` does, each of them once if all fit into memory.

    Args:
        reader: The shards.
        rows: `[cells]`, ascending: the cells that may be asked for.
        most_bytes: Memory that their decoded pixels and masks may take.
    """

    def __init__(self, reader: ShardReader, rows: npt.NDArray[np.int64], most_bytes: int = MOST_KEPT_BYTES) -> None:
        form = reader.index.crop_format
        channels, height, width = form.shape
        cell_bytes = height * width * (channels * np.dtype(form.dtype).itemsize + 1)
        self._reader, self._rows = reader, rows
        self._fits = len(rows) * cell_bytes <= most_bytes
        self._kept: tuple[npt.NDArray[np.bool_], npt.NDArray[np.generic], npt.NDArray[np.bool_]] | None = None

    def read(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
        """Read cells; see `ShardReader.read`.

        Args:
            rows: `[cells]`, in any order, repeats allowed.

        Returns:
            New arrays: pixels `[cells, channels, height, width]` and masks `[cells, height, width]` bool.

        Raises:
            InputError: If a cell's bytes are not those that were written.
            OSError: If a shard cannot be read.
            UnreachableError: If a server does not answer.
        """
        if not self._fits:
            return self._reader.read(rows)
        if self._kept is None:
            form, cells = self._reader.index.crop_format, len(self._rows)
            pixels = np.empty((cells, *form.shape), form.dtype)
            self._kept = np.zeros(cells, np.bool_), pixels, np.empty((cells, *form.shape[1:]), np.bool_)
        known, pixels, cell_masks = self._kept
        places = np.searchsorted(self._rows, rows)
        new = np.unique(places[~known[places]])
        if len(new):
            pixels[new], cell_masks[new] = self._reader.read(self._rows[new])
            known[new] = True
        return pixels[places], cell_masks[places]
