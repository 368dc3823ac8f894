"""A run that differs from the calibration of its classifier is named, one that does not is not."""

import numpy as np
import pandas as pd
import pytest

from subcell_hf.report.novelty import novelty_columns, summarize_novelty


def cells_of(p_values: np.ndarray, **columns: object) -> pd.DataFrame:
    fields = [f"f{n // 10}" for n in range(len(p_values))]
    return pd.DataFrame({"novelty_p_value": p_values, "field_of_view": fields, **columns})


def test_a_shifted_run_is_named() -> None:
    rng = np.random.default_rng(0)
    uniform = rng.random(400)
    fresh = summarize_novelty(cells_of(uniform), {"antibodies": 80})
    assert fresh is not None
    assert (fresh.unit, fresh.units, fresh.fields) == ("fields of view", 40, 0)
    assert not fresh.differs
    assert fresh.share == pytest.approx((uniform <= 0.05).mean())
    shifted = summarize_novelty(cells_of(np.concatenate([np.full(200, 0.0125), uniform[200:]])), {"antibodies": 80})
    assert shifted is not None
    assert shifted.differs
    assert "at most 5% is expected). Locations and their sets" in shifted.describe()


def test_fields_of_another_focus_are_counted_and_the_channel_is_named() -> None:
    rng = np.random.default_rng(0)
    cells = cells_of(rng.random(400), qc_focus_red=np.exp(rng.normal(size=400)), antibody=[""] * 400)
    fields = {
        "columns": ["novelty_p_value", "qc_focus_red"],
        "mean": [-1.0, 0.0],
        "deviations": [0.3, 0.3],
        "inverse_covariance": [[10.0, 0.0], [0.0, 10.0]],
        "distances": [0.0, 20.0],
        "p_values": [1.0, 0.02],
    }
    novelty = {"antibodies": 80, "fields": fields}
    assert novelty_columns(novelty)[0] == "novelty_p_value"
    assert {"qc_focus_red", "field_of_view", "antibody", "plate", "well"} <= {*novelty_columns(novelty)}
    fresh = summarize_novelty(cells, novelty)
    assert fresh is not None
    assert (fresh.fields, fresh.unlike_fields, fresh.differs) == (40, 0, False)
    assert "0 of 40 fields look unlike those of the calibration" in fresh.describe()
    blurred = cells.assign(qc_focus_red=cells["qc_focus_red"] * np.where(np.arange(400) < 300, np.exp(-3), 1))
    found = summarize_novelty(blurred, novelty)
    assert found is not None
    assert (found.fields, found.unlike_fields, found.differs) == (40, 30, True)
    by_hand = np.log(blurred["qc_focus_red"]).groupby(blurred["field_of_view"]).mean().mean() / 0.3
    assert found.farthest == "qc_focus_red"
    assert found.deviations == pytest.approx(by_hand)
    assert f"Farthest: qc_focus_red, {-by_hand:.1f} standard deviations lower." in found.describe()
    unknown = summarize_novelty(blurred.drop(columns="qc_focus_red"), novelty)
    assert unknown is not None
    assert (unknown.fields, unknown.differs) == (0, False)
    unnamed = summarize_novelty(blurred.assign(field_of_view=""), novelty)
    assert unnamed is not None
    assert unnamed.fields == 0


def test_antibodies_count_before_wells_and_fields() -> None:
    p_values = np.full(40, 0.5)
    antibodies = ["a"] * 10 + ["b"] * 20 + [""] * 10
    p_values[:10] = 0.01
    by_antibody = summarize_novelty(
        cells_of(p_values, antibody=antibodies, well=["A01"] * 20 + ["A02"] * 20), {"antibodies": 40}
    )
    assert by_antibody is not None
    assert (by_antibody.unit, by_antibody.units, by_antibody.share) == ("antibodies", 2, 0.5)
    spread = np.std([0, 1], ddof=1) * np.sqrt(1 / 2 + 1 / 40)
    assert (by_antibody.low, by_antibody.high) == (max(0, 0.5 - 1.96 * spread), min(1, 0.5 + 1.96 * spread))
    by_well = summarize_novelty(cells_of(p_values, antibody="a", well=["A01"] * 20 + ["A02"] * 20), {"antibodies": 40})
    assert by_well is not None
    assert (by_well.unit, by_well.units, by_well.share) == ("wells", 2, 0.25)
    one = summarize_novelty(cells_of(p_values[:10]), {"antibodies": 40})
    assert one is not None
    assert (one.low, one.differs) == (None, False)
    assert "(mean of 1 field of view;" in one.describe()


def test_without_calibration_nothing_is_claimed() -> None:
    assert summarize_novelty(cells_of(np.ones(3)), None) is None
    assert summarize_novelty(cells_of(np.ones(3)).drop(columns="novelty_p_value"), {"antibodies": 40}) is None
