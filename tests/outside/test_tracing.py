"""Traced and exported models take any number of cells, and traced ones any size of image."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell import SubCellForImageClassification, SubCellModel
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from tests.hub.tiny_models import TINY

RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
CASES = [
    (SubCellModel, {}),
    (SubCellModel, {"position_embedding_type": "learned", "pooling_type": "mean"}),
    (SubCellModel, {"pooling_type": "cls"}),
    (SubCellModel, {"backbone_config": RESNET, "pooling_type": "mean"}),
    (SubCellForImageClassification, {}),
    (SubCellForImageClassification, {"problem_type": "single_label_classification", "classifier_ensemble_size": 1}),
    (SubCellForPreTraining, {}),
]


class Tensors(nn.Module):
    """A model whose output is the tuple of tensors that tracing asks for."""

    def __init__(self, kind: type, changes: dict[str, object], **options: object):
        super().__init__()
        torch.manual_seed(0)
        self.model, self.options = kind(SubCellConfig(**TINY | changes)), options

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(pixel_values, **self.options)
        nested = (outputs.hidden_states or ()) + (outputs.attentions or ())
        return (*(value for value in outputs.values() if isinstance(value, Tensor)), *nested)

    def images(self, cells: int, height: int = 64, width: int = 64) -> Tensor:
        views = (2,) if isinstance(self.model, SubCellForPreTraining) else ()
        return torch.rand(cells, *views, 4, height, width)


def assert_same(traced: object, model: Tensors, *shape: int) -> None:
    pixels = model.images(*shape)
    for got, expected in zip(traced(pixels), model(pixels), strict=True):  # type: ignore[operator]
        torch.testing.assert_close(got, expected)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_a_trace_takes_any_batch_and_any_size(kind: type, changes: dict, dtype: torch.dtype, tmp_path: Path) -> None:
    model = Tensors(kind, changes).eval().to(dtype)
    with torch.no_grad():
        traced = torch.jit.trace(model, model.images(2))
        torch.jit.save(traced, tmp_path / "traced.pt")
        loaded = torch.jit.load(tmp_path / "traced.pt")
        for shape in ((1,), (2,), (5,), (3, 96, 64), (3, 32, 48)):
            assert_same(loaded, model, *shape)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_trace_with_every_output() -> None:
    model = Tensors(SubCellForImageClassification, {}, output_hidden_states=True, output_attentions=True).eval()
    with torch.no_grad():
        traced = torch.jit.trace(model, model.images(2))
        assert_same(traced, model, 5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_model_set_to_tuples_is_traced_as_it_is() -> None:
    model = Tensors(SubCellForImageClassification, {"return_dict": False}).eval().model
    with torch.no_grad():
        traced = torch.jit.trace(model, torch.rand(2, 4, 64, 64))
        pixels = torch.rand(3, 4, 64, 64)
        for got, expected in zip(traced(pixels), model(pixels), strict=True):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_an_exported_program_takes_any_batch(kind: type, changes: dict) -> None:
    model = Tensors(kind, changes).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            model, (model.images(2),), dynamic_shapes=({0: torch.export.Dim("cells")},)
        ).module()
        for cells in (1, 2, 5):
            assert_same(program, model, cells)
