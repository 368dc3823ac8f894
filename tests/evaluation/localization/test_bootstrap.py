"""Resampling by counts gives what recomputing on the resampled cells would give."""

import numpy as np
import numpy.typing as npt
import pytest

from subcell_hf.evaluation.localization.bootstrap import (
    bootstrap_weights,
    count_ranks,
    interval,
    paired_tests,
    rank_bins,
    resample_metrics,
)
from subcell_hf.evaluation.localization.model_comparison import holm
from subcell_hf.evaluation.localization.ranking import METRICS, summarize


def data(
    cells: int, clusters: int, seed: int, signal: float = 1.0, levels: int = 10**6
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    cluster = np.concatenate([np.arange(clusters), rng.integers(0, clusters, cells - clusters)])
    targets = (rng.random((clusters, 5)) < 0.3)[cluster].astype(np.uint8)
    scores = targets * signal + rng.normal(size=targets.shape)
    return targets, np.round(scores * levels) / levels, cluster


@pytest.mark.parametrize("levels", [2, 10**6], ids=["ties", "no_ties"])
def test_weights_repeat_cells(levels: int) -> None:
    targets, scores, cluster = data(400, 12, seed=0, levels=levels)
    weights = bootstrap_weights(12, 4, np.random.default_rng(0))
    found = resample_metrics(count_ranks(targets, scores, cluster), weights)
    for number, row in enumerate(weights.astype(int)):
        cells = np.repeat(np.arange(400), row[cluster])
        expected = summarize(targets[cells], scores[cells])
        for name in METRICS:
            # All classes pooled are 2000 scores, more than are counted one by one.
            tolerance = 1e-2 if name == "micro_map" else 1e-6
            assert found[name][number] == pytest.approx(expected[name], rel=tolerance), name


def test_many_cells_are_counted_in_bins_with_a_small_error() -> None:
    targets, scores, cluster = data(30_000, 40, seed=1)
    counted = count_ranks(targets, scores, cluster)
    found = resample_metrics(counted, np.ones((1, 40), np.float32))
    for name, value in summarize(targets, scores).items():
        assert found[name][0] == pytest.approx(value, rel=5e-3), name
    assert counted.classes[0].total.shape[1] < 1100


def test_bins_follow_ranks_and_ties() -> None:
    np.testing.assert_array_equal(rank_bins(np.array([0.1, 0.9, 0.5, 0.9])), [3, 0, 2, 0])
    bins = rank_bins(-np.arange(5000.0))
    np.testing.assert_array_equal(bins[:512], np.arange(512))
    assert (np.diff(bins) >= 0).all()
    assert np.diff(bins).max() == 1


def test_a_class_that_a_resample_lacks_is_left_out() -> None:
    targets = np.array([[1, 1], [0, 1], [0, 0]], np.uint8)
    scores = np.array([[0.9, 0.2], [0.1, 0.9], [0.5, 0.5]])
    counted = count_ranks(targets, scores, np.arange(3))
    found = resample_metrics(counted, np.array([[0, 1, 1], [0, 0, 1]], np.float32))
    assert found["macro_map"][0] == 1  # only the second class has positives and negatives
    assert np.isnan(found["macro_map"][1])


def test_bootstrap_is_kept_and_that_of_its_seed() -> None:
    targets, scores, cluster = data(200, 12, seed=0)
    counted = count_ranks(targets, scores, cluster)
    found = counted.bootstrap(5, seed=3)
    assert counted.bootstrap(5, seed=3) is found
    expected = resample_metrics(counted, bootstrap_weights(12, 5, np.random.default_rng(3)))
    for name in METRICS:
        np.testing.assert_array_equal(found[name], expected[name])
    assert not np.array_equal(counted.bootstrap(5, seed=4)["lrap"], found["lrap"])


def test_holm_corrects_step_by_step() -> None:
    # Of four tests the smallest is multiplied by 4, the next by 3, …; none becomes smaller than one before it.
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1, 1])
    np.testing.assert_allclose(holm(np.array([0.2])), [0.2])


@pytest.mark.slow
def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    reference = np.mean([summarize(*data(4000, 400, seed=s)[:2])["macro_auc"] for s in range(5)])
    for seed in range(30):
        targets, scores, cluster = data(600, 60, seed=seed + 100)
        counted = count_ranks(targets, scores, cluster)
        resampled = resample_metrics(counted, bootstrap_weights(60, 200, np.random.default_rng(seed)))["macro_auc"]
        low, high = interval(summarize(targets, scores)["macro_auc"], resampled)
        covered += low <= reference <= high
    assert 24 <= covered <= 30


def test_interval_holds_the_metric_though_resampling_is_biased() -> None:
    targets, scores, cluster = data(300, 8, seed=5, signal=0.2)
    counted = count_ranks(targets, scores, cluster)
    resampled = resample_metrics(counted, bootstrap_weights(8, 500, np.random.default_rng(0)))["macro_map"]
    exact = summarize(targets, scores)["macro_map"]
    low, high = interval(exact, resampled)
    assert low < exact < high
    assert np.isnan(interval(0.5, np.full(3, np.nan))).all()


def test_paired_tests_tell_better_from_equal() -> None:
    targets, good, cluster = data(900, 60, seed=3, signal=2.0)
    poor = np.random.default_rng(4).normal(size=good.shape) + targets * 0.5
    scores = {"good": good, "poor": poor}
    counted = {name: count_ranks(targets, values, cluster) for name, values in scores.items()}
    exact = {name: summarize(targets, values) for name, values in scores.items()}

    def test(one: str, other: str) -> dict[str, tuple[float, float, float, float]]:
        pair = (exact[one], exact[other]), (counted[one], counted[other])
        found = paired_tests(*pair, resamples=500, seed=0)
        return {name: (t.difference, t.low, t.high, t.p_value) for name, t in found.items()}

    better = test("good", "poor")
    assert better["macro_map"][1] > 0
    assert better["macro_map"][3] == pytest.approx(1 / 501)
    assert better["coverage_error"][2] < 0
    assert test("good", "poor") == better
    assert test("poor", "good")["macro_map"][0] == -better["macro_map"][0]
    same = test("good", "good")
    assert all(value == pytest.approx((0, 0, 0, 1), abs=1e-9) for value in same.values())


@pytest.mark.slow
def test_p_values_of_equally_good_models_are_uniform() -> None:
    p_values = []
    for seed in range(30):
        targets, first, cluster = data(200, 40, seed=seed, signal=1.0)
        second = targets + np.random.default_rng(seed + 1000).normal(size=first.shape)
        counted = count_ranks(targets, first, cluster), count_ranks(targets, second, cluster)
        exact = summarize(targets, first), summarize(targets, second)
        p_values.append(paired_tests(exact, counted, resamples=100, seed=seed)["macro_map"].p_value)
    assert np.mean(np.array(p_values) < 0.1) < 0.3
    assert 0.3 < np.mean(p_values) < 0.7
