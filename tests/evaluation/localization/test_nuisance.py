"""Shortcuts are predicted where an embedding contains them, and not where it does not."""

import numpy as np
import pandas as pd
import pytest

from subcell_hf.evaluation.localization.nuisance import score_batches

SHORTCUTS = ("plate", "cut_by_border", "cells_per_field")


@pytest.fixture(scope="module")
def cells() -> pd.DataFrame:
    """Of 24 antibodies, one field of view each: 2, 6 or 12 cells in a field, on two plates."""
    generator = np.random.default_rng(0)
    counts = np.tile([2, 6, 12], 8)
    antibodies = np.repeat(np.arange(24), counts)
    return pd.DataFrame(
        {
            "antibody": [f"A{number}" for number in antibodies],
            "field_of_view": [f"F{number}" for number in antibodies],
            "plate": np.where(generator.permuted(np.arange(24) % 2 == 0)[antibodies], "1", "2"),
            "qc_cut_by_border": generator.random(len(antibodies)) < 0.4,
        }
    )


def test_each_shortcut_is_found_where_it_is_and_only_there(cells: pd.DataFrame) -> None:
    generator = np.random.default_rng(1)
    crowd = cells["field_of_view"].map(cells["field_of_view"].value_counts())
    levels = crowd.rank(pct=True).to_numpy()
    signals = {
        "plate": (cells["plate"] == "1").to_numpy(float)[:, None],
        "cut_by_border": cells["qc_cut_by_border"].to_numpy(float)[:, None],
        "cells_per_field": np.stack([levels < 1 / 3, levels > 2 / 3], axis=1).astype(float),
    }
    for shown, signal in signals.items():
        noise = generator.standard_normal((len(cells), 8))
        embeddings = np.concatenate([3 * signal, noise], axis=1).astype(np.float32)
        scores, notes = score_batches(embeddings, np.arange(len(cells)), cells, seed=0)
        assert notes == ["The microscope cannot be scored: the column microscope is missing."]
        assert tuple(scores) == SHORTCUTS
        found = pd.DataFrame(scores).T.astype(float)
        hidden = found.drop(index=shown)
        assert found["balanced_accuracy"][shown] > 0.9
        assert (hidden["balanced_accuracy"] < hidden["chance"] + 0.25).all()


def test_fields_of_one_size_leave_nothing_to_predict(cells: pd.DataFrame) -> None:
    even = cells.assign(field_of_view=[f"F{row // 4}" for row in range(len(cells))])
    embeddings = np.random.default_rng(1).standard_normal((len(cells), 4)).astype(np.float32)
    scores, notes = score_batches(embeddings, np.arange(len(cells)), even, seed=0)
    assert "cells_per_field" not in scores
    assert notes[-1].startswith("The cells_per_field cannot be scored: fewer than two values")
