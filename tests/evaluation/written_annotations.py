"""Written stand-ins for published tables: locations of genes, and complexes."""

from pathlib import Path

import numpy as np
import pandas as pd

LOCATIONS = (
    "Nucleoplasm", "Cytosol", "Nucleoli", "Mitochondria", "Golgi apparatus", "Plasma membrane", "Vesicles",
    "Nuclear bodies", "Nuclear speckles", "Endoplasmic reticulum", "Cell Junctions", "Microtubules", "Centrosome",
    "Actin filaments", "Nuclear membrane", "Focal adhesion sites", "Lipid droplets", "Peroxisomes", "Midbody",
    "Intermediate filaments",
)  # fmt: skip


def write_label_tables(folder: Path) -> None:
    """Locations of 1,400 genes in the columns of the Human Protein Atlas, and 41 complexes in those of CORUM."""
    generator = np.random.default_rng(0)
    weights = 1 / np.arange(1, len(LOCATIONS) + 1)
    rows = [
        ("ENSG00000000003", "TSPAN6", "Approved", "Cell Junctions;Cytosol", "Nucleoli fibrillar center"),
        ("ENSG00000000457", "SCYL3", "Uncertain", "Microtubules", "Nuclear bodies"),
    ]
    for number in range(1400):
        places = generator.choice(LOCATIONS, generator.integers(1, 4), replace=False, p=weights / weights.sum())
        reliability = "Enhanced" if number % 2 else "Supported"
        rows.append(
            (f"ENSG{number + 1000:011d}", f"GENE{number}", reliability, ";".join(places[:2]), ";".join(places[2:]))
        )
    columns = ["Gene", "Gene name", "Reliability", "Main location", "Additional location"]
    locations = pd.DataFrame(rows, columns=columns)
    locations.to_csv(folder / "hpa_subcellular_location.tsv.gz", sep="\t", index=False)

    complexes = {"proteasome": [f"PSM{kind}{n}" for kind in "ABC" for n in range(1, 7)]}
    complexes |= {f"complex {n}": [f"GENE{n + 100 * member}" for member in range(5)] for n in range(40)}
    members = [{"complex": name, "gene_names": gene} for name, genes in complexes.items() for gene in genes]
    pd.DataFrame(members).to_csv(folder / "processed_human_corum.csv.gz")
