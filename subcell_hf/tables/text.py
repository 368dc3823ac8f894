"""Embedding tables of other tools: CSV such as SubCellPortable's `result.csv` or CellProfiler's profiles, and npz."""

import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from subcell_hf.errors import InputError, InputWarning
from subcell_hf.storage.foreign_tables import ForeignTable, foreign_table_of, is_no_feature, read_foreign_table
from subcell_hf.storage.plain_files import explaining
from subcell_hf.tables.embedding_table import (
    METADATA_KEY,
    EmbeddingTable,
    check_table,
    facts_from_json,
)
from subcell_hf.tables.foreign_cells import ID_COLUMNS, cells_of
from subcell_hf.tables.h5ad import portable_classes

_FEATURE_PATTERNS = (r"feat_?(\d+)", r"embedding_?(\d+)", r"emb_?(\d+)", r"feature_?(\d+)", r"(\d+)")
_GENE_TABLE = "_emd.tsv"
"""How the Cell Maps tools call their tables of embeddings, such as `image_emd.tsv`: their rows are named by genes."""
_LIST_COLUMNS = ("embedding", "embeddings")
_PROBABILITIES = "probabilities"
_PROBABILITY_PATTERN = r"prob_?(\d+)"


def read_csv(path: Path, metadata: Collection[str] = ()) -> EmbeddingTable:
    """Read a table that another tool wrote; CSV, also packed, or Parquet.

    The embedding is a column of lists of numbers called `embedding`; else the columns `feat0000` …, `embedding_0` …, or
    `0` …; where there are none of these, every column of numbers except `Metadata_…`, `qc_…`, places of cells, and
    names of what a cell belongs to, such as `plate`. `prob00` … are probabilities. All other columns are metadata, and
    texts: `0012` is not `12`. Without a column of ids, cells are called as the unnamed first column says, or numbered;
    those of `…_emd.tsv`, which the Cell Maps tools write, also have that name as their `gene`.

    Args:
        path: The file.
        metadata: Columns that are metadata, whatever they hold.

    Raises:
        InputError: If there is no embedding, or it is not sound.
    """
    table = read_foreign_table(path)
    read = _table_of(table, frozenset(metadata))
    if path.name.endswith(_GENE_TABLE) and table.row_names is not None and "gene" not in table.columns:
        return replace(read, cells=read.cells.assign(gene=list(table.row_names)))
    return read


def table_of_frame(frame: pd.DataFrame, where: str, metadata: Collection[str] = ()) -> EmbeddingTable:
    """The embedding table in a data frame; see `read_csv`.

    Raises:
        InputError: As `read_csv`.
    """
    frame = frame.rename(columns=str)
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise InputError(f"{where} has the column {twice[0]!r} more than once, expected every name once.")
    return _table_of(foreign_table_of(dict(frame.items()), where), frozenset(metadata))


def _table_of(table: ForeignTable, metadata: frozenset[str]) -> EmbeddingTable:
    names = [name for name in table.columns if name not in metadata]
    features = _feature_columns(table, names)
    probability_columns = [n for n in names if n == _PROBABILITIES and _is_list(table.columns[n])]
    probability_columns = probability_columns or _numbered(names, _PROBABILITY_PATTERN)
    others = [name for name in table.columns if name not in {*features, *probability_columns}]
    probabilities = _matrix(table, probability_columns) if probability_columns else None
    return check_table(
        EmbeddingTable(
            cells_of(table, others),
            _matrix(table, features),
            probabilities,
            portable_classes(0 if probabilities is None else probabilities.shape[1]),
            provenance={"read_from": table.where},
        ),
        table.where,
    )


def _matrix(table: ForeignTable, names: Sequence[str]) -> npt.NDArray[np.float32]:
    """Columns of numbers side by side, or the one column of lists: `[cells, width]`."""
    if len(names) == 1 and _is_list(table.columns[names[0]]):
        return _of_lists(table, names[0])
    values = np.empty((len(table), len(names)), np.float32)
    with np.errstate(over="ignore"):  # what is too large for float32 is refused as infinite
        for place, name in enumerate(names):
            values[:, place] = table.numbers(name)
            sound = np.isfinite(values[:, place])
            if not sound.all():
                raise InputError(
                    f"{table.where}, column {name!r}: row {int(np.argmin(sound))} is NaN or infinite "
                    f"({int((~sound).sum())} of {len(sound)} rows are), expected finite numbers. Leave out such cells, "
                    "or the column."
                )
    return values


def _of_lists(table: ForeignTable, name: str) -> npt.NDArray[np.float32]:
    where = f"{table.where}, column {name!r}"
    column = table.columns[name]
    lengths = set(pc.list_value_length(column).to_pylist())
    if len(lengths) > 1 or None in lengths:
        raise InputError(
            f"{where} has lists of {len(lengths)} lengths or none at all; expected one width in every row."
        )
    flat = np.asarray(pc.list_flatten(column).cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False))
    return flat.reshape(len(column), *lengths) if lengths else np.empty((0, 1), np.float32)


