"""Small pictures of example cells, from the pictures that lie beside an embedding table."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from subcell_hf.tables.files import EMBEDDINGS_FILE

PICTURES_FILE = "pictures.parquet"

_EDGE_PX = 96
_PER_GENE = 3
_MOST = 6000


def find_pictures(table: Path) -> Path | None:
    """Find the file of pictures that belongs to an embedding table.

    Args:
        table: Path of the table.

    Returns:
        The file in the same folder; None if there is none or the table does not have its usual name.
    """
    folder = table if table.is_dir() else table.parent
    file = folder / PICTURES_FILE
    return file if file.is_file() and (table.is_dir() or table.name == EMBEDDINGS_FILE) else None


def read_thumbnails(file: Path, cells: Mapping[str, Sequence[str]]) -> dict[str, list[bytes]]:
    """Up to three pictures of each gene, fewer where there would be too many for a page.

    Args:
        file: `pictures.parquet` with the columns `cell_id` and `composite` (PNG bytes).
        cells: Gene → ids of its cells.

    Returns:
        Gene → JPEG bytes, 96 × 96 px; genes without pictures are absent.
    """
    from PIL import Image

    from subcell_hf.storage.parquet_files import open_parquet

    gene_of = {cell: gene for gene, ids in cells.items() for cell in ids}
    most = max(1, min(_PER_GENE, _MOST // max(len(cells), 1)))
    found: dict[str, list[bytes]] = {}
    with open_parquet(file) as pictures:
        for batch in pictures.iter_batches(256, columns=["cell_id", "composite"]):
            for row in batch.to_pylist():
                gene = gene_of.get(row["cell_id"])
                if gene is None or len(found.get(gene, ())) >= most:
                    continue
                with Image.open(io.BytesIO(row["composite"])) as image:
                    small = image.convert("RGB").resize((_EDGE_PX, _EDGE_PX), Image.Resampling.BOX)
                sink = io.BytesIO()
                small.save(sink, "JPEG", quality=85)
                found.setdefault(gene, []).append(sink.getvalue())
    return found
