"""The cells of a table on a map, and in clusters: what plots of other programs show."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from subcell_hf.errors import InputError
from subcell_hf.evaluation.proteome_map.hierarchy import leiden_partition
from subcell_hf.report.projection import comparable_embeddings, direction_components, project_cells
from subcell_hf.tables.embedding_table import EmbeddingTable
from subcell_hf.tables.nearest_rows import find_nearest_rows
from subcell_hf.workflows.tables import MOST_CELLS_SHOWN

_NEIGHBOURS = 15


@dataclass(frozen=True)
class MappedCells:
    """Cells on a map.

    Attributes:
        rows: `[cells]`, their rows in the table, rising.
        positions: `[cells, 2]` float32 in [0, 1], y upwards.
        clusters: `[cells]`, number of the cluster from 1, the largest first.
        method: How the map was made, in words.
    """

    rows: npt.NDArray[np.int64]
    positions: npt.NDArray[np.float32]
    clusters: npt.NDArray[np.int64]
    method: str


def map_cells(
    table: EmbeddingTable,
    *,
    always: Sequence[int] = (),
    max_cells: int = MOST_CELLS_SHOWN,
    resolution: float = 1.0,
    seed: int = 0,
) -> MappedCells:
    """Lay cells out by UMAP as the report does, and cluster them.

    Clusters are those of Leiden (Traag et al. 2019, doi 10.1038/s41598-019-41695-z) on the graph that connects each
    cell with its 15 k-nearest neighbours by the cosine.

    Args:
        table: Cells with embeddings.
        always: Rows that are on the map also where a table has more than `max_cells`; others are drawn at random.
        max_cells: Maximum number of cells.
        resolution: Of the clusters; higher values give more.
        seed: Same table, same seed, same map.

    Returns:
        Rows, positions and clusters.

    Raises:
        InputError: If the table has no cell.
    """
    if not len(table):
        raise InputError("The table has no cells, expected at least one. Embed images first.")
    rows = _choose_rows(len(table), always, max_cells, seed)
    embeddings, _ = comparable_embeddings(table.embeddings[rows], table.provenance)
    cell_map = project_cells(embeddings, seed)
    return MappedCells(rows, cell_map.positions, cluster_cells(embeddings, resolution, seed), cell_map.method)


def _choose_rows(count: int, always: Sequence[int], max_cells: int, seed: int) -> npt.NDArray[np.int64]:
    if count <= max_cells:
        return np.arange(count)
    kept = np.unique(np.asarray(always, np.int64))[:max_cells]
    others = np.setdiff1d(np.arange(count), kept, assume_unique=True)
    drawn = np.random.default_rng(seed).choice(others, max_cells - len(kept), replace=False)
    return np.sort(np.concatenate([kept, drawn]))


def cluster_cells(embeddings: npt.NDArray[np.float32], resolution: float = 1.0, seed: int = 0) -> npt.NDArray[np.int64]:
    """Cluster cells by Leiden, see `map_cells`.

    Args:
        embeddings: `[cells, width]`, at least one cell.
        resolution: Higher values give more clusters.
        seed: Same embeddings, same seed, same clusters.

    Returns:
        `[cells]`, number of the cluster from 1, the largest first.
    """
    count = len(embeddings)
    if count < 3:
        return np.ones(count, np.int64)
    near, _ = find_nearest_rows(direction_components(embeddings, seed), min(_NEIGHBOURS, count - 1) + 1)
    sources = np.repeat(np.arange(count), near.shape[1] - 1)
    edges = csr_array((np.ones(len(sources)), (sources, near[:, 1:].ravel())), shape=(count, count))
    return leiden_partition(edges + edges.T, resolution, seed) + 1