def _is_list(column: Any) -> bool:
    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))


def _numbered(names: Sequence[str], pattern: str) -> list[str]:
    """Columns of a pattern, in the order of their numbers."""
    found = [(int(match[1]), name) for name in names if (match := re.fullmatch(pattern, name))]
    return [name for _, name in sorted(found)]


def _feature_columns(table: ForeignTable, names: Sequence[str]) -> list[str]:
    lists = [name for name in names if name != _PROBABILITIES and _is_list(table.columns[name])]
    if lists:
        chosen = [name for name in lists if name in _LIST_COLUMNS]
        if len(lists) > 1 or not chosen:
            raise InputError(
                f"{table.where} has lists of numbers in {', '.join(lists)}; expected them in one column, called "
                "'embedding'. Rename it, and leave the others out."
            )
        return chosen
    for pattern in _FEATURE_PATTERNS:
        columns = _numbered(names, pattern)
        if columns:
            return columns
    columns = [
        name
        for name in names
        if not is_no_feature(name)
        and name not in ID_COLUMNS
        and not re.fullmatch(_PROBABILITY_PATTERN, name)
        and table.holds_numbers(name)
    ]
    if not columns:
        raise InputError(
            f"{table.where} has no columns of numbers; expected an embedding in columns feat0000 …, embedding_0 …, "
            "0 …, or columns of numbers not called Metadata_…."
        )
    _say_what_are_features(table, columns)
    return columns


def _say_what_are_features(table: ForeignTable, features: Sequence[str]) -> None:
    """Name the columns on either side, since only their content has said where they belong."""
    others = [name for name in table.columns if name not in {*features}]
    odd = {name: cell for name in others if not is_no_feature(name) and (cell := table.odd_among_numbers(name))}
    broken = ", ".join(f"{name} ({cell!r})" for name, cell in odd.items())
    warnings.warn(
        f"{table.where} has no columns feat0 … or embedding_0 …, so its columns of numbers are the embedding "
        f"({len(features)}: {_some(features)}), the others metadata ({_some(others) or 'none'}). "
        + (f"Metadata are also columns in which most are numbers: {broken}. " if odd else "")
        + "Let the names of columns that are no features begin with Metadata_, or call the features feat0, feat1, ….",
        InputWarning,
        stacklevel=5,
    )


def _some(names: Sequence[str]) -> str:
    """The first and the last names."""
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:5])}, … {names[-1]}"


def read_npz(path: Path) -> EmbeddingTable:
    """Read arrays of NumPy.

    They are `embeddings` `[cells, width]`, `probabilities` with `classes` where known, and any with one value per cell.

    Args:
        path: The file.

    Raises:
        InputError: If there are no embeddings, or an array is of another length.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            content = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # NumPy parses headers as Python, so that damaged ones raise nearly anything
        raise InputError(f"{path} cannot be read as npz: {error}. Save arrays without Python objects.") from error
    if odd := [name for name, values in content.items() if not isinstance(values, np.ndarray)]:
        raise InputError(f"{path} contains {odd[0]!r}, which is not an array. Save only arrays, with numpy.savez.")
    if "embeddings" not in content:
        raise InputError(f"{path} has the arrays {', '.join(content) or 'none'}, expected one called 'embeddings'.")
    facts = {"provenance": {"read_from": str(path)}}
    if METADATA_KEY in content:
        facts = facts_from_json(str(content.pop(METADATA_KEY)), str(path))
    embeddings, probabilities = content.pop("embeddings"), content.pop("probabilities", None)
    classes = tuple(map(str, content.pop("classes", ())))
    if not embeddings.ndim:
        raise InputError(f"{path}: embeddings is a single value, expected [cells, width].")
    wrong = [name for name, values in content.items() if values.shape[:1] != embeddings.shape[:1]]
    if wrong:
        raise InputError(
            f"{path}: {wrong[0]} has shape {content[wrong[0]].shape}, expected one value per cell ({len(embeddings)})."
        )
    columns = {name: values for name, values in content.items() if values.ndim == 1}
    with explaining(path, "Save it again."):
        known = foreign_table_of(columns, str(path))
    if not columns:
        known = replace(known, row_names=tuple(map(str, range(len(embeddings)))))
    if probabilities is not None and not classes:
        classes = portable_classes(probabilities.shape[-1])
    return check_table(
        EmbeddingTable(
            cells_of(known, list(known.columns)),
            np.asarray(embeddings, np.float32),
            None if probabilities is None else np.asarray(probabilities, np.float32),
            classes if probabilities is not None else (),
            provenance=facts["provenance"],
        ),
        str(path),
    )
