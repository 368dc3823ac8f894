"""Embeddings of cells → a map in two dimensions."""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.extras import import_compiled, run_compiled
from subcell_hf.tables.nearest_rows import find_nearest_rows

FEWEST_FOR_UMAP = 15
_COMPONENTS = 50
_CELLS_THAT_FILL_A_MAP = 900

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CellMap:
    """Where each cell lies on the map.

    Attributes:
        positions: `[cells, 2]` float32 in [0, 1], y upwards, one scale for both.
        method: In words, for the caption.
    """

    positions: npt.NDArray[np.float32]
    method: str


def comparable_embeddings(
    embeddings: npt.NDArray[np.float32], provenance: Mapping[str, Any]
) -> tuple[npt.NDArray[np.float32], bool]:
    """The embeddings of cells as pages compare them by their cosine.

    Those of SubCell models are compared as they are. Numbers of another encoder may have units, and the largest would
    decide alone: each is standardized over the cells.

    Args:
        embeddings: `[cells, width]`.
        provenance: Of the table, see `EmbeddingTable`.

    Returns:
        `[cells, width]`, and whether they were standardized.
    """
    if not any("encoder" in model for model in provenance.get("models", ())):
        return embeddings, False
    spread = embeddings.std(axis=0, dtype=np.float64).astype(np.float32)
    values = embeddings - embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
    values /= np.where(spread > 0, spread, 1)
    return values, True


def project_cells(embeddings: npt.NDArray[np.float32], seed: int) -> CellMap:
    """Lay cells out by UMAP (McInnes et al. 2018, doi 10.21105/joss.00861) on the cosine of their embeddings.

    Embeddings are brought to length 1, reduced to 50 principal components, and laid out with 15 neighbours, or fewer
    where there are few cells. Below 15 cells, neighbours mean little: the first two principal components are shown. So
    they are, with a warning, where UMAP cannot run, such as where numba can write its compiled code nowhere.

    Args:
        embeddings: `[cells, width]`, at least one cell.
        seed: Same seed and library versions, same map.
    """
    cells = len(embeddings)
    directions = _directions(embeddings)
    components = _principal_components(directions, seed)
    if cells < FEWEST_FOR_UMAP:
        method = f"PCA, since {cells} cells are too few for UMAP ({FEWEST_FOR_UMAP} are needed)"
        return CellMap(_fit_square(components[:, :2]), method)
    if not np.ptp(directions, axis=0).any():
        return CellMap(_fit_square(components[:, :2]), "all embeddings are equal")
    neighbours = min(15, cells - 1)
    try:
        positions = run_compiled(lambda: _lay_out(components, neighbours, seed))
    except (ImportError, OSError, RuntimeError) as error:
        reason = f"UMAP cannot run here ({' '.join(str(error).split())})"
        _logger.warning("The map of cells shows principal components, since %s.", reason)
        return CellMap(_fit_square(components[:, :2]), f"PCA, since {reason}")
    return CellMap(
        _fit_square(positions), f"UMAP of the cosine between embeddings, {neighbours} neighbours, seed {seed}"
    )


def direction_components(embeddings: npt.NDArray[np.float32], seed: int) -> npt.NDArray[np.float32]:
    """Up to 50 principal components of embeddings of length 1, whose distances order cells as the cosine does.

    Args:
        embeddings: `[cells, width]`, at least one cell.
        seed: Of the decomposition.

    Returns:
        `[cells, components]`.
    """
    return _principal_components(_directions(embeddings), seed)


def _directions(embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return (embeddings / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)


def _lay_out(components: npt.NDArray[np.float32], neighbours: int, seed: int) -> npt.NDArray[np.float32]:
    """Positions of cells by UMAP, `[cells, 2]`."""
    umap = import_compiled("umap.umap_")
    # UMAP begins on a square of one size. Few cells would shrink to specks on it; they take more room each: its curve
    # 1 / (1 + a · distance ^ 2b), of distances that count as near, is stretched.
    room = max(1.0, (_CELLS_THAT_FILL_A_MAP / len(components)) ** 0.5)
    a, b = umap.find_ab_params(spread=1.0, min_dist=0.15)
    layout = umap.UMAP(
        n_neighbors=neighbours,
        a=a / room ** (2 * b),
        b=b,
        metric="euclidean",  # of unit vectors, which orders cells as the cosine does
        init=components[:, :2] / max(float(np.abs(components[:, :2]).max()), 1e-9) * 10,
        random_state=seed,
        n_jobs=1,
        precomputed_knn=find_nearest_rows(components, neighbours),  # UMAP's own search compiles for ten seconds
        force_approximation_algorithm=True,  # else UMAP searches on its own where cells are few
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*precomputed_knn")  # no other cells are to be laid out
        positions: Any = layout.fit_transform(components)
    return np.asarray(positions, dtype=np.float32)


def _principal_components(values: npt.NDArray[np.float32], seed: int) -> npt.NDArray[np.float32]:
    """Up to 50 principal components, at least two columns."""
    if len(values) < 2:
        return np.zeros((len(values), 2), np.float32)
    count = min(_COMPONENTS, *values.shape)
    if len(values) < FEWEST_FOR_UMAP:
        left, scales, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
        components = (left * scales)[:, :count]
    else:
        from sklearn.decomposition import PCA  # a second that a page of few cells saves

        components = PCA(count, svd_solver="randomized", random_state=seed).fit_transform(values)
    if count < 2:
        components = np.hstack([components, np.zeros((len(values), 2 - count))])
    return np.asarray(components, dtype=np.float32)


def _fit_square(positions: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Shift and scale into the unit square, the same scale along both axes."""
    low, high = positions.min(axis=0), positions.max(axis=0)
    extent = max(float((high - low).max()), 1e-9)
    return np.asarray((positions - (low + high) / 2) / extent + 0.5, dtype=np.float32)
