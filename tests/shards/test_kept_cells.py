"""Cells of a small split are read once; what is handed out is the same, and never what is kept."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from subcell_hf.shards.kept_cells import KeptCells
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.sharding import ShardSettings
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic


class CountedReads(ShardReader):
    """Notes which rows are read."""

    def read(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
        self.seen = [*getattr(self, "seen", []), *rows.tolist()]
        return super().read(rows)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept") / "shards"
    source = SyntheticCrops(antibodies=4, fields_per_antibody=1, cells_per_field=3, size_px=16)
    write_synthetic(folder, source, ShardSettings(split_fractions={"train": 0.5, "validation": 0.5}))
    return folder


@pytest.mark.parametrize("most_bytes", [2**20, 0])
def test_cells_are_those_of_the_reader(most_bytes: int, shards: Path) -> None:
    reader = CountedReads(shards)
    rows = reader.split_rows("train")
    kept = KeptCells(reader, rows, most_bytes)
    asked = [rows[[3, 0, 3]], rows[[1, 0, 5]], rows[::-1]]
    for wanted in asked:
        pixels, cell_masks = kept.read(wanted)
        expected, expected_masks = ShardReader(shards).read(wanted)
        np.testing.assert_array_equal(pixels, expected)
        np.testing.assert_array_equal(cell_masks, expected_masks)
        pixels[:], cell_masks[:] = 0, False  # of no consequence for the next reading
    assert len(reader.seen) == (len(rows) if most_bytes else sum(map(len, asked)))
