import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA

from subcell_hf.errors import InputError
from subcell_hf.evaluation.proteome_map.correction import batch_share, correct_batches, principal_components


def planted(fields: int = 1500, seed: int = 0) -> tuple[np.ndarray, pd.DataFrame]:
    """Twenty genes on six plates, with shifts as large as the differences between genes."""
    generator = np.random.default_rng(seed)
    genes, plates = generator.integers(20, size=fields), generator.integers(6, size=fields)
    embeddings = 2 * generator.normal(size=(20, 24))[genes] + 1.5 * generator.normal(size=(6, 24))[plates]
    embeddings += generator.normal(size=(fields, 24))
    frame = pd.DataFrame({"gene": [f"G{g}" for g in genes], "plate": [f"P{p}" for p in plates], "microscope": "M"})
    return embeddings.astype(np.float32), frame


def test_components_equal_scikit_learn() -> None:
    embeddings, _ = planted()
    ours = principal_components(embeddings, np.ones(len(embeddings)), 5)
    theirs = PCA(5, svd_solver="full").fit(embeddings.astype(np.float64))
    np.testing.assert_allclose(np.abs(ours.scores), np.abs(theirs.transform(embeddings)), atol=1e-3)
    np.testing.assert_allclose(ours.explained, theirs.explained_variance_ratio_, atol=1e-6)


def test_weights_count_like_repeated_rows() -> None:
    embeddings, _ = planted(200)
    weights = np.random.default_rng(1).integers(1, 4, size=200)
    weighted = principal_components(embeddings, weights.astype(float), 4)
    repeated = principal_components(np.repeat(embeddings, weights, axis=0), np.ones(weights.sum()), 4)
    np.testing.assert_allclose(np.repeat(weighted.scores, weights, axis=0), repeated.scores, atol=1e-3)


def test_planted_plates_are_removed_and_genes_stay() -> None:
    embeddings, fields = planted()
    raw = principal_components(embeddings, np.ones(len(embeddings)), 24)
    corrected = correct_batches(raw, fields, ["plate"], seed=0)
    genes = fields["gene"].to_numpy(dtype=object)
    assert batch_share(raw.scores, genes, fields["plate"]) > 0.5
    assert batch_share(corrected.scores, genes, fields["plate"]) < 0.1
    everything = np.array(["one"] * len(fields), dtype=object)
    between = {
        name: batch_share(part.scores, everything, fields["gene"])
        for name, part in (("raw", raw), ("corrected", corrected))
    }
    assert between["corrected"] > between["raw"]  # genes explain more of what is left


def test_the_same_seed_gives_the_same_numbers() -> None:
    embeddings, fields = planted(600)
    raw = principal_components(embeddings, np.ones(len(embeddings)), 10)
    first = correct_batches(raw, fields, ["plate"], seed=3).scores
    assert (first == correct_batches(raw, fields, ["plate"], seed=3).scores).all()


def test_what_is_not_corrected_for_is_noted() -> None:
    embeddings, fields = planted(100)
    raw = principal_components(embeddings, np.ones(100), 4)
    left = correct_batches(raw, fields, ["microscope"], seed=0)
    assert left.corrected == ()
    assert left.notes == ("microscope has a single value: not corrected for",)
    assert (left.scores == raw.scores).all()
    fields.loc[:9, "plate"] = ""
    assert correct_batches(raw, fields, ["plate"], seed=0).notes == ("10 fields have no plate: treated as one batch",)
    with pytest.raises(InputError, match="no column 'day' to correct for"):
        correct_batches(raw, fields, ["day"], seed=0)


def test_share_of_batches_by_hand() -> None:
    scores = np.array([[1.0], [-1.0], [1.0], [-1.0], [100.0]])
    genes = np.array(["a", "a", "b", "b", "c"], dtype=object)
    assert batch_share(scores, genes, pd.Series(["p", "q", "p", "q", "p"])) == pytest.approx(1.0)
    assert batch_share(scores, genes, pd.Series(["p", "q", "q", "p", "p"])) == pytest.approx(0.0)
    assert np.isnan(batch_share(scores[:2], genes[:2], pd.Series(["p", "p"])))


def test_nothing_to_map() -> None:
    with pytest.raises(InputError, match="same embedding"):
        principal_components(np.ones((4, 3), dtype=np.float32), np.ones(4), 2)


def test_a_handful_of_fields_can_be_corrected() -> None:
    embeddings, fields = planted(12)
    corrected = correct_batches(principal_components(embeddings, np.ones(12), 3), fields, ["plate"], seed=0)
    assert corrected.scores.shape == (12, 3)
    assert np.isfinite(corrected.scores).all()
