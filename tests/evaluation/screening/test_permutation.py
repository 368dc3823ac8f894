"""Permutation tests against controls: the statistic is that of a plain retrieval, and p-values are valid."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.evaluation.perturbation.retrieval import RetrievalTask, retrieve_replicates
from subcell_hf.evaluation.screening.permutation import (
    Pool,
    average_precision_statistic,
    energy_statistic,
    make_pool,
    mean_statistic,
    permutation_test,
    relabel,
)

PLATES = np.repeat([0, 1, 2], 20)
TREATED = np.array([0, 3, 21, 22, 45, 50, 51])
CONTROLS = np.setdiff1d(np.arange(60), [*TREATED, 59])


def _retrieved(features: npt.NDArray[np.float64], pool: Pool, labels: npt.NDArray[np.intp]) -> float:
    control = np.zeros(len(features), dtype=bool)
    control[pool.rows] = True
    control[pool.rows[labels]] = False
    groups = np.full(len(features), None, dtype=object)
    groups[pool.rows[labels]] = "treated"
    queries = retrieve_replicates(features, RetrievalTask(groups, PLATES.astype(object), control))
    return float(queries["average_precision"].mean())


def test_the_statistic_is_the_retrieval_of_every_relabelling_ties_included() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 6))
    features[[50, 5, 30]] = features[51]
    pool = make_pool(TREATED, CONTROLS, PLATES)
    compute = average_precision_statistic(features, pool)
    labels = np.concatenate([np.arange(pool.treated)[None], relabel(pool, 5, generator)])
    assert np.allclose(compute(labels), [_retrieved(features, pool, own) for own in labels], rtol=0, atol=1e-12)


def test_copairs_agrees() -> None:
    from copairs.map import average_precision

    generator = np.random.default_rng(1)
    features = generator.normal(size=(60, 6))
    pool = make_pool(TREATED, CONTROLS, PLATES)
    rows = pool.rows
    frame = pd.DataFrame(
        {"plate": PLATES[rows], "treatment": ["a"] * pool.treated + ["DMSO"] * (len(rows) - pool.treated)}
    )
    frame["control"] = frame["treatment"] == "DMSO"
    theirs = average_precision(
        frame,
        features[rows],
        pos_sameby=["treatment"],
        pos_diffby=[],
        neg_sameby=["plate"],
        neg_diffby=["control"],
        progress_bar=False,
    )
    expected = theirs.loc[~frame["control"], "average_precision"].mean()
    own = average_precision_statistic(features, pool)(np.arange(pool.treated)[None])[0]
    assert abs(own - expected) < 1e-9


def test_energy_distance_is_that_of_scipys_definition() -> None:
    generator = np.random.default_rng(2)
    features = generator.normal(size=(60, 1))
    pool = make_pool(TREATED, CONTROLS, PLATES)
    from scipy.stats import energy_distance

    rows = pool.rows
    expected = energy_distance(features[rows[: pool.treated], 0], features[rows[pool.treated :], 0]) ** 2
    assert np.isclose(energy_statistic(features, pool)(np.arange(pool.treated)[None])[0], expected)


def test_relabelling_keeps_the_number_of_treated_wells_of_each_plate() -> None:
    pool = make_pool(TREATED, CONTROLS, PLATES)
    labels = relabel(pool, 50, np.random.default_rng(3))
    assert all(len(set(row)) == pool.treated for row in labels)
    expected = np.bincount(pool.plates[: pool.treated])
    assert all((np.bincount(pool.plates[row]) == expected).all() for row in labels)


def test_p_values_of_wells_that_are_controls_are_small_no_more_often_than_they_say() -> None:
    generator = np.random.default_rng(4)
    found: dict[str, list[float]] = {"map": [], "energy": [], "mean": []}
    plates = np.repeat([0, 1, 2], 10)
    treated = np.array([0, 10, 20])
    pool = make_pool(treated, np.setdiff1d(np.arange(30), treated), plates)
    for _ in range(300):
        # Plates differ, as they always do.
        features = generator.normal(size=(30, 8)) + 2 * generator.normal(size=(3, 8))[plates]
        statistics = {
            "map": average_precision_statistic(features, pool),
            "energy": energy_statistic(features, pool),
            "mean": mean_statistic(features[:, 0], pool),
        }
        for name, (_, p_value) in permutation_test(pool, statistics, 99, generator).items():
            found[name].append(p_value)
    for name, values in found.items():
        # Three standard errors of the binomial distribution; the precision has few values, so that many tie.
        assert (np.array(values) <= 0.05).mean() < 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5
        assert (np.array(values) <= 0.5).mean() < 0.5 + 3 * (0.25 / 300) ** 0.5
        if name != "map":
            assert (np.array(values) <= 0.5).mean() > 0.5 - 3 * (0.25 / 300) ** 0.5


def test_profiles_that_are_all_the_same_are_no_hits_and_no_p_value_is_zero() -> None:
    pool = make_pool(TREATED, CONTROLS, PLATES)
    generator = np.random.default_rng(5)
    same = {"map": average_precision_statistic(np.ones((60, 4)), pool)}
    assert permutation_test(pool, same, 99, generator)["map"][1] == 1
    features = generator.normal(size=(60, 4))
    features[TREATED] += 50
    strong = {"map": average_precision_statistic(features, pool)}
    assert permutation_test(pool, strong, 99, generator)["map"] == (1.0, 0.01)
