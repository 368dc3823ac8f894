"""Macro mean of average precision over the classes that can be scored, for multi-label classifiers."""

from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import average_precision_score

_DESCRIPTION = """
Average precision of every class, and its mean over the classes that some rows have and some have not. A class that no
row has, or that every row has, cannot be scored: it is left out of the mean and counted, instead of counting as 0 or
1.
"""

_INPUTS = """
Args:
    predictions (list of lists of float): a score for every row and class; higher is likelier.
    references (list of lists of int): 0 or 1 for every row and class.
Returns:
    macro_average_precision (float): mean over the classes that could be scored; NaN where there is none.
    average_precision (list): of every class; None where it could not be scored.
    classes_scored (int): how many classes could be scored.
Examples:
    >>> metric = evaluate.load("macro_average_precision")
    >>> metric.compute(predictions=[[0.9, 0.1], [0.2, 0.3]], references=[[1, 0], [0, 0]])
    {'macro_average_precision': 1.0, 'average_precision': [1.0, None], 'classes_scored': 1}
"""

_CITATION = """
@article{gupta2024subcell, title={SubCell: Vision foundation models for microscopy capture single-cell biology},
author={Gupta, Ankit and others}, journal={bioRxiv}, year={2024}, doi={10.1101/2024.12.06.627299}}
"""


class MacroAveragePrecision(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """See the module's docstring."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Sequence(datasets.Value("int64")),
                }
            ),
            reference_urls=["https://scikit-learn.org/stable/modules/model_evaluation.html#average-precision"],
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        scores, targets = np.asarray(predictions, np.float64), np.asarray(references, np.int64)
        if scores.shape != targets.shape or scores.ndim != 2:
            raise ValueError(f"predictions {scores.shape} and references {targets.shape} must both be [rows, classes].")
        positives = targets.sum(axis=0)
        precisions = [
            float(average_precision_score(targets[:, index], scores[:, index])) if 0 < count < len(targets) else None
            for index, count in enumerate(positives)
        ]
        known = [value for value in precisions if value is not None]
        return {
            "macro_average_precision": float(np.mean(known)) if known else float("nan"),
            "average_precision": precisions,
            "classes_scored": len(known),
        }
