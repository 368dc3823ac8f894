"""Label-ranking average precision of multi-label classifiers."""

from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import label_ranking_average_precision_score

_DESCRIPTION = """
For each true label of a row: among the labels ranked as high or higher, the share that is true; mean over the row's
true labels, then over rows. Equal scores share the worst of their ranks. As scikit-learn defines it, a row without a
label, or with all of them, scores 1; `ignore_unlabelled` leaves rows without a label out.
"""

_INPUTS = """
Args:
    predictions (list of lists of float): a score for every row and label; higher is likelier.
    references (list of lists of int): 0 or 1 for every row and label.
    ignore_unlabelled (bool): whether rows without a label are left out; default False.
Returns:
    label_ranking_average_precision (float): NaN where no row is left.
    rows_scored (int): how many rows counted.
Examples:
    >>> metric = evaluate.load("label_ranking_average_precision")
    >>> metric.compute(predictions=[[0.75, 0.5, 1.0]], references=[[1, 0, 0]])
    {'label_ranking_average_precision': 0.5, 'rows_scored': 1}
"""


class LabelRankingAveragePrecision(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
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
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html"],
        )

    def _compute(self, predictions: Any, references: Any, ignore_unlabelled: bool = False) -> dict[str, Any]:
        scores, targets = np.asarray(predictions, np.float64), np.asarray(references, np.int64)
        if scores.shape != targets.shape or scores.ndim != 2:
            raise ValueError(f"predictions {scores.shape} and references {targets.shape} must both be [rows, labels].")
        if ignore_unlabelled:
            labelled = targets.any(axis=1)
            scores, targets = scores[labelled], targets[labelled]
        value = float(label_ranking_average_precision_score(targets, scores)) if len(targets) else float("nan")
        return {"label_ranking_average_precision": value, "rows_scored": len(targets)}
