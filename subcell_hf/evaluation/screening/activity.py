"""Which treatments differ from the controls on their plates, and whether the number of cells explains it."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.evaluation.screening.dose_response import DoseCurve, effect_interval, fit_curve, measure_response
from subcell_hf.evaluation.screening.dose_response import monotone_test as test_monotone
from subcell_hf.evaluation.screening.permutation import (
    Features,
    Pool,
    Statistic,
    around_controls,
    average_precision_statistic,
    energy_statistic,
    least_p_value,
    mean_statistic,
    permutation_test,
)
from subcell_hf.evaluation.screening.settings import ScreenSettings

_MONOTONE_PERMUTATIONS = 999


def measure_activity(
    pools: Mapping[str, Pool],
    profiles: Mapping[str, Features],
    ratios: Features | None,
    doses: Features,
    settings: ScreenSettings,
) -> pd.DataFrame:
    """Test every treatment.

    Args:
        pools: Treatment → its wells and controls.
        profiles: `profile`: processed profiles, float64 [wells, features]; `beyond_count`: the same without what the
            number of cells explains, where numbers are known; any further name: other profiles of the same wells.
        ratios: log2 of the number of cells over that of controls, float64 [wells]; None where unknown.
        doses: Dose of each well, NaN where it has none.
        settings: Level, permutations and seed.

    Returns:
        One row per treatment, best first. `p_value` is the larger of those of the profile and of the profile beyond
        the number of cells, so that a hit passes both; `q_value` is Benjamini and Hochberg's.
    """
    rows = []
    main = profiles.get("beyond_count", profiles["profile"])
    for number, name in enumerate(sorted(pools)):
        pool = pools[name]
        generator = np.random.default_rng([settings.seed, 2, number])
        statistics: dict[str, Statistic] = {
            key: average_precision_statistic(table, pool) for key, table in profiles.items()
        }
        statistics["energy"] = energy_statistic(main, pool)
        if ratios is not None:
            statistics["count"] = mean_statistic(ratios, pool)
        tested = permutation_test(pool, statistics, settings.permutations, generator)
        own = doses[pool.rows[: pool.treated]]
        effect, low, high = effect_interval(main, pool, own.astype(object))
        response = measure_response(main, pool, np.ones(pool.treated)).treated
        known = np.isfinite(own) & np.isfinite(response)
        row: dict[str, object] = {
            "treatment": name,
            "p_value": max(tested["profile"][1], tested.get("beyond_count", tested["profile"])[1]),
            "effect": effect,
            "effect_low": low,
            "effect_high": high,
            "wells": pool.treated,
            "plates": len(np.unique(pool.plates[: pool.treated])),
            "doses": len(np.unique(own[np.isfinite(own)])),
            "least_p_value": least_p_value(pool, settings.permutations),
            "mean_average_precision": tested["profile"][0],
            "replicate_similarity": _replicate_similarity(main, pool, own),
            "energy_distance": tested["energy"][0],
            "p_monotone": test_monotone(response[known], own[known], _MONOTONE_PERMUTATIONS, generator),
        }
        row |= {f"p_{key}": p_value for key, (_, p_value) in tested.items()}
        if ratios is not None:
            row["count_ratio"] = float(2 ** ratios[pool.rows[: pool.treated]].mean())
        rows.append(row)
    return _rank(pd.DataFrame(rows), settings.level)


def _rank(table: pd.DataFrame, level: float) -> pd.DataFrame:
    """Add q-values and verdicts, and sort."""
    from scipy.stats import false_discovery_control

    table["q_value"] = false_discovery_control(table["p_value"].to_numpy())
    tests = [name.removeprefix("p_") for name in table.columns if name.startswith("p_")]
    for test in tests:
        if test not in ("value", "monotone"):
            table[f"q_{test}"] = false_discovery_control(table[f"p_{test}"].to_numpy())
    table["active"] = table["q_value"] <= level
    differs = table["q_profile"] <= level
    explained = (differs & ~table["active"]).astype(object)
    table["explained_by_count"] = explained if "q_count" in table.columns else None
    first = ["treatment", "active", "p_value", "q_value", "effect", "effect_low", "effect_high", "explained_by_count"]
    table = table[first + [name for name in table.columns if name not in first]]
    return table.sort_values(
        ["active", "q_value", "effect", "treatment"], ascending=[False, True, False, True], ignore_index=True
    )


def fit_curves(
    activity: pd.DataFrame, pools: Mapping[str, Pool], profiles: Features, doses: Features, level: float
) -> tuple[dict[str, DoseCurve], dict[str, pd.DataFrame]]:
    """Fit the dose response of the active treatments with at least four doses.

    Args:
        activity: As `measure_activity` gives it.
        pools: Treatment → its wells and controls.
        profiles: Profiles the effects are measured on, float64 [wells, features].
        doses: Dose of each well, NaN where it has none.
        level: A curve whose response does not rise with the dose at this level has no identified EC50.

    Returns:
        Treatment → curve, where one was fitted; treatment → `dose` and `response` of its wells, where it has doses.
    """
    curves, points = {}, {}
    for name, p_monotone in zip(activity["treatment"], activity["p_monotone"], strict=True):
        pool = pools[str(name)]
        own = doses[pool.rows[: pool.treated]]
        known = np.isfinite(own)
        if not known.all() or len(np.unique(own)) < 2:
            continue
        weights = np.unique(own, return_inverse=True)[1] + 1.0
        response = measure_response(profiles, pool, weights / weights.max())
        if not np.isfinite(response.treated).all():
            continue
        points[str(name)] = pd.DataFrame({"dose": own, "response": response.treated})
        curve = fit_curve(own, response.treated, response.controls)
        if curve is not None and p_monotone <= level:
            curves[str(name)] = curve
    return curves, points


def add_curves(activity: pd.DataFrame, curves: Mapping[str, DoseCurve]) -> pd.DataFrame:
    """Add `ec50`, its interval and `hill` of the active treatments; missing where the EC50 is not identified."""
    found = {name: curve for name, curve in curves.items() if curve.identified}
    active = set(activity.loc[activity["active"], "treatment"])
    columns: dict[str, list[float]] = {"ec50": [], "ec50_low": [], "ec50_high": [], "hill": []}
    for name in activity["treatment"]:
        curve = found.get(str(name)) if name in active else None
        for column, values in columns.items():
            values.append(float("nan") if curve is None else float(getattr(curve, column)))
    place = list(activity.columns).index("effect_high") + 1
    hill = columns.pop("hill")
    extended = activity.copy()
    for offset, (column, values) in enumerate(columns.items()):
        extended.insert(place + offset, column, values)
    extended["hill"] = hill
    return extended


def nearest_mechanisms(
    activity: pd.DataFrame, pools: Mapping[str, Pool], profiles: Features, mechanisms: Mapping[str, str], shown: int = 3
) -> pd.DataFrame:
    """The reference treatments that active ones resemble most, by cosine similarity of their mean effects.

    Args:
        activity: As `measure_activity` gives it; only active treatments take part, references too.
        pools: Treatment → its wells and controls.
        profiles: float64 [wells, features].
        mechanisms: Treatment → its known mechanism.
        shown: References per treatment.

    Returns:
        One row per treatment and reference: `treatment`, `known_mechanism` (empty where it has none), `rank`,
        `reference`, `mechanism`, `similarity`.
    """
    active = [str(name) for name in activity.loc[activity["active"], "treatment"]]
    columns = ["treatment", "known_mechanism", "rank", "reference", "mechanism", "similarity"]
    references = [name for name in active if mechanisms.get(name)]
    if not references or len(active) < 2:
        return pd.DataFrame(columns=columns)
    effects = np.array([_mean_effect(profiles, pools[name]) for name in active])
    effects /= np.maximum(np.linalg.norm(effects, axis=1, keepdims=True), 1e-300)
    index = {name: number for number, name in enumerate(active)}
    rows = []
    for name in active:
        others = [other for other in references if other != name]
        similarity = {other: float(effects[index[name]] @ effects[index[other]]) for other in others}
        ranked = sorted(others, key=lambda other: (-similarity[other], other))[:shown]
        rows += [
            (name, mechanisms.get(name, ""), rank, other, mechanisms[other], similarity[other])
            for rank, other in enumerate(ranked, 1)
        ]
    return pd.DataFrame(rows, columns=columns)


def _mean_effect(profiles: Features, pool: Pool) -> npt.NDArray[np.float64]:
    """Mean difference of the treated wells from the controls of their plates, float64 [features]."""
    mean: npt.NDArray[np.float64] = around_controls(profiles, pool)[: pool.treated].mean(axis=0)
    return mean


def _replicate_similarity(profiles: Features, pool: Pool, doses: Features) -> float:
    """Median cosine similarity of wells with the same dose, around the controls; NaN where no dose has two wells."""
    treated = around_controls(profiles, pool)[: pool.treated]
    treated /= np.maximum(np.linalg.norm(treated, axis=1, keepdims=True), 1e-300)
    codes = np.unique(np.nan_to_num(doses, nan=-1.0), return_inverse=True)[1]
    pairs = np.triu(codes[:, None] == codes[None, :], 1)
    return float(np.median((treated @ treated.T)[pairs])) if pairs.any() else float("nan")


def describe_tests(columns: Sequence[str]) -> list[str]:
    """Names of the other profiles that were tested beside the own, from the columns of `measure_activity`."""
    own = {"p_value", "p_profile", "p_beyond_count", "p_energy", "p_count", "p_monotone"}
    return [name.removeprefix("p_") for name in columns if name.startswith("p_") and name not in own]
