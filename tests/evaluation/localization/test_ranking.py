"""Ranking metrics are scikit-learn's, ties, absent classes and rows of one class included."""

import numpy as np
import pytest
from sklearn import metrics

from subcell_hf.errors import InputError
from subcell_hf.evaluation.localization.ranking import rank_cells, score_classes, summarize


@pytest.mark.parametrize("levels", [3, 1000], ids=["ties", "few_ties"])
def test_metrics_equal_scikit_learn(levels: int) -> None:
    rng = np.random.default_rng(levels)
    targets = (rng.random((400, 7)) < 0.3).astype(np.uint8)
    targets[:, 2], targets[:, 5] = 0, 1  # nobody, everybody
    targets[0], targets[1] = 0, 1  # no class, all classes
    targets[:2, 2], targets[:2, 5] = 0, 1
    scores = (rng.integers(0, levels, targets.shape) / levels).astype(np.float32)
    found = score_classes(targets, scores)
    known = [0, 1, 3, 4, 6]
    assert np.isnan(found.average_precision[[2, 5]]).all()
    assert np.isnan(found.roc_auc[[2, 5]]).all()
    expected = metrics.average_precision_score(targets[:, known], scores[:, known], average=None)
    np.testing.assert_allclose(found.average_precision[known], expected)
    summary = summarize(targets, scores, found)
    assert summary["macro_map"] == pytest.approx(expected.mean())
    assert summary["macro_auc"] == pytest.approx(metrics.roc_auc_score(targets[:, known], scores[:, known]))
    assert summary["micro_map"] == pytest.approx(metrics.average_precision_score(targets, scores, average="micro"))
    lrap = metrics.label_ranking_average_precision_score(targets, scores)
    assert summary["lrap"] == pytest.approx(lrap)
    assert summary["coverage_error"] == pytest.approx(metrics.coverage_error(targets, scores))


def test_by_hand() -> None:
    targets = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]], np.uint8)
    scores = np.array([[0.2, 0.9, 0.1], [0.5, 0.5, 0.4], [0.1, 0.2, 0.3]])
    precision, coverage = rank_cells(targets, scores)
    # Second cell: its first class shares rank 2 with a wrong one (1/2), the other has rank 3 (2/3).
    np.testing.assert_allclose(precision, [1 / 2, (1 / 2 + 2 / 3) / 2, 1])
    np.testing.assert_array_equal(coverage, [2, 3, 0])
    by_class = score_classes(targets, scores)
    np.testing.assert_allclose(by_class.average_precision, [1 / 2, 1 / 2, 1])
    np.testing.assert_allclose(by_class.roc_auc, [1 / 2, 1 / 2, 1])
    np.testing.assert_array_equal(by_class.positives, [1, 1, 1])


def test_nothing_to_score_is_nan_not_zero() -> None:
    summary = summarize(np.zeros((4, 2), np.uint8), np.random.default_rng(0).random((4, 2)))
    assert np.isnan([summary["macro_map"], summary["macro_auc"], summary["micro_map"]]).all()


def test_wrong_scores_are_refused() -> None:
    with pytest.raises(InputError, match="must be one"):
        score_classes(np.zeros((2, 3), np.uint8), np.zeros((2, 2)))
    with pytest.raises(InputError, match="NaN"):
        score_classes(np.ones((1, 1), np.uint8), np.array([[np.nan]]))
    with pytest.raises(InputError, match="0 or 1"):
        score_classes(np.full((1, 1), 2, np.uint8), np.ones((1, 1)))
