"""Cells of proteins in a planted hierarchy of places, with plate effects and an antibody that sees nothing."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.tables.files import EmbeddingTable

COARSE = ("Nucleoplasm", "Cytosol", "Mitochondria", "Golgi apparatus")


def simulate_cells(
    *,
    genes_per_part: int = 20,
    parts: int = 3,
    fields: int = 3,
    cells: int = 4,
    plates: int = 3,
    plate_effect: float = 1.0,
    width: int = 32,
    coarse_effect: float = 1.6,
    fine_effect: float = 0.6,
    seed: int = 0,
) -> tuple[EmbeddingTable, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Cells of four coarse places, each with some finer parts, several genes in each part.

    Every gene has one antibody; the first gene of each part has a second one, graded worse, that shows noise.

    Returns:
        The table, and for every gene in order the number of its coarse place and of its part.
    """
    generator = np.random.default_rng(seed)
    coarse_means = coarse_effect * generator.normal(size=(len(COARSE), width))
    fine_means = fine_effect * generator.normal(size=(len(COARSE) * parts, width))
    shifts = plate_effect * generator.normal(size=(plates, width))
    rows, embeddings, coarse, fine = [], [], [], []
    for gene in range(len(COARSE) * parts * genes_per_part):
        part = gene // genes_per_part
        place = part // parts
        coarse.append(place)
        fine.append(part)
        own = coarse_means[place] + fine_means[part] + 0.5 * generator.normal(size=width)
        antibodies = [(f"HPA{gene:06d}", "Supported", own)]
        if gene % genes_per_part == 0:
            antibodies.append((f"HPA9{gene:05d}", "Uncertain", generator.normal(size=width)))
        for antibody, grade, mean in antibodies:
            for field in range(fields):
                plate = int(generator.integers(plates))
                for cell in range(cells):
                    name = f"{antibody}_{field}"
                    rows.append(
                        {
                            "cell_id": f"{name}_{cell}", "field_of_view": name, "antibody": antibody,
                            "gene": f"GENE{gene:04d}", "locations": COARSE[place], "plate": f"P{plate}",
                            "reliability": grade, "cell_line": "U2OS" if cell < cells - 1 else "A-431",
                        }
                    )  # fmt: skip
                    embeddings.append(mean + shifts[plate] + generator.normal(size=width))
    table = EmbeddingTable(pd.DataFrame(rows), np.array(embeddings, dtype=np.float32))
    return table, np.array(coarse), np.array(fine)
