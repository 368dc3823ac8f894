"""Whether probabilities mean what they say, and which locations are taken for which."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Probabilities = npt.NDArray[np.float32]
Targets = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Reliability:
    """Predicted against observed frequencies over all cells and classes.

    Attributes:
        predicted: `[bins]`, mean probability in the bin; NaN where it is empty.
        observed: `[bins]`, share that is true.
        count: `[bins]`, pairs of cell and class.
        expected_calibration_error: Mean of |predicted - observed|, weighted by count.
        brier: Mean squared difference of probability and truth.
    """

    predicted: npt.NDArray[np.float64]
    observed: npt.NDArray[np.float64]
    count: npt.NDArray[np.int64]
    expected_calibration_error: float
    brier: float


def reliability(targets: Targets, probabilities: Probabilities, bins: int = 15) -> Reliability:
    """Bin probabilities by equal widths.

    Args:
        targets: `[cells, classes]`, 0 or 1.
        probabilities: `[cells, classes]` in [0, 1].
        bins: How many.

    Source:
        Guo et al.: On calibration of modern neural networks. ICML 2017.
    """
    flat, true = probabilities.ravel().astype(np.float64), targets.ravel()
    place = np.clip(np.ceil(flat * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    some = np.maximum(count, 1)
    predicted = np.where(count > 0, np.bincount(place, flat, minlength=bins) / some, np.nan)
    observed = np.where(count > 0, np.bincount(place, true, minlength=bins) / some, np.nan)
    error = float(np.nansum(np.abs(predicted - observed) * count) / len(flat))
    return Reliability(predicted, observed, count, error, float(((flat - true) ** 2).mean()))


def confusion(targets: Targets, probabilities: Probabilities) -> npt.NDArray[np.float64]:
    """Confusion between locations where a cell may have several.

    A cell with k locations is taken to be predicted the k likeliest. A true location among them counts for itself; one
    that is missed counts, in equal shares, for the predicted locations that are wrong.

    Args:
        targets: `[cells, classes]`, 0 or 1.
        probabilities: `[cells, classes]`; of equal ones the first class is taken.

    Returns:
        `[true class, predicted class]`; a row adds up to the cells that have the class.
    """
    true = targets > 0
    order = np.argsort(-probabilities, axis=1, kind="stable")
    taken = np.arange(targets.shape[1]) < true.sum(axis=1, keepdims=True)
    predicted = np.zeros_like(true)
    np.put_along_axis(predicted, order, taken, axis=1)
    missed, wrong = true & ~predicted, predicted & ~true
    share = 1 / np.maximum(wrong.sum(axis=1, keepdims=True), 1)
    matrix: npt.NDArray[np.float64] = missed.T.astype(np.float64) @ (wrong * share)
    matrix += np.diag((true & predicted).sum(axis=0).astype(np.float64))
    return matrix
