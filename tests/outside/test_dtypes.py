"""Models in half precision, however they get there: as `.to(dtype)` makes them, and they run."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForPreTraining

from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell import SubCellForImageClassification, SubCellModel, SubCellPreTrainedModel
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from subcell_hf.model.objectives_subcell import reconstruction_loss
from tests.hub.tiny_models import TINY

AUTO = {
    SubCellModel: AutoModel,
    SubCellForImageClassification: AutoModelForImageClassification,
    SubCellForPreTraining: AutoModelForPreTraining,
}
RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
CASES = [
    (SubCellModel, {}),
    (SubCellModel, {"position_embedding_type": "learned", "pooling_type": "mean"}),
    (SubCellModel, {"pooling_type": "cls"}),
    (SubCellModel, {"backbone_config": RESNET}),
    (SubCellForImageClassification, {}),
    (SubCellForImageClassification, {"problem_type": "single_label_classification"}),
    (SubCellForPreTraining, {"protein_centroid_weight": 0.1, "centroid_hidden_sizes": [8]}),
    (SubCellForPreTraining, {"backbone_config": RESNET, "projection_type": "residual"}),
]
HALVES = [torch.bfloat16, torch.float16]


def build(kind: type[SubCellPreTrainedModel], changes: dict[str, object]) -> SubCellPreTrainedModel:
    torch.manual_seed(0)
    return kind(SubCellConfig(**TINY | changes)).eval()


def answer(model: SubCellPreTrainedModel, edge: int = 64) -> list[Tensor]:
    """Every tensor that the model returns for float32 images; of two views for pretraining."""
    views = (2,) if isinstance(model, SubCellForPreTraining) else ()
    images = torch.rand(2, *views, 4, edge, edge, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    given = {"antibodies": torch.tensor([0, 0])} if views else {}
    with torch.no_grad():
        outputs = model(images, output_hidden_states=True, **given)
    nested = (*outputs.hidden_states, *outputs.get("losses", {}).values())
    return [value for value in outputs.values() if isinstance(value, Tensor)] + list(nested)


def assert_same(expected: SubCellPreTrainedModel, *models: SubCellPreTrainedModel) -> None:
    for model in models:
        kinds = {name: value.dtype for name, value in model.state_dict().items()}
        assert kinds == {name: value.dtype for name, value in expected.state_dict().items()}
    for edge in (64, 96):  # 96 px: the positions are interpolated
        answered = answer(expected, edge)
        for model in models:
            for got, wanted in zip(answer(model.eval(), edge), answered, strict=True):
                assert got.dtype == wanted.dtype
                assert torch.equal(got, wanted)
                assert torch.isfinite(got).all()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_loaded_in_half_precision(kind: type, changes: dict, dtype: torch.dtype, tmp_path: Path) -> None:
    model = build(kind, changes)
    model.save_pretrained(tmp_path / "full")
    half = copy.deepcopy(model).to(dtype)
    half.save_pretrained(tmp_path / "half")  # whose precision is the default on loading
    assert_same(
        half,
        kind.from_pretrained(tmp_path / "full", dtype=dtype),
        AUTO[kind].from_pretrained(tmp_path / "full", dtype=dtype),
        kind.from_pretrained(tmp_path / "half"),
        kind.from_pretrained(tmp_path / "half", dtype="auto"),
    )
    widened = kind.from_pretrained(tmp_path / "half", dtype=torch.float32)
    assert_same(copy.deepcopy(half).float(), widened)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_built_in_half_precision(kind: type, changes: dict, dtype: torch.dtype) -> None:
    config = SubCellConfig(**TINY | changes)
    by_auto_class = AUTO[kind].from_config(config, dtype=dtype).eval()
    torch.set_default_dtype(dtype)
    try:
        by_default = kind(config).eval()
        tensors = answer(by_default)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.isfinite(tensor).all() for tensor in tensors)
    for model in (by_auto_class, by_default):
        assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {dtype}
        assert_same(copy.deepcopy(model).to(dtype), model)


def test_fixed_positions_of_another_precision_than_the_parameters() -> None:
    """As policies of mixed precision leave them, which cast parameters only."""
    for model in (build(SubCellModel, {}), build(SubCellForPreTraining, {})):
        half = copy.deepcopy(model).to(torch.bfloat16)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
        for name, buffer in model.named_buffers():
            if not name.endswith("position_embeddings"):
                buffer.data = buffer.data.to(half.get_buffer(name).dtype)
        encoder = getattr(model, "subcell", model)
        assert encoder.embeddings.position_embeddings.dtype == torch.float32
        for got, wanted in zip(answer(model), answer(half), strict=True):
            assert torch.equal(got, wanted)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float64])
def test_images_of_any_precision(dtype: torch.dtype) -> None:
    model = build(SubCellForImageClassification, {})
    images = torch.rand(2, 4, 64, 64).to(dtype)
    assert torch.equal(model(images).logits, model(images.float()).logits)
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert torch.equal(half(images).logits, half(images.to(torch.bfloat16)).logits)


@pytest.mark.parametrize(("kind", "changes"), [case for case in CASES if case[0] is not SubCellModel])
def test_training_step_in_half_precision(kind: type, changes: dict) -> None:
    model = build(kind, changes).to(torch.bfloat16).train()
    if kind is SubCellForPreTraining:
        given = {"antibodies": torch.tensor([0, 0, 1, 1]), "locations": torch.eye(31)[:4]}
        images = torch.rand(4, 2, 4, 64, 64)
    else:
        single = changes.get("problem_type") == "single_label_classification"
        given = {"labels": torch.arange(4) if single else torch.eye(31)[:4]}
        images = torch.rand(4, 4, 64, 64)
    model(images, **given).loss.backward()
    trained = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert trained
    assert all(torch.isfinite(gradient).all() and gradient.dtype == torch.bfloat16 for gradient in trained)


def test_patches_are_hidden_by_fine_grained_numbers_whatever_the_default_dtype() -> None:
    model = build(SubCellForPreTraining, {}).train()
    views = torch.rand(2, 2, 4, 256, 256)
    torch.manual_seed(0)
    expected = model.hide_patches(views, None, None)[0]
    torch.set_default_dtype(torch.bfloat16)
    try:
        torch.manual_seed(0)
        chosen = model.hide_patches(views, None, None)[0]
    finally:
        torch.set_default_dtype(torch.float32)
    assert expected is not None
    assert chosen is not None
    assert torch.equal(chosen.kept, expected.kept)
    assert chosen.patch_mask.dtype == torch.float32


def test_targets_of_reconstruction_are_normalised_in_full_precision() -> None:
    images = (torch.rand(1, 1, 16, 16) * 1e-3 + 0.5).to(torch.float16)  # a flat patch: its variance is below float16
    loss = reconstruction_loss(torch.zeros(1, 4, 64), images, None, 8)
    assert torch.equal(loss, reconstruction_loss(torch.zeros(1, 4, 64), images.float(), None, 8))
