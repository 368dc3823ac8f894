"""The one schema of an embedding table; Parquet and AnnData in and out, other tools' tables in.

| column | kind | content |
| --- | --- | --- |
| `cell_id` | text | unique |
| `field_of_view` | text | the image that the cell is in |
| `antibody`, `gene`, `locations`, `cell_line`, `plate`, `well`, … | text | metadata, empty where unknown |
| `label`, `top`, `left`, `height`, `width` | whole number | the cell in its field, where it was cropped here |
| `qc_…` | number, bool or text | quality of the crop |
| `model` | text | which variant embedded the cell, where it was chosen per row |
| `top_location_1` … `3`, `top_probability_1` … `3` | text, float32 | where a classifier is |
| `location_set`, `set_size` | text, whole number | if a classifier is calibrated: names joined by `;`, their number |
| `novelty_p_value` | float32 | if novelty is calibrated: small in cells unlike those of the calibration |
| `embedding` | float32 list | of several passes side by side |
| `probabilities` | float32 list | of several passes the mean |
| `probabilities_<pass>` | float32 list | each pass |

Metadata of the schema, key `subcell_hf`: JSON with `schema_version`, `classes`, `passes` and `provenance`. Pictures of
some of the cells lie beside the table, see `subcell_hf.tables.cell_pictures`. Nothing here imports torch.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from subcell_hf.errors import InputError
from subcell_hf.tables.embedding_table import (
    SCHEMA_VERSION,
    EmbeddingTable,
    calibrated_columns,
    check_table,
    frame_of_records,
    top_locations,
)
from subcell_hf.tables.h5ad import h5ad_from_parquet, read_h5ad, split_obsm, write_h5ad
from subcell_hf.tables.parquet import (
    iterate_parquet,
    join_parquet,
    parquet_facts,
    read_parquet,
    write_parquet,
)
from subcell_hf.tables.text import read_csv, read_npz, table_of_frame

__all__ = [
    "EMBEDDINGS_FILE",
    "H5AD_FILE",
    "SCHEMA_VERSION",
    "EmbeddingTable",
    "calibrated_columns",
    "check_table",
    "frame_of_records",
    "h5ad_from_parquet",
    "iterate_parquet",
    "iterate_table",
    "join_parquet",
    "read_table",
    "table_of_frame",
    "top_locations",
    "write_h5ad",
    "write_parquet",
]

EMBEDDINGS_FILE = "embeddings.parquet"
"""The table in the folder that `subcell embed` writes."""
H5AD_FILE = "embeddings.h5ad"
"""The same as AnnData."""


_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")


def read_table(path: Path | str, metadata: Collection[str] = ()) -> EmbeddingTable:
    """Read an embedding table.

    Args:
        path: A `.parquet` file, or a folder with `embeddings.parquet`; `.h5ad`, of which `X` is read, or an embedding
            in it, `<file>.h5ad/obsm/<name>`; `.npz` with `embeddings` and any per-cell arrays; `.csv` or `.tsv` (also
            packed), SubCellPortable's `result.csv` and `…_emd.tsv` of Cell Maps among them, whose rows are genes.
        metadata: Columns of another tool's table that are metadata, whatever they hold.

    Raises:
        InputError: If the file is missing, of an unknown kind or version, has ids twice, numbers that are not finite,
            or parts that do not fit together.
    """
    path, obsm = split_obsm(Path(path))
    if path.is_dir():
        if not (path / EMBEDDINGS_FILE).is_file():
            raise InputError(
                f"{path} contains no {EMBEDDINGS_FILE}. Give a folder of a finished `subcell embed`, or a file."
            )
        path = path / EMBEDDINGS_FILE
    if not path.is_file():
        raise InputError(f"{path} does not exist, expected an embedding table (.parquet, .h5ad, .npz, .csv).")
    name = path.name.lower()
    if name.endswith(_PACKED):
        name = name.rpartition(".")[0]
    if name.endswith(".parquet"):
        return read_parquet(path) if parquet_facts(path) else read_csv(path, metadata)
    if name.endswith(".h5ad"):
        return read_h5ad(path, obsm)
    if name.endswith(".npz"):
        return read_npz(path)
    if name.endswith((".csv", ".tsv")):
        return read_csv(path, metadata)
    raise InputError(f"{path} has an unknown file type, expected .parquet, .h5ad, .npz, .csv or .tsv.")


def iterate_table(path: Path | str) -> Iterator[EmbeddingTable]:
    """Read an embedding table in parts, so that one in our Parquet may be larger than memory; others are one part.

    Args:
        path: As `read_table`.

    Yields:
        Tables in order, each with its own index from 0.

    Raises:
        InputError: As `read_table`.
    """
    path = Path(path)
    file = path / EMBEDDINGS_FILE if path.is_dir() else path
    if file.name.lower().endswith(".parquet") and file.is_file() and parquet_facts(file):
        yield from iterate_parquet(file)
    else:
        yield read_table(path)
