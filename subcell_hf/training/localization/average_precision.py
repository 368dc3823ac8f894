"""Average precision of all classes at once, where the scores lie."""

import torch
from torch import Tensor


def average_precision(scores: Tensor, targets: Tensor) -> Tensor:
    """Area under the precision–recall curve, as scikit-learn's `average_precision_score` sums it.

    Args:
        scores: `[cells, classes]`, higher is likelier; equal scores share a threshold.
        targets: `[cells, classes]`, 0 or 1.

    Returns:
        `[classes]` float64; NaN where a class has no positive.
    """
    ordered, order = scores.sort(dim=0, descending=True)
    hits = targets.double().gather(0, order)
    rank = torch.arange(1, len(scores) + 1, device=scores.device)[:, None]
    precision = hits.cumsum(0) / rank
    # Every cell counts with the precision at the last of those that share its score.
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:-1] = ordered[:-1] != ordered[1:]
    end = torch.where(last, rank - 1, len(scores)).flip(0).cummin(0).values.flip(0)
    return (hits * precision.gather(0, end)).sum(0) / hits.sum(0)


def mean_average_precision(scores: Tensor, targets: Tensor) -> float:
    """Mean over the classes that have both positives and negatives.

    Args:
        scores: `[cells, classes]`.
        targets: `[cells, classes]`, 0 or 1.
    """
    positives = targets.sum(0)
    known = (positives > 0) & (positives < len(targets))
    return float(average_precision(scores[:, known], targets[:, known]).mean())
