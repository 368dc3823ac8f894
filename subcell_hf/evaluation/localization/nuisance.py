"""What else an embedding predicts: the cell line, which is expected, and what may be a shortcut."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.model_selection import StratifiedGroupKFold

from subcell_hf.evaluation.localization.labels import LabelledCells
from subcell_hf.evaluation.localization.probes import LinearProbe, choose_cells

BATCH_COLUMNS = ("plate", "microscope", "cut_by_border", "cells_per_field")
_CUT, _FIELD = "qc_cut_by_border", "field_of_view"
_CROWDING = ("few", "some", "many")
_FOLDS = 3
_CELLS = 20_000
_PENALTY = 1e-2

Record = dict[str, object]


def score_cell_lines(
    embeddings: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], labelled: LabelledCells, seed: int
) -> Record | str:
    """Read the cell line off the embedding: learnt on the antibodies of train, scored on those of test.

    Args:
        embeddings: `[rows of the table, width]`.
        rows: `[cells]`, row of each labelled cell.
        labelled: The cells.
        seed: Of the choice among too many training cells.

    Returns:
        `macro_f1`, `balanced_accuracy`, `chance` (of both, one over the number of classes) and counts; or, in words,
        why there is nothing to score.
    """
    if "cell_line" not in labelled.cells:
        return "No scores of cell lines: the column cell_line is missing."
    lines = labelled.cells["cell_line"].fillna("").astype(str).to_numpy()
    train, validation, test = (
        found[lines[found] != ""] for found in (labelled.rows(name) for name in ("train", "validation", "test"))
    )
    names = sorted(set(lines[train]) & set(lines[test]))
    test = test[np.isin(lines[test], names)]
    if len(names) < 2:
        return f"No scores of cell lines: train and test have {len(names)} in common, expected at least 2."
    train = train[choose_cells(len(train), _CELLS, seed)]
    train, validation = train[np.isin(lines[train], names)], validation[np.isin(lines[validation], names)]
    choose_on = validation if len(validation) else train
    onehot = (lines[:, None] == np.array(names)).astype(np.uint8)
    found = LinearProbe(seed=seed).fit_predict(
        embeddings[rows[train]], onehot[train], embeddings[rows[choose_on]], onehot[choose_on], embeddings[rows[test]]
    )
    return _scores(onehot[test].argmax(axis=1), found[0].argmax(axis=1), len(names), len(test))


def score_batches(
    embeddings: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], cells: pd.DataFrame, seed: int
) -> tuple[dict[str, Record], list[str]]:
    """Predict what may be a shortcut from the embedding, for antibodies that are not in the training data of the probe.

    These are the plate, the microscope, whether the border of the field of view cuts the cell (`cut_by_border`), and
    how many cells its field has (`cells_per_field`: `few`, `some` or `many`, about a third of the cells each).

    Cross-validation grouped by antibody: cells of one antibody are never on both sides, so a plate is not recognized by
    the proteins on it.

    Args:
        embeddings: `[rows of the table, width]`.
        rows: `[cells]`, row of each cell.
        cells: Metadata of the cells.
        seed: Of folds and of the choice among too many cells.

    Returns:
        Column → scores as of `score_cell_lines`, and notes on what could not be scored.
    """
    scores: dict[str, Record] = {}
    notes = []
    for column in BATCH_COLUMNS:
        source = {"cut_by_border": _CUT, "cells_per_field": _FIELD}.get(column, column)
        if source not in cells:
            notes.append(f"The {column} cannot be scored: the column {source} is missing.")
            continue
        known = _label(cells[source], column)
        chosen = _usable_cells(cells["antibody"], known, seed)
        labels = known.to_numpy()[chosen]
        if len(set(labels)) < 2:
            notes.append(f"The {column} cannot be scored: fewer than two values have {_FOLDS} antibodies each.")
            continue
        codes, _ = pd.factorize(labels, sort=True)
        groups, _ = pd.factorize(cells["antibody"].to_numpy()[chosen])
        predicted = _cross_validate(embeddings[rows[chosen]], codes, groups, seed)
        scores[column] = _scores(codes, predicted, int(codes.max()) + 1, len(chosen))
    return scores, notes


def _label(values: pd.Series, column: str) -> "pd.Series[str]":
    """What the probe predicts for each cell, in words; empty where it is not known."""
    if column != "cells_per_field":
        return values.fillna("").astype(str)
    fields = values.fillna("").astype(str)
    crowd = fields.map(fields.value_counts())
    levels = pd.cut(crowd.rank(method="average", pct=True), (0, 1 / 3, 2 / 3, 1), labels=list(_CROWDING))
    return levels.astype(str).where(fields != "", "")


def _usable_cells(antibodies: "pd.Series[str]", labels: "pd.Series[str]", seed: int) -> npt.NDArray[np.int64]:
    """Cells whose label has enough antibodies to be on both sides of every fold."""
    known = labels != ""
    counts = antibodies[known].groupby(labels[known]).nunique()
    enough = counts.index[counts >= _FOLDS]
    found = np.flatnonzero(labels.isin(enough).to_numpy())
    return found[choose_cells(len(found), _CELLS, seed)]


def _cross_validate(
    embeddings: npt.NDArray[np.float32], codes: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], seed: int
) -> npt.NDArray[np.int64]:
    onehot = np.eye(codes.max() + 1, dtype=np.uint8)[codes]
    predicted = np.empty(len(codes), np.int64)
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(embeddings, codes, groups):
        probe = LinearProbe(penalties=(_PENALTY,), seed=seed)
        one = slice(0, 1)  # With one penalty there is nothing to choose.
        found = probe.fit_predict(
            embeddings[train], onehot[train], embeddings[train][one], onehot[train][one], embeddings[test]
        )
        predicted[test] = found[0].argmax(axis=1)
    return predicted


def _scores(
    truth: npt.NDArray[np.int64] | Sequence[int], predicted: npt.NDArray[np.int64], classes: int, cells: int
) -> Record:
    return {
        "macro_f1": float(f1_score(truth, predicted, average="macro", labels=np.unique(truth), zero_division=0)),
        "balanced_accuracy": float(balanced_accuracy_score(truth, predicted)),
        "chance": 1 / classes,
        "classes": classes,
        "cells": cells,
    }
