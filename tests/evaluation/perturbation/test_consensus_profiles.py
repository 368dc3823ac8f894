import numpy as np
import pandas as pd
import pytest

from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.consensus_profiles import aggregate_profiles, consensus_profiles
from subcell_hf.evaluation.perturbation.table import ProfileTable

CELLS = ProfileTable(
    pd.DataFrame(
        {
            "plate": ["p"] * 5,
            "well": ["w2", "w2", "w2", "w1", "w1"],
            "field": ["f1", "f1", "f2", "f1", "f1"],
            "compound": ["c", "c", "c", None, None],
            "cell": ["1", "2", "3", "4", "5"],
        },
        dtype=object,
    ).replace({np.nan: None}),
    np.array([[0.0], [2.0], [9.0], [4.0], [5.0]]),
    ("x",),
)
LEVELS = [("plate", "well", "field"), ("plate", "well")]


def test_fields_weigh_the_same_however_many_cells_they_have() -> None:
    wells = aggregate_profiles(CELLS, LEVELS)
    assert wells.features.ravel().tolist() == [5.0, 4.5]  # (1 + 9) / 2, not 11 / 3
    assert wells.column("well").tolist() == ["w2", "w1"]
    assert wells.column("compound").tolist() == ["c", None]
    assert "cell" not in wells.metadata.columns
    assert "field" not in wells.metadata.columns


def test_median() -> None:
    assert aggregate_profiles(CELLS, [("plate", "well")], "median").features.ravel().tolist() == [2.0, 4.5]


def test_single_rows_keep_their_numbers_and_order() -> None:
    numbers = np.random.default_rng(0).normal(size=(5, 1)) / 3
    table = CELLS.with_features(numbers)
    assert (aggregate_profiles(table, [("cell",)]).features == numbers).all()


def test_consensus_leaves_out_rows_without_a_group() -> None:
    consensus = consensus_profiles(CELLS, "compound")
    assert consensus.column("compound").tolist() == ["c"]
    assert consensus.features[0, 0] == pytest.approx(11 / 3)


def test_a_row_that_belongs_nowhere_is_refused() -> None:
    with pytest.raises(InputError, match="'compound' is empty in 2 of 5 rows"):
        aggregate_profiles(CELLS, [("compound",)])
    with pytest.raises(InputError, match="Unknown statistic 'mode'"):
        aggregate_profiles(CELLS, LEVELS, "mode")
