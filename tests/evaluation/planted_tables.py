"""Small embedding tables whose embeddings know the locations as well as they are told to."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.tables.files import EmbeddingTable

LOCATIONS = ("Nucleoplasm", "Cytosol", "Mitochondria", "Golgi apparatus")
SPLITS = ("train", "train", "train", "validation", "test", "test")


def planted_cells(antibodies: int = 48, cells_per_antibody: int = 8, seed: int = 0) -> pd.DataFrame:
    """Antibodies of one gene each, with one or two locations; two fields each, four plates, two cell lines."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(antibodies):
        places = rng.choice(LOCATIONS, size=1 + number % 2, replace=False)
        for cell in range(cells_per_antibody):
            field = f"{number % 4}_A{number}_{cell % 2}"
            rows.append(
                {
                    "cell_id": f"{field}_{cell}",
                    "field_of_view": field,
                    "antibody": f"HPA{number:06d}",
                    "gene": f"G{number}",
                    "locations": ";".join(places),
                    "cell_line": ("U2OS", "A-431")[cell % 2],
                    "plate": str(number // len(SPLITS) % 4),
                    "split": SPLITS[number % len(SPLITS)],
                }
            )
    return pd.DataFrame(rows)


def planted_table(
    cells: pd.DataFrame, signal: float, seed: int = 0, width: int = 16, plate_signal: float = 0.0
) -> EmbeddingTable:
    """Noise, plus a direction for each location and for each plate."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(len(LOCATIONS), width))
    plates = rng.normal(size=(4, width))
    embeddings = rng.normal(size=(len(cells), width))
    embeddings += signal * planted_targets(cells) @ directions
    embeddings += plate_signal * plates[cells["plate"].astype(int)]
    return EmbeddingTable(cells, embeddings.astype(np.float32), provenance={"signal": signal})


def planted_targets(cells: pd.DataFrame) -> npt.NDArray[np.float64]:
    """`[cells, locations]`, 0 or 1."""
    return np.array([[name in text.split(";") for name in LOCATIONS] for text in cells["locations"]], np.float64)
