"""Labels become a classifier beside their encoder: a repository that gives the same probabilities, and no other one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForImageClassification
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.evaluation.annotation import AnnotationSession
from subcell_hf.inference.models.loading import find_models
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.tables.files import EmbeddingTable, write_parquet
from subcell_hf.workflows import AnnotationInput, export_annotation, open_annotation, score_table
from tests.hub.tiny_models import save_tiny

CELLS = 36


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("SubCellModel", tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand((CELLS, 4, 64, 64), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def table(encoder: Path, images: torch.Tensor) -> EmbeddingTable:
    with torch.inference_mode():
        embeddings = SubCellModel.from_pretrained(encoder).eval()(images).pooler_output.numpy()
    cells = pd.DataFrame(
        {
            "cell_id": [f"c{number}" for number in range(CELLS)],
            "field_of_view": [f"f{number % 6}" for number in range(CELLS)],
            "plate": "P",
            "well": [f"A0{1 + number % 3}" for number in range(CELLS)],
        }
    )
    (model,) = find_models(str(encoder))
    return EmbeddingTable(cells, embeddings, provenance={"models": [model.facts()]})


def annotated(table: EmbeddingTable, folder: Path, by: str = "ann") -> AnnotationSession:
    """Sort every second cell by the sign of its first principal component, so that there is something to learn."""
    session = AnnotationSession(table, folder / f"{by}.jsonl", annotator=by)
    records = [
        {"action": "label", "cell_id": f"c{row}", "class_name": "high" if session.features[row, 0] > 0 else "low"}
        for row in range(0, CELLS, 2)
    ]
    session.add_records(records)
    session.train()
    return session


def test_the_exported_classifier_gives_the_scores_of_the_table(
    table: EmbeddingTable, encoder: Path, images: torch.Tensor, tmp_path: Path
) -> None:
    session = annotated(table, tmp_path)
    write_parquet(table, tmp_path / "embeddings.parquet")
    given = AnnotationInput(tmp_path / "ann.jsonl", encoder=str(encoder), output=tmp_path / "out")
    written = export_annotation(tmp_path / "embeddings.parquet", given)
    assert written.no_classifier == ""
    assert written.classifier == tmp_path / "out" / "classifier"
    scores = pd.read_parquet(tmp_path / "out" / "scores.parquet")[["score_high", "score_low"]].to_numpy()
    model = AutoModelForImageClassification.from_pretrained(written.classifier, trust_remote_code=True).eval()
    with torch.inference_mode():
        np.testing.assert_allclose(model(images).logits.softmax(-1), scores, atol=1e-5)
    assert model.config.id2label == {0: "high", 1: "low"}
    again = score_table(table, written.classifier)
    np.testing.assert_allclose(again["probabilities"], scores, atol=1e-5)
    assert again["classes"] == ("high", "low") == session.state.classifier.classes  # type: ignore[union-attr]

    card = ModelCard.load(written.classifier / "README.md")
    assert "18 labelled cells" in card.text
    assert "logits.softmax(-1)" in card.text
    (result,) = card.data.eval_results
    about = json.loads((written.classifier / "annotation.json").read_text())
    assert result.metric_value == pytest.approx(about["estimate"]["value"])
    assert about["encoder"]["weights_sha256"] == table.provenance["models"][0]["weights_sha256"]
    assert about["labels"]["cells"] == 18
    assert export_annotation(tmp_path / "embeddings.parquet", given).classifier == written.classifier  # once more


def test_another_encoder_or_revision_is_refused_by_name(table: EmbeddingTable, encoder: Path, tmp_path: Path) -> None:
    annotated(table, tmp_path)
    write_parquet(table, tmp_path / "embeddings.parquet")
    other = save_tiny("SubCellModel", tmp_path / "large", hidden_size=48)
    given = AnnotationInput(tmp_path / "ann.jsonl", encoder=str(other))
    written = export_annotation(tmp_path, given)
    assert written.classifier is None
    assert "large" in written.no_classifier
    assert "tiny" in written.no_classifier
    assert {path.name for path in written.files} == {"labels.csv", "labels.parquet", "scores.parquet", "wells.csv"}
    assert written.output == tmp_path / "ann-export"

    classifier = export_annotation(tmp_path, replace(given, encoder=str(encoder))).classifier
    assert classifier is not None
    (facts,) = table.provenance["models"]
    score_table(replace(table, provenance={"models": [facts | {"name": "/moved/tiny"}]}), classifier)
    averaged = replace(table, provenance={**table.provenance, "orientations": 8})
    with pytest.raises(InputError, match=r"means over 8 orientations of each cell, and .*classifier was trained on"):
        score_table(averaged, classifier)
    write_parquet(averaged, tmp_path / "embeddings.parquet")
    refused = export_annotation(tmp_path, replace(given, encoder=str(encoder), output=tmp_path / "averaged"))
    assert "means over 8 orientations" in refused.no_classifier
    for change in ({"revision": "0123abc"}, {"weights_sha256": "f" * 64}):
        moved = replace(table, provenance={"models": [facts | change]})
        with pytest.raises(InputError, match=f"{next(iter(change.values()))[:12]}") as caught:
            score_table(moved, classifier)
        assert str(classifier) in str(caught.value)


def test_the_command_exports_and_says_why_there_is_no_classifier(table: EmbeddingTable, tmp_path: Path) -> None:
    annotated(table, tmp_path)
    bob = AnnotationSession(table, tmp_path / "bob.jsonl", annotator="bob")
    bob.add_records([{"action": "label", "cell_id": "c0", "class_name": "another"}])
    write_parquet(replace(table, provenance={}), tmp_path / "embeddings.parquet")
    words = ["annotate", str(tmp_path), "--labels", str(tmp_path / "ann.jsonl"), "--merge", str(tmp_path / "bob.jsonl")]
    result = CliRunner().invoke(app, [*words, "--export"])
    assert result.exit_code == 3, result.output
    assert "Annotators disagree on 1 cell" in result.output
    assert "does not record its encoder" in result.output
    labels = pd.read_csv(tmp_path / "ann-export" / "labels.csv", keep_default_na=False).set_index("cell_id")
    assert labels.loc["c0", "class"] == ""
    assert "bob: another" in str(labels.loc["c0", "disagreement"])


def test_a_table_without_pictures_is_refused(table: EmbeddingTable, tmp_path: Path) -> None:
    write_parquet(table, tmp_path / "embeddings.parquet")
    with pytest.raises(InputError, match="expected pictures of the cells"):
        open_annotation(tmp_path, AnnotationInput(tmp_path / "labels.jsonl"))
    with pytest.raises(InputError, match="contains no labels"):
        export_annotation(tmp_path, AnnotationInput(tmp_path / "labels.jsonl"))
