"""Exact k-nearest neighbours among embeddings, as input of UMAP."""

import numpy as np
import numpy.typing as npt


def find_nearest_rows(
    points: npt.NDArray[np.float32], neighbours: int, metric: str = "euclidean"
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Find the k-nearest neighbours of every row.

    Args:
        points: `[rows, width]`.
        neighbours: How many for each row, itself included; at least 2, at most all rows.
        metric: `"euclidean"` or `"cosine"`.

    Returns:
        Numbers of the rows and distances, `[rows, neighbours]` each. A row is its own first neighbour at a distance of
        exactly 0: UMAP would take rounding in its place for the distance of the nearest other row.
    """
    from sklearn.neighbors import NearestNeighbors

    others = NearestNeighbors(n_neighbors=neighbours - 1, metric=metric, algorithm="brute").fit(points)
    distances, rows = others.kneighbors()
    count = len(points)
    return np.column_stack([np.arange(count), rows]), np.column_stack([np.zeros(count), distances]).astype(np.float32)
