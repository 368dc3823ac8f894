"""Effects and dose responses: unbiased without an effect, exact without noise, silent where nothing is identified."""

import numpy as np
import pytest

from subcell_hf.evaluation.screening.dose_response import effect_interval, fit_curve, measure_response, monotone_test
from subcell_hf.evaluation.screening.permutation import make_pool

DOSES = np.repeat(10.0 ** np.arange(-2, 2, 0.5), 3)


def _curve(doses: np.ndarray, ec50: float, hill: float = 1.5) -> np.ndarray:
    return 5 / (1 + (ec50 / doses) ** hill)


def test_a_curve_without_noise_is_found() -> None:
    fitted = fit_curve(DOSES, _curve(DOSES, 0.3), np.zeros(10))
    assert fitted is not None
    assert fitted.identified
    assert fitted.ec50 == pytest.approx(0.3, rel=1e-3)
    assert fitted.hill == pytest.approx(1.5, rel=1e-3)
    assert fitted.top == pytest.approx(5, rel=1e-3)
    assert fitted.ec50_low <= 0.3 <= fitted.ec50_high


def test_the_fit_is_no_worse_than_that_of_scipy() -> None:
    from scipy.optimize import curve_fit

    generator = np.random.default_rng(0)
    response, controls = _curve(DOSES, 0.3) + generator.normal(size=len(DOSES)), generator.normal(size=20)
    fitted = fit_curve(DOSES, response, controls)
    assert fitted is not None

    def shape(dose: np.ndarray, bottom: float, top: float, log_ec50: float, hill: float) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return bottom + (top - bottom) / (1 + (10**log_ec50 / dose) ** hill)

    doses, values = np.concatenate([DOSES, np.zeros(20)]), np.concatenate([response, controls])
    best, _ = curve_fit(shape, doses, values, p0=(0, 5, -0.5, 1.5))
    assert fitted.ec50 == pytest.approx(10 ** best[2], rel=1e-2)


@pytest.mark.parametrize("ec50", [200.0, 0.0001])
def test_an_ec50_outside_the_doses_is_not_identified(ec50: float) -> None:
    generator = np.random.default_rng(1)
    fitted = fit_curve(DOSES, _curve(DOSES, ec50) + generator.normal(scale=0.5, size=len(DOSES)), np.zeros(20))
    assert fitted is None or not fitted.identified


def test_too_few_doses_have_no_curve() -> None:
    assert fit_curve(np.repeat([1.0, 2, 3], 3), np.arange(9.0), np.zeros(5)) is None


def test_the_effect_of_wells_that_are_controls_is_zero_on_average_and_a_real_one_is_measured() -> None:
    generator = np.random.default_rng(2)
    plates = np.repeat([0, 1, 2], 15)
    treated = np.array([0, 1, 15, 16, 30, 31])
    pool = make_pool(treated, np.setdiff1d(np.arange(45), treated), plates)
    null, covered, real = [], 0, []
    for _ in range(100):
        features = generator.normal(size=(45, 20))
        mean, low, high = effect_interval(features, pool, np.zeros(6, dtype=object))
        null.append(mean)
        covered += low <= 0 <= high
        features[treated, 0] += 8
        real.append(effect_interval(features, pool, np.zeros(6, dtype=object))[0])
    assert abs(np.mean(null)) < 3 * np.std(null) / 10
    assert covered >= 90
    assert 7 < np.mean(real) < 8.5  # directions are estimated, which costs a little


def test_a_well_does_not_choose_its_direction() -> None:
    generator = np.random.default_rng(3)
    features = generator.normal(size=(12, 5))
    pool = make_pool(np.array([0, 1]), np.arange(2, 12), np.zeros(12, dtype=np.intp))
    before = measure_response(features, pool, np.ones(2)).treated
    features[0] *= -1
    controls = features[2:].mean(axis=0)
    features[0] += 2 * controls  # mirrored at the controls
    assert np.allclose(measure_response(features, pool, np.ones(2)).treated, -before)


def test_the_test_of_monotony_asks_for_a_rise() -> None:
    generator = np.random.default_rng(4)
    noise = generator.normal(size=len(DOSES))
    assert monotone_test(_curve(DOSES, 0.3) + noise, DOSES, 199, generator) < 0.05
    assert monotone_test(-_curve(DOSES, 0.3) + noise, DOSES, 199, generator) > 0.9
    assert np.isnan(monotone_test(noise[:3], DOSES[:3], 199, generator))
