"""Clusters within clusters of genes: Leiden (Traag et al. 2019) at rising resolutions, or HiDeF's consensus."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csr_matrix, diags_array

from subcell_hf.errors import InputError

DEFAULT_RESOLUTIONS = (0.01, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
ROOT = "all"

_RUNS = 10


@dataclass(frozen=True)
class Cluster:
    """A set of genes in a hierarchy.

    Attributes:
        name: `"all"` for the root; below it places by size, such as `"2.1"`: the largest part of the second largest.
        parents: Names of the clusters directly around it; none for the root, several only in HiDeF's hierarchies.
        members: Rows of its genes, ascending.
        resolution: At which it first appears; 0 for the root.
        persistence: At how many resolutions it was seen.
    """

    name: str
    parents: tuple[str, ...]
    members: npt.NDArray[np.intp]
    resolution: float
    persistence: int = 1


@dataclass(frozen=True)
class Hierarchy:
    """Clusters, parents before children.

    Attributes:
        clusters: The first is the root.
        levels: Resolution → cluster number of every gene at it, int64 [levels, genes]; none for HiDeF.
        resolutions: Of the levels.
    """

    clusters: tuple[Cluster, ...]
    levels: npt.NDArray[np.int64]
    resolutions: tuple[float, ...]

    def is_tree(self) -> bool:
        """Whether no cluster has two parents."""
        return all(len(cluster.parents) <= 1 for cluster in self.clusters)

    def depth(self, name: str) -> int:
        """Steps from the root, along the longest way."""
        by_name = {cluster.name: cluster for cluster in self.clusters}
        parents = by_name[name].parents
        return 1 + max(self.depth(parent) for parent in parents) if parents else 0


def nested_leiden(
    connectivities: Any, resolutions: Sequence[float] = DEFAULT_RESOLUTIONS, *, min_size: int = 4, seed: int = 0
) -> Hierarchy:
    """Cluster a graph again and again, each time within the clusters of the resolution before.

    At each resolution γ the partition maximises modularity, Σ over pairs of a cluster (A_ij − γ k_i k_j / 2m), with
    the degrees of the whole graph but without the edges that earlier cuts removed, so that a cluster falls apart only
    where Leiden on the whole graph would part it, and clusters are nested by construction.

    Args:
        connectivities: Symmetric non-negative weights [genes, genes], scipy sparse.
        resolutions: Rising.
        min_size: Smaller parts do not become clusters: their genes stay with the parent.
        seed: Same graph, same seed, same clusters.

    Raises:
        InputError: If resolutions do not rise or the graph has no edges.
    """
    rising = list(resolutions)
    if not rising or rising != sorted(set(rising)) or rising[0] <= 0:
        raise InputError(f"Resolutions must be positive and rise, got {', '.join(map(str, rising)) or 'none'}.")
    edges = coo_array(connectivities)
    if not edges.nnz:
        raise InputError("The graph of genes has no edges.")
    levels = []
    membership = np.zeros(edges.shape[0], dtype=np.int64)
    for resolution in rising:
        membership = _partition(edges, membership, resolution, seed)
        levels.append(membership)
    stacked = np.stack(levels)
    return Hierarchy(_nested_clusters(stacked, rising, min_size), stacked, tuple(rising))


def leiden_partition(connectivities: Any, resolution: float, seed: int = 0) -> npt.NDArray[np.int64]:
    """Cluster genes at a single resolution, as scanpy's Leiden does.

    Args:
        connectivities: Sparse weights [genes, genes].
        resolution: Higher values give more clusters.
        seed: Seed of the random order of genes.

    Returns:
        int64 [genes]: number of the cluster, the largest cluster first.
    """
    return _partition(coo_array(connectivities), np.zeros(connectivities.shape[0], dtype=np.int64), resolution, seed)


def _partition(edges: coo_array, parts: npt.NDArray[np.int64], resolution: float, seed: int) -> npt.NDArray[np.int64]:
    """Leiden within given parts, the best of several runs; numbered by size, of equals the one with the first gene."""
    from sknetwork.clustering import Leiden

    inside = parts[edges.row] == parts[edges.col]
    kept = (edges.data[inside], (edges.row[inside], edges.col[inside]))
    graph = csr_matrix(kept, shape=edges.shape, dtype=np.float64)
    # What a gene has lost by earlier cuts becomes a loop to itself: its degree stays that of the whole graph.
    degrees = np.bincount(edges.row, edges.data, minlength=len(parts))
    graph += csr_matrix(diags_array(degrees - graph.sum(axis=1).A1))
    best, membership = -np.inf, parts
    for run in range(_RUNS):
        # Tolerances are shares of the modularity; at the default ones it stops before small clusters are settled.
        leiden = Leiden(
            resolution,
            modularity="newman",
            tol_optimization=1e-9,
            tol_aggregation=1e-9,
            shuffle_nodes=True,
            random_state=seed * _RUNS + run,
        )
        found = leiden.fit_predict(graph).astype(np.int64)
        joined = inside & (found[edges.row] == found[edges.col])
        weights = np.bincount(found, degrees)
        quality = edges.data[joined].sum() - resolution * (weights**2).sum() / degrees.sum()
        if quality > best + 1e-12:
            best, membership = quality, found
    _, firsts, inverse, counts = np.unique(membership, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.lexsort((firsts, -counts))] = np.arange(len(counts))
    return rank[inverse]


def _nested_clusters(levels: npt.NDArray[np.int64], resolutions: Sequence[float], min_size: int) -> tuple[Cluster, ...]:
    """Distinct clusters of all levels; one that stays whole over several levels is one cluster."""
    clusters = [Cluster(ROOT, (), np.arange(levels.shape[1]), 0.0)]
    persistence = {ROOT: 1}
    current = {ROOT: clusters[0]}
    for level, resolution in zip(levels, resolutions, strict=True):
        following = {}
        for name, parent in current.items():
            numbers, counts = np.unique(level[parent.members], return_counts=True)
            large = numbers[counts >= min_size]
            if len(large) < 2:
                # It stays whole but for stragglers, which remain its members and go no further down.
                persistence[name] += 1
                rest = parent.members[level[parent.members] == large[0]] if len(large) else parent.members[:0]
                following[name] = replace(parent, members=rest)
                continue
            for place, number in enumerate(large, start=1):
                child_name = str(place) if name == ROOT else f"{name}.{place}"
                members = parent.members[level[parent.members] == number]
                child = Cluster(child_name, (name,), members, resolution)
                clusters.append(child)
                persistence[child_name] = 1
                following[child_name] = child
        current = following
    return tuple(
        replace(c, persistence=persistence[c.name]) for c in sorted(clusters, key=lambda cluster: _order(cluster.name))
    )


def _order(name: str) -> tuple[int, ...]:
    """Depth first."""
    return () if name == ROOT else tuple(int(part) for part in name.split("."))
