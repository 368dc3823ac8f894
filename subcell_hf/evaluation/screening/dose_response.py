"""Size of an effect, and its dose response: a four-parameter curve, with the EC50 where it is identified."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from subcell_hf.evaluation.screening.permutation import Features, Pool, around_controls

_STEP = 0.02
"""Step of the grid of EC50, in decades."""
_BEYOND = 1.0
"""Decades beyond the doses in which the EC50 is searched."""
_HILLS = np.geomspace(0.4, 8, 17)
_LEVEL = 0.95
_FEWEST_DOSES = 4


@dataclass(frozen=True)
class Response:
    """How far wells lie from the controls, in standard deviations of the controls.

    Attributes:
        treated: float64 [treated]; NaN where controls have no spread, as with one control on each plate.
        controls: float64 [controls]; their mean is 0 on every plate.
    """

    treated: Features
    controls: Features


@dataclass(frozen=True)
class DoseCurve:
    """A fit of bottom + (top - bottom) / (1 + (EC50 / dose)^hill).

    Attributes:
        bottom: Response at dose 0.
        top: Response at saturating dose.
        hill: Slope.
        ec50: Dose of half effect, in the unit of the doses.
        ec50_low: Lower end of its 95 % interval by profile likelihood; 0 where open.
        ec50_high: Upper end; infinite where open.
        identified: Whether the interval lies within the doses that were tested.
    """

    bottom: float
    top: float
    hill: float
    ec50: float
    ec50_low: float
    ec50_high: float
    identified: bool

    def at(self, doses: Features) -> Features:
        """The curve, float64 [doses]."""
        return self.bottom + (self.top - self.bottom) * _shape(np.log10(doses), np.log10(self.ec50), self.hill)


def measure_response(features: Features, pool: Pool, weights: Features) -> Response:
    """Project wells onto the direction in which the other wells of their treatment differ from the controls.

    The direction for a well comes from the treatment's wells on other plates, or, if there are none, from its other
    wells on the same plate: never from the well itself, so that a treatment without effect has a mean of 0.

    Args:
        features: float64 [wells, features] of the whole table.
        pool: Wells of the treatment and controls.
        weights: Weight of each treated well in the directions, float64 [treated], at least two above 0.
    """
    return _respond(_products(features, pool), pool, weights)


def _products(features: Features, pool: Pool) -> Features:
    """Inner products of the pool's wells with its treated wells, around the controls of each plate, [pool, treated]."""
    own = around_controls(features, pool)
    products: Features = own @ own[: pool.treated].T
    return products


def _respond(products: Features, pool: Pool, weights: Features) -> Response:
    """The response by `_products`; a well of weight 0 takes part in no direction."""
    plates = pool.plates[: pool.treated]
    mixing = np.repeat(weights[None, :], pool.treated, axis=0)
    elsewhere = plates[:, None] != plates[None, :]
    usable = (mixing * elsewhere).sum(axis=1) > 0
    mixing *= np.where(usable[:, None], elsewhere, ~np.eye(pool.treated, dtype=bool))
    among = products[: pool.treated]
    lengths = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", mixing, among, mixing, optimize=True), 1e-300))
    projected = products @ (mixing / lengths[:, None]).T  # [pool, treated]
    degrees = len(products) - pool.treated - int(pool.plates.max()) - 1
    spread = np.sqrt((projected[pool.treated :] ** 2).sum(axis=0) / max(degrees, 1))
    scaled = projected / np.where(spread > 0, spread, np.nan)
    return Response(np.diagonal(scaled[: pool.treated]).copy(), scaled[pool.treated :].mean(axis=1))


def effect_interval(features: Features, pool: Pool, groups: npt.NDArray[np.object_]) -> tuple[float, float, float]:
    """Mean response of the treated wells and its 95 % interval.

    The interval is that of the jackknife within groups with Student's t: each well in turn is left out of the mean and
    of the directions. Groups are taken together where one of them has a single well. Without an effect the interval is
    wide rather than narrow, since directions that are noise change most.

    Args:
        features: float64 [wells, features] of the whole table.
        pool: Wells of the treatment and controls.
        groups: Group of each treated well, such as its dose.

    Returns:
        Mean, lower end, upper end; the ends are NaN with fewer than three wells, all are where controls have no spread.
    """
    from scipy.stats import t

    products = _products(features, pool)
    mean = float(_respond(products, pool, np.ones(pool.treated)).treated.mean())
    if pool.treated < 3:
        return mean, float("nan"), float("nan")
    codes = np.unique(groups.astype(str), return_inverse=True)[1]
    if (np.bincount(codes) < 2).any():
        codes = np.zeros(pool.treated, dtype=np.intp)
    sizes = np.bincount(codes)
    without = np.empty(pool.treated)
    for left in range(pool.treated):
        others = np.arange(pool.treated) != left
        response = _respond(products, pool, others.astype(np.float64)).treated[others]
        # Every group keeps its weight in the mean.
        weights = (sizes[codes] / (sizes[codes] - (codes == codes[left])))[others]
        without[left] = float(response @ weights) / pool.treated
    deviations = without - (np.bincount(codes, without) / sizes)[codes]
    variance = float((((sizes - 1) / sizes)[codes] * deviations**2).sum())
    half = float(t.ppf((1 + _LEVEL) / 2, pool.treated - len(sizes))) * variance**0.5
    return mean, mean - half, mean + half


