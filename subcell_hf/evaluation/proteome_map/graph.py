"""Genes as a graph of neighbours, and as points of a plane, both by UMAP (McInnes et al. 2018)."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from subcell_hf.errors import InputError
from subcell_hf.extras import import_compiled, run_compiled
from subcell_hf.tables.nearest_rows import find_nearest_rows

MIN_GENES = 5

_BRIDGES = 5
_BRIDGE_SHARE = 0.003


@dataclass(frozen=True)
class GeneGraph:
    """Which genes are near to each other.

    Attributes:
        connectivities: Symmetric weights in [0, 1], scipy CSR [genes, genes]; connected, see `bridge_pieces`.
        positions: UMAP, float32 [genes, 2].
        neighbours: How many each gene was connected with.
        pieces: Into how many pieces the graph fell before they were bridged.
    """

    connectivities: Any
    positions: npt.NDArray[np.float32]
    neighbours: int
    pieces: int = 1


def neighbour_graph(embeddings: npt.NDArray[np.float64], *, neighbours: int, metric: str, seed: int) -> GeneGraph:
    """Connect each gene with its nearest others, found exactly, and lay the graph out.

    Args:
        embeddings: float64 [genes, components].
        neighbours: The gene itself counts as one; fewer where there are fewer genes.
        metric: `"cosine"` or `"euclidean"`.
        seed: Of the layout.

    Raises:
        InputError: If there are fewer than `MIN_GENES` genes, or numbers are out of range.
    """
    if len(embeddings) < MIN_GENES:
        raise InputError(f"A map needs at least {MIN_GENES} genes, got {len(embeddings)}.")
    if neighbours < 2:
        raise InputError(f"A gene must have at least 2 neighbours, including itself; got {neighbours}.")
    if metric not in ("cosine", "euclidean"):
        raise InputError(f"Unknown metric {metric!r}: choose cosine or euclidean.")
    neighbours = min(neighbours, len(embeddings) - 1)
    layout = run_compiled(lambda: _lay_out(embeddings.astype(np.float32), neighbours, metric, seed))
    connectivities, pieces = bridge_pieces(layout.graph_.tocsr(), embeddings, metric)
    return GeneGraph(
        connectivities=connectivities,
        positions=np.asarray(layout.embedding_, dtype=np.float32),
        neighbours=neighbours,
        pieces=pieces,
    )


def _lay_out(points: npt.NDArray[np.float32], neighbours: int, metric: str, seed: int) -> Any:
    """UMAP, fitted to the genes."""
    umap = import_compiled("umap.umap_")
    layout = umap.UMAP(
        n_neighbors=neighbours,
        metric=metric,
        min_dist=0.5,
        random_state=seed,
        n_jobs=1,
        precomputed_knn=find_nearest_rows(points, neighbours, metric),
        force_approximation_algorithm=True,  # else UMAP searches on its own where genes are few
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*precomputed_knn")  # no other genes are to be laid out
        layout.fit(points)
    return layout


def bridge_pieces(connectivities: Any, embeddings: npt.NDArray[np.float64], metric: str) -> tuple[Any, int]:
    """Connect the pieces of a graph weakly with those near to them, so that coarse clusters can hold several.

    Groups of more genes than a gene has neighbours may have no edge between them, and no clustering of the graph could
    then say which of them are alike. Every gene of a piece gets an edge to the nearest gene of each of the nearest
    pieces, of weight 0.003 × degree × (distance of the nearest piece / distance of this piece)². Of P pieces of one
    size those that are near then join below a resolution of about 0.003 P: a few pieces, which are coarse already, stay
    apart. At higher resolutions the bridges are too weak to matter. A connected graph stays as it is.

    Args:
        connectivities: Symmetric weights, scipy CSR [genes, genes].
        embeddings: float64 [genes, components].
        metric: `"cosine"` or `"euclidean"`.

    Returns:
        The graph with its bridges, and how many pieces it had.
    """
    count, piece = connected_components(connectivities, directed=False)
    if count == 1:
        return connectivities, 1
    points = embeddings
    if metric == "cosine":
        points = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    degrees = np.asarray(connectivities.sum(axis=1), dtype=np.float64).ravel()
    members = [np.flatnonzero(piece == number) for number in range(count)]
    distances = cdist(*[np.stack([points[rows].mean(axis=0) for rows in members])] * 2)
    np.fill_diagonal(distances, np.inf)
    sources, targets, weights = [], [], []
    for number, rows in enumerate(members):
        for other in np.argsort(distances[number], kind="stable")[: min(_BRIDGES, count - 1)]:
            nearest = members[other][cdist(points[rows], points[members[other]]).argmin(axis=1)]
            ratio = distances[number].min() / max(float(distances[number, other]), 1e-12)
            sources.append(rows)
            targets.append(nearest)
            weights.append(degrees[rows] * _BRIDGE_SHARE * min(ratio, 1.0) ** 2)
    edges = (np.concatenate(weights), (np.concatenate(sources), np.concatenate(targets)))
    bridges = csr_array(edges, shape=connectivities.shape)
    bridged = csr_array(connectivities).maximum(bridges).maximum(bridges.T)
    return bridged, int(count)
