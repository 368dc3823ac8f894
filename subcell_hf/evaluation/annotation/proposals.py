"""Which cell to look at next: one that is uncertain, unlike the others, of a rare class, or drawn at random."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError

Array = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

UNCERTAIN, DIVERSE, RARE, RANDOM, MIXED = "uncertain", "diverse", "rare", "random", "mixed"
STRATEGIES = (MIXED, UNCERTAIN, DIVERSE, RARE, RANDOM)
_TURNS = (UNCERTAIN, UNCERTAIN, RANDOM)
"""`mixed` takes turns; the random ones keep the estimate honest."""
_MOST_CANDIDATES = 5_000
_UNCERTAIN_PER_PROPOSAL = 4


@dataclass(frozen=True)
class Proposal:
    """A cell to look at.

    Attributes:
        row: Its row in the table.
        reason: Which strategy chose it.
    """

    row: int
    reason: str


@dataclass(frozen=True)
class Pool:
    """The cells among which is chosen.

    Attributes:
        features: `[cells, components]` of the whole table.
        rows: Unlabelled cells that can be shown.
        labelled: Labelled cells.
        probabilities: `[cells, classes]` of the whole table; None before there is a classifier.
        class_counts: Labels of each class, in the order of the columns of `probabilities`.
    """

    features: Array
    rows: Rows
    labelled: Rows
    probabilities: Array | None = None
    class_counts: Sequence[int] = ()


def propose_cells(pool: Pool, strategy: str, count: int, rng: np.random.Generator) -> list[Proposal]:
    """Choose cells.

    Args:
        pool: Cells to choose from.
        strategy: One of `STRATEGIES`; with `"mixed"`, two cells of three are uncertain, and one is random.
        count: Number of cells; fewer where the pool is smaller.
        rng: Source of randomness.

    Returns:
        Different cells, in the order in which to show them. Without a classifier, all but the random ones are diverse.

    Raises:
        InputError: If the strategy is unknown.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"The strategy is {strategy!r}, expected one of {', '.join(STRATEGIES)}.")
    count = min(count, len(pool.rows))
    if count == 0:
        return []
    sampled = len(pool.rows) > _MOST_CANDIDATES
    candidates = rng.choice(pool.rows, _MOST_CANDIDATES, replace=False) if sampled else pool.rows
    orders = {
        RANDOM: iter(rng.permutation(candidates)),
        DIVERSE: iter(_spread(pool.features, candidates, pool.labelled, count, rng)),
    }
    if pool.probabilities is not None:
        orders[UNCERTAIN] = iter(_uncertain(pool, candidates, count, rng))
        orders[RARE] = iter(_rare(pool, candidates))
    turns = _TURNS if strategy == MIXED else (strategy,)
    chosen: dict[int, str] = {}
    turn = int(rng.integers(len(turns)))
    while len(chosen) < count:
        wanted = turns[turn % len(turns)]
        turn += 1
        reason = wanted if wanted in orders else DIVERSE
        row = next((int(row) for row in orders[reason] if int(row) not in chosen), None)
        if row is None:  # that order is used up
            row = next(int(row) for row in candidates if int(row) not in chosen)
            reason = RANDOM if reason == RANDOM else DIVERSE
        chosen[row] = reason
    return [Proposal(row, reason) for row, reason in chosen.items()]


def uncertainty(probabilities: Array) -> npt.NDArray[np.float32]:
    """`[cells, classes]` → `[cells]`: 1 less the distance between the two most probable classes."""
    best = np.partition(probabilities, probabilities.shape[1] - 2, axis=1)
    return np.asarray(1 - (best[:, -1] - best[:, -2]), np.float32)


def _uncertain(pool: Pool, candidates: Rows, count: int, rng: np.random.Generator) -> Rows:
    """The most uncertain cells, those first that are unlike each other."""
    if pool.probabilities is None:
        return candidates
    order = np.argsort(-uncertainty(pool.probabilities[candidates]), kind="stable")
    first = candidates[order[: count * _UNCERTAIN_PER_PROPOSAL]]
    return _spread(pool.features, first, first[:1], count, rng)


def _rare(pool: Pool, candidates: Rows) -> Rows:
    """Cells by the probability of the class with the fewest labels."""
    if pool.probabilities is None:
        return candidates
    rarest = int(np.argmin(pool.class_counts))
    return np.asarray(candidates[np.argsort(-pool.probabilities[candidates, rarest], kind="stable")])


def _spread(features: Array, candidates: Rows, seen: Rows, count: int, rng: np.random.Generator) -> Rows:
    """Cells far from those that were seen and from each other, drawn as k-means++ draws its centres.

    Source:
        Arthur, Vassilvitskii: k-means++, SODA 2007.
    """
    if len(candidates) <= 1:
        return candidates
    own = features[candidates]
    if len(seen):
        most = seen if len(seen) <= 500 else rng.choice(seen, 500, replace=False)
        near = np.min(
            [((own - features[row]) ** 2).sum(axis=1) for row in most], axis=0
        )  # one by one: all at once would hold candidates x seen x components numbers
    else:
        near = ((own - own.mean(axis=0)) ** 2).sum(axis=1)
    chosen: list[int] = []
    for _ in range(min(count, len(candidates))):
        near[chosen] = 0
        total = float(near.sum(dtype=np.float64))
        if total <= 0:
            break
        place = int(rng.choice(len(candidates), p=near.astype(np.float64) / total))
        chosen.append(place)
        near = np.minimum(near, ((own - own[place]) ** 2).sum(axis=1))
    return candidates[chosen]
