"""The classifier of an annotation goes wherever a SubCell model goes, with the scores that annotation gave."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard, constants
from transformers import pipeline

from subcell_hf.evaluation.annotation import AnnotationSession
from subcell_hf.tables.files import read_table
from subcell_hf.workflows import AnnotationInput, export_annotation, score_table
from subcell_hf.workflows.hub.publishing import export_repository, push_folder
from subcell_hf.workflows.hub.serving import open_endpoint
from tests.hub.loopback_hub import LoopbackHub
from tests.hub.tiny_models import save_tiny
from tests.inference.embedding_runs import run, write_fields
from tests.workflows.evaluation.test_benchmarks import contents


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fields, an encoder, its table, labels, and what they are exported as."""
    home = tmp_path_factory.mktemp("private name")
    encoder = save_tiny("SubCellModel", home / "tiny")
    run(write_fields(home / "images", 6), encoder, home / "run")
    session = AnnotationSession(read_table(home / "run"), home / "labels.jsonl", annotator="ann")
    names = np.where(session.features[:, 0] > 0, "<b>high</b>", "löw")
    labels = zip(session.cell_ids, names.tolist(), strict=True)
    session.add_records([{"action": "label", "cell_id": cell, "class_name": name} for cell, name in labels])
    assert export_annotation(home / "run", AnnotationInput(home / "labels.jsonl", output=home / "out")).classifier
    return home


@pytest.fixture(scope="module")
def classifier(home: Path) -> Path:
    return home / "out" / "classifier"


def test_embed_gives_the_scores_of_the_annotation(home: Path, classifier: Path, tmp_path: Path) -> None:
    run(home / "images", classifier, tmp_path)
    table = read_table(tmp_path)
    scores = pd.read_parquet(home / "out" / "scores.parquet")
    assert table.classes == ("<b>high</b>", "löw")
    assert table.probabilities is not None
    # Cells of the tiny encoder are much alike, so that rounding of the folded layer counts.
    np.testing.assert_allclose(table.probabilities, scores.filter(like="score_"), atol=1e-4)
    assert list(table.cells["top_location_1"]) == list(scores["predicted_class"])


@pytest.fixture(scope="module")
def answered(classifier: Path) -> Iterator[str]:
    with open_endpoint(classifier, port=0, engine_backend="torch") as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_pipeline_and_endpoint_answer_alike(classifier: Path, answered: str) -> None:
    sheet = classifier / "example" / "sheet.png"
    found = pipeline(model=str(classifier), trust_remote_code=True, device="cpu")(str(sheet))
    with urllib.request.urlopen(urllib.request.Request(answered, sheet.read_bytes(), method="POST")) as answer:
        served = json.load(answer)
    assert {one["label"] for one in found} == {"<b>high</b>", "löw"}
    assert sum(one["score"] for one in found) == pytest.approx(1, abs=1e-5)
    assert [one["label"] for one in served] == [one["label"] for one in found]
    assert [one["score"] for one in served] == pytest.approx([one["score"] for one in found], abs=1e-5)


def test_it_is_exported_again_under_its_name_and_pushed(
    home: Path, classifier: Path, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    exported = export_repository(classifier, tmp_path / "mine", repository="me/mine").folder
    push_folder(exported, "me/mine")
    files = hub.repositories["model", "me/mine"].files
    assert {path: file.content for path, file in files.items()} == contents(exported)
    assert 'name = "me/mine"' in (exported / "README.md").read_text()
    own, again = (ModelCard.load(folder / "README.md") for folder in (classifier, exported))
    assert "12 labelled cells" in again.text
    assert again.data.eval_results is not None
    assert own.data.eval_results is not None
    assert [one.metric_value for one in again.data.eval_results] == [one.metric_value for one in own.data.eval_results]
    scores = pd.read_parquet(home / "out" / "scores.parquet").filter(like="score_")
    np.testing.assert_allclose(score_table(read_table(home / "run"), exported)["probabilities"], scores, atol=1e-5)
    published = [content for name, content in contents(exported).items() if name.endswith((".json", ".md", ".ipynb"))]
    assert not any(b"private name" in content for content in published)
