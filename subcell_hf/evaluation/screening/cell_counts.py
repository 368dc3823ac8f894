"""What the number of cells alone changes in a profile, estimated from all wells and subtracted.

Compounds that kill cells change profiles because the remaining cells have more room. How profiles depend on the number
of cells is fitted to all wells of a screen, treated or not. Treatments that differ from this common dependence get
little weight, so that the effect of an active compound is not taken for one of the number of cells.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError

Features = npt.NDArray[np.float64]

_ITERATIONS = 15
_DEGREE = 3
_TUNING = 0.5


@dataclass(frozen=True)
class CountModel:
    """How profiles depend on the number of cells.

    Attributes:
        ratios: log2 of each well's cells over the median of the controls of its plate, float64 [wells].
        coefficients: Of powers of that ratio from the first, float64 [powers, features].
        share: Share of the variance of the profiles that the number of cells explains.
    """

    ratios: Features
    coefficients: Features
    share: float

    def effect(self) -> Features:
        """What the number of cells explains in each profile, float64 [wells, features]; 0 at the ratio 1."""
        return _powers(self.ratios) @ self.coefficients


def count_ratios(counts: Features, plates: npt.NDArray[np.intp], control: npt.NDArray[np.bool_]) -> Features:
    """log2 of each well's number of cells over the median of the controls of its plate.

    Half a cell is added to every number, so that an empty well has a ratio.

    Args:
        counts: Number of cells of each well, float64 [wells].
        plates: Number of each well's plate.
        control: Which wells are controls, bool [wells]; some on every plate.

    Returns:
        float64 [wells].

    Raises:
        InputError: If numbers are missing or negative, or a plate has no control.
    """
    if not np.isfinite(counts).all() or (counts < 0).any():
        wrong = int((~np.isfinite(counts) | (counts < 0)).sum())
        raise InputError(
            f"The number of cells is missing or negative in {wrong} of {len(counts)} wells, expected a number in every "
            "well. Complete the column, or leave it out (--count-column none)."
        )
    ratios = np.empty(len(counts))
    for plate in np.unique(plates):
        rows = plates == plate
        ratios[rows] = np.log2(counts[rows] + 0.5) - np.log2(np.median(counts[rows & control]) + 0.5)
    return ratios


def fit_count_model(features: Features, ratios: Features, groups: npt.NDArray[np.object_]) -> CountModel:
    """Fit how profiles depend on the number of cells, robustly.

    Weighted least squares, iterated: a group (the wells of one dose of one treatment, or the controls of one plate)
    whose mean differs from the fit by more than its noise gets a Cauchy weight.

    Args:
        features: Normalised profiles, float64 [wells, features].
        ratios: As `count_ratios` gives them.
        groups: Group of each well (text).
    """
    codes, names = pd.factorize(groups)
    sizes = np.bincount(codes)
    design = np.column_stack([np.ones(len(ratios)), _powers(ratios)])
    weights = np.ones(len(ratios))
    coefficients = np.zeros((design.shape[1], features.shape[1]))
    for _ in range(_ITERATIONS):
        root = np.sqrt(weights)[:, None]
        coefficients = np.linalg.lstsq(design * root, features * root, rcond=None)[0]
        residuals = features - design @ coefficients
        means = np.zeros((len(names), features.shape[1]))
        np.add.at(means, codes, residuals)
        means /= sizes[:, None]
        within = ((residuals - means[codes]) ** 2).sum() / max(len(codes) - len(names), 1)
        excess = np.maximum((means**2).sum(axis=1) * sizes / max(within, 1e-300) - 1, 0)
        weights = (1 / (1 + (excess / _TUNING) ** 2))[codes]
    explained = _powers(ratios) @ coefficients[1:]
    total = float(((features - features.mean(axis=0)) ** 2).sum())
    share = float(((explained - explained.mean(axis=0)) ** 2).sum()) / max(total, 1e-300)
    return CountModel(ratios, coefficients[1:], min(share, 1.0))


def _powers(ratios: Features) -> Features:
    return np.column_stack([ratios**power for power in range(1, _DEGREE + 1)])
