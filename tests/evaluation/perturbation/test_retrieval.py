from pathlib import Path

import evaluate
import numpy as np
import pandas as pd
import pytest
from copairs.map import average_precision as copairs_average_precision
from copairs.map import multilabel
from sklearn.metrics import average_precision_score

import subcell_hf.evaluation
from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.retrieval import (
    RetrievalTask,
    average_precisions,
    nearest_neighbour_hits,
    retrieve_mechanisms,
    retrieve_replicates,
)
from tests.evaluation.perturbation.simulated_profiles import simulate_wells


def test_by_hand() -> None:
    similarity = np.array([[0.9, 0.8, 0.7, 0.6, 0.99]])
    positives = np.array([[False, True, False, True, False]])
    negatives = np.array([[True, False, True, False, False]])  # the last profile does not count
    scored = average_precisions(similarity, positives, negatives)
    assert scored.average_precision[0] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert scored.interpolated_average_precision[0] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert (scored.positives[0], scored.candidates[0]) == (2, 4)


def test_interpolation_takes_the_best_precision_at_any_higher_recall() -> None:
    similarity = np.array([[0.9, 0.8, 0.7, 0.6]])
    positives = np.array([[False, True, True, True]])
    scored = average_precisions(similarity, positives, ~positives)
    assert scored.average_precision[0] == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 3)
    assert scored.interpolated_average_precision[0] == pytest.approx(3 / 4)


@pytest.mark.parametrize("levels", [3, 1000])
def test_equals_scikit_learn_with_and_without_ties(levels: int) -> None:
    generator = np.random.default_rng(levels)
    similarity = generator.integers(levels, size=(50, 30)) / levels
    positives = generator.random((50, 30)) < 0.3
    negatives = ~positives & (generator.random((50, 30)) < 0.8)
    scored = average_precisions(similarity, positives, negatives)
    for row in range(50):
        used = positives[row] | negatives[row]
        expected = average_precision_score(positives[row, used], similarity[row, used])
        assert scored.average_precision[row] == pytest.approx(expected, abs=1e-12)


def test_a_constant_embedding_scores_at_its_share_of_positives() -> None:
    positives = np.array([[True, False, False, False], [True, True, False, False]])
    scored = average_precisions(np.full((2, 4), 1.0), positives, ~positives)
    assert scored.average_precision.tolist() == [0.25, 0.5]


def test_queries_without_positives_score_nothing() -> None:
    scored = average_precisions(np.ones((1, 3)), np.zeros((1, 3), dtype=bool), np.ones((1, 3), dtype=bool))
    assert np.isnan(scored.average_precision[0])


@pytest.mark.parametrize(
    ("positives", "negatives", "rules"),
    [
        ("any-plate", "same-plate-others", ([], ["Metadata_Plate"])),
        ("other-plates", "others", (["Metadata_Plate"], [])),
    ],
)
def test_equals_copairs_among_treated_wells(positives: str, negatives: str, rules: tuple[list, list]) -> None:
    wells = simulate_wells(controls=0, effect=0.3)
    task = RetrievalTask(
        wells.column("Metadata_compound"),
        wells.column("Metadata_Plate"),
        np.zeros(len(wells), bool),
        positives,
        negatives,
    )
    ours = retrieve_replicates(wells.features, task)
    theirs = copairs_average_precision(
        wells.metadata, wells.features, pos_sameby=["Metadata_compound"], pos_diffby=rules[0], neg_sameby=rules[1],
        neg_diffby=["Metadata_compound"], progress_bar=False,
    )  # fmt: skip
    assert ours["n_pos_pairs"].tolist() == theirs["n_pos_pairs"].tolist()
    assert ours["n_total_pairs"].tolist() == theirs["n_total_pairs"].tolist()
    np.testing.assert_allclose(ours["average_precision"], theirs["average_precision"], atol=1e-12)


def test_equals_copairs_against_controls_of_the_plate() -> None:
    wells = simulate_wells(effect=0.3)
    control = wells.column("Metadata_control_type") == "negcon"
    task = RetrievalTask(wells.column("Metadata_compound"), wells.column("Metadata_Plate"), control)
    ours = retrieve_replicates(wells.features, task)
    metadata = wells.metadata.assign(
        Metadata_compound=[
            f"control {row}" if control[row] else name for row, name in enumerate(wells.column("Metadata_compound"))
        ],
        is_control=control,
    )
    theirs = copairs_average_precision(
        metadata, wells.features, pos_sameby=["Metadata_compound"], pos_diffby=[], neg_sameby=["Metadata_Plate"],
        neg_diffby=["is_control"], progress_bar=False,
    )[~control]  # fmt: skip
    np.testing.assert_allclose(ours["average_precision"], theirs["average_precision"], atol=1e-12)
    assert ours["n_total_pairs"].tolist() == theirs["n_total_pairs"].tolist()


