"""Metric folders load from their path, offline and alone, and agree with scikit-learn and with our own numbers."""

import ast
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
from sklearn import metrics

import subcell_hf.evaluation
from subcell_hf.evaluation.localization.ranking import summarize

FOLDER = Path(subcell_hf.evaluation.__file__).parent / "metrics"
NAMES = ("coverage_error", "label_ranking_average_precision", "macro_average_precision", "replicate_map")


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    return evaluate.load(str(FOLDER / name))


def test_every_folder_is_a_space() -> None:
    assert tuple(sorted(path.name for path in FOLDER.iterdir() if path.name != "__pycache__")) == NAMES
    for name in NAMES:
        files = {path.name for path in (FOLDER / name).iterdir()}
        assert {f"{name}.py", "app.py", "README.md", "requirements.txt"} <= files
        readme = (FOLDER / name / "README.md").read_text(encoding="utf-8")
        assert "sdk: gradio" in readme
        assert "- evaluate" in readme
        tree = ast.parse((FOLDER / name / f"{name}.py").read_text(encoding="utf-8"))
        imported = {n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert imported <= {"typing", "datasets", "evaluate", "numpy", "sklearn.metrics"}


@pytest.fixture
def case() -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 5)) < 0.4).astype(int)
    targets[:, 3] = 0
    scores = np.round(rng.random((60, 5)), 1)
    return scores, targets


def test_multi_label_metrics_equal_scikit_learn(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, targets = case
    ours = summarize(targets.astype(np.uint8), scores)
    given = {"predictions": scores.tolist(), "references": targets.tolist()}
    macro = load("macro_average_precision", monkeypatch).compute(**given)
    known = [0, 1, 2, 4]
    expected = metrics.average_precision_score(targets[:, known], scores[:, known], average="macro")
    assert macro["macro_average_precision"] == pytest.approx(expected) == ours["macro_map"]
    assert macro["average_precision"][3] is None
    assert macro["classes_scored"] == 4
    ranking = load("label_ranking_average_precision", monkeypatch)
    expected = metrics.label_ranking_average_precision_score(targets, scores)
    assert ranking.compute(**given)["label_ranking_average_precision"] == pytest.approx(expected)
    labelled = targets.any(axis=1)
    assert not labelled.all()
    expected = metrics.label_ranking_average_precision_score(targets[labelled], scores[labelled])
    found = ranking.compute(**given, ignore_unlabelled=True)
    assert found == {"label_ranking_average_precision": pytest.approx(expected), "rows_scored": labelled.sum()}
    coverage = load("coverage_error", monkeypatch).compute(**given)
    assert coverage["coverage_error"] == pytest.approx(metrics.coverage_error(targets, scores))
    assert coverage["best_possible"] == pytest.approx(targets.sum() / 60)


def test_nothing_to_score_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = {"predictions": [[0.1, 0.2]], "references": [[0, 0]]}
    assert np.isnan(load("macro_average_precision", monkeypatch).compute(**nothing)["macro_average_precision"])
    found = load("coverage_error", monkeypatch).compute(**nothing, ignore_unlabelled=True)
    assert np.isnan(found["coverage_error"])


def test_replicates_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = load("replicate_map", monkeypatch)
    profiles = [[1, 0], [1, 0.1], [1, 0.05], [0, 1], [0.1, 1]]
    found = metric.compute(predictions=profiles, references=["a", "a", "b", "c", "c"])
    # The first two have the b between them: their partner is second.
    assert found["groups"] == {"a": pytest.approx(0.5), "c": pytest.approx(1)}
    assert found["replicate_map"] == pytest.approx(0.75)
    blocked = metric.compute(predictions=profiles, references=["a", "a", "b", "c", "c"], blocks=[1, 2, 1, 1, 1])
    assert blocked["groups"] == {"a": pytest.approx(0.75)}


def test_examples_of_the_docstrings_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        module = load(name, monkeypatch)
        call, expected = module.inputs_description.split(">>> metric.compute(")[1].strip().split("\n")
        arguments = eval(f"dict({call[:-1]})")
        assert module.compute(**arguments) == ast.literal_eval(expected.strip())
