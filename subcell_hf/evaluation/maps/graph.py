"""Genes as a graph of neighbours, and as points of a plane; scanpy does both."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError

MIN_GENES = 5


@dataclass(frozen=True)
class GeneGraph:
    """Which genes are near to each other.

    Attributes:
        connectivities: Symmetric weights in [0, 1], scipy CSR [genes, genes].
        positions: UMAP, float32 [genes, 2].
        neighbours: How many each gene was connected with.
    """

    connectivities: Any
    positions: npt.NDArray[np.float32]
    neighbours: int


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
        raise InputError(f"A gene must have at least 2 neighbours, itself among them; got {neighbours}.")
    if metric not in ("cosine", "euclidean"):
        raise InputError(f"Unknown metric {metric!r}: choose cosine or euclidean.")
    import anndata
    import scanpy

    neighbours = min(neighbours, len(embeddings) - 1)
    genes = anndata.AnnData(embeddings.astype(np.float32))
    scanpy.pp.neighbors(
        genes, n_neighbors=neighbours, use_rep="X", metric=metric, transformer="sklearn", random_state=seed
    )
    scanpy.tl.umap(genes, random_state=seed)
    return GeneGraph(
        connectivities=genes.obsp["connectivities"].tocsr(),
        positions=np.asarray(genes.obsm["X_umap"], dtype=np.float32),
        neighbours=neighbours,
    )
