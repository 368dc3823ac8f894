"""p-values of novelty are valid by antibody, small for cells of another kind, and refused where they cannot be."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA

from subcell_hf.cells.field_statistics import field_p_values, field_values, measure_fields
from subcell_hf.errors import InputError
from subcell_hf.evaluation.localization.novelty import calibrate_fields, calibrate_novelty
from subcell_hf.model.locations_subcell import measure_novelty, novelty_p_values

WIDTH, SHARED = 16, np.linspace(3, 0.2, 16)


def cells_of(seed: int, antibodies: int) -> tuple[Any, Any]:
    """Embeddings of 1 to 12 cells of each antibody, which are alike, and names."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(antibodies), rng.integers(1, 13, antibodies))
    embeddings = SHARED * (rng.normal(size=(antibodies, WIDTH))[group] + rng.normal(size=(len(group), WIDTH)))
    return embeddings.astype(np.float32), np.array([f"HPA{n}" for n in group], object)


def share_by_antibody(p_values: Any, antibodies: Any, level: float) -> float:
    _, group = np.unique(antibodies.astype(str), return_inverse=True)
    return float((np.bincount(group, p_values <= level) / np.bincount(group)).mean())


def test_the_distance_is_that_of_probabilistic_components() -> None:
    reference = cells_of(0, 100)[0]
    novelty = calibrate_novelty(reference, *cells_of(1, 40))
    fresh = cells_of(2, 30)[0]
    likelihood = PCA(n_components=WIDTH // 2).fit(reference.astype(np.float64)).score_samples(fresh)
    distances = measure_novelty(fresh, novelty)
    # They differ by a constant; components are stored in half precision.
    assert np.ptp(distances + 2 * likelihood) < 0.01 * np.ptp(distances)


def test_p_values_count_calibration_cells_by_antibody() -> None:
    """Never below the share of calibration cells that are as far, and hardly above."""
    embeddings, antibodies = cells_of(1, 60)
    novelty = calibrate_novelty(cells_of(0, 100)[0], embeddings, antibodies)
    fresh = np.concatenate([cells_of(2, 40)[0], cells_of(2, 5)[0] * 9])
    found, known = measure_novelty(fresh, novelty), measure_novelty(embeddings, novelty)
    names = np.unique(antibodies.astype(str))
    farther = [np.mean([(known[antibodies == name] >= one).mean() for name in names]) for one in found]
    exact = (1 + 60 * np.array(farther)) / 61
    p_values = novelty_p_values(fresh, novelty)
    assert (p_values >= exact - 1e-6).all()
    assert (p_values <= 1.05 * exact + 1 / 61).all()
    assert p_values[-1] == pytest.approx(1 / 61)

    many = np.where(antibodies == antibodies[0], 50, 1)  # the cells of one antibody fifty times
    again = calibrate_novelty(cells_of(0, 100)[0], np.repeat(embeddings, many, axis=0), np.repeat(antibodies, many))
    np.testing.assert_allclose(novelty_p_values(fresh, again), p_values)


def test_fresh_antibodies_keep_the_level_and_a_shift_does_not() -> None:
    reference = cells_of(0, 200)[0]
    shares, shifted, rescaled = [], [], []
    for seed in range(1, 41):
        novelty = calibrate_novelty(reference, *cells_of(seed, 60))
        fresh, names = cells_of(1000 + seed, 60)
        shares.append(share_by_antibody(novelty_p_values(fresh, novelty), names, 0.05))
        shifted.append(share_by_antibody(novelty_p_values(fresh + np.float32(3), novelty), names, 0.05))
        rescaled.append(share_by_antibody(novelty_p_values(fresh * np.float32(1.6), novelty), names, 0.05))
    assert 0.01 < np.mean(shares) <= 0.05
    assert np.min(shifted) > 0.5
    assert np.mean(rescaled) > 0.2


def fields_of(seed: int, antibodies: int, sharpness: float = 1.0) -> pd.DataFrame:
    """Cells of one or two fields of each antibody, with a focus of two channels that varies by field and by cell."""
    rng = np.random.default_rng(seed)
    antibody = np.repeat(np.arange(antibodies), rng.integers(1, 3, antibodies))
    field = np.repeat(np.arange(len(antibody)), rng.integers(10, 20, len(antibody)))
    logs = 0.1 * rng.normal(size=(len(antibody), 2))[field] + 0.4 * rng.normal(size=(len(field), 2))
    focus = pd.DataFrame(sharpness * np.exp(logs), columns=["qc_focus_red", "qc_focus_green"])
    names = {"field_of_view": [f"f{n}" for n in field], "antibody": [f"HPA{n}" for n in antibody[field]]}
    return focus.assign(**names, novelty_p_value=rng.random(len(field)))


def test_single_fields_keep_the_level_and_those_of_another_focus_do_not() -> None:
    reference = fields_of(0, 100)
    fresh, blurred = [], []
    for seed in range(1, 21):
        calibrated = calibrate_fields(reference, fields_of(seed, 60))
        assert calibrated["columns"] == ["novelty_p_value", "qc_focus_red", "qc_focus_green"]
        for found, sharpness in ((fresh, 1.0), (blurred, 0.5)):
            fields = fields_of(1000 + seed, 60, sharpness)
            values = field_values(fields, calibrated["columns"])
            of_field = fields.groupby("field_of_view")["antibody"].first()[values.index].to_numpy()
            found.append(share_by_antibody(field_p_values(values, calibrated), of_field, 0.05))
    assert 0.01 < np.mean(fresh) <= 0.06
    assert np.min(blurred) > 0.9
    distances = measure_fields(field_values(reference, calibrated["columns"]), calibrated)
    assert distances.mean() == pytest.approx(3, rel=0.1)  # Mahalanobis, three columns
    with pytest.raises(InputError, match=r"by 38 antibodies and \d+ reference fields; expected at least 39 and 50"):
        calibrate_fields(reference, fields_of(1, 38))
    without = calibrate_fields(reference, fields_of(1, 60).drop(columns="qc_focus_red"))
    assert without["columns"] == ["novelty_p_value", "qc_focus_green"]


def test_what_cannot_be_calibrated_is_refused() -> None:
    reference, (embeddings, antibodies) = cells_of(0, 100)[0], cells_of(1, 38)
    with pytest.raises(InputError, match=r"38 antibodies and \d+ reference cells; expected at least 39 and 50"):
        calibrate_novelty(reference, embeddings, antibodies)
    with pytest.raises(InputError, match="49 reference cells"):
        calibrate_novelty(reference[:49], *cells_of(1, 60))
    with pytest.raises(InputError, match="the same embedding"):
        calibrate_novelty(np.ones((60, WIDTH), np.float32), *cells_of(1, 60))
    with pytest.raises(ValueError, match="have 15 numbers, novelty is calibrated for 16"):
        measure_novelty(embeddings[:, 1:], calibrate_novelty(reference, *cells_of(1, 60)))
