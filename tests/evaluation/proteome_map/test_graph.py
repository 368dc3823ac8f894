import numpy as np
import pytest
from scipy.sparse import block_diag, csr_array
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import adjusted_rand_score

from subcell_hf.errors import InputError
from subcell_hf.evaluation.proteome_map.graph import bridge_pieces, neighbour_graph
from subcell_hf.evaluation.proteome_map.hierarchy import nested_leiden

SIZE = 12


def separate_parts() -> tuple[csr_array, np.ndarray, np.ndarray]:
    """Nine complete graphs without an edge between them, at three places."""
    generator = np.random.default_rng(0)
    part = np.repeat(np.arange(9), SIZE)
    means = 4 * generator.normal(size=(3, 10))[np.arange(9) // 3] + generator.normal(size=(9, 10))
    points = means[part] + 0.1 * generator.normal(size=(len(part), 10))
    whole = np.ones((SIZE, SIZE)) - np.eye(SIZE)
    return csr_array(block_diag([whole] * 9)), points, part


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_pieces_are_bridged_with_those_near_to_them(metric: str) -> None:
    graph, points, part = separate_parts()
    bridged, pieces = bridge_pieces(graph, points, metric)
    assert pieces == 9
    assert connected_components(bridged, directed=False)[0] == 1
    assert abs(bridged - bridged.T).max() == 0
    added = (bridged - graph).tocoo()
    assert added.data.max() <= 0.003 * (SIZE - 1) + 1e-12
    near = part[added.row] // 3 == part[added.col] // 3
    assert added.data[near].sum() > 5 * added.data[~near].sum()


def test_bridges_show_the_places_and_leave_the_parts() -> None:
    graph, points, part = separate_parts()
    unbridged = nested_leiden(graph, (0.015, 1.0)).levels
    assert [level.max() + 1 for level in unbridged] == [9, 9]
    coarse, fine = nested_leiden(bridge_pieces(graph, points, "cosine")[0], (0.015, 1.0)).levels
    assert adjusted_rand_score(part // 3, coarse) == 1.0
    assert adjusted_rand_score(part, fine) == 1.0


def test_a_connected_graph_stays_as_it_is() -> None:
    graph = csr_array(np.ones((4, 4)) - np.eye(4))
    bridged, pieces = bridge_pieces(graph, np.eye(4), "cosine")
    assert bridged is graph
    assert pieces == 1


def test_wrong_settings_are_refused() -> None:
    points = np.random.default_rng(0).normal(size=(8, 3))
    with pytest.raises(InputError, match="at least 5 genes, got 4"):
        neighbour_graph(points[:4], neighbours=3, metric="cosine", seed=0)
    with pytest.raises(InputError, match="at least 2 neighbours"):
        neighbour_graph(points, neighbours=1, metric="cosine", seed=0)
    with pytest.raises(InputError, match="Unknown metric 'l3'"):
        neighbour_graph(points, neighbours=3, metric="l3", seed=0)