def monotone_test(response: Features, doses: Features, permutations: int, generator: np.random.Generator) -> float:
    """One-sided p-value of a response that rises with the dose: Spearman's correlation, doses permuted among wells.

    Args:
        response: With equal weights of all wells in the directions, float64 [wells].
        doses: float64 [wells].
        permutations: How many.
        generator: Of the permutations.

    Returns:
        The p-value; NaN where there are fewer than two doses.
    """
    from scipy.stats import rankdata

    if len(np.unique(doses)) < 2:
        return float("nan")
    ranks, levels = rankdata(response), rankdata(doses)
    levels = levels - levels.mean()
    observed = float(ranks @ levels)
    null = np.argsort(generator.random((permutations, len(ranks))), axis=1)
    return float((1 + int((ranks[null] @ levels >= observed - 1e-9).sum())) / (1 + permutations))


def fit_curve(doses: Features, response: Features, controls: Features) -> DoseCurve | None:
    """Fit a rising four-parameter curve by least squares; controls are wells at dose 0.

    The interval holds every EC50 with which the best curve fits not significantly worse (profile likelihood, F
    distribution). On a grid of EC50 and slope, bottom and top follow in closed form; SciPy refines the best point.

    Args:
        doses: Above 0, float64 [wells].
        response: float64 [wells].
        controls: Response of the controls, float64 [controls].

    Returns:
        The curve, or None where there are fewer than four doses or nothing rises.
    """
    from scipy.optimize import least_squares
    from scipy.stats import f

    if len(np.unique(doses)) < _FEWEST_DOSES:
        return None
    logs = np.log10(doses)
    grid = np.arange(logs.min() - _BEYOND, logs.max() + _BEYOND + _STEP / 2, _STEP)
    shapes = _shape(logs[None, None, :], grid[:, None, None], _HILLS[None, :, None])
    values = np.concatenate([response, controls])
    centred = values - values.mean()
    means = shapes.sum(axis=2) / len(values)
    variance = (shapes**2).sum(axis=2) / len(values) - means**2
    covariance = shapes @ centred[: len(doses)] / len(values)
    gain = np.maximum(covariance, 0) ** 2 / np.maximum(variance, 1e-12)
    losses = float(centred @ centred) - len(values) * gain
    place = np.unravel_index(int(np.argmin(losses)), losses.shape)
    if gain[place] <= 0:
        return None
    slope = covariance[place] / variance[place]
    bottom = values.mean() - slope * means[place]

    def residuals(guess: Features) -> Features:
        fitted = guess[0] + guess[1] * _shape(logs, guess[2], guess[3])
        return np.concatenate([fitted - response, guess[0] - controls])

    bounds = ([-np.inf, 0, grid[0], _HILLS[0]], [np.inf, np.inf, grid[-1], _HILLS[-1]])
    start = np.clip([bottom, slope, grid[place[0]], _HILLS[place[1]]], *bounds)
    best = least_squares(residuals, start, bounds=bounds)
    degrees = max(len(values) - 4, 1)
    limit = 2 * best.cost * (1 + float(f.ppf(_LEVEL, 1, degrees)) / degrees)
    inside = np.flatnonzero(losses.min(axis=1) <= max(limit, float(losses.min())))
    low, high = grid[inside[0]] - _STEP, grid[inside[-1]] + _STEP
    low, high = min(low, best.x[2]), max(high, best.x[2])
    identified = bool(low >= logs.min() and high <= logs.max())
    return DoseCurve(
        bottom=float(best.x[0]),
        top=float(best.x[0] + best.x[1]),
        hill=float(best.x[3]),
        ec50=float(10 ** best.x[2]),
        ec50_low=0.0 if inside[0] == 0 else float(10**low),
        ec50_high=float("inf") if inside[-1] == len(grid) - 1 else float(10**high),
        identified=identified,
    )


def _shape(log_doses: Features, log_ec50: Features | float, hill: Features | float) -> Features:
    """The curve from 0 to 1."""
    exponent = np.clip(hill * (log_ec50 - log_doses), -300, 300)
    rise: Features = 1 / (1 + 10.0**exponent)
    return rise
