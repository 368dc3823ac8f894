"""Metrics of multi-label ranking: what the localization benchmark reports.

Equal to scikit-learn's, by the class and by the cell where that lets them be resampled; classes that all cells or none
have cannot be scored and are left out of macro means.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from subcell_hf.errors import InputError

Scores = npt.NDArray[np.floating]
Targets = npt.NDArray[np.uint8]

METRICS = ("macro_map", "macro_auc", "micro_map", "lrap", "coverage_error")
"""Macro mean of average precision, macro mean of the area under the ROC curve, micro average precision, label-ranking
average precision, and how many of the highest classes cover all true ones (lower is better)."""

_CELLS_AT_ONCE = 16_384


@dataclass(frozen=True)
class ClassScores:
    """Metrics of every class; NaN where all cells or none have it.

    Attributes:
        positives: `[classes]` int64.
        average_precision: `[classes]` float64.
        roc_auc: `[classes]` float64.
    """

    positives: npt.NDArray[np.int64]
    average_precision: npt.NDArray[np.float64]
    roc_auc: npt.NDArray[np.float64]


def check_scores(targets: Targets, scores: Scores) -> None:
    """Refuse scores that cannot be compared with targets.

    Raises:
        InputError: If shapes differ, there is no cell, targets are not 0 or 1, or scores are not finite.
    """
    if targets.shape != scores.shape or targets.ndim != 2 or not len(targets):
        raise InputError(f"Targets {targets.shape} and scores {scores.shape} must be one [cells, classes] shape.")
    if not np.isin(targets, (0, 1)).all():
        raise InputError("Targets must be 0 or 1.")
    if not np.isfinite(scores).all():
        raise InputError("Scores contain NaN or infinite values; expected finite numbers.")


def score_classes(targets: Targets, scores: Scores) -> ClassScores:
    """Average precision and ROC-AUC of every class.

    Args:
        targets: `[cells, classes]`, 0 or 1.
        scores: `[cells, classes]`, higher is likelier.

    Raises:
        InputError: See `check_scores`.
    """
    check_scores(targets, scores)
    positives = targets.sum(axis=0, dtype=np.int64)
    precision, area = np.full((2, targets.shape[1]), np.nan)
    for index in np.flatnonzero((positives > 0) & (positives < len(targets))):
        precision[index] = average_precision_score(targets[:, index], scores[:, index])
        area[index] = roc_auc_score(targets[:, index], scores[:, index])
    return ClassScores(positives, precision, area)


def summarize(targets: Targets, scores: Scores, by_class: ClassScores | None = None) -> dict[str, float]:
    """Compute all of `METRICS`.

    Args:
        targets: `[cells, classes]`, 0 or 1.
        scores: `[cells, classes]`.
        by_class: From `score_classes`, where it is known already.

    Returns:
        Metric → value; NaN where no class can be scored.

    Raises:
        InputError: See `check_scores`.
    """
    by_class = by_class or score_classes(targets, scores)
    ranking, coverage = rank_cells(targets, scores)
    flat = targets.ravel()
    return {
        "macro_map": _mean(by_class.average_precision),
        "macro_auc": _mean(by_class.roc_auc),
        "micro_map": float(average_precision_score(flat, scores.ravel())) if 0 < flat.sum() < len(flat) else np.nan,
        "lrap": float(ranking.mean()),
        "coverage_error": float(coverage.mean()),
    }


def rank_cells(targets: Targets, scores: Scores) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Label-ranking average precision and coverage of every cell; their means are scikit-learn's metrics.

    Args:
        targets: `[cells, classes]`, 0 or 1.
        scores: `[cells, classes]`; equal ones share the worst of their ranks.

    Returns:
        Two arrays `[cells]`. A cell that has no class or all of them has the precision 1, one without a class the
        coverage 0, as scikit-learn defines it.
    """
    precision, coverage = np.empty((2, len(targets)))
    for start in range(0, len(targets), _CELLS_AT_ONCE):
        part = slice(start, start + _CELLS_AT_ONCE)
        true, some = targets[part] > 0, scores[part]
        above = some[:, None, :] >= some[:, :, None]  # [cells, class, not below it]
        rank = above.sum(axis=2)
        true_rank = (above & true[:, None, :]).sum(axis=2)
        count = true.sum(axis=1)
        shares = np.where(true, true_rank / rank, 0).sum(axis=1) / np.maximum(count, 1)
        precision[part] = np.where((count == 0) | (count == true.shape[1]), 1.0, shares)
        coverage[part] = np.where(true, rank, 0).max(axis=1)
    return precision, coverage


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Mean over the classes that could be scored."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
