"""Where the protein is after a treatment: changes of the probability of each location, and their dose responses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from subcell_hf.evaluation.screening.dose_response import DoseCurve, fit_curve
from subcell_hf.evaluation.screening.permutation import Features, Pool, around_controls

_FEWEST_DOSES = 4
_COLUMNS = ("treatment", "location", "control", "treated", "change", "change_low", "change_high")
_DOSE_COLUMNS = ("p_dose", "ec50", "ec50_low", "ec50_high")


@dataclass(frozen=True)
class LocationChanges:
    """How active treatments change locations.

    Attributes:
        table: One row per active treatment and location, largest changes first; see `measure_locations`.
        curves: Treatment and location → fitted dose response, in percentage points.
        points: Treatment and location → `dose` and `response` of the wells of each curve.
    """

    table: pd.DataFrame
    curves: Mapping[tuple[str, str], DoseCurve] = field(default_factory=dict)
    points: Mapping[tuple[str, str], pd.DataFrame] = field(default_factory=dict)


def measure_locations(
    treatments: Sequence[str],
    pools: Mapping[str, Pool],
    shares: Features,
    classes: Sequence[str],
    doses: Features,
    level: float,
) -> LocationChanges:
    """Compare the mean probability of each location with that in the controls of the same plates.

    Args:
        treatments: Those to compare.
        pools: Treatment → its wells and controls.
        shares: Mean probability of each location over the cells of a well, float64 [wells, classes].
        classes: Names of the locations.
        doses: Dose of each well, NaN where it has none.
        level: A dose response is fitted where `p_dose` is at most this.

    Returns:
        In the table, in percent and percentage points: `control` and `treated` (wells of the highest dose, or all where
        there are no doses), `change` with its 95 % interval by Welch, `p_dose` (Spearman's correlation of change and
        dose, times the number of locations, at least four doses), `ec50` and its interval where identified.
    """
    rows, curves, points = [], {}, {}
    for name in treatments:
        pool = pools[name]
        own = doses[pool.rows[: pool.treated]]
        changes = around_controls(100 * shares, pool)
        known = np.isfinite(own)
        highest = own == own[known].max() if known.any() else np.ones(pool.treated, dtype=bool)
        treated = 100 * shares[pool.rows[: pool.treated]][highest].mean(axis=0)
        change = changes[: pool.treated][highest].mean(axis=0)
        half = _half_interval(changes, pool, highest)
        order = np.argsort(-np.abs(change), kind="stable")
        for place in order:
            key = (name, classes[place])
            p_dose, curve = _dose_response(changes[:, place], pool, own, len(classes), level)
            if curve is not None:
                curves[key] = curve
                points[key] = pd.DataFrame({"dose": own, "response": changes[: pool.treated, place]})
            found = curve if curve is not None and curve.identified else None
            ec50 = (np.nan,) * 3 if found is None else (found.ec50, found.ec50_low, found.ec50_high)
            ends = (change[place] - half[place], change[place] + half[place])
            rows.append((*key, treated[place] - change[place], treated[place], change[place], *ends, p_dose, *ec50))
    return LocationChanges(pd.DataFrame(rows, columns=[*_COLUMNS, *_DOSE_COLUMNS]), curves, points)


def _half_interval(changes: Features, pool: Pool, chosen: Features) -> Features:
    """Half of the 95 % interval of the mean change of the chosen wells, float64 [classes]; NaN for one well."""
    from scipy.stats import t

    treated, controls = changes[: pool.treated][chosen], changes[pool.treated :]
    degrees = len(controls) - len(np.unique(pool.plates))
    if len(treated) < 2 or degrees < 1:
        return np.full(changes.shape[1], np.nan)
    own = treated.var(axis=0, ddof=1) / len(treated)
    theirs = (controls**2).sum(axis=0) / degrees / len(controls)
    total = np.maximum(own + theirs, 1e-300)
    welch = total**2 / np.maximum(own**2 / (len(treated) - 1) + theirs**2 / degrees, 1e-300)
    half: Features = t.ppf(0.975, np.maximum(welch, 1)) * np.sqrt(total)
    return half


def _dose_response(
    changes: Features, pool: Pool, doses: Features, locations: int, level: float
) -> tuple[float, DoseCurve | None]:
    """p-value of a trend with the dose for one of several locations, and the curve where there is one."""
    from scipy.stats import spearmanr

    treated, controls = changes[: pool.treated], changes[pool.treated :]
    if not np.isfinite(doses).all() or len(np.unique(doses)) < _FEWEST_DOSES or np.ptp(treated) == 0:
        return float("nan"), None
    trend = spearmanr(doses, treated)
    p_value = min(float(trend.pvalue) * locations, 1.0)
    if p_value > level:
        return p_value, None
    sign = float(np.sign(trend.statistic))
    curve = fit_curve(doses, sign * treated, sign * controls)
    return p_value, None if curve is None else replace(curve, bottom=sign * curve.bottom, top=sign * curve.top)
