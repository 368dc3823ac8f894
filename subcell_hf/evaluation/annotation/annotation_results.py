"""What annotation gives: labels, scores of all cells and the make-up of wells, as tables."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from subcell_hf.errors import InputError
from subcell_hf.evaluation.annotation.annotation_session import AnnotationSession, TrainedState
from subcell_hf.evaluation.annotation.label_records import MergedLabels
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.parquet_files import WRITING

LABELS_CSV, LABELS_PARQUET = "labels.csv", "labels.parquet"
SCORES_PARQUET = "scores.parquet"
WELLS_CSV = "wells.csv"
_LABEL_COLUMNS = ("cell_id", "class", "annotators", "disagreement", "labelled_at", "shown_because", "model", "revision")
_PLACE_COLUMNS = ("field_of_view", "plate", "well")


def labels_frame(merged: MergedLabels) -> pd.DataFrame:
    """One row per labelled cell.

    Args:
        merged: Labels of all annotators.

    Returns:
        Columns `cell_id`, `class` (empty where annotators disagree), `annotators` (joined by `;`), `disagreement`
        (`name: class` of each, joined by `;`, where they do), `labelled_at` (the latest label), `shown_because`
        (at the annotator's first label), `model` and `revision`.
    """
    rows = []
    for cell, own in merged.records.items():
        latest = max(own.values(), key=lambda record: record.at)
        said = merged.disagreements.get(cell, {})
        rows.append(
            (
                cell,
                merged.labels.get(cell, ""),
                ";".join(own),
                "; ".join(f"{by}: {name}" for by, name in said.items()),
                latest.at,
                merged.first_shown[cell][latest.by],
                latest.model,
                latest.revision,
            )
        )
    return pd.DataFrame(rows, columns=list(_LABEL_COLUMNS), dtype=object).astype(str)


def scores_frame(session: AnnotationSession, state: TrainedState) -> pd.DataFrame:
    """One row per cell of the table.

    Args:
        session: With the table.
        state: With a classifier.

    Returns:
        Columns `cell_id`, `field_of_view`, `plate` and `well` where they are known, `predicted_class`,
        `predicted_probability`, `labelled_class` (empty for none), and `score_<class>`, whose sum over the classes is
        1.

    Raises:
        InputError: If there is no classifier yet.
    """
    if state.classifier is None or state.probabilities is None:
        raise InputError("Fewer than two classes have labels, so cells have no scores. Label cells of two classes.")
    cells, names = session.table.cells, np.array(state.classifier.classes, dtype=object)
    best = state.probabilities.argmax(axis=1)
    frame = pd.DataFrame({"cell_id": session.cell_ids})
    for column in _PLACE_COLUMNS:
        if column in cells:
            frame[column] = cells[column].to_numpy()
    frame["predicted_class"] = names[best]
    frame["predicted_probability"] = state.probabilities[np.arange(len(best)), best]
    frame["labelled_class"] = [state.merged.labels.get(cell, "") for cell in session.cell_ids]
    scores = {f"score_{name}": state.probabilities[:, place] for place, name in enumerate(names)}
    return pd.concat([frame, pd.DataFrame(scores)], axis=1)


def well_fractions(scores: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Share of the cells of each well that is of each class.

    Args:
        scores: From `scores_frame`.
        classes: In order.

    Returns:
        One row per plate and well: `plate`, `well`, `cells`, `fraction_<class>` (share of cells whose predicted class
        it is; their sum is 1) and `mean_score_<class>`. Empty where cells have no wells.
    """
    columns = ["plate", "well", "cells", *(f"{kind}_{name}" for kind in ("fraction", "mean_score") for name in classes)]
    if "well" not in scores or not (scores["well"] != "").any():
        return pd.DataFrame(columns=columns)
    known = scores[scores["well"] != ""]
    known = known.assign(plate=known.get("plate", ""))
    rows = []
    for (plate, well), own in known.groupby(["plate", "well"], sort=True):
        shares = [float((own["predicted_class"] == name).mean()) for name in classes]
        means = [float(own[f"score_{name}"].mean()) for name in classes]
        rows.append((plate, well, len(own), *shares, *means))
    return pd.DataFrame(rows, columns=columns)


def write_results(session: AnnotationSession, output: Path) -> list[Path]:
    """Write labels, and with a classifier the scores of all cells and the fractions of wells.

    Args:
        session: Its file of labels is read again, and the classifier trained on it.
        output: Folder; files of the same names are replaced.

    Returns:
        The files: `labels.csv`, `labels.parquet`, `scores.parquet` and `wells.csv`, the last one where cells have
        wells.
    """
    session.refresh()
    state = session.train()
    output.mkdir(parents=True, exist_ok=True)
    labels = labels_frame(state.merged)
    written = [_write_csv(labels, output / LABELS_CSV), _write_parquet(labels, output / LABELS_PARQUET)]
    for stale in (SCORES_PARQUET, WELLS_CSV):
        (output / stale).unlink(missing_ok=True)
    if state.classifier is None:
        return written
    scores = scores_frame(session, state)
    written.append(_write_parquet(scores, output / SCORES_PARQUET))
    wells = well_fractions(scores, state.classifier.classes)
    if len(wells):
        written.append(_write_csv(wells, output / WELLS_CSV))
    return written


def _write_csv(frame: pd.DataFrame, path: Path) -> Path:
    with write_atomically(path) as file:
        file.write(frame.to_csv(index=False, lineterminator="\n").encode())
    return path


def _write_parquet(frame: pd.DataFrame, path: Path) -> Path:
    with write_atomically(path) as file:
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), file, **WRITING)
    return path
