"""What others do to models of transformers works on ours: LoRA, int8, export to programs and to ONNX."""

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from transformers.exporters import DynamoConfig, DynamoExporter, OnnxConfig, OnnxExporter

from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell import SubCellForImageClassification, SubCellModel
from tests.hub.tiny_models import TINY

CELLS = {"pixel_values": {0: torch.export.Dim("cells")}}


def build(kind: type = SubCellForImageClassification, **changes: object):
    torch.manual_seed(0)
    return kind(SubCellConfig(**TINY | changes)).eval()


def images(cells: int) -> Tensor:
    return torch.rand(cells, 4, 64, 64, generator=torch.Generator().manual_seed(cells))


def test_lora_trains_is_saved_and_merged(tmp_path: Path) -> None:
    model = build()
    before = model(images(4)).logits
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"], lora_dropout=0.0)
    adapted = get_peft_model(copy.deepcopy(model), config)
    torch.testing.assert_close(adapted(images(4)).logits, before)  # a new adapter changes nothing
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        adapted.train()(pixel_values=images(4), labels=torch.eye(31)[:4]).loss.backward()
        assert all(parameter.grad is not None for parameter in trained)
        optimizer.step()
    after = adapted.eval()(images(4)).logits
    assert not torch.allclose(after, before)
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path).eval()
    torch.testing.assert_close(loaded(images(4)).logits, after)
    torch.testing.assert_close(loaded.merge_and_unload()(images(4)).logits, after, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_weights(dtype: torch.dtype) -> None:
    model = build().to(dtype)
    quantized = copy.deepcopy(model)
    quantize_(quantized, Int8WeightOnlyConfig(version=2))
    with torch.no_grad():
        expected, got = (one(images(4)).pooler_output.float() for one in (model, quantized))
    assert not torch.equal(got, expected)
    assert F.cosine_similarity(got, expected).min() > 0.999


@pytest.mark.parametrize("kind", [SubCellModel, SubCellForImageClassification])
def test_programs_of_transformers_exporter(kind: type) -> None:
    model = build(kind)
    config = DynamoConfig(dynamic=True, dynamic_shapes=CELLS)
    program = DynamoExporter().export(model, {"pixel_values": images(2)}, config=config).program
    with torch.no_grad():
        got, expected = program.module()(pixel_values=images(5)), model(images(5))
    for name in ("pooler_output", "pooler_attentions"):
        torch.testing.assert_close(got[name], expected[name])


@pytest.mark.slow
@pytest.mark.parametrize("exporter", ["torch", "transformers"])
def test_onnx(exporter: str, tmp_path: Path) -> None:
    model, path = build(), tmp_path / "model.onnx"
    if exporter == "torch":
        torch.onnx.export(model, (images(2),), path, dynamo=True, dynamic_shapes=CELLS, verbose=False)
    else:
        config = OnnxConfig(dynamic=True, dynamic_shapes=CELLS)
        exported = OnnxExporter().export(model, {"pixel_values": images(2)}, config=config)
        OnnxExporter.save_program(exported.program, path)
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    for cells in (1, 5):
        results = session.run(None, {"pixel_values": images(cells).numpy()})
        with torch.no_grad():
            expected = model(images(cells)).to_tuple()
        for name, got, wanted in zip(names, results, expected, strict=True):
            np.testing.assert_allclose(got, wanted.numpy(), atol=1e-5, rtol=1e-4, err_msg=name)
