import numpy as np
import pandas as pd
import pytest

from subcell_hf.errors import InputError
from subcell_hf.evaluation.proteome_map.antibody_choice import choose_antibodies

#                 gene A: two antibodies, two fields each      gene B: one
FIELDS = pd.DataFrame(
    {
        "gene": ["A", "A", "A", "A", "B"],
        "antibody": ["a1", "a1", "a2", "a2", "b1"],
        "cells": [5, 5, 2, 2, 1],
    }
)
# The fields of a1 look away from each other, those of a2 agree.
EMBEDDINGS = np.array([[5, 0], [-5, 0.1], [0, 5], [0.1, 5], [0, -9]], dtype=np.float32)


def chosen(**options: str) -> list[str]:
    table = choose_antibodies(FIELDS, EMBEDDINGS, **options)
    assert table["gene"].tolist() == ["A", "A", "B"]
    return table.loc[table["chosen"], "antibody"].tolist()


def test_most_cells_or_most_consistent() -> None:
    assert chosen() == ["a1", "b1"]
    assert chosen(by="consistency") == ["a2", "b1"]


def test_reliability_comes_first() -> None:
    graded = FIELDS.assign(reliability=["Uncertain", "Uncertain", "Approved", "Approved", ""])
    table = choose_antibodies(graded, EMBEDDINGS)
    assert table.loc[table["chosen"], "antibody"].tolist() == ["a2", "b1"]
    assert table["reliability"].tolist() == ["Uncertain", "Approved", ""]
    unknown = FIELDS.assign(reliability=["", "", "Uncertain", "Uncertain", ""])  # any grade is better than none
    table = choose_antibodies(unknown, EMBEDDINGS)
    assert table.loc[table["chosen"], "antibody"].tolist() == ["a2", "b1"]


def test_consistency_is_the_mean_cosine_with_the_own_mean() -> None:
    table = choose_antibodies(FIELDS, EMBEDDINGS).set_index("antibody")
    centred = EMBEDDINGS - EMBEDDINGS.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    for antibody, rows in (("a1", [0, 1]), ("a2", [2, 3])):
        direction = unit[rows].mean(axis=0)
        expected = (unit[rows] @ direction / np.linalg.norm(direction)).mean()
        assert table.loc[antibody, "consistency"] == pytest.approx(expected, abs=1e-6)
    assert np.isnan(table.loc["b1", "consistency"])


def test_contradictions_are_refused() -> None:
    with pytest.raises(InputError, match="'a1' has several values of 'reliability': Approved, Enhanced"):
        choose_antibodies(FIELDS.assign(reliability=["Enhanced", "Approved", "", "", ""]), EMBEDDINGS)
    with pytest.raises(InputError, match="Antibody 'x' is assigned to 2 genes"):
        choose_antibodies(FIELDS.assign(antibody="x"), EMBEDDINGS)
    with pytest.raises(InputError, match="Unknown choice of antibodies 'luck'"):
        choose_antibodies(FIELDS, EMBEDDINGS, by="luck")
