"""A run that differs from the calibration of its classifier is named, one that does not is not."""

import numpy as np
import pandas as pd
import pytest

from subcell_hf.report.novelty import summarize_novelty


def cells_of(p_values: np.ndarray, **columns: object) -> pd.DataFrame:
    fields = [f"f{n // 10}" for n in range(len(p_values))]
    return pd.DataFrame({"novelty_p_value": p_values, "field_of_view": fields, **columns})


def test_a_shifted_run_is_named() -> None:
    rng = np.random.default_rng(0)
    uniform = rng.random(400)
    fresh = summarize_novelty(cells_of(uniform), 80)
    assert fresh is not None
    assert (fresh.unit, fresh.units, fresh.fields, fresh.unlike_fields) == ("fields of view", 40, 40, 0)
    assert not fresh.differs
    assert fresh.share == pytest.approx((uniform <= 0.05).mean())
    shifted = summarize_novelty(cells_of(np.concatenate([np.full(200, 0.0125), uniform[200:]])), 80)
    assert shifted is not None
    assert shifted.differs
    assert shifted.unlike_fields == 20
    assert "20 of 40 fields look unlike the calibration cells. Locations and their sets" in shifted.describe()


def test_antibodies_count_before_wells_and_fields() -> None:
    p_values = np.full(40, 0.5)
    antibodies = ["a"] * 10 + ["b"] * 20 + [""] * 10
    p_values[:10] = 0.01
    by_antibody = summarize_novelty(cells_of(p_values, antibody=antibodies, well=["A01"] * 20 + ["A02"] * 20), 40)
    assert by_antibody is not None
    assert (by_antibody.unit, by_antibody.units, by_antibody.share) == ("antibodies", 2, 0.5)
    spread = np.std([0, 1], ddof=1) * np.sqrt(1 / 2 + 1 / 40)
    assert (by_antibody.low, by_antibody.high) == (max(0, 0.5 - 1.96 * spread), min(1, 0.5 + 1.96 * spread))
    by_well = summarize_novelty(cells_of(p_values, antibody="a", well=["A01"] * 20 + ["A02"] * 20), 40)
    assert by_well is not None
    assert (by_well.unit, by_well.units, by_well.share) == ("wells", 2, 0.25)
    one = summarize_novelty(cells_of(p_values[:10]), 40)
    assert one is not None
    assert (one.low, one.differs) == (None, False)
    assert "(mean of 1 field of view;" in one.describe()


def test_without_calibration_nothing_is_claimed() -> None:
    assert summarize_novelty(cells_of(np.ones(3)), None) is None
    assert summarize_novelty(cells_of(np.ones(3)).drop(columns="novelty_p_value"), 40) is None
