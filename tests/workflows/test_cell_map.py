"""Cells of a kind lie in one cluster, and the chosen rows of a large table are on its map."""

import numpy as np
import pytest

from subcell_hf.errors import InputError
from subcell_hf.workflows import map_cells
from subcell_hf.workflows.answers.cell_map import cluster_cells
from tests.evaluation.annotation.sorted_cells import sorted_cells


def test_clusters_are_kinds() -> None:
    table, kinds = sorted_cells(120, spread=0.3)
    clusters = cluster_cells(table.embeddings, seed=1)
    np.testing.assert_array_equal(clusters, cluster_cells(table.embeddings, seed=1))
    of_kind = {kind: {*clusters[np.array(kinds) == kind].tolist()} for kind in dict.fromkeys(kinds)}
    assert not set.intersection(*of_kind.values())
    assert {*clusters.tolist()} == set.union(*of_kind.values())
    assert np.bincount(clusters)[1] == np.bincount(clusters).max()


def test_a_large_table_is_sampled_around_the_rows_that_are_asked_for() -> None:
    table, _ = sorted_cells(60)
    mapped = map_cells(table, always=[58, 3, 59], max_cells=12)
    assert len(mapped.rows) == 12
    assert {3, 58, 59} <= {*mapped.rows.tolist()}
    assert (np.diff(mapped.rows) > 0).all()
    again = map_cells(table.select(mapped.rows))
    np.testing.assert_array_equal(mapped.positions, again.positions)
    np.testing.assert_array_equal(mapped.clusters, again.clusters)


def test_few_cells_are_one_cluster_and_none_are_refused() -> None:
    table, _ = sorted_cells(60)
    assert map_cells(table.select([0, 1])).clusters.tolist() == [1, 1]
    with pytest.raises(InputError, match="no cells, expected at least one"):
        map_cells(table.select([]))
