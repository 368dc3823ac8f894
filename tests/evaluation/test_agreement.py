"""A faster model is held against the one that it replaces, and what all cells share hides no difference."""

import numpy as np
import pytest

from subcell_hf.errors import InputError
from subcell_hf.evaluation.comparison import AgreementLimits, measure_agreement


def test_what_cells_share_hides_no_difference() -> None:
    """Embeddings with a large common part: their cosine hardly feels noise that spoils what distinguishes the cells."""
    rng = np.random.default_rng(0)
    shared, own, noise = 100 * rng.normal(size=16), rng.normal(size=(50, 16)), rng.normal(size=(50, 16))
    found = measure_agreement(shared + own, shared + own + noise)
    assert found.cosine > 0.999
    assert found.centred_cosine == pytest.approx(2**-0.5, abs=0.1)  # of a vector to itself plus noise of its length
    (unmet,) = AgreementLimits().find_unmet(found)
    assert unmet.startswith("centred cosine 0.")
    same = measure_agreement(shared + own, shared + own)
    assert (same.cosine, same.smallest_centred_cosine) == (pytest.approx(1), pytest.approx(1))
    assert AgreementLimits().find_unmet(same) == []


def test_locations_and_their_precision() -> None:
    reference = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    other = reference.copy()
    other[2] = [0.4, 0.65]
    targets = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.uint8)
    vectors = np.eye(4) + 1.0
    found = measure_agreement(vectors, vectors, reference, other, classes=("a", "b"), targets=targets)
    assert found.same_top_location == 0.75
    assert found.largest_probability_change == pytest.approx(0.25)
    assert found.average_precision["a"] == {"cells": 2, "reference": 1, "other": 1}
    assert AgreementLimits().find_unmet(found) == ["same top location 0.75 is below 0.99"]


def test_what_is_no_number_is_refused() -> None:
    vectors = np.ones((3, 2))
    with pytest.raises(InputError, match="NaN or infinite"):
        measure_agreement(vectors, np.full((3, 2), np.nan))
    with pytest.raises(InputError, match="must be one"):
        measure_agreement(vectors, vectors[:2])
    with pytest.raises(InputError, match=r"The limit cosine is 1\.5"):
        AgreementLimits(cosine=1.5)
