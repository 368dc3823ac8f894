"""Embedding tables of other tools: CSV such as SubCellPortable's `result.csv` or CellProfiler's profiles, and npz."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.inference.embedding_table import (
    CELL_ID,
    FIELD_OF_VIEW,
    METADATA_KEY,
    EmbeddingTable,
    check_table,
    facts_from_json,
)
from subcell_hf.inference.table_h5ad import portable_classes

_ID_COLUMNS = (CELL_ID, "id", "Metadata_cell_id", "cell_ids", "ids")
_FEATURE_PATTERNS = (r"feat_?(\d+)", r"embedding_?(\d+)", r"emb_?(\d+)", r"feature_?(\d+)", r"(\d+)")
_PROBABILITY_PATTERN = r"prob_?(\d+)"
_NO_FEATURE = re.compile(r"Metadata_.*|qc_.*|top_.*|label|top|left|height|width|index|Unnamed: \d+|x|y")


def read_csv(path: Path) -> EmbeddingTable:
    """Read a table of text; `.csv`, `.tsv`, also gzipped.

    The embedding is the columns `feat0000` …, `embedding_0` …, or `0` …; where there are none, every column of numbers
    except `Metadata_…`, `qc_…` and places of cells. `prob00` … are probabilities. All other columns are metadata.

    Raises:
        InputError: If there is no embedding, or it is not sound.
    """
    try:
        frame = pd.read_csv(path, sep="\t" if ".tsv" in path.suffixes else ",", low_memory=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a table: {error}. Save it as CSV, UTF-8.") from error
    return table_of_frame(frame, str(path))


def table_of_frame(frame: pd.DataFrame, where: str) -> EmbeddingTable:
    """The embedding table in a data frame; see `read_csv`.

    Raises:
        InputError: As `read_csv`.
    """
    frame = frame.rename(columns=str)
    features = _feature_columns(frame, where)
    probability_columns = _numbered(frame.columns, _PROBABILITY_PATTERN)
    others = [name for name in frame.columns if name not in {*features, *probability_columns}]
    probabilities = frame[probability_columns].to_numpy(np.float32) if probability_columns else None
    return check_table(
        EmbeddingTable(
            _cells(frame[others]),
            frame[features].to_numpy(np.float32),
            probabilities,
            portable_classes(len(probability_columns)),
            provenance={"read_from": where},
        ),
        where,
    )


def _numbered(names: Sequence[str], pattern: str) -> list[str]:
    """Columns of a pattern, in the order of their numbers."""
    found = [(int(match[1]), name) for name in names if (match := re.fullmatch(pattern, name))]
    return [name for _, name in sorted(found)]


def _feature_columns(frame: pd.DataFrame, where: str) -> list[str]:
    for pattern in _FEATURE_PATTERNS:
        columns = _numbered(frame.columns, pattern)
        if columns:
            break
    else:
        numeric = frame.select_dtypes("number").columns
        columns = [n for n in numeric if not _NO_FEATURE.fullmatch(n) and n not in (*_ID_COLUMNS, FIELD_OF_VIEW)]
        columns = [name for name in columns if not re.fullmatch(_PROBABILITY_PATTERN, name)]
    texts = [name for name in columns if frame[name].dtype.kind not in "biuf"]
    if not columns or texts:
        raise InputError(
            f"{where} has {'no columns of numbers' if not columns else f'text in the column {texts[0]}'}; expected an "
            "embedding in columns feat0000 …, embedding_0 …, 0 …, or columns of numbers not called Metadata_…."
        )
    return columns


def _cells(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns about cells: numbers stay, all else becomes text; ids are made where there are none."""
    id_column = next((name for name in _ID_COLUMNS if name in frame.columns), None)
    ids = frame[id_column].astype(str) if id_column else pd.Series(range(len(frame)), index=frame.index).astype(str)
    columns = {CELL_ID: ids.to_numpy(object)}
    columns[FIELD_OF_VIEW] = np.full(len(frame), "", dtype=object)
    for name in frame.columns:
        if name == id_column:
            continue
        keep = frame[name].dtype.kind in "biuf" and name != FIELD_OF_VIEW
        columns[name] = (
            frame[name].to_numpy() if keep else frame[name].astype(object).fillna("").astype(str).to_numpy(object)
        )
    return pd.DataFrame(columns)


def read_npz(path: Path) -> EmbeddingTable:
    """Read arrays of NumPy.

    They are `embeddings` `[cells, width]`, `probabilities` with `classes` where known, and any with one value per cell.

    Raises:
        InputError: If there are no embeddings, or an array is of another length.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            content = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as npz: {error}. Save arrays without Python objects.") from error
    if "embeddings" not in content:
        raise InputError(f"{path} has the arrays {', '.join(content) or 'none'}, expected one called 'embeddings'.")
    facts = {"provenance": {"read_from": str(path)}}
    if METADATA_KEY in content:
        facts = facts_from_json(str(content.pop(METADATA_KEY)), str(path))
    embeddings, probabilities = content.pop("embeddings"), content.pop("probabilities", None)
    classes = tuple(map(str, content.pop("classes", ())))
    wrong = [name for name, values in content.items() if values.shape[:1] != embeddings.shape[:1]]
    if wrong:
        raise InputError(
            f"{path}: {wrong[0]} has shape {content[wrong[0]].shape}, expected one value per cell ({len(embeddings)})."
        )
    frame = pd.DataFrame({name: values for name, values in content.items() if values.ndim == 1})
    if not len(frame.columns):
        frame = pd.DataFrame(index=range(len(embeddings)))
    if probabilities is not None and not classes:
        classes = portable_classes(probabilities.shape[-1])
    return check_table(
        EmbeddingTable(
            _cells(frame),
            np.asarray(embeddings, np.float32),
            None if probabilities is None else np.asarray(probabilities, np.float32),
            classes if probabilities is not None else (),
            provenance=facts["provenance"],
        ),
        str(path),
    )
