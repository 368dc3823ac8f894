"""Reliability and confusion, by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, confusion_matrix

from subcell_hf.evaluation.localization.calibration import confusion, reliability


def test_reliability_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random((500, 3)).astype(np.float32)
    targets = (rng.random((500, 3)) < probabilities).astype(np.uint8)
    found = reliability(targets, probabilities, bins=10)
    observed, predicted = calibration_curve(targets.ravel(), probabilities.ravel(), n_bins=10)
    np.testing.assert_allclose(found.observed, observed)
    np.testing.assert_allclose(found.predicted, predicted, rtol=1e-6)
    assert found.brier == pytest.approx(brier_score_loss(targets.ravel(), probabilities.ravel()))
    assert found.expected_calibration_error < 0.05
    assert found.count.sum() == 1500


def test_calibration_error_by_hand() -> None:
    found = reliability(np.array([[1, 0]], np.uint8), np.array([[0.75, 0.75]], np.float32), bins=2)
    assert found.expected_calibration_error == pytest.approx(0.25)
    assert np.isnan(found.predicted[0])


def test_confusion_of_single_locations_is_the_usual_one() -> None:
    rng = np.random.default_rng(0)
    truth, scores = rng.integers(0, 4, 200), rng.random((200, 4))
    found = confusion(np.eye(4, dtype=np.uint8)[truth], scores.astype(np.float32))
    np.testing.assert_array_equal(found, confusion_matrix(truth, scores.argmax(1)))


def test_confusion_of_several_locations_by_hand() -> None:
    targets = np.array([[1, 1, 0, 0]], np.uint8)
    np.testing.assert_array_equal(
        confusion(targets, np.array([[0.9, 0.1, 0.8, 0.2]]))[:2], [[1, 0, 0, 0], [0, 0, 1, 0]]
    )
    both = confusion(targets, np.array([[0.1, 0.2, 0.8, 0.9]]))
    np.testing.assert_array_equal(both[:2], [[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5]])
