"""Cells of three kinds, in fields of their own, whose embeddings lie apart but not without exceptions."""

import numpy as np
import pandas as pd

from subcell_hf.tables.files import EmbeddingTable

KINDS = ("dots", "rings", "threads")
PROVENANCE = {"models": [{"name": "tiny", "revision": "abc", "weights_sha256": "0123456789abcdef"}]}


def sorted_cells(cells: int = 300, width: int = 24, spread: float = 1.0) -> tuple[EmbeddingTable, list[str]]:
    """A table with 10 fields in 5 wells, and the kind of each cell; every sixth cell is of the third kind."""
    rng = np.random.default_rng(5)
    kinds = np.where(np.arange(cells) % 6 == 5, 2, np.arange(cells) % 2)
    places = np.arange(cells) // 3 % 10
    embeddings = rng.normal(size=(3, width))[kinds] * 2 + rng.normal(size=(cells, width)) * spread
    embeddings += rng.normal(size=(10, width))[places] * 0.3
    frame = pd.DataFrame(
        {
            "cell_id": [f"cell {number}" for number in range(cells)],
            "field_of_view": [f"field {place}" for place in places],
            "plate": "P1",
            "well": [f"A{1 + place // 2:02d}" for place in places],
        }
    )
    return EmbeddingTable(frame, embeddings.astype(np.float32), provenance=PROVENANCE), [KINDS[kind] for kind in kinds]
