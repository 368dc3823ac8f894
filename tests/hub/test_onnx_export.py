"""An exported ONNX model gives what the model gives, and says what it takes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from subcell_hf.errors import InputError
from subcell_hf.hub.publishing import onnx_export
from subcell_hf.hub.publishing.export import export_model
from subcell_hf.hub.publishing.export_sources import ExportSources
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellForImageClassification
from tests.hub.tiny_models import KINDS, save_tiny, write_facts

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")


def check_sizes(file: Path, model: torch.nn.Module, channels: int, sizes: Sequence[tuple[int, int, int]]) -> list[str]:
    """Hold what onnxruntime gives against torch for numbers and sizes of images; names of the outputs."""
    session = onnxruntime.InferenceSession(file)
    names = [output.name for output in session.get_outputs()]
    for cells, height, width in sizes:
        images = torch.rand(cells, channels, height, width)
        with torch.no_grad():
            expected = model(images)
        found = dict(zip(names, session.run(None, {"pixel_values": images.numpy()}), strict=True))
        for name in ("pooler_output", "pooler_attentions"):
            np.testing.assert_allclose(found[name], expected[name].numpy(), atol=1e-5)
        if "probabilities" in found:
            multi_label = model.config.problem_type == "multi_label_classification"
            probabilities = expected.logits.sigmoid() if multi_label else expected.logits.softmax(-1)
            np.testing.assert_allclose(found["probabilities"], probabilities.numpy(), atol=1e-5)
    return names


def test_any_number_and_size_of_images(tmp_path: Path) -> None:
    model = save_tiny("SubCellForImageClassification", tmp_path / "model")
    folder = export_model(model, tmp_path / "out", sources=ExportSources(facts=write_facts(tmp_path)), onnx=True)
    whole = SubCellForImageClassification.from_pretrained(model).eval()
    names = check_sizes(folder / "onnx" / "model.onnx", whole, 4, [(1, 64, 64), (4, 32, 160)])
    assert names == ["pooler_output", "pooler_attentions", "probabilities"]
    facts = json.loads((folder / "onnx" / "model.json").read_text())
    assert facts["channels"] == ["red", "yellow", "blue", "green"]
    assert facts["scaling"] == "minimum and maximum over all channels of a crop together become 0 and 1."
    assert len(facts["classes"]) == 31
    written = onnx.load(folder / "onnx" / "model.onnx")
    assert facts["opset"] == written.opset_import[0].version
    assert {item.key: json.loads(item.value) for item in written.metadata_props} == facts
    assert "## ONNX" in (folder / "README.md").read_text()
    assert str(tmp_path).encode() not in (folder / "onnx" / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("SubCellModel", {"channels": ["blue", "green"], "pooling_type": "mean", "position_embedding_type": "learned"}),
        ("SubCellModel", {"channels": ["blue", "green"], "patch_embedding_type": "convolutional"}),
        (
            "SubCellForImageClassification",
            {"channels": ["red", "blue", "green"], "problem_type": "single_label_classification", "num_labels": 3},
        ),
    ],
)
def test_other_channels_and_heads(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = KINDS[kind].from_pretrained(save_tiny(kind, tmp_path / "model", **changes)).eval()
    facts = onnx_export.export_onnx(model, SubCellImageProcessor(changes["channels"]), tmp_path)
    count = len(changes["channels"])
    names = check_sizes(tmp_path / "onnx" / "model.onnx", model, count, [(2, 64, 64), (1, 96, 32)])
    assert facts["outputs"] == names
    assert facts["channels"] == changes["channels"]


def test_a_model_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_tiny("SubCellModel", tmp_path / "model", pooling_type="cls")
    monkeypatch.setattr(onnx_export, "TOLERANCE", 0.0)
    with pytest.raises(InputError, match=r"The ONNX model differs from the model: pooler_output by .* Nothing"):
        export_model(model, tmp_path / "out", sources=ExportSources(facts=write_facts(tmp_path)), onnx=True)
    assert not (tmp_path / "out").exists()
