import numpy as np
import pandas as pd
import pytest
from pycytominer import normalize
from pycytominer.operations import Spherize

from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.normalization import (
    fit_sphering,
    normalize_plates,
    typical_variation_normalize,
)

GENERATOR_SEED = 5


def correlated(rows: int, columns: int, seed: int = GENERATOR_SEED) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(rows, columns)) @ generator.normal(size=(columns, columns)) + 3


@pytest.mark.parametrize(("ours", "theirs"), [("standardize", "standardize"), ("robust", "mad_robustize")])
def test_plates_are_scaled_as_pycytominer_does(ours: str, theirs: str) -> None:
    features = correlated(40, 6)
    plates = np.array(["a", "b"] * 20, dtype=object)
    reference = np.arange(40) % 3 > 0
    normalized, kept = normalize_plates(features, plates, reference, ours)
    assert kept.all()
    names = [f"Cells_{index}" for index in range(6)]
    for plate in "ab":
        frame = pd.DataFrame(features[plates == plate], columns=names)
        frame["Metadata_use"] = reference[plates == plate]
        expected = normalize(frame, samples="Metadata_use", method=theirs, mad_robustize_epsilon=0)[names]
        np.testing.assert_allclose(normalized[plates == plate], expected, rtol=1e-9, atol=1e-12)


def test_features_without_spread_on_some_plate_are_left_out() -> None:
    features = correlated(20, 3)
    features[:10, 1] = 7.3
    plates = np.array(["a"] * 10 + ["b"] * 10, dtype=object)
    for method in ("standardize", "robust"):
        normalized, kept = normalize_plates(features, plates, np.ones(20, dtype=bool), method)
        assert kept.tolist() == [True, False, True]
        assert normalized.shape == (20, 2)


def test_duplicated_references_give_no_scale() -> None:
    features = np.tile(correlated(1, 3), (6, 1))
    with pytest.raises(InputError, match="Plate 'a' has 6 reference profiles, fewer than two of them different"):
        normalize_plates(features, np.array(["a"] * 6, dtype=object), np.ones(6, dtype=bool), "standardize")


@pytest.mark.parametrize("method", ["PCA", "PCA-cor", "ZCA", "ZCA-cor"])
def test_sphering_equals_pycytominer_where_controls_suffice(method: str) -> None:
    controls, wells = correlated(60, 8), correlated(10, 8, seed=1)
    ours = fit_sphering(controls, method, shrinkage=0.0).transform(wells)
    spherize = Spherize(epsilon=0, method=method, return_numpy=True).fit(pd.DataFrame(controls))
    theirs = np.asarray(spherize.transform(pd.DataFrame(wells)))
    if method.startswith("PCA"):  # the sign of a component is anybody's choice
        ours, theirs = np.abs(ours), np.abs(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("method", ["PCA", "ZCA-cor"])
def test_sphered_controls_are_round(method: str) -> None:
    controls = correlated(80, 8)
    sphered = fit_sphering(controls, method, shrinkage=0.0).transform(controls)
    covariance = np.cov(sphered, rowvar=False)
    expected = np.eye(8) * (80 / 79 if method.endswith("-cor") else 1.0)
    np.testing.assert_allclose(covariance * (80 / 79 if method.endswith("-cor") else 1.0), expected, atol=1e-8)


def test_shrinkage_is_the_covariance_plus_identity() -> None:
    controls = correlated(5, 8)
    sphering = fit_sphering(controls, "ZCA", shrinkage=0.2)
    covariance = np.cov(controls, rowvar=False)
    shrunk = 0.8 * covariance + 0.2 * np.trace(covariance) / 8 * np.eye(8)
    values, vectors = np.linalg.eigh(shrunk)
    expected = (correlated(3, 8, seed=2) - controls.mean(axis=0)) @ (vectors / np.sqrt(values)) @ vectors.T
    np.testing.assert_allclose(sphering.transform(correlated(3, 8, seed=2)), expected, rtol=1e-8)


def test_few_controls_need_shrinkage_and_duplicated_ones_are_counted_once() -> None:
    controls = correlated(5, 8)
    with pytest.raises(InputError, match="5 controls span 4 of 8 features"):
        fit_sphering(controls, "ZCA", shrinkage=0.0)
    assert fit_sphering(controls, "PCA", shrinkage=0.0).transform(controls).shape == (5, 4)
    assert np.isfinite(fit_sphering(controls, "ZCA").transform(controls)).all()
    with pytest.raises(InputError, match="at least 3 different control profiles, got 2 among 6"):
        fit_sphering(np.tile(controls[:2], (3, 1)), "ZCA")


def test_constant_features_are_named_where_they_matter() -> None:
    controls = correlated(10, 4)
    controls[:, 2] = 1.0
    with pytest.raises(InputError, match="1 of 4 features are constant among the controls"):
        fit_sphering(controls, "ZCA-cor")


def test_typical_variation_aligns_the_controls_of_every_plate() -> None:
    generator = np.random.default_rng(3)
    plates = np.repeat(np.array(["a", "b"], dtype=object), 60)
    features = generator.normal(size=(120, 4))
    features[60:] = features[60:] @ generator.normal(size=(4, 4)) + 5
    control = np.tile(np.arange(60) < 40, 2)
    aligned = typical_variation_normalize(features, plates, control, shrinkage=1e-9)
    for plate in "ab":
        own = aligned[(plates == plate) & control]
        np.testing.assert_allclose(own.mean(axis=0), 0, atol=1e-10)
        np.testing.assert_allclose(np.cov(own, rowvar=False), np.eye(4), atol=1e-5)
    with pytest.raises(InputError, match="Plate 'b' has 0 different controls"):
        typical_variation_normalize(features, plates, control & (plates == "a"))
