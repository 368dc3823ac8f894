"""Cells → one mean embedding per field of view, in a stream: a table of any length needs the memory of its fields."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.storage.parquet_files import open_parquet, read_parquet_file, read_parquet_schema
from subcell_hf.storage.text_values import plain_text, text_values, warn_of_case
from subcell_hf.tables.files import EMBEDDINGS_FILE, iterate_parquet, read_table

_CELLS_AT_ONCE = 4096
_KEY = b"subcell_hf"
_UNIT = ("gene", "antibody", "field_of_view")
_NAMES = (*_UNIT, "plate", "microscope", "locations")


@dataclass(frozen=True)
class FieldMeans:
    """One row per field of view of an antibody.

    Attributes:
        fields: `gene`, `antibody`, `field_of_view`, `cells` (how many), and the other columns asked for (of the first
            cell of the field), in order of appearance.
        embeddings: Mean over the field's cells, float32 [fields, width].
        cells: `cell_id` and `field` (row of `fields`) of every cell that was used, in the table's order.
        left_out: Reason → number of cells that were not used.
    """

    fields: pd.DataFrame
    embeddings: npt.NDArray[np.float32]
    cells: pd.DataFrame
    left_out: dict[str, int]


def average_fields(path: Path, columns: Sequence[str] = (), where: Mapping[str, str] | None = None) -> FieldMeans:
    """Read a table of cells and average the cells of each field of view.

    Parquet tables of ours are read in blocks; others are read whole. Sums are taken in float64 within a block and kept
    in float32.

    Args:
        path: Any embedding table.
        columns: Further columns to keep; those that the table lacks are left out.
        where: Column → value that a cell must have to be used.

    Raises:
        InputError: If the table cannot be read, has no genes, or no cell is left.
    """
    cells, blocks = _open(Path(path))
    if "gene" not in cells.columns:
        raise InputError(f"{path} has no column gene; a map needs one. Its columns are {', '.join(cells.columns)}.")
    cells = cells.assign(**{name: cells["gene"] for name in ("antibody",) if name not in cells.columns})
    used, left_out = _choose_cells(cells, where or {}, path)
    codes = np.full(len(cells), -1, dtype=np.int64)
    unit = [name for name in _UNIT if name in cells.columns]
    kept = [*unit, *(name for name in dict.fromkeys(columns) if name in cells.columns and name not in unit)]
    codes[used], _ = pd.factorize(pd.MultiIndex.from_frame(cells.loc[used, unit]))
    firsts = np.flatnonzero(used)[np.unique(codes[used], return_index=True)[1]]
    counts = np.bincount(codes[used])
    embeddings = _mean_embeddings(blocks, codes, counts, path)
    fields = cells.loc[firsts, kept].reset_index(drop=True)
    if "field_of_view" not in fields.columns:
        fields["field_of_view"] = fields["antibody"]
    used_cells = pd.DataFrame({"cell_id": cells.loc[used, "cell_id"].to_numpy(), "field": codes[used]})
    return FieldMeans(fields.assign(cells=counts), embeddings, used_cells, left_out)


def _open(path: Path) -> tuple[pd.DataFrame, Iterator[npt.NDArray[np.float32]]]:
    """Metadata of the cells, and their embeddings in blocks."""
    file = path / EMBEDDINGS_FILE if path.is_dir() else path
    if file.suffix == ".parquet" and file.is_file() and _KEY in (read_parquet_schema(file).metadata or {}):
        next(iterate_parquet(file, 1), None)  # Says what is wrong with a table that this version cannot read.
        schema = read_parquet_schema(file)
        names = [field.name for field in schema if not str(field.type).startswith("fixed_size_list")]
        wanted = [name for name in names if not name.startswith(("qc_", "top_"))]
        cells = read_parquet_file(file, wanted).to_pandas()
        return _fill_text(cells), _parquet_blocks(file)
    table = read_table(path)
    blocks = (table.embeddings[start : start + _CELLS_AT_ONCE] for start in range(0, len(table), _CELLS_AT_ONCE))
    return _fill_text(table.cells), blocks


def _parquet_blocks(file: Path) -> Iterator[npt.NDArray[np.float32]]:
    """The embeddings alone, float32 [up to 4096, width] each."""
    with open_parquet(file) as table:
        for batch in table.iter_batches(_CELLS_AT_ONCE, columns=["embedding"]):
            numbers = batch.column(0).flatten().to_numpy(zero_copy_only=False)
            yield numbers.reshape(len(batch), -1)


def _fill_text(cells: pd.DataFrame) -> pd.DataFrame:
    """Text without gaps."""
    text = [n for n in cells.columns if n in _NAMES or not pd.api.types.is_numeric_dtype(cells[n])]
    return cells.assign(**{name: text_values(cells[name], name, verbatim=True) for name in text})


def _choose_cells(
    cells: pd.DataFrame, where: Mapping[str, str], path: Path
) -> tuple[npt.NDArray[np.bool_], dict[str, int]]:
    """Cells that are used, and how many are not, by reason."""
    used = np.ones(len(cells), dtype=bool)
    left_out = {}
    for column, value in where.items():
        if column not in cells.columns:
            raise InputError(f"{path} has no column {column!r}; its columns are {', '.join(cells.columns)}.")
        texts = text_values(cells[column], f"{path}, {column}")
        right = np.array([text == plain_text(value) for text in texts])
        left_out[f"{column} is not {value}"] = int((used & ~right).sum())
        used &= right
    warn_of_case(cells["gene"][used], "Column gene")
    named = (cells["gene"] != "").to_numpy()
    left_out["without a gene"] = int((used & ~named).sum())
    used &= named
    if not used.any():
        reasons = "; ".join(f"{reason}: {count}" for reason, count in left_out.items())
        raise InputError(f"No cells of {path} remain for the map ({reasons}).")
    return used, {reason: count for reason, count in left_out.items() if count}


def _mean_embeddings(
    blocks: Iterator[npt.NDArray[np.float32]],
    codes: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    path: Path,
) -> npt.NDArray[np.float32]:
    """Mean of the rows of each code; rows of code -1 are left out."""
    sums: npt.NDArray[np.float32] | None = None
    start = 0
    for block in blocks:
        if sums is None:
            sums = np.zeros((len(counts), block.shape[1]), dtype=np.float32)
        own = codes[start : start + len(block)]
        start += len(block)
        rows = np.flatnonzero(own >= 0)
        if not len(rows):
            continue
        order = rows[np.argsort(own[rows], kind="stable")]
        units, firsts = np.unique(own[order], return_index=True)
        sums[units] += np.add.reduceat(block[order].astype(np.float64), firsts, axis=0).astype(np.float32)
    if sums is None or start != len(codes):
        raise InputError(f"{path} ends after {start} of {len(codes)} embeddings; write it again.")
    sums /= counts[:, None].astype(np.float32)
    if not np.isfinite(sums).all():
        raise InputError(f"{path} has embeddings that are not finite numbers; embed these cells again.")
    return sums