@pytest.mark.parametrize("blocked", [False, True])
def test_equals_the_metric_module(blocked: bool) -> None:
    wells = simulate_wells(controls=0, effect=0.3)
    groups, plates = wells.column("Metadata_compound"), wells.column("Metadata_Plate")
    module = Path(subcell_hf.evaluation.__file__).parent / "metrics" / "replicate_map"
    metric = evaluate.load(str(module))
    options = {"blocks": plates.tolist()} if blocked else {}
    theirs = metric.compute(predictions=wells.features.tolist(), references=groups.tolist(), **options)
    where = ("other-plates", "other-plates-others") if blocked else ("any-plate", "others")
    ours = retrieve_replicates(wells.features, RetrievalTask(groups, plates, np.zeros(len(wells), bool), *where))
    means = ours.groupby("group")["average_precision"].mean()
    assert theirs["groups"] == pytest.approx(means.to_dict(), abs=1e-12)
    assert theirs["replicate_map"] == pytest.approx(means.mean(), abs=1e-12)


def test_mechanisms_equal_copairs_with_several_labels() -> None:
    generator = np.random.default_rng(1)
    features = generator.normal(size=(20, 6))
    labels = [
        frozenset(generator.choice(list("abcd"), size=generator.integers(1, 3), replace=False)) for _ in range(20)
    ]
    ours = retrieve_mechanisms(features, labels)
    metadata = pd.DataFrame({"moa": ["|".join(sorted(names)) for names in labels], "compound": np.arange(20)})
    metadata["moa"] = metadata["moa"].str.split("|")
    theirs = multilabel.average_precision(
        metadata, features, pos_sameby=["moa"], pos_diffby=["compound"], neg_sameby=[], neg_diffby=["moa"],
        multilabel_col="moa", progress_bar=False,
    ).dropna(subset=["average_precision"])  # fmt: skip
    ours = ours.sort_values(["group", "row"])
    theirs = theirs.sort_values(["moa", "compound"])
    assert ours["group"].tolist() == theirs["moa"].tolist()
    np.testing.assert_allclose(ours["average_precision"], theirs["average_precision"], atol=1e-12)


def test_nearest_neighbours_on_the_same_plate_are_blocked() -> None:
    #                 A/p1   A/p2   B/p1   B/p2; the first two are alike, as are the last two, across plates
    features = np.array([[1, 0.1], [1, 0.2], [0.1, 1], [0.2, 1]])
    groups = np.array(["A", "A", "B", "B"], dtype=object)
    plates = np.array(["p1", "p2", "p1", "p2"], dtype=object)
    task = RetrievalTask(groups, plates, np.zeros(4, bool), negatives="others")
    assert retrieve_replicates(features, task)["nearest_neighbour_accuracy"].tolist() == [1, 1, 1, 1]
    one_plate = RetrievalTask(groups, np.array(["p"] * 4, dtype=object), np.zeros(4, bool), negatives="others")
    assert retrieve_replicates(features, one_plate)["nearest_neighbour_accuracy"].isna().all()


def test_tied_nearest_neighbours_share_the_hit() -> None:
    similarity = np.array([[0.5, 0.5, 0.1]])
    right = np.array([[True, False, False]])
    assert nearest_neighbour_hits(similarity, right, np.ones((1, 3), dtype=bool)).tolist() == [0.5]


def test_blocks_of_queries_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    wells = simulate_wells(effect=0.5)
    control = wells.column("Metadata_control_type") == "negcon"
    task = RetrievalTask(wells.column("Metadata_compound"), wells.column("Metadata_Plate"), control)
    whole = retrieve_replicates(wells.features, task)
    monkeypatch.setattr("subcell_hf.evaluation.perturbation.retrieval._QUERIES_AT_ONCE", 7)
    pd.testing.assert_frame_equal(whole, retrieve_replicates(wells.features, task))


def test_what_cannot_be_retrieved_is_said() -> None:
    features, nobody = np.eye(3), np.zeros(3, bool)
    groups, plates = np.array(["a", "b", "c"], dtype=object), np.array(["p"] * 3, dtype=object)
    with pytest.raises(InputError, match="No profile is a control, but the negatives are same-plate-controls"):
        retrieve_replicates(features, RetrievalTask(groups, plates, nobody))
    with pytest.raises(InputError, match="every group has a single profile"):
        retrieve_replicates(features, RetrievalTask(groups, plates, nobody, negatives="others"))
    with pytest.raises(InputError, match=r"1 profiles are all zeros \(the first is row 2\)"):
        retrieve_replicates(np.diag([1.0, 0, 1]), RetrievalTask(groups, plates, nobody, negatives="others"))
    with pytest.raises(InputError, match="Unknown negatives 'all'"):
        retrieve_replicates(features, RetrievalTask(groups, plates, nobody, negatives="all"))
