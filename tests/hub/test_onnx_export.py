"""An exported ONNX model gives what the model gives, and says what it takes."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from subcell_hf.errors import InputError
from subcell_hf.hub.publishing import onnx_export
from subcell_hf.hub.publishing.export import export_model
from subcell_hf.hub.publishing.export_sources import ExportSources
from subcell_hf.model.modeling_subcell import SubCellForImageClassification
from tests.hub.tiny_models import save_tiny, write_facts


def test_any_number_and_size_of_images(tmp_path: Path) -> None:
    model = save_tiny("SubCellForImageClassification", tmp_path / "model")
    folder = export_model(model, tmp_path / "out", sources=ExportSources(facts=write_facts(tmp_path)), onnx=True)
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    whole = SubCellForImageClassification.from_pretrained(model).eval()
    for cells, height, width in ((1, 64, 64), (4, 32, 160)):
        images = torch.rand(cells, 4, height, width)
        with torch.no_grad():
            expected = whole(images)
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, session.run(None, {"pixel_values": images.numpy()}), strict=True))
        np.testing.assert_allclose(found["pooler_output"], expected.pooler_output.numpy(), atol=1e-5)
        np.testing.assert_allclose(found["pooler_attentions"], expected.pooler_attentions.numpy(), atol=1e-5)
        np.testing.assert_allclose(found["probabilities"], expected.logits.sigmoid().numpy(), atol=1e-5)
    facts = json.loads((folder / "onnx" / "model.json").read_text())
    assert facts["channels"] == ["red", "yellow", "blue", "green"]
    assert facts["scaling"] == "minimum and maximum over all channels of a crop together become 0 and 1."
    assert len(facts["classes"]) == 31
    written = onnx.load(folder / "onnx" / "model.onnx")
    assert facts["opset"] == written.opset_import[0].version
    assert {item.key: json.loads(item.value) for item in written.metadata_props} == facts
    assert "## ONNX" in (folder / "README.md").read_text()
    assert str(tmp_path).encode() not in (folder / "onnx" / "model.onnx").read_bytes()


def test_a_model_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_tiny("SubCellModel", tmp_path / "model", pooling_type="cls")
    monkeypatch.setattr(onnx_export, "TOLERANCE", 0.0)
    with pytest.raises(InputError, match=r"The ONNX model differs from the model: pooler_output by .* Nothing"):
        export_model(model, tmp_path / "out", sources=ExportSources(facts=write_facts(tmp_path)), onnx=True)
    assert not (tmp_path / "out").exists()
