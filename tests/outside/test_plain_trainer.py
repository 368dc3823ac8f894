"""transformers' own Trainer, used as for ViT: predictions are the logits, and nothing else is kept of the cells."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EvalPrediction, Trainer, TrainingArguments

from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell import SubCellForImageClassification
from tests.hub.tiny_models import TINY

LABELS = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}


def _make(problem_type: str, folder: Path, **changes: Any) -> tuple[Trainer, list[dict[str, torch.Tensor]]]:
    """A trainer with the metric that everybody writes, and its 7 cells."""
    torch.manual_seed(0)
    model = SubCellForImageClassification(SubCellConfig(**TINY, **LABELS, problem_type=problem_type, **changes))
    single = problem_type == "single_label_classification"
    cells = [
        {"pixel_values": torch.rand(4, 64, 64), "labels": torch.tensor(i % 3) if single else torch.eye(3)[i % 3]}
        for i in range(7)
    ]

    def measure(found: EvalPrediction) -> dict[str, float]:
        truth = found.label_ids if single else np.argmax(found.label_ids, 1)
        return {"accuracy": float((np.argmax(found.predictions, 1) == truth).mean())}

    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=4, per_device_eval_batch_size=3, num_train_epochs=1, use_cpu=True,
        eval_strategy="epoch", save_strategy="no", report_to=[], disable_tqdm=True,
    )  # fmt: skip
    return Trainer(model, arguments, train_dataset=cells, eval_dataset=cells, compute_metrics=measure), cells


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
@pytest.mark.parametrize("changes", [{}, {"output_hidden_states": True}], ids=["plain", "hidden states"])
def test_predictions_are_the_logits(problem_type: str, changes: dict[str, Any], tmp_path: Path) -> None:
    trainer, cells = _make(problem_type, tmp_path, **changes)
    trainer.train()
    assert "eval_accuracy" in trainer.evaluate()
    found = trainer.predict(cells)
    with torch.no_grad():
        expected = trainer.model(torch.stack([cell["pixel_values"] for cell in cells])).logits
    assert isinstance(found.predictions, np.ndarray)
    np.testing.assert_allclose(found.predictions, expected.numpy(), atol=1e-5)
    assert 0 <= found.metrics["test_accuracy"] <= 1


def test_cells_without_labels(tmp_path: Path) -> None:
    trainer, cells = _make("single_label_classification", tmp_path)
    found = trainer.predict([{"pixel_values": cell["pixel_values"]} for cell in cells])
    assert found.predictions.shape == (7, 3)


def test_what_is_left_out_can_be_asked_for(tmp_path: Path) -> None:
    trainer, cells = _make("single_label_classification", tmp_path)
    trainer.compute_metrics = None
    logits, embeddings = trainer.predict(cells, ignore_keys=["member_logits", "pooler_attentions"]).predictions
    assert logits.shape == (7, 3)
    assert embeddings.shape == (7, trainer.model.config.embedding_size)


def test_the_list_is_of_the_class_and_not_saved(tmp_path: Path) -> None:
    SubCellConfig().save_pretrained(tmp_path)
    assert "keys_to_ignore_at_inference" not in json.loads((tmp_path / "config.json").read_text())
    assert "logits" not in SubCellConfig.keys_to_ignore_at_inference


@pytest.mark.parametrize("problem_type", ["regression", None, "multi_label"])
def test_a_problem_type_that_is_set_late_is_refused_at_once(problem_type: str | None, tmp_path: Path) -> None:
    config = SubCellConfig(**TINY)
    message = f"problem_type={problem_type!r} .*expected 'multi_label_classification' or 'single_label_class"
    with pytest.raises(ValueError, match=message):
        config.problem_type = problem_type
    assert config.problem_type == "multi_label_classification"
    SubCellForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        SubCellForImageClassification.from_pretrained(tmp_path, problem_type=problem_type)
