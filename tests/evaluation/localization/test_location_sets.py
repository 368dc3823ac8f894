"""Sets of locations keep what they guarantee, by antibody, and refuse what antibodies cannot show."""

from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from subcell_hf.errors import InputError
from subcell_hf.evaluation.localization.location_sets import (
    betting_p_value,
    choose_location_sets,
    measure_cells,
)

CLASSES = 8


def cells_of(seed: int, antibodies: int) -> tuple[Any, Any, Any]:
    """Cells of an antibody share an error, as those of one protein do, and antibodies have from 1 to 8 cells."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 9, antibodies)
    group = np.repeat(np.arange(antibodies), counts)
    targets = (rng.random((antibodies, CLASSES)) < 0.15).astype(np.uint8)
    targets[np.arange(antibodies), rng.integers(CLASSES, size=antibodies)] = 1
    shared = rng.normal(size=(antibodies, CLASSES))
    logits = 5 * targets[group] - 3.5 + shared[group] + rng.normal(size=(len(group), CLASSES))
    return expit(logits).astype(np.float32), targets[group], np.array([f"HPA{n}" for n in group], object)


def mean_over_antibodies(values: Any, antibodies: Any) -> float:
    _, group = np.unique(antibodies.astype(str), return_inverse=True)
    return float((np.bincount(group, values) / np.bincount(group)).mean())


@pytest.mark.parametrize("measure", ["recall", "precision"])
def test_held_out_antibodies_keep_the_guarantee(measure: str) -> None:
    """In at least 93 of 100 splits, with small sets."""
    kept, sizes = 0, []
    probabilities, targets, antibodies = cells_of(0, 400)
    names = np.unique(antibodies.astype(str))
    for seed in range(100):
        chosen = np.random.default_rng(seed).permutation(names)[:200]
        mine = np.isin(antibodies.astype(str), chosen)
        sets = choose_location_sets(probabilities[mine], targets[mine], antibodies[mine], measure=measure, target=0.9)
        held_out = measure_cells(probabilities[~mine], targets[~mine], sets.threshold, measure)
        kept += mean_over_antibodies(held_out, antibodies[~mine]) >= 0.9
        sizes.append(sets.median_set_size)
    assert kept >= 93
    assert np.median(sizes) <= 3
    assert sets.antibodies == 200
    assert sets.observed >= 0.9


def test_an_antibody_counts_once() -> None:
    probabilities, targets, antibodies = cells_of(1, 200)
    once = choose_location_sets(probabilities, targets, antibodies)
    many = np.where(antibodies == antibodies[0], 50, 1)  # the cells of one antibody fifty times
    repeated = [np.repeat(values, many, axis=0) for values in (probabilities, targets, antibodies)]
    again = choose_location_sets(*repeated)
    assert (once.threshold, once.observed) == pytest.approx((again.threshold, again.observed))


def test_the_p_value_is_one_over_the_largest_capital() -> None:
    """A gambler who stakes on each antibody before its risk is seen, as a loop."""
    risks = np.random.default_rng(3).beta(1, 20, 60)
    capital = largest = 1.0
    for count in range(60):
        means = [(0.5 + risks[: n + 1].sum()) / (n + 2) for n in range(count)]
        variance = (0.25 + sum((risks[n] - means[n]) ** 2 for n in range(count))) / (count + 1)
        stake = min(1, np.sqrt(2 * np.log(1 / 0.05) / (60 * variance)))
        capital *= 1 - stake * (risks[count] - 0.1)
        largest = max(largest, capital)
    assert betting_p_value(risks, 0.1, 0.95) == pytest.approx(1 / largest)
    assert betting_p_value(np.full(60, 0.1), 0.1, 0.95) == 1
    assert betting_p_value(np.full(60, 0.5), 0.1, 0.95) == 1


def test_the_p_value_is_valid_on_the_limit() -> None:
    """Risks of 0 or 1 whose mean is the limit: a p-value up to 0.05 in at most 5 % of samples, with its interval."""
    rng = np.random.default_rng(4)
    rejected = np.mean([betting_p_value((rng.random(60) < 0.1) * 1.0, 0.1, 0.95) <= 0.05 for _ in range(1000)])
    assert 0 < rejected <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 1000)


def test_what_cannot_be_guaranteed_is_refused() -> None:
    probabilities, targets, antibodies = cells_of(2, 28)
    with pytest.raises(InputError, match=r"28 antibodies are too few .* expected at least 3[0-9]"):
        choose_location_sets(probabilities, targets, antibodies)
    for wrong in ({"target": 1.0}, {"confidence": 0.0}, {"measure": "accuracy"}):
        with pytest.raises(InputError, match="expected"):
            choose_location_sets(probabilities, targets, antibodies, **wrong)  # type: ignore[arg-type]
