"""Sets of locations whose mean recall or precision over antibodies is guaranteed, from held-out antibodies.

The set of a cell holds the locations whose probability reaches a threshold. Thresholds are tested in order, from the
one that is surely safe, until one fails (Learn then Test, Angelopoulos et al. 2021, arXiv:2110.01052; for recall the
risk-controlling prediction sets of Bates et al. 2021, doi 10.1145/3478535), with the p-value of Waudby-Smith and
Ramdas, which makes use of how little antibodies differ; with that of Hoeffding and Bentkus sets are larger.
So with the chosen confidence over the choice of calibration antibodies, the mean over antibodies of the same kind is at
least the target. Conformal risk control (Angelopoulos et al. 2022) would bound only the mean over many calibrations.

Cells of one antibody are no independent evidence, so an antibody counts once, with the mean of its cells.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from subcell_hf.errors import InputError

MEASURES = ("recall", "precision")
_THRESHOLDS = 501
_LARGEST_LOGIT = 12.0

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LocationSets:
    """A threshold and what is guaranteed by it.

    Attributes:
        threshold: A location belongs to the set of a cell if its probability is at least this.
        measure: `"recall"` or `"precision"`.
        target: Mean of the measure over antibodies, at least.
        confidence: Probability of this over the choice of calibration antibodies, at least.
        antibodies: Number of calibration antibodies.
        observed: Mean of the measure over them.
        median_set_size: Median number of locations in the set of a cell.
    """

    threshold: float
    measure: str
    target: float
    confidence: float
    antibodies: int
    observed: float
    median_set_size: float


def choose_location_sets(
    probabilities: npt.NDArray[np.float32],
    targets: npt.NDArray[np.uint8],
    antibodies: npt.NDArray[np.object_],
    *,
    measure: str = "recall",
    target: float = 0.9,
    confidence: float = 0.95,
) -> LocationSets:
    """Choose a threshold from cells that were not used for training.

    Args:
        probabilities: `[cells, classes]`.
        targets: `[cells, classes]`, 0 or 1, at least one 1 per cell.
        antibodies: `[cells]`, names.
        measure: `"recall"`: share of a cell's locations that are in its set; `"precision"`: share of its set that is
            right, 1 for an empty set.
        target: Least mean over antibodies, between 0 and 1.
        confidence: Between 0 and 1.

    Raises:
        InputError: If a number is impossible, or the antibodies are too few or their probabilities too poor for the
            guarantee; the message says how many are needed at least.
    """
    if measure not in MEASURES:
        raise InputError(f"measure is {measure!r}, expected one of {', '.join(MEASURES)}.")
    for name, value in (("target", target), ("confidence", confidence)):
        if not 0 < value < 1:
            raise InputError(f"{name} is {value}, expected a number between 0 and 1.")
    _, group = np.unique(antibodies.astype(str), return_inverse=True)
    cells = np.bincount(group)
    if betting_p_value(np.zeros(len(cells)), 1 - target, confidence) > 1 - confidence:
        least = _fewest_antibodies(1 - target, confidence)
        raise InputError(
            f"{len(cells)} antibodies are too few to guarantee a {measure} of {target:g} with confidence "
            f"{confidence:g}: expected at least {least}. Calibrate on more antibodies, or choose a lower target."
        )
    order = np.random.default_rng(0).permutation(len(cells))  # names may be sorted by what the antibodies show
    # Even in the logit: probabilities of rare locations are small.
    between = expit(np.linspace(-_LARGEST_LOGIT, _LARGEST_LOGIT, _THRESHOLDS))
    steps = np.concatenate([[0.0], between, [1.0]])
    chosen, observed = None, 0.0
    for threshold in steps if measure == "recall" else steps[::-1]:
        of_antibodies = np.bincount(group, measure_cells(probabilities, targets, threshold, measure)) / cells
        if betting_p_value(1 - of_antibodies[order], 1 - target, confidence) > 1 - confidence:
            break
        chosen, observed = float(threshold), float(of_antibodies.mean())
    if chosen is None:
        raise InputError(
            f"No threshold guarantees a {measure} of {target:g} with confidence {confidence:g} on {len(cells)} "
            "antibodies. Calibrate on more antibodies, or choose a lower target."
        )
    sizes = (probabilities >= chosen).sum(axis=1)
    return LocationSets(chosen, measure, target, confidence, len(cells), observed, float(np.median(sizes)))


def _fewest_antibodies(limit: float, confidence: float) -> int:
    """How many antibodies without any error are required."""
    count = int(np.ceil(np.log(1 - confidence) / np.log(1 - limit)))  # fewer are too few for any p-value
    while betting_p_value(np.zeros(count), limit, confidence) > 1 - confidence:
        count += 1
    return count


def measure_cells(
    probabilities: npt.NDArray[np.float32], targets: npt.NDArray[np.uint8], threshold: float, measure: str
) -> Values:
    """Recall or precision of the set of each cell.

    Args:
        probabilities: `[cells, classes]`.
        targets: `[cells, classes]`, 0 or 1.
        threshold: Least probability of a location in the set.
        measure: `"recall"` or `"precision"`.

    Returns:
        `[cells]`.
    """
    inside = probabilities >= threshold
    right = (inside & (targets > 0)).sum(axis=1)
    if measure == "recall":
        found: Values = right / (targets > 0).sum(axis=1)
        return found
    sizes = inside.sum(axis=1)
    return np.where(sizes > 0, right / np.maximum(sizes, 1), 1.0)


def betting_p_value(risks: Values, limit: float, confidence: float) -> float:
    """p-value of the hypothesis that the expected risk is above a limit: 1 over the largest capital of a gambler.

    Args:
        risks: `[antibodies]`, independent, each from 0 to 1, in an order that does not depend on them.
        limit: The limit, between 0 and 1.
        confidence: What the stakes are made for; the p-value is valid whatever it is.

    Source:
        Waudby-Smith and Ramdas: Estimating means of bounded random variables by betting. J. R. Stat. Soc. B 86, 2024,
        as in Bates et al. 2021, section 3.1.3.
    """
    seen = np.arange(1, len(risks) + 1)
    mean = (0.5 + np.cumsum(risks)) / (1 + seen)
    variance = (0.25 + np.cumsum((risks - mean) ** 2)) / (1 + seen)
    before = np.concatenate([[0.25], variance[:-1]])  # a stake is placed before its risk is seen
    stakes = np.minimum(1, np.sqrt(2 * np.log(1 / (1 - confidence)) / (len(risks) * before)))
    capital = np.cumsum(np.log1p(-stakes * (risks - limit)))
    return float(min(np.exp(-capital.max()), 1.0))
