"""Permutation tests of a treatment against the controls on its plates.

If a treatment does nothing, its wells and the controls of the same plates are exchangeable. So the labels are permuted
within each plate, among the wells of one treatment and these controls, and the same statistic is computed from every
relabelling: the null has the treatment's own number of replicates, plates and controls. The observed labelling counts
as one of them (Phipson and Smyth 2010, doi 10.2202/1544-6115.1585), so that no p-value is 0.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from subcell_hf.evaluation.perturbation.retrieval import unit_vectors

Features = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
Statistic = Callable[[Rows], Features]
"""Positions of the treated wells in a pool, [relabellings, treated] → one number for each relabelling."""

_FIRST = 1000
_ENOUGH = 50
"""Relabellings after which a test ends if already this many are as extreme as what was observed."""
_MOST_PAIRS = 200_000_000
_PAIRS_AT_ONCE = 1_500_000
_DECIMALS = 12


@dataclass(frozen=True)
class Pool:
    """The wells of one treatment and the controls of their plates.

    Attributes:
        rows: Rows of the table, int [pool]: the treated wells first, then the controls, each sorted by plate.
        plates: Plate of each as a number from 0, int [pool].
        treated: How many are treated.
    """

    rows: Rows
    plates: Rows
    treated: int


def make_pool(treated: Rows, controls: Rows, plates: Rows) -> Pool:
    """Wells of one treatment and the controls of the same plates.

    Args:
        treated: Rows of the treated wells.
        controls: Rows of all controls.
        plates: Number of the plate of each row of the table.
    """
    treated = treated[np.argsort(plates[treated], kind="stable")]
    there = controls[np.isin(plates[controls], plates[treated])]
    there = there[np.argsort(plates[there], kind="stable")]
    rows = np.concatenate([treated, there])
    return Pool(rows, np.unique(plates[rows], return_inverse=True)[1].astype(np.intp), len(treated))


def around_controls(features: Features, pool: Pool) -> Features:
    """The wells of a pool, less the mean of the controls of their plates, float64 [pool, features].

    Args:
        features: float64 [wells, features] of the whole table.
        pool: Wells of one treatment and controls.
    """
    own: Features = features[pool.rows].astype(np.float64)
    for plate in range(int(pool.plates.max()) + 1):
        there = pool.plates == plate
        own[there] -= own[pool.treated :][pool.plates[pool.treated :] == plate].mean(axis=0)
    return own


def relabel(pool: Pool, count: int, generator: np.random.Generator) -> Rows:
    """Draw which wells of the pool are called treated: on each plate as many as are, int [count, treated]."""
    parts = []
    for plate in range(int(pool.plates.max()) + 1):
        there = np.flatnonzero(pool.plates == plate)
        wanted = int((pool.plates[: pool.treated] == plate).sum())
        order = np.argpartition(generator.random((count, len(there))), max(wanted - 1, 0), axis=1)
        parts.append(there[order[:, :wanted]])
    return np.concatenate(parts, axis=1)


def least_p_value(pool: Pool, permutations: int) -> float:
    """Smallest p-value that a test can have: one over the number of relabellings, at most `permutations` + 1."""
    sizes, treated = np.bincount(pool.plates), np.bincount(pool.plates[: pool.treated])
    ways = math.prod(math.comb(int(size), int(own)) for size, own in zip(sizes, treated, strict=True))
    return 1 / min(ways, permutations + 1)


def permutation_test(
    pool: Pool, statistics: Mapping[str, Statistic], permutations: int, generator: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """Observed value and p-value of each statistic, large values being extreme; all with the same relabellings.

    Args:
        pool: Wells that are exchangeable if the treatment does nothing.
        statistics: Name → statistic.
        permutations: Relabellings at most; fewer where 1,000 show that no p-value is small, or for hundreds of wells.
        generator: Of the relabellings.

    Returns:
        Name → observed value, p-value: (1 + relabellings at least as extreme) / (1 + relabellings).
    """
    observed = {name: float(compute(np.arange(pool.treated)[None])[0]) for name, compute in statistics.items()}
    reached = dict.fromkeys(statistics, 0)
    most = max(99, min(permutations, _MOST_PAIRS // pool.treated**2))
    block = max(1, _PAIRS_AT_ONCE // pool.treated**2)
    drawn = 0
    while drawn < most:
        stage = _FIRST if drawn < _FIRST else most
        labels = relabel(pool, min(block, stage - drawn, most - drawn), generator)
        drawn += len(labels)
        for name, compute in statistics.items():
            reached[name] += int((compute(labels) >= observed[name] - 1e-12).sum())
        if drawn == _FIRST and min(reached.values()) >= _ENOUGH:
            break
    return {name: (observed[name], (1 + reached[name]) / (1 + drawn)) for name in statistics}


def average_precision_statistic(features: Features, pool: Pool) -> Statistic:
    """Mean over the treated wells of the average precision with which each retrieves the others against controls.

    Positives are the other treated wells on any plate, negatives the controls of the query's plate, as in
    `RetrievalTask`; equal similarities tie, as in `average_precisions`.

    Args:
        features: float64 [wells, features] of the whole table.
        pool: Wells of the test, at least two of them treated.
    """
    vectors = unit_vectors(features[pool.rows])
    similarity = np.round(vectors @ vectors.T, _DECIMALS)
    np.fill_diagonal(similarity, -np.inf)
    # The rank of each well in the list of each other one, the same for ties, 0 for the most similar.
    order = np.argsort(-similarity, axis=1, kind="stable")
    ranked = np.take_along_axis(similarity, order, axis=1)
    new = np.ones(ranked.shape, dtype=bool)
    new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    ranks = np.empty(ranked.shape, dtype=np.int32)
    np.put_along_axis(ranks, order, (np.cumsum(new, axis=1) - 1).astype(np.int32), axis=1)
    same_plate = pool.plates[:, None] == pool.plates[None, :]
    np.fill_diagonal(same_plate, val=False)
    nearer = np.zeros(ranked.shape, dtype=np.int32)
    counts = np.cumsum(np.take_along_axis(same_plate, order, axis=1), axis=1)
    np.put_along_axis(nearer, order, np.take_along_axis(counts, _ends_of_ties(~new), axis=1).astype(np.int32), axis=1)
    first = np.cumsum(np.bincount(pool.plates[: pool.treated]))
    plate_of_place = np.searchsorted(first, np.arange(pool.treated), side="right")
    there = plate_of_place[:, None] == plate_of_place[None, :]

    ties = not new.all()

    def compute(labels: Rows) -> Features:
        among = ranks[labels[:, :, None], labels[:, None, :]]  # [relabellings, queries, treated]
        order = np.argsort(among, axis=2, kind="stable")[:, :, :-1]  # the query itself is last
        own_nearer = np.cumsum(there[np.arange(pool.treated)[:, None], order], axis=2)
        found = np.arange(1, pool.treated)
        if ties:
            places = np.take_along_axis(among, order, axis=2)
            tied = np.zeros(places.shape, dtype=bool)
            tied[:, :, 1:] = places[:, :, 1:] == places[:, :, :-1]
            ends = _ends_of_ties(tied)
            own_nearer = np.take_along_axis(own_nearer, ends, axis=2)
            found = ends + 1
        wells = labels[np.arange(len(labels))[:, None, None], order]
        controls = nearer[labels[:, :, None], wells] - own_nearer
        precision: Features = (found / (found + controls)).mean(axis=(1, 2))
        return precision

    return compute


def energy_statistic(features: Features, pool: Pool) -> Statistic:
    """Energy distance of the treated wells from the controls (Székely and Rizzo 2013), Euclidean.

    Args:
        features: float64 [wells, features] of the whole table.
        pool: Wells of the test.
    """
    own = features[pool.rows] - features[pool.rows].mean(axis=0)  # so that products of large numbers cost no digits
    squares = (own**2).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * own @ own.T, 0))
    np.fill_diagonal(distances, 0)
    sums, total = distances.sum(axis=1), float(distances.sum())
    treated, controls = pool.treated, len(pool.rows) - pool.treated

    def compute(labels: Rows) -> Features:
        within = distances[labels[:, :, None], labels[:, None, :]].sum(axis=(1, 2))
        between = sums[labels].sum(axis=1) - within
        others = total - within - 2 * between
        distance: Features = 2 * between / (treated * controls) - within / treated**2 - others / controls**2
        return distance

    return compute


def mean_statistic(values: Features, pool: Pool) -> Statistic:
    """Absolute mean of one number per well, after the mean of the pool's wells on each plate is subtracted.

    Args:
        values: float64 [wells] of the whole table.
        pool: Wells of the test.
    """
    own = values[pool.rows].astype(np.float64)
    sizes = np.bincount(pool.plates)
    own = own - (np.bincount(pool.plates, own) / sizes)[pool.plates]

    def compute(labels: Rows) -> Features:
        mean: Features = np.abs(own[labels].mean(axis=1))
        return mean

    return compute


def _ends_of_ties(tied: npt.NDArray[np.bool_]) -> Rows:
    """For each place of sorted lists the last place of its tie; `tied`: whether a place equals the one before."""
    width = tied.shape[-1]
    last = np.ones(tied.shape, dtype=bool)
    last[..., :-1] = ~tied[..., 1:]
    ends = np.where(last, np.arange(width), width)
    return np.minimum.accumulate(ends[..., ::-1], axis=-1)[..., ::-1]
