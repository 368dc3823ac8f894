"""The report's map: the neighbours that it is laid out by, and the room that few cells get."""

import os
import subprocess
import sys

import numpy as np
import pytest

from subcell_hf.report.projection import project_cells
from subcell_hf.tables.nearest_rows import find_nearest_rows


def _cells() -> np.ndarray:
    rng = np.random.default_rng(0)
    # Apart from the origin, where distances by way of scalar products are rounded.
    return (rng.normal(size=(120, 50)) + rng.integers(0, 4, (120, 1)) + 3).astype(np.float32)


def test_every_cell_comes_first_at_no_distance() -> None:
    cells = _cells()
    cells[7] = cells[90]
    rows, distances = find_nearest_rows(cells, 15)
    assert rows.shape == distances.shape == (120, 15)
    np.testing.assert_array_equal(rows[:, 0], np.arange(120))
    assert not distances[:, 0].any()
    assert rows[7, 1] == 90
    every = np.linalg.norm(cells[:, None].astype(np.float64) - cells[None], axis=2)
    np.testing.assert_allclose(distances, np.sort(every, axis=1)[:, :15], atol=1e-5)


@pytest.mark.slow
def test_umap_makes_of_them_what_it_makes_of_its_own() -> None:
    from umap.umap_ import fuzzy_simplicial_set

    cells = _cells()
    rows, distances = find_nearest_rows(cells, 15)
    own = fuzzy_simplicial_set(cells, 15, np.random.RandomState(0), "euclidean")[0]
    ours = fuzzy_simplicial_set(
        cells, 15, np.random.RandomState(0), "euclidean", knn_indices=rows, knn_dists=distances
    )[0]
    np.testing.assert_allclose(ours.toarray(), own.toarray(), atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_groups_of_few_cells_are_no_specks_on_the_map() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(4), 20)
    embeddings = (3 * rng.normal(size=(4, 64))[group] + rng.normal(size=(80, 64))).astype(np.float32)
    positions = project_cells(embeddings, seed=0).positions
    parts = [positions[group == number] for number in range(4)]
    assert all(0.09 < np.ptp(part, axis=0).max() < 0.3 for part in parts)
    middles = np.stack([part.mean(axis=0) for part in parts])
    apart = np.linalg.norm(middles[:, None] - middles, axis=2)[np.triu_indices(4, 1)]
    assert apart.min() > 0.3
    few = project_cells(embeddings[::5], seed=0).positions  # four of each
    apart = np.linalg.norm(few[:, None] - few, axis=2)
    assert np.median(np.sort(apart, axis=1)[:, 1]) > 0.17


THREADS = """
import numpy as np, sys
from subcell_hf.report.projection import project_cells
if "torch" in sys.argv:
    import torch
    torch.set_num_threads(3)
project_cells(np.random.default_rng(0).normal(size=(40, 8)).astype("f4"), 0)
import numba, torch
print(numba.threading_layer(), torch.get_num_threads())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("first", "threads"), [("torch", 3), ("numba", 1)])
def test_a_map_leaves_the_number_of_torchs_threads(first: str, threads: int) -> None:
    """Whichever of the two is imported first."""
    run = subprocess.run(
        [sys.executable, "-c", THREADS, first],
        env=os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.split()[-1] == str(threads)
