"""Intervals and paired tests that resample antibodies, not cells: cells of one antibody are no independent evidence.

Recomputing a ranking metric on a thousand resamples of a million cells by sorting would take hours. Instead each class
is sorted once, cells are counted by antibody and rank, and a resample is one matrix product of those counts. The first
512 ranks are counted one by one, later ones in bins that grow with the rank, by 1/128 of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import sparse

from subcell_hf.errors import InputError
from subcell_hf.evaluation.localization.ranking import METRICS, Scores, Targets, rank_cells

EXACT_RANKS = 512
BINS_PER_FOLD = 128
_RESAMPLES_AT_ONCE = 128
"""Number of samples processed at a time, so that their counts by rank stay in a core's cache."""

Weights = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RankCounts:
    """Cells of one class by cluster and rank, best rank first.

    Attributes:
        positive: `[clusters, bins]` float32 in compressed rows, cells that have the class.
        total: `[clusters, bins]` likewise, all cells.
    """

    positive: sparse.csr_matrix
    total: sparse.csr_matrix

    def resample(self, weights: Weights) -> Values:
        """Average precision and ROC AUC where clusters have weights `[resamples, clusters]`: `[2, resamples]`."""
        dense = [_dense_rows(counts) for counts in (self.positive, self.total)]
        found = []
        for start in range(0, len(weights), _RESAMPLES_AT_ONCE):
            piece = weights[start : start + _RESAMPLES_AT_ONCE]
            positive, total = ((piece[:, rows] @ counts).astype(np.float64) for rows, counts in dense)
            found.append(rank_metrics(positive, total))
        return np.concatenate(found, axis=1)


def _dense_rows(counts: sparse.csr_matrix) -> tuple[npt.NDArray[np.int64], Weights]:
    """The clusters that count anything, which few do of a rare class: a dense product with them is the quicker one."""
    rows = np.flatnonzero(np.diff(counts.indptr))
    return rows, counts[rows].toarray()


@dataclass(frozen=True)
class ClusteredScores:
    """All that is needed to recompute `METRICS` on a resample of the clusters.

    Attributes:
        classes: Rank counts of every class.
        pooled: Rank counts of all classes together.
        cells: `[clusters]`, how many cells.
        ranking: `[clusters]`, sum of the cells' label-ranking average precision.
        coverage: `[clusters]`, sum of the cells' coverage.
    """

    classes: tuple[RankCounts, ...]
    pooled: RankCounts
    cells: Values
    ranking: Values
    coverage: Values
    _bootstraps: dict[tuple[int, int], dict[str, Values]] = field(default_factory=dict, repr=False, compare=False)

    def bootstrap(self, resamples: int, seed: int) -> dict[str, Values]:
        """All of `METRICS` on bootstrap samples of the clusters; kept, since every comparison needs the same ones.

        Args:
            resamples: Number of samples.
            seed: Random seed; scores over the same clusters are resampled alike.

        Returns:
            Metric → `[resamples]`.
        """
        if (resamples, seed) not in self._bootstraps:
            weights = bootstrap_weights(len(self.cells), resamples, np.random.default_rng(seed))
            self._bootstraps[resamples, seed] = resample_metrics(self, weights)
        return self._bootstraps[resamples, seed]


def count_ranks(targets: Targets, scores: Scores, clusters: npt.NDArray[np.integer]) -> ClusteredScores:
    """Sort once what is resampled many times.

    Args:
        targets: `[cells, classes]`, 0 or 1.
        scores: `[cells, classes]`.
        clusters: `[cells]`, number of the antibody (or other unit) from 0.

    Raises:
        InputError: If lengths differ.
    """
    if len(clusters) != len(targets):
        raise InputError(f"{len(clusters)} clusters for {len(targets)} cells: expected one for each.")
    count = int(clusters.max()) + 1
    classes = tuple(_count(targets[:, i], scores[:, i], clusters, count) for i in range(targets.shape[1]))
    pooled = _count(targets.ravel(), scores.ravel(), np.repeat(clusters, targets.shape[1]), count)
    ranking, coverage = rank_cells(targets, scores)
    cells, rankings, coverages = (
        np.bincount(clusters, values, minlength=count).astype(np.float64)
        for values in (np.ones(len(targets)), ranking, coverage)
    )
    return ClusteredScores(classes, pooled, cells, rankings, coverages)


