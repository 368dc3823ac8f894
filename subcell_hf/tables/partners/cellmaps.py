"""Embeddings of proteins as the Cell Maps tools take them: `image_emd.tsv` in an RO-Crate.

cellmaps_coembedding reads the folder beside one of `cellmaps_ppi_embedding`. The crate has the keys that
`cellmaps_utils` reads at the top of its JSON, and the same as a graph of RO-Crate 1.1.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subcell_hf import __version__
from subcell_hf.storage.folders import write_folder_atomically
from subcell_hf.tables.aggregation import aggregate
from subcell_hf.tables.embedding_table import EmbeddingTable

EMBEDDING_FILE = "image_emd.tsv"
CRATE_FILE = "ro-crate-metadata.json"

_CONTEXT = "https://w3id.org/ro/crate/1.1/context"
_SOFTWARE = "#subcell_hf"


def write_cellmaps(table: EmbeddingTable, folder: Path) -> EmbeddingTable:
    """Write one row per gene, and where it comes from.

    Args:
        table: Cells or antibodies with a column `gene`, which are averaged.
        folder: A new folder; it appears when it is complete.

    Returns:
        The rows that were written. Cells without a gene are in none of them.

    Raises:
        InputError: If the table has no column `gene`, or no row with one.
    """
    genes = aggregate(table, "gene").table
    names = genes.cells["cell_id"].astype(str)
    lines = ["\t".join(["", *map(str, range(1, genes.embeddings.shape[1] + 1))])]
    lines += ["\t".join([name, *map(str, row)]) for name, row in zip(names, genes.embeddings, strict=True)]
    content = ("\n".join(lines) + "\n").encode()
    with write_folder_atomically(folder) as staging:
        (staging / EMBEDDING_FILE).write_bytes(content)
        crate = _crate(genes, content, folder.name)
        (staging / CRATE_FILE).write_text(json.dumps(crate, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return genes


def _crate(genes: EmbeddingTable, content: bytes, name: str) -> dict[str, Any]:
    """Facts of the folder; the same embeddings give the same crate."""
    checksum = hashlib.sha256(content).hexdigest()
    identifier = f"urn:sha256:{checksum}"
    provenance: Mapping[str, Any] = genes.provenance
    own = {
        "name": name,
        "description": (
            f"Embeddings of {len(genes)} proteins by fluorescence images, {genes.embeddings.shape[1]} numbers each, "
            "averaged over cells"
        ),
        "keywords": ["image embedding", "SubCell", "subcell_hf"],
    }
    file = {
        "@id": EMBEDDING_FILE,
        "@type": "File",
        "name": "Image embeddings",
        "encodingFormat": "text/tab-separated-values",
        "contentSize": str(len(content)),
        "sha256": checksum,
    }
    software = {"@id": _SOFTWARE, "@type": "SoftwareApplication", "name": "subcell_hf", "softwareVersion": __version__}
    action = {
        "@id": "#embedding",
        "@type": "CreateAction",
        "instrument": {"@id": _SOFTWARE},
        "result": {"@id": EMBEDDING_FILE},
        "description": json.dumps(provenance, sort_keys=True, ensure_ascii=False),
    }
    return {
        "@id": identifier,
        "@context": _CONTEXT,
        "@type": "Dataset",
        **own,
        "isPartOf": [
            {"@id": "#organization", "@type": "Organization", "name": "not stated"},
            {"@id": "#project", "@type": "Project", "name": name},
        ],
        "@graph": [
            {
                "@id": CRATE_FILE,
                "@type": "CreativeWork",
                "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
                "about": {"@id": "./"},
            },
            {"@id": "./", "@type": "Dataset", "identifier": identifier, **own, "hasPart": [{"@id": EMBEDDING_FILE}]},
            file,
            software,
            action,
        ],
    }
