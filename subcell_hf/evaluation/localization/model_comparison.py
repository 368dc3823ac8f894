"""One model against others on the same cells, and the plain sentence that follows."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.evaluation.localization.bootstrap import ClusteredScores, paired_tests

COMPARED_LEVELS = ("cell", "antibody")
SIGNIFICANCE_LEVEL = 0.05


class Scored(Protocol):
    """What is compared: a classifier on a table, scored at several levels."""

    @property
    def model(self) -> str: ...
    @property
    def head(self) -> str: ...
    @property
    def counted(self) -> Mapping[str, ClusteredScores]: ...
    @property
    def exact(self) -> Mapping[str, Mapping[str, float]]: ...


def holm(p_values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """P-values of several tests, corrected so that the chance of any false finding is no larger than the level.

    Args:
        p_values: `[tests]`.

    Source:
        Holm: A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979.
    """
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)), 1)
    return corrected


def compare_heads(scored: Sequence[Scored], first: str, *, resamples: int, seed: int) -> pd.DataFrame:
    """Compare one model with every other one, head by head.

    Args:
        scored: Classifiers on tables over the same test cells.
        first: Name of the model.
        resamples: Bootstrap samples and permutations.
        seed: Of both.

    Returns:
        `model`, `other`, `head`, `level`, `metric`, `difference` (model minus other), `low`, `high` (95 %, antibodies
        resampled), `p_value` (antibodies permuted), `p_holm` (over the others of one head, level and metric), `verdict`
        (better or worse where the interval leaves out 0 and `p_holm` is below 0.05, else not better).
    """
    pairs = [
        (one, other)
        for one in scored
        for other in scored
        if one.model == first and other.model != first and one.head == other.head
    ]
    return compare_pairs(pairs, resamples=resamples, seed=seed)


def compare_pairs(pairs: Sequence[tuple[Scored, Scored]], *, resamples: int, seed: int) -> pd.DataFrame:
    """Compare pairs of classifiers; see `compare_heads`."""
    rows: list[dict[str, Any]] = []
    for one, other in pairs:
        for level in COMPARED_LEVELS:
            if level not in one.counted:
                continue
            exact = one.exact[level], other.exact[level]
            counted = one.counted[level], other.counted[level]
            for metric, test in paired_tests(exact, counted, resamples=resamples, seed=seed).items():
                facts = {"model": one.model, "other": other.model, "head": one.head, "level": level, "metric": metric}
                rows.append({**facts, **vars(test)})
    columns = ["model", "other", "head", "level", "metric", "difference", "low", "high", "p_value"]
    table = pd.DataFrame(rows, columns=columns)
    table["p_holm"] = np.nan
    for _, group in table.groupby(["head", "level", "metric"], sort=False):
        known = group.index[group["p_value"].notna()]
        if len(known):
            table.loc[known, "p_holm"] = holm(table.loc[known, "p_value"].to_numpy())
    sign = np.where(table["metric"] == "coverage_error", -1, 1)  # the one metric of which less is better
    sure = (table["p_holm"] < SIGNIFICANCE_LEVEL).to_numpy()
    low, high = table["low"] * sign, table["high"] * sign
    table["verdict"] = np.select(
        [sure & (np.minimum(low, high) > 0), sure & (np.maximum(low, high) < 0)], ["better", "worse"], "not better"
    )
    return table


def verdict_sentence(row: Mapping[str, Any]) -> str:
    """One comparison in words, for the top of a report."""
    words = {
        "better": "is better than",
        "worse": "is WORSE than",
        "not better": "is NOT shown to be better than",
    }
    return (
        f"{row['model']} {words[row['verdict']]} {row['other']} ({row['head']}): difference of macro average precision "
        f"{row['difference']:+.3f}, 95 % interval {row['low']:+.3f} to {row['high']:+.3f} over antibodies, "
        f"p = {row['p_holm']:.2g} after Holm."
    )
