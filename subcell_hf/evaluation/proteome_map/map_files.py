"""The files of a proteome map."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from subcell_hf.evaluation.perturbation.perturbation_report import write_csv
from subcell_hf.evaluation.plots import save_figure
from subcell_hf.evaluation.proteome_map.exports import cx2_text, edges_text, gml_text, newick_text, nodes_text
from subcell_hf.evaluation.proteome_map.interactive import draw_page
from subcell_hf.evaluation.proteome_map.map import ProteomeMap
from subcell_hf.evaluation.proteome_map.map_figure import draw_map
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.hdf5 import write_hdf5


def write_map(
    made: ProteomeMap, folder: Path, title: str = "Proteome map", thumbnails: Mapping[str, list[bytes]] | None = None
) -> None:
    """Write a map: the same map, the same bytes.

    `map.html` (interactive), `map.pdf`, `map.png`, `map.h5ad`, `genes.csv`, `antibodies.csv`, `enrichment.csv`,
    `report.json`, and the hierarchy as `nodes.tsv`, `edges.tsv`, `hierarchy.cx2`, `hierarchy.gml` and, where it is a
    tree, `hierarchy.nwk`.

    Args:
        made: The map.
        folder: Where to write; made if missing, files of an earlier call are replaced.
        title: Heading of the page and name of the network.
        thumbnails: Gene → JPEG bytes of example cells.
    """
    genes = made.genes["gene"].tolist()
    texts = {
        "map.html": draw_page(made, title, thumbnails),
        "nodes.tsv": nodes_text(made.hierarchy, genes, made.labels),
        "edges.tsv": edges_text(made.hierarchy, genes),
        "hierarchy.gml": gml_text(made.hierarchy, genes, made.labels),
        "hierarchy.cx2": cx2_text(made.hierarchy, genes, made.labels, title),
        "report.json": json.dumps(made.summary, indent=2, sort_keys=True) + "\n",
    }
    newick = folder / "hierarchy.nwk"
    if made.hierarchy.is_tree():
        texts[newick.name] = newick_text(made.hierarchy, genes)
    else:
        newick.unlink(missing_ok=True)  # of an earlier call, whose hierarchy was a tree
    for name, text in texts.items():
        with write_atomically(folder / name) as file:
            file.write(text.encode())
    write_csv(made.genes, folder / "genes.csv")
    write_csv(made.antibodies, folder / "antibodies.csv")
    write_csv(made.enrichment, folder / "enrichment.csv")
    save_figure(draw_map(made), folder / "map")
    _write_h5ad(made, folder / "map.h5ad")


def _write_h5ad(made: ProteomeMap, path: Path) -> None:
    """Genes × components, with positions, neighbours and the cluster of every level."""
    import anndata

    genes = made.genes.set_index("gene")
    levels = {
        f"leiden_{resolution:g}": level
        for resolution, level in zip(made.hierarchy.resolutions, made.hierarchy.levels, strict=True)
    }
    observed = genes.drop(columns=["x", "y"]).assign(**levels)
    observed.index = pd.Index(observed.index.tolist(), dtype=object, name="gene")
    for name in observed.columns:
        if not pd.api.types.is_numeric_dtype(observed[name]):
            observed[name] = _plain_text(observed[name])
    table = anndata.AnnData(
        X=made.embeddings.astype(np.float32),
        obs=observed,
        var=pd.DataFrame(index=pd.Index([f"component_{n + 1}" for n in range(made.embeddings.shape[1])], dtype=object)),
        obsm={"X_umap": made.graph.positions},
        obsp={"connectivities": made.graph.connectivities},
        uns={"proteome_map": json.dumps(made.summary, sort_keys=True)},
    )
    with write_hdf5(path) as file:
        anndata.io.write_elem(file.root, "/", table)


def _plain_text(column: pd.Series) -> pd.Series:
    """Text as categories of Python's own kind: AnnData cannot write that of pandas 3 yet."""
    codes, names = pd.factorize(column.to_numpy(dtype=object), sort=True)
    return pd.Series(pd.Categorical.from_codes(codes, pd.Index(names, dtype=object)), index=column.index)
