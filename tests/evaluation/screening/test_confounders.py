"""Cell counts, positions and batches: planted effects are found and removed, others stay."""

import numpy as np
import pytest

from subcell_hf.errors import InputError
from subcell_hf.evaluation.screening.batch_correction import METHODS, compare_corrections
from subcell_hf.evaluation.screening.cell_counts import count_ratios, fit_count_model
from subcell_hf.evaluation.screening.positions import correct_positions, position_tests
from subcell_hf.evaluation.screening.quality import failed_controls

ROWS, COLUMNS = (places.ravel() + 1 for places in np.indices((8, 12)))
PLATES = np.zeros(96, dtype=np.intp)


def test_what_counts_explain_is_removed_and_an_effect_along_another_direction_stays() -> None:
    generator = np.random.default_rng(0)
    groups = np.array([f"treatment {number // 6}" for number in range(240)], dtype=object)
    ratios = generator.normal(scale=0.2, size=240)
    ratios[:60] -= np.linspace(0.5, 3, 60)
    features = generator.normal(size=(240, 10))
    features[:, 0] += 3 * ratios
    features[54:90, 1] += 6  # one treatment with few cells and five others
    adjusted = features - fit_count_model(features, ratios, groups).effect()
    assert abs(np.polyfit(ratios, adjusted[:, 0], 1)[0]) < 0.3
    assert adjusted[54:90, 1].mean() - adjusted[90:, 1].mean() > 5
    assert abs(adjusted[:54, 1].mean()) < 1


def test_missing_counts_are_refused() -> None:
    with pytest.raises(InputError, match="missing or negative in 1 of 3 wells"):
        count_ratios(np.array([1, np.nan, 3.0]), np.zeros(3, dtype=np.intp), np.ones(3, dtype=bool))


def test_an_edge_effect_is_found_and_removed() -> None:
    generator = np.random.default_rng(1)
    features = generator.normal(size=(96, 6))
    plain = position_tests(features, ROWS, COLUMNS, PLATES, permutations=99, seed=0)
    assert all(test.p_value > 0.01 for test in plain)
    outer = (ROWS == 1) | (ROWS == 8) | (COLUMNS == 1) | (COLUMNS == 12)
    shifted = features + 1.5 * outer[:, None] + 0.3 * (COLUMNS[:, None] - 6)
    edge, _, column = position_tests(shifted, ROWS, COLUMNS, PLATES, permutations=99, seed=0)
    assert edge.p_value == column.p_value == 0.01
    assert edge.share > 0.05
    corrected = correct_positions(shifted, ROWS, COLUMNS, PLATES)
    after = position_tests(corrected, ROWS, COLUMNS, PLATES, permutations=99, seed=0)
    assert all(test.p_value > 0.05 for test in after)
    left, planted = corrected - features, shifted - features
    assert left.std() < planted.std() / 3


def test_controls_far_from_the_others_fail_and_no_other_wells() -> None:
    generator = np.random.default_rng(2)
    features = generator.normal(size=(60, 20))
    control = np.arange(60) < 40
    features[[3, 50]] += 4
    assert list(np.flatnonzero(failed_controls(features, control))) == [3]


@pytest.fixture(scope="module")
def batches() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Twelve treatments and twelve controls on each of three plates that differ."""
    generator = np.random.default_rng(3)
    effects = 2 * generator.normal(size=(12, 15))
    plates = np.repeat(np.array(["a", "b", "c"], dtype=object), 24)
    treatments = np.array(([f"t{number:02d}" for number in range(12)] + [None] * 12) * 3, dtype=object)
    features = np.concatenate([np.concatenate([effects, np.zeros((12, 15))])] * 3) + generator.normal(size=(72, 15))
    return features, plates, treatments, np.array([name is None for name in treatments])


def test_a_correction_beats_none_only_where_plates_differ(
    batches: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    features, plates, treatments, control = batches
    alike = compare_corrections(features, plates, treatments, control, seed=0)
    assert alike is not None
    assert set(alike.scores["method"]) == set(METHODS)
    shift = 6 * np.random.default_rng(4).normal(size=(3, 15))[np.searchsorted(["a", "b", "c"], plates.astype(str))]
    differing = compare_corrections(features + shift, plates, treatments, control, seed=0)
    assert differing is not None
    scores = differing.scores.set_index("method")
    assert scores.loc["none", "removal"] < 0.3 < scores.loc["robust z per plate", "removal"]
    assert scores.loc["robust z per plate", "gain_low"] > 0
    assert "beats no correction on held-out treatments" in differing.sentence
    before = alike.scores.set_index("method")
    assert before.loc["robust z per plate", "gain_low"] < 0.02


def test_one_plate_has_no_batches(batches: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> None:
    features, plates, treatments, control = (part[:24] for part in batches)
    assert compare_corrections(features, plates, treatments, control, seed=0) is None
