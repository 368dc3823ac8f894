"""Coverage error of multi-label classifiers: rank of the last true label."""

from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import coverage_error

_DESCRIPTION = """
How many of the highest-ranked labels it takes to have all true ones, mean over rows; lower is better, and the mean
number of true labels is the best possible. Equal scores share the worst of their ranks. As scikit-learn defines it, a
row without a label counts 0; `ignore_unlabelled` leaves such rows out.
"""

_INPUTS = """
Args:
    predictions (list of lists of float): a score for every row and label; higher is likelier.
    references (list of lists of int): 0 or 1 for every row and label.
    ignore_unlabelled (bool): whether rows without a label are left out; default False.
Returns:
    coverage_error (float): NaN where no row is left.
    best_possible (float): mean number of true labels.
    rows_scored (int): how many rows counted.
Examples:
    >>> metric = evaluate.load("coverage_error")
    >>> metric.compute(predictions=[[0.75, 0.5, 1.0]], references=[[1, 0, 0]])
    {'coverage_error': 2.0, 'best_possible': 1.0, 'rows_scored': 1}
"""


class CoverageError(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """See the module's docstring."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Sequence(datasets.Value("int64")),
                }
            ),
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html#coverage-error"],
        )

    def _compute(self, predictions: Any, references: Any, ignore_unlabelled: bool = False) -> dict[str, Any]:
        scores, targets = np.asarray(predictions, np.float64), np.asarray(references, np.int64)
        if scores.shape != targets.shape or scores.ndim != 2:
            raise ValueError(f"predictions {scores.shape} and references {targets.shape} must both be [rows, labels].")
        if ignore_unlabelled:
            labelled = targets.any(axis=1)
            scores, targets = scores[labelled], targets[labelled]
        some = len(targets) > 0
        return {
            "coverage_error": float(coverage_error(targets, scores)) if some else float("nan"),
            "best_possible": float(targets.sum(axis=1).mean()) if some else float("nan"),
            "rows_scored": len(targets),
        }
