"""Probes: the optimum that scikit-learn finds, neighbours counted by hand, chance where nothing can be learnt."""

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression

from subcell_hf.evaluation.localization.probes import LinearProbe, NeighbourProbe, Scaling, choose_cells
from subcell_hf.evaluation.localization.ranking import summarize

Split = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]


def split(cells: int, seed: int, shuffled: bool = False) -> Split:
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(size=(12, 3))
    embeddings = (rng.normal(size=(cells, 12)) * np.linspace(0.1, 10, 12) + 5).astype(np.float32)
    logits = (embeddings - 5) / np.linspace(0.1, 10, 12) @ directions - 0.5
    targets = (rng.random(logits.shape) < 1 / (1 + np.exp(-2 * logits))).astype(np.uint8)
    return embeddings, rng.permutation(targets) if shuffled else targets


def test_linear_probe_is_logistic_regression_of_each_class() -> None:
    train, validation, (test, _) = split(300, 0), split(100, 1), split(50, 2)
    probe = LinearProbe(penalties=(0.02,), tolerance=1e-10, iterations=500)
    found = probe.fit_predict(*train, *validation, test)[0]
    scaling = Scaling.of(train[0])
    for index in range(3):
        model = LogisticRegression(C=1 / (0.02 * 300), tol=1e-8, max_iter=1000)
        model.fit(scaling(train[0]).astype(np.float64), train[1][:, index])
        np.testing.assert_allclose(found[:, index], model.predict_proba(scaling(test))[:, 1], atol=2e-3)
    assert probe.chosen_penalty == 0.02


def test_the_penalty_is_chosen_on_validation_cells() -> None:
    noise = split(40, 0, shuffled=True)
    probe = LinearProbe()
    probe.fit_predict(*noise, *split(200, 1, shuffled=True), noise[0])
    assert probe.chosen_penalty == 1.0
    probe.fit_predict(*split(2000, 0), *split(200, 1), noise[0])
    assert probe.chosen_penalty is not None
    assert probe.chosen_penalty < 1.0


@pytest.mark.parametrize("probe", [LinearProbe(), NeighbourProbe()], ids=lambda probe: probe.name)
def test_probes_learn_what_is_there_and_nothing_else(probe: LinearProbe | NeighbourProbe) -> None:
    test, targets = split(600, 2)
    learnt = probe.fit_predict(*split(1200, 0), *split(200, 1), test)
    assert learnt.shape == (1, 600, 3)
    assert learnt.dtype == np.float32
    assert summarize(targets, learnt[0])["macro_auc"] > 0.75
    guesses = [
        probe.fit_predict(*split(1200, seed, shuffled=True), *split(200, seed + 50, shuffled=True), test)[0]
        for seed in range(100, 112)
    ]
    # A guess is a random direction, which few dimensions let be right or wrong by chance.
    assert abs(np.mean([summarize(targets, guess)["macro_auc"] for guess in guesses]) - 0.5) < 0.06
    again = probe.fit_predict(*split(1200, 0), *split(200, 1), test)
    np.testing.assert_array_equal(learnt, again)


def test_neighbours_by_hand() -> None:
    train = np.array([[1, 0.1], [1, -0.1], [-1, 0.1], [-1, -0.1]], np.float32)
    targets = np.array([[1], [1], [1], [0]], np.uint8)
    found = NeighbourProbe(counts=(2,)).fit_predict(train, targets, train, targets, np.array([[3, 0]], np.float32))
    assert found[0, 0, 0] == pytest.approx((2 + 0.75) / 3)


def test_a_constant_column_is_harmless() -> None:
    train, validation, test = split(200, 0), split(50, 1), split(50, 2)
    constant = [
        np.concatenate([part[0], np.full((len(part[0]), 1), 7, np.float32)], 1) for part in (train, validation, test)
    ]
    probe = LinearProbe()
    with_it = probe.fit_predict(constant[0], train[1], constant[1], validation[1], constant[2])
    np.testing.assert_allclose(with_it, probe.fit_predict(*train, *validation, test[0]), atol=1e-3)


def test_a_class_without_positives_gets_low_probabilities() -> None:
    embeddings, targets = split(100, 0)
    targets[:, 1] = 0
    found = LinearProbe().fit_predict(embeddings, targets, *split(50, 1), embeddings)[0]
    assert np.isfinite(found).all()
    assert found[:, 1].max() < 0.05


def test_chosen_cells_are_sorted_and_seeded() -> None:
    chosen = choose_cells(1000, 10, seed=1)
    assert len(set(chosen)) == 10
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, choose_cells(1000, 10, seed=1))
    np.testing.assert_array_equal(choose_cells(3, 10, seed=1), [0, 1, 2])
