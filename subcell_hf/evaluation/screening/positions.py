"""Effects of a well's place on its plate: the outer wells, rows and columns, tested and subtracted.

Both use all wells without regard to what is in them, so that wells of a treatment and controls remain exchangeable.
Wells with unusual profiles, which are often those of active treatments, get little weight.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

_COMPONENTS = 20
_ITERATIONS = 5
_WIDE = 1.3
"""Wells farther from the centre than this multiple of the median distance get less weight (Huber)."""


@dataclass(frozen=True)
class PositionTest:
    """Whether profiles depend on one aspect of the place.

    Attributes:
        effect: `"edge"`, `"row"` or `"column"`.
        share: Share of the variance of the profiles that it explains, beyond what any division of wells does.
        p_value: By permuting the places within each plate.
    """

    effect: str
    share: float
    p_value: float


def edge_of(rows: Codes, columns: Codes, plates: Codes) -> npt.NDArray[np.bool_]:
    """Which wells are the outermost of their plate's wells, bool [wells].

    Args:
        rows: Row of each well, from 1.
        columns: Column of each well, from 1.
        plates: Number of each well's plate.
    """
    outer = np.zeros(len(rows), dtype=bool)
    for plate in np.unique(plates):
        there = plates == plate
        for places in (rows, columns):
            low, high = places[there].min(), places[there].max()
            if high - low > 1:  # else there is nothing inside
                outer |= there & ((places == low) | (places == high))
    return outer


def position_tests(
    features: Features, rows: Codes, columns: Codes, plates: Codes, *, permutations: int, seed: int
) -> tuple[PositionTest, ...]:
    """Test edge, row and column; rows and columns after the mean of the outer wells is subtracted.

    A plate whose columns are doses has an effect of columns that is one of the dose.

    Args:
        features: Normalised profiles, float64 [wells, features].
        rows: Row of each well, from 1.
        columns: Column of each well, from 1.
        plates: Number of each well's plate.
        permutations: How often places are permuted.
        seed: Random seed.

    Returns:
        The tests of edge, row and column.
    """
    generator = np.random.default_rng([seed, 1])
    clipped = features * _weights(features)[:, None]
    centred = _centre(clipped, plates)
    scores = _leading(centred)
    edge = edge_of(rows, columns, plates).astype(np.intp)
    inside = scores - _means(scores, edge)[edge]
    tests = (("edge", edge, scores), ("row", rows, inside), ("column", columns, inside))
    shuffles = [_shuffled(plates, generator) for _ in range(permutations)]
    found = []
    for name, places, values in tests:
        codes = np.unique(places, return_inverse=True)[1].astype(np.intp)
        observed = _between(values, codes)
        null = np.array([_between(values[order], codes) for order in shuffles])
        total = float((centred**2).sum())
        share = max(observed - float(null.mean()), 0.0) / max(total, 1e-300)
        p_value = (1 + int((null >= observed * (1 - 1e-12)).sum())) / (1 + permutations)
        found.append(PositionTest(name, share, p_value))
    return tuple(found)


def correct_positions(features: Features, rows: Codes, columns: Codes, plates: Codes) -> Features:
    """Subtract what the place explains, fitted on each plate: outer wells, and quadratic trends over rows and columns.

    Args:
        features: Normalised profiles, float64 [wells, features].
        rows: Row of each well, from 1.
        columns: Column of each well, from 1.
        plates: Number of each well's plate.

    Returns:
        float64 [wells, features]. Plates of fewer wells than three times the terms are unchanged.
    """
    corrected = features.copy()
    edge = edge_of(rows, columns, plates)
    for plate in np.unique(plates):
        there = np.flatnonzero(plates == plate)
        terms = [edge[there].astype(np.float64)]
        for places in (rows[there], columns[there]):
            scaled = (places - places.mean()) / max(float(np.ptp(places)), 1.0)
            terms += [scaled, scaled**2]
        design = np.column_stack(terms)
        design -= design.mean(axis=0)
        if len(there) < 3 * (design.shape[1] + 1):
            continue
        own = features[there]
        residuals, weights = own, np.ones(len(there))
        for _ in range(_ITERATIONS):
            root = np.sqrt(weights)[:, None]
            full = np.column_stack([np.ones(len(there)), design])
            coefficients = np.linalg.lstsq(full * root, own * root, rcond=None)[0]
            residuals = own - design @ coefficients[1:]
            weights = _weights(residuals - coefficients[0])
        corrected[there] = residuals
    return corrected


def _weights(features: Features) -> Features:
    """Huber weight of each well by its distance from the centre, float64 [wells]."""
    distances = np.linalg.norm(features - np.median(features, axis=0), axis=1)
    weights: Features = np.minimum(1.0, _WIDE * float(np.median(distances)) / np.maximum(distances, 1e-300))
    return weights


def _centre(features: Features, plates: Codes) -> Features:
    centred = features.copy()
    for plate in np.unique(plates):
        centred[plates == plate] -= centred[plates == plate].mean(axis=0)
    return centred


def _leading(centred: Features) -> Features:
    """Scores along the principal components with most variance, float64 [wells, components]."""
    if centred.shape[1] <= _COMPONENTS:
        return centred
    _, vectors = np.linalg.eigh(centred.T @ centred)
    scores: Features = centred @ vectors[:, -_COMPONENTS:]
    return scores


def _shuffled(plates: Codes, generator: np.random.Generator) -> Codes:
    """An order of the wells that leaves each on its plate."""
    order = np.arange(len(plates))
    for plate in np.unique(plates):
        there = np.flatnonzero(plates == plate)
        order[there] = generator.permutation(there)
    return order


def _means(values: Features, codes: Codes) -> Features:
    """Mean of each group, float64 [groups, columns]."""
    one_hot = (codes[None, :] == np.arange(int(codes.max()) + 1)[:, None]).astype(np.float64)
    sizes = np.maximum(one_hot.sum(axis=1), 1)
    means: Features = (one_hot @ values) / sizes[:, None]
    return means


def _between(values: Features, codes: Codes) -> float:
    """Sum of squares between groups."""
    sizes = np.bincount(codes)
    return float((sizes[:, None] * _means(values, codes) ** 2).sum())
