"""What the online probe knows of protein locations."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score

from subcell_hf.storage.atomic import write_atomically

TOP = 5


@dataclass(frozen=True)
class LocationScore:
    """One row of the per-class table.

    Attributes:
        location: Name of the class.
        positives: Cells that have it.
        average_precision: Area under the precision–recall curve; None where all cells or none have it.
    """

    location: str
    positives: int
    average_precision: float | None


def score_locations(
    scores: npt.NDArray[np.floating], targets: npt.NDArray[np.floating], names: Sequence[str]
) -> list[LocationScore]:
    """Average precision of every class.

    Args:
        scores: `[cells, classes]`, higher is likelier.
        targets: `[cells, classes]`, 0 or 1.
        names: Of the classes.
    """
    rows = []
    for index, name in enumerate(names):
        positives = int(targets[:, index].sum())
        known = 0 < positives < len(targets)
        precision = float(average_precision_score(targets[:, index], scores[:, index])) if known else None
        rows.append(LocationScore(name, positives, precision))
    return rows


def summarize(
    scores: npt.NDArray[np.floating], targets: npt.NDArray[np.floating], table: Sequence[LocationScore]
) -> dict[str, float]:
    """Metrics of a validation, over cells.

    Args:
        scores: `[cells, classes]`.
        targets: `[cells, classes]`, 0 or 1.
        table: From `score_locations`.

    Returns:
        `macro_auprc`: mean average precision over classes that some cells have and some have not;
        `label_ranking_average_precision` and `top5` (share of cells of which a true location is among the five highest
        scores) over cells with a location; `classes` and `cells` that counted. A metric of nothing is NaN.
    """
    precisions = [row.average_precision for row in table if row.average_precision is not None]
    labelled = targets.sum(axis=1) > 0
    scores, targets = scores[labelled], targets[labelled]
    some = len(targets) > 0
    highest = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    hits = np.take_along_axis(targets, highest, axis=1).max(axis=1) if some else np.empty(0)
    return {
        "macro_auprc": float(np.mean(precisions)) if precisions else float("nan"),
        "label_ranking_average_precision": (
            float(label_ranking_average_precision_score(targets, scores)) if some else float("nan")
        ),
        "top5": float(hits.mean()) if some else float("nan"),
        "classes": float(len(precisions)),
        "cells": float(len(targets)),
    }


def write_table(table: Sequence[LocationScore], path: Path) -> None:
    """Write the per-class table as CSV, best class first; classes that could not be scored come last."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("location", "positives", "average_precision"))
    for row in sorted(table, key=lambda row: -1.0 if row.average_precision is None else row.average_precision)[::-1]:
        precision = "" if row.average_precision is None else f"{row.average_precision:.6f}"
        writer.writerow((row.location, row.positives, precision))
    with write_atomically(path) as file:
        file.write(text.getvalue().encode())
