from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scanpy
from anndata import AnnData
from scipy.sparse import csr_array
from sklearn.metrics import adjusted_rand_score

from subcell_hf.errors import InputError
from subcell_hf.evaluation.proteome_map.consensus import persistent_communities
from subcell_hf.evaluation.proteome_map.hierarchy import ROOT, leiden_partition, nested_leiden


def planted_graph(per_part: int = 15, seed: int = 0) -> tuple[csr_array, np.ndarray, np.ndarray]:
    """Three places of three parts: edges are likely within a part, rarer within a place, rare elsewhere."""
    generator = np.random.default_rng(seed)
    part = np.repeat(np.arange(9), per_part)
    place = part // 3
    likely = 0.004 + 0.06 * (place[:, None] == place[None, :]) + 0.6 * (part[:, None] == part[None, :])
    upper = np.triu(generator.random(likely.shape) < likely, k=1) * generator.uniform(0.5, 1, size=likely.shape)
    return csr_array(upper + upper.T), place, part


def modularity(graph: csr_array, membership: np.ndarray, resolution: float) -> float:
    """Of Reichardt and Bornholdt, written down plainly."""
    dense = graph.toarray()
    degrees = dense.sum(axis=1)
    same = membership[:, None] == membership[None, :]
    return float(((dense - resolution * np.outer(degrees, degrees) / degrees.sum()) * same).sum() / degrees.sum())


@pytest.mark.parametrize("resolution", [0.5, 1.0, 3.0])
def test_a_single_level_is_scanpys_leiden(resolution: float) -> None:
    graph, _, _ = planted_graph()
    table = AnnData(np.zeros((graph.shape[0], 1), dtype=np.float32))
    scanpy.tl.leiden(
        table,
        resolution=resolution,
        adjacency=graph,
        flavor="leidenalg",
        n_iterations=-1,
        directed=False,
        random_state=0,
    )
    theirs = table.obs["leiden"].to_numpy().astype(int)
    ours = leiden_partition(graph, resolution)
    assert adjusted_rand_score(ours, theirs) > 0.98
    assert modularity(graph, ours, resolution) >= modularity(graph, theirs, resolution) - 1e-6


def test_leiden_on_protein_locations_is_scanpys(label_tables: Path) -> None:
    """Genes of the Human Protein Atlas, near to each other where they share locations."""
    rows = pd.read_csv(label_tables / "hpa_subcellular_location.tsv.gz", sep="\t")
    rows = rows[rows["Reliability"] == "Enhanced"].head(600)
    located = rows["Main location"].str.get_dummies(";")
    generator = np.random.default_rng(0)
    table = AnnData((located.to_numpy() + 0.05 * generator.normal(size=located.shape)).astype(np.float32))
    scanpy.pp.neighbors(table, n_neighbors=15, use_rep="X", metric="cosine", transformer="sklearn", random_state=0)
    scanpy.tl.leiden(table, resolution=1.0, flavor="leidenalg", n_iterations=-1, directed=False, random_state=0)
    theirs = table.obs["leiden"].to_numpy().astype(int)
    ours = leiden_partition(table.obsp["connectivities"], 1.0)
    assert modularity(table.obsp["connectivities"], ours, 1.0) == pytest.approx(
        modularity(table.obsp["connectivities"], theirs, 1.0), abs=2e-3
    )
    assert adjusted_rand_score(ours, theirs) > 0.85


def test_the_planted_hierarchy_is_found_and_nested() -> None:
    graph, place, part = planted_graph()
    hierarchy = nested_leiden(graph, (0.2, 0.5, 1.0, 2.0, 4.0))
    scores = [(adjusted_rand_score(place, level), adjusted_rand_score(part, level)) for level in hierarchy.levels]
    print("adjusted Rand indices with places and parts:", scores)
    assert max(score for score, _ in scores) == 1.0
    assert max(score for _, score in scores) > 0.95
    for above, below in zip(hierarchy.levels, hierarchy.levels[1:], strict=False):
        assert len(set(zip(above, below, strict=True))) == below.max() + 1  # each lies in one of the level above
    by_name = {cluster.name: cluster for cluster in hierarchy.clusters}
    assert hierarchy.clusters[0].name == ROOT
    assert hierarchy.is_tree()
    for cluster in hierarchy.clusters[1:]:
        assert set(cluster.members) < set(by_name[cluster.parents[0]].members)
        assert len(cluster.members) >= 4
        assert hierarchy.depth(cluster.name) == hierarchy.depth(cluster.parents[0]) + 1
    assert {cluster.name for cluster in hierarchy.clusters if hierarchy.depth(cluster.name) == 1} == {"1", "2", "3"}


def test_the_same_seed_gives_the_same_clusters() -> None:
    graph, _, _ = planted_graph()
    first, second = nested_leiden(graph, seed=1), nested_leiden(graph, seed=1)
    assert (first.levels == second.levels).all()
    assert [cluster.name for cluster in first.clusters] == [cluster.name for cluster in second.clusters]


def test_edges_dealt_out_anew_hold_nothing_of_what_was_planted() -> None:
    graph, place, part = planted_graph()
    order = np.random.default_rng(0).permutation(graph.shape[0])
    levels = nested_leiden(graph[order][:, order]).levels
    for level in levels:
        assert abs(adjusted_rand_score(place, level)) < 0.1
        assert abs(adjusted_rand_score(part, level)) < 0.1


def test_small_parts_stay_with_their_parent() -> None:
    pairs = np.kron(np.eye(4), np.ones((3, 3))) - np.eye(12)  # four separate triangles
    hierarchy = nested_leiden(csr_array(pairs), (1.0,), min_size=4)
    assert [cluster.name for cluster in hierarchy.clusters] == [ROOT]
    assert len(nested_leiden(csr_array(pairs), (1.0,), min_size=3).clusters) == 5


def test_wrong_resolutions_are_refused() -> None:
    graph, _, _ = planted_graph()
    with pytest.raises(InputError, match=r"must be positive and rise, got 2\.0, 1\.0"):
        nested_leiden(graph, (2.0, 1.0))
    with pytest.raises(InputError, match="no edges"):
        nested_leiden(csr_array((3, 3)))


def test_hidef_finds_the_planted_hierarchy() -> None:
    pytest.importorskip("hidef")
    graph, place, part = planted_graph()
    hierarchy = persistent_communities(graph, lowest=0.2, highest=4.0)
    found = {tuple(cluster.members.tolist()) for cluster in hierarchy.clusters}
    assert tuple(range(len(place))) in found
    assert sum(tuple(np.flatnonzero(place == number).tolist()) in found for number in range(3)) == 3
    assert sum(tuple(np.flatnonzero(part == number).tolist()) in found for number in range(9)) >= 6
    assert all(cluster.parents for cluster in hierarchy.clusters[1:])
    again = persistent_communities(graph, lowest=0.2, highest=4.0)
    assert [c.members.tolist() for c in again.clusters] == [c.members.tolist() for c in hierarchy.clusters]
    with pytest.raises(InputError, match="No community persists over 500"):
        persistent_communities(graph, lowest=0.2, highest=0.3, persistence=500)
