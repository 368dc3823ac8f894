"""Labels train a classifier that is right about other fields, proposals follow, and results are what was said."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from subcell_hf.errors import InputError
from subcell_hf.evaluation.annotation import (
    AnnotationSession,
    AnnotationSettings,
    EncoderIdentity,
    LabelledFeatures,
    Pool,
    estimate_held_out,
    labels_frame,
    propose_cells,
    train_classifier,
    write_results,
)
from subcell_hf.evaluation.annotation.proposals import STRATEGIES, uncertainty
from tests.evaluation.annotation.sorted_cells import KINDS, PROVENANCE, sorted_cells


def session_with_labels(folder: Path, labels: int, **options: object) -> tuple[AnnotationSession, list[str]]:
    table, truth = sorted_cells()
    session = AnnotationSession(table, folder / "labels.jsonl", annotator="ann", **options)  # type: ignore[arg-type]
    rows = np.random.default_rng(1).permutation(len(table))[:labels]
    session.add_records([label(f"cell {row}", truth[row], chosen_by="random") for row in rows])
    session.train()
    return session, truth


def label(cell: str, name: str, **more: str) -> dict[str, str]:
    return {"action": "label", "cell_id": cell, "class_name": name, **more}


def test_few_labels_sort_all_cells_and_the_estimate_covers_the_truth(tmp_path: Path) -> None:
    session, truth = session_with_labels(tmp_path, 60)
    state = session.state
    assert state.classifier is not None
    assert state.classifier.classes == KINDS
    assert state.probabilities is not None
    predicted = np.array(KINDS)[state.probabilities.argmax(axis=1)]
    recall = np.mean([(predicted[np.array(truth) == kind] == kind).mean() for kind in KINDS])
    estimate = state.estimate
    assert estimate is not None
    assert recall > 0.9
    assert estimate.low <= recall <= estimate.high
    assert (estimate.cells, estimate.groups, estimate.grouped_by) == (60, 10, "field_of_view")
    assert estimate.chosen_at_random
    assert sum(estimate.support.values()) == 60


def test_the_estimate_holds_groups_out() -> None:
    """Features that only identify the group are worth nothing in another group."""
    rng = np.random.default_rng(0)
    groups = np.arange(200) % 20
    labels = np.array(["even", "odd"])[rng.permutation(20) % 2][groups]
    features = np.eye(20, dtype=np.float32)[groups] * 5
    labelled = LabelledFeatures(features, labels, groups.astype(str), "field", np.zeros(200, bool))
    estimate = estimate_held_out(labelled)
    assert estimate is not None
    assert estimate.value < 0.7
    fitted = train_classifier(features, labels)
    assert (np.array(fitted.classes)[fitted.probabilities(features).argmax(axis=1)] == labels).all()


def test_a_class_of_one_group_is_not_estimated() -> None:
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b"] * 30 + ["alone"] * 5)
    groups = np.array([str(number // 6) for number in range(60)] + ["last"] * 5)
    labelled = LabelledFeatures(rng.normal(size=(65, 4)).astype(np.float32), labels, groups, "field", np.ones(65, bool))
    estimate = estimate_held_out(labelled)
    assert estimate is not None
    assert estimate.not_estimated == ("alone",)
    assert set(estimate.recall) == {"a", "b"}


@pytest.mark.parametrize("classes", [2, 3])
def test_the_classifier_is_scikit_learns_and_one_linear_layer(tmp_path: Path, classes: int) -> None:
    table, truth = sorted_cells()
    rows = [row for row in range(90) if truth[row] in KINDS[:classes]]
    session = AnnotationSession(table, tmp_path / "labels.jsonl", annotator="ann")
    session.add_records([label(f"cell {row}", truth[row]) for row in rows])
    state = session.train()
    assert state.classifier is not None
    assert state.probabilities is not None
    peer = LogisticRegression(class_weight="balanced", max_iter=500)
    peer.fit(session.features[rows], [truth[row] for row in rows])
    np.testing.assert_allclose(state.probabilities, peer.predict_proba(session.features), atol=1e-5)
    weight, bias = state.classifier.linear_layer(session.components)
    powers = np.exp(table.embeddings @ weight.T + bias)
    np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), state.probabilities, atol=1e-4)


def test_undoing_and_other_processes_are_seen(tmp_path: Path) -> None:
    session, _ = session_with_labels(tmp_path, 0)
    other = AnnotationSession(session.table, session.file.path, annotator="bob")
    session.add_records([label("cell 1", "dots", id="first"), label("cell 2", "rings", id="second")])
    assert other.refresh()
    assert other.train().merged.labels == {"cell 1": "dots", "cell 2": "rings"}
    session.add_records([{"action": "undo", "undoes": "second"}])
    assert session.train().merged.labels == {"cell 1": "dots"}
    with pytest.raises(InputError, match="no record 'first' of bob"):
        other.add_records([{"action": "undo", "undoes": "first"}])
    session.add_records([label("cell 2", "threads", id="first")])  # sent again after a lost answer
    assert session.train().merged.labels == {"cell 1": "dots"}


def test_a_randomly_shown_cell_stays_one_when_its_label_is_corrected(tmp_path: Path) -> None:
    session, truth = session_with_labels(tmp_path, 60)
    first = session.records()[0]
    session.add_records([{"action": "undo", "undoes": first.id}])
    session.add_records([label(first.cell_id, truth[session.row_of[first.cell_id]], chosen_by="selected")])
    estimate = session.train().estimate
    assert estimate is not None
    assert (estimate.cells, estimate.chosen_at_random) == (60, True)
    frame = labels_frame(session.state.merged).set_index("cell_id")
    assert frame.loc[first.cell_id, "shown_because"] == "random"


def test_a_removed_class_is_forgotten_and_its_cells_are_proposed_again(tmp_path: Path) -> None:
    session, _ = session_with_labels(tmp_path, 60, settings=AnnotationSettings(classes=KINDS))
    session.add_records([{"action": "rename", "class_name": "rings", "renamed_to": " loops "}])
    session.add_records([{"action": "remove", "class_name": "threads"}])
    state = session.train()
    assert state.classifier is not None
    assert state.merged.classes == ("dots", "loops")
    assert state.classifier.classes == ("dots", "loops")
    gone = {record.cell_id for record in session.records() if record.class_name == "threads" and record.cell_id}
    assert gone
    assert gone.isdisjoint(state.merged.records)
    before = session.file.path.read_bytes()
    for action in ("rename", "remove"):
        with pytest.raises(InputError, match=f"no class 'rings' to {action}"):
            session.add_records([{"action": action, "class_name": "rings", "renamed_to": "dots"}])
    assert session.file.path.read_bytes() == before


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (label("no such cell", "dots"), "no cell 'no such cell'"),
        (label("cell 1", " "), "no class_name"),
        (label("cell 1", "x" * 201), "at most 200"),
        ({"action": "label", "by": "eve"}, "expected an object with some of"),
        ("text", "expected an object"),
    ],
)
def test_what_is_no_label_is_refused_whole(tmp_path: Path, sent: object, message: str) -> None:
    session, _ = session_with_labels(tmp_path, 0)
    with pytest.raises(InputError, match=message):
        session.add_records([label("cell 1", "dots"), sent])  # type: ignore[list-item]
    assert session.records() == []


def test_annotators_of_two_files_are_compared(tmp_path: Path) -> None:
    bob = AnnotationSession(sorted_cells()[0], tmp_path / "bob.jsonl", annotator="bob")
    bob.add_records([label("cell 1", "dots"), label("cell 3", "dots")])
    session, _ = session_with_labels(tmp_path, 0, others=[tmp_path / "bob.jsonl"])
    session.add_records([label("cell 1", "rings"), label("cell 3", "dots")])
    merged = session.train().merged
    assert merged.disagreements == {"cell 1": {"bob": "dots", "ann": "rings"}}
    assert merged.labels == {"cell 3": "dots"}
    assert len(bob.file.records) == 2


def test_labels_record_the_encoder_and_another_one_is_named(tmp_path: Path) -> None:
    session, _ = session_with_labels(tmp_path, 1)
    (record,) = session.records()
    assert (record.model, record.revision, record.weights_sha256) == ("tiny", "abc", "0123456789abcdef")
    table = session.table
    moved = AnnotationSession(
        type(table)(table.cells, table.embeddings, provenance={"models": [{"name": "large"}]}),
        session.file.path,
        annotator="ann",
    )
    assert moved.other_encoders() == ["tiny (revision abc, weights 0123456789ab)"]
    assert session.other_encoders() == []
    assert not EncoderIdentity.of_provenance({}).is_known
    assert str(EncoderIdentity.of_provenance(PROVENANCE)).startswith("tiny")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_proposals_are_different_unlabelled_cells(strategy: str) -> None:
    table, _ = sorted_cells()
    features = table.embeddings
    rows, labelled = np.arange(20, 300), np.arange(20)
    scores = np.random.default_rng(2).dirichlet([1, 1, 1], 300).astype(np.float32)
    for probabilities in (None, scores):
        pool = Pool(features, rows, labelled, probabilities, (9, 3, 8))
        chosen = propose_cells(pool, strategy, 15, np.random.default_rng(3))
        assert len({one.row for one in chosen}) == 15
        assert {one.row for one in chosen} <= {*rows.tolist()}
        again = propose_cells(pool, strategy, 15, np.random.default_rng(3))
        assert chosen == again
    few = Pool(features, rows[:4], labelled, scores, (9, 3, 8))
    assert len(propose_cells(few, strategy, 15, np.random.default_rng(3))) == 4


def test_strategies_choose_what_they_are_named_after() -> None:
    table, _ = sorted_cells()
    reasons = [
        one.reason
        for one in propose_cells(
            Pool(table.embeddings, np.arange(300), np.arange(0), np.full((300, 3), 1 / 3, np.float32), (9, 3, 8)),
            "mixed",
            12,
            np.random.default_rng(3),
        )
    ]
    assert (reasons.count("uncertain"), reasons.count("random")) == (8, 4)
    scores = np.random.default_rng(2).dirichlet([1, 1, 1], 300).astype(np.float32)
    pool = Pool(table.embeddings, np.arange(300), np.arange(0), scores, (9, 3, 8))
    uncertain = [one.row for one in propose_cells(pool, "uncertain", 10, np.random.default_rng(3))]
    assert {*uncertain} <= {*np.argsort(-uncertainty(scores), kind="stable")[:40].tolist()}
    rare = [one.row for one in propose_cells(pool, "rare", 10, np.random.default_rng(3))]
    assert rare == np.argsort(-scores[:, 1], kind="stable")[:10].tolist()
    diverse = [one.row for one in propose_cells(pool, "diverse", 12, np.random.default_rng(3))]
    distances = np.linalg.norm(table.embeddings[diverse][:, None] - table.embeddings[diverse][None], axis=2)
    every = np.linalg.norm(table.embeddings[:60, None] - table.embeddings[None, :60], axis=2)
    assert np.median(distances[distances > 0]) > np.median(every[every > 0])


def test_results_are_written(tmp_path: Path) -> None:
    session, _ = session_with_labels(tmp_path, 60, settings=AnnotationSettings(classes=("rings", "dots", "threads")))
    session.add_records([label("cell 1", '=1+1,"x"')])
    names = {path.name for path in write_results(session, tmp_path / "out")}
    assert names == {"labels.csv", "labels.parquet", "scores.parquet", "wells.csv"}
    labels = pd.read_csv(tmp_path / "out" / "labels.csv", keep_default_na=False)
    assert labels.set_index("cell_id").loc["cell 1", "class"] == '=1+1,"x"'
    assert labels.equals(pd.read_parquet(tmp_path / "out" / "labels.parquet"))
    scores = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert list(scores["cell_id"]) == [f"cell {number}" for number in range(300)]
    np.testing.assert_allclose(scores.filter(like="score_").sum(axis=1), 1, atol=1e-5)
    wells = pd.read_csv(tmp_path / "out" / "wells.csv")
    assert list(wells["well"]) == ["A01", "A02", "A03", "A04", "A05"]
    own = scores[scores["well"] == "A03"]
    assert wells.loc[2, "fraction_rings"] == pytest.approx((own["predicted_class"] == "rings").mean())
    assert wells.loc[2, "cells"] == len(own) == 60
    np.testing.assert_allclose(wells.filter(like="fraction_").sum(axis=1), 1)


def test_stale_results_are_removed_with_the_labels(tmp_path: Path) -> None:
    session, _ = session_with_labels(tmp_path, 0)
    session.add_records([label("cell 1", "dots", id="1"), label("cell 2", "rings", id="2")])
    write_results(session, tmp_path / "out")
    session.add_records([{"action": "undo", "undoes": "2"}])
    assert [path.name for path in write_results(session, tmp_path / "out")] == ["labels.csv", "labels.parquet"]
    assert not (tmp_path / "out" / "scores.parquet").exists()