def rank_bins(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Bin of each score, 0 the highest; equal scores share a bin.

    Args:
        scores: `[cells]`.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    begins = np.empty(len(scores), np.bool_)
    begins[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=begins[1:])
    # The rank of a run of equal scores is that of its first.
    rank = np.maximum.accumulate(np.where(begins, np.arange(len(scores)), 0))
    bins = np.empty(len(scores), np.int64)
    bins[order] = _bin_of_rank(rank)
    return bins


def _bin_of_rank(rank: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    grown = EXACT_RANKS + BINS_PER_FOLD * np.log(np.maximum(rank, EXACT_RANKS) / EXACT_RANKS)
    return np.where(rank < EXACT_RANKS, rank, grown.astype(np.int64))


def _count(
    target: npt.NDArray[np.uint8], scores: npt.NDArray[np.floating], clusters: npt.NDArray[np.integer], count: int
) -> RankCounts:
    width = int(_bin_of_rank(np.array([len(scores)]))[0]) + 1
    place = clusters.astype(np.int64) * width + rank_bins(scores)
    positive, total = (
        sparse.csr_matrix(np.bincount(chosen, minlength=count * width).astype(np.float32).reshape(count, width))
        for chosen in (place[target > 0], place)
    )
    return RankCounts(positive, total)


def rank_metrics(positive: Values, total: Values) -> tuple[Values, Values]:
    """Average precision and area under the ROC curve of counts by rank.

    Args:
        positive: `[resamples, bins]`, cells that have the class, best rank first.
        total: `[resamples, bins]`, all cells.

    Returns:
        Two arrays `[resamples]`; NaN where all cells or none have the class.
    """
    found, seen = positive.cumsum(axis=1), total.cumsum(axis=1)
    positives, cells = found[:, -1], seen[:, -1]
    precise = (positive * (found / np.maximum(seen, 1))).sum(axis=1)
    won = ((total - positive) * (found - positive / 2)).sum(axis=1)
    return (
        _where_both(precise, positives, cells, positives),
        _where_both(won, positives, cells, positives * (cells - positives)),
    )


def _where_both(values: Values, positives: Values, cells: Values, divisor: Values) -> Values:
    known = (positives > 0) & (positives < cells)
    return np.where(known, values / np.where(known, divisor, 1), np.nan)


def resample_metrics(counted: ClusteredScores, weights: Weights) -> dict[str, Values]:
    """All of `METRICS` where every cluster counts as often as its weight says.

    Args:
        counted: From `count_ranks`.
        weights: `[resamples, clusters]`.

    Returns:
        Metric → `[resamples]`.
    """
    precisions, areas = np.stack([counts.resample(weights) for counts in counted.classes], axis=1)
    cells = weights @ counted.cells
    return {
        "macro_map": _mean_of_known(precisions),
        "macro_auc": _mean_of_known(areas),
        "micro_map": counted.pooled.resample(weights)[0],
        "lrap": weights @ counted.ranking / cells,
        "coverage_error": weights @ counted.coverage / cells,
    }


def _mean_of_known(values: Values) -> Values:
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)


def bootstrap_weights(clusters: int, resamples: int, rng: np.random.Generator) -> Weights:
    """How often each cluster is drawn, `[resamples, clusters]`."""
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), resamples).astype(np.float32)


def interval(exact: float, resampled: Values, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval, less the bootstrap's own estimate of its bias.

    A resample repeats some antibodies and lacks others, and with them rare classes, which moves ranking metrics to one
    side; so the resamples are moved back to have the metric as their mean.

    Args:
        exact: The metric itself.
        resampled: `[resamples]`; NaN are left out.
        level: Share of the resamples inside.

    Returns:
        Lower and upper end; NaN where no resample has a value.

    Source:
        Efron, Tibshirani: An introduction to the bootstrap, 1993, chapter 10.
    """
    known = resampled[np.isfinite(resampled)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known - known.mean(), ((1 - level) / 2, (1 + level) / 2)) + exact
    return float(low), float(high)


@dataclass(frozen=True)
class PairedTest:
    """One model against another on the same cells.

    Attributes:
        difference: First minus second.
        low: Lower end of the 95 % paired bootstrap interval.
        high: Upper end.
        p_value: Two-sided, of a permutation test that swaps the models by antibody.
    """

    difference: float
    low: float
    high: float
    p_value: float


def paired_tests(
    exact: tuple[Mapping[str, float], Mapping[str, float]],
    counted: tuple[ClusteredScores, ClusteredScores],
    *,
    resamples: int,
    seed: int,
) -> dict[str, PairedTest]:
    """Compare two models on the same cells by all of `METRICS`.

    The interval resamples antibodies, the same ones for both models. The permutation test swaps, for a random half of
    the antibodies, the ranks that the two models give: if models were no different, nothing would change.

    Args:
        exact: Metrics of both models.
        counted: Of both, from `count_ranks` over the same clusters.
        resamples: Bootstrap samples and permutations, each.
        seed: Of both.

    Returns:
        Metric → difference, interval and p-value.

    Source:
        Efron, Tibshirani 1993 (cluster bootstrap); Smucker, Allan, Carterette 2007 (randomization of ranked lists).
    """
    clusters = len(counted[0].cells)
    rng = np.random.default_rng(seed)
    bootstrap_weights(clusters, resamples, rng)  # permutations are drawn after the samples of `bootstrap`
    swapped = rng.integers(0, 2, (resamples, clusters)).astype(np.float32)
    every = np.ones((1, clusters), np.float32)
    resampled = [part.bootstrap(resamples, seed) for part in counted]
    point = [resample_metrics(part, every) for part in counted]
    joined = _join(*counted)
    first = resample_metrics(joined, np.concatenate([1 - swapped, swapped], axis=1))
    second = resample_metrics(joined, np.concatenate([swapped, 1 - swapped], axis=1))
    results = {}
    for name in METRICS:
        difference = float(exact[0][name] - exact[1][name])
        observed = float(point[0][name][0] - point[1][name][0])
        low, high = interval(difference, resampled[0][name] - resampled[1][name])
        moved = np.abs(first[name] - second[name])
        # Differences smaller than rounding are no differences.
        as_large = (moved[np.isfinite(moved)] >= abs(observed) - 1e-9).sum()
        p_value = (1 + as_large) / (1 + np.isfinite(moved).sum())
        results[name] = PairedTest(difference, low, high, float(p_value) if np.isfinite(observed) else float("nan"))
    return results


def _join(first: ClusteredScores, second: ClusteredScores) -> ClusteredScores:
    """Clusters of both models one after the other, so that weights choose whose ranks count."""

    def stack(one: RankCounts, other: RankCounts) -> RankCounts:
        return RankCounts(
            sparse.vstack([one.positive, other.positive], "csr"), sparse.vstack([one.total, other.total], "csr")
        )

    return ClusteredScores(
        tuple(stack(one, other) for one, other in zip(first.classes, second.classes, strict=True)),
        stack(first.pooled, second.pooled),
        np.concatenate([first.cells, second.cells]),
        np.concatenate([first.ranking, second.ranking]),
        np.concatenate([first.coverage, second.coverage]),
    )
