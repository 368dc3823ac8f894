"""A batch that goes through the encoder in parts has the gradient of the undivided batch."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from subcell_hf.errors import InputError
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from subcell_hf.shards.sharding import ShardSettings
from subcell_hf.training.pretraining.arguments import parse_arguments
from subcell_hf.training.pretraining.cached_gradients import CachedGradientStep
from subcell_hf.training.pretraining.resolution import resolve
from subcell_hf.types import MultiViewBatch
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic

RECIPES: dict[str, dict[str, Any]] = {
    "everything": {"protein_centroid_weight": 1.0, "context_mask_ratio": 0.1},
    "contrast": {"reconstruction_weight": 0.0, "mask_ratio": 0.0},
    "reconstruction": {"cell_contrast_weight": 0.0, "protein_contrast_weight": 0.0, "object_mask_ratio": 0.5},
    "supervised": {
        "reconstruction_weight": 0.0, "cell_contrast_weight": 0.0, "protein_contrast_weight": 0.0, "mask_ratio": 0.0,
        "probe_detached": False,
    },
    "any channels": {"channel_tokens": "separate", "channel_masking": "apart", "object_mask_ratio": 0.5},
    "no protein": {"channel_tokens": "separate", "protein_centroid_weight": 1.0},
    "parts": {
        "cell_pooling_heads": 1, "cell_contrast_positives": "field_of_view", "protein_views": "first",
        "probe_detached": False,
    },
}  # fmt: skip
CHANNELS = {"any channels": ("other", "blue", "green", "red"), "no protein": ("other", "blue", "other_2", "red")}


def _model(dropout: float = 0.0, **changes: Any) -> SubCellForPreTraining:
    torch.manual_seed(0)
    config = SubCellConfig(
        image_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        pooling_hidden_size=16, pooling_dropout=dropout, probe_dropout=dropout, decoder_hidden_size=16,
        decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=24,
        projection_hidden_sizes=[24, 24], projection_size=8, centroid_hidden_sizes=[24], **changes,
    )  # fmt: skip
    return SubCellForPreTraining(config).double().train()


def _views(model: SubCellForPreTraining, cells: int = 7) -> MultiViewBatch:
    generator = torch.Generator().manual_seed(1)
    views = 2 if model._uses_two_views else 1
    return MultiViewBatch(
        pixel_values=torch.rand(cells, views, 4, 32, 32, generator=generator, dtype=torch.float64),
        cell_masks=torch.rand(cells, views, 32, 32, generator=generator) > 0.4,
        antibodies=torch.tensor([0, 0, 0, 1, 1, 2, 2])[:cells],
        locations=(torch.rand(cells, 31, generator=generator) > 0.8).float(),
        cell_groups=torch.tensor([0, 1, 0, 2, 2, 3, 3])[:cells],
    )


def _gradients(model: SubCellForPreTraining) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _compare(recipe: str, chunks: int, dropout: float) -> None:
    whole, parts = _model(dropout, **RECIPES[recipe]), _model(dropout, **RECIPES[recipe])
    views = _views(whole)
    torch.manual_seed(5)
    channels = CHANNELS.get(recipe)
    outputs = whole(**views, channels=channels)
    outputs.loss.backward()
    torch.manual_seed(5)
    losses = CachedGradientStep(parts, chunks, nullcontext, lambda loss: loss)(views, channels=channels)

    assert losses.keys() == outputs.losses.keys()
    for name, value in outputs.losses.items():
        torch.testing.assert_close(losses[name], value.detach(), rtol=1e-6, atol=1e-9, msg=name)
    expected, found = _gradients(whole), _gradients(parts)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9, msg=name)
    buffers = dict(parts.named_buffers())
    for name, buffer in whole.named_buffers():
        torch.testing.assert_close(buffers[name], buffer, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("chunks", [2, 3, 7])
def test_parts_have_the_gradient_of_the_whole(recipe: str, chunks: int) -> None:
    _compare(recipe, chunks, dropout=0.0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_both_passes_draw_the_same_dropout(recipe: str) -> None:
    """One part draws as the undivided batch does; were the second pass to draw anew, gradients would differ."""
    _compare(recipe, chunks=1, dropout=0.3)


def test_gradients_are_added_and_scaled() -> None:
    once, twice = _model(**RECIPES["everything"]), _model(**RECIPES["everything"])
    views = _views(once)
    torch.manual_seed(5)
    CachedGradientStep(once, 3, nullcontext, lambda loss: loss)(views)
    for _ in range(2):
        for name, buffer in twice.named_buffers():
            buffer.copy_(dict(_model(**RECIPES["everything"]).named_buffers())[name])
        torch.manual_seed(5)
        CachedGradientStep(twice, 3, nullcontext, lambda loss: loss / 2)(views)
    expected, found = _gradients(once), _gradients(twice)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cached_gradient_chunks", "9"], r"cached_gradient_chunks is 9: expected 1 \(off\) to 8"),
        (["--cached_gradient_chunks", "0"], "cached_gradient_chunks is 0"),
        (["--cached_gradient_chunks", "2", "--torch_compile", "true"], "cannot be combined with torch_compile"),
        (
            ["--cached_gradient_chunks", "2", "--reconstruction_weight", "0", "--mask_ratio", "0",
             "--backbone_config", '{"model_type": "resnet"}'],
            "cannot be combined with backbone_config",
        ),
    ],
)  # fmt: skip
def test_what_parts_cannot_do_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    source = SyntheticCrops(antibodies=8, fields_per_antibody=1, cells_per_field=2, size_px=32)
    write_synthetic(shards, source, ShardSettings(split_fractions={"train": 0.5, "validation": 0.5}))
    start = ["--shards", str(shards), "--antibodies_per_batch", "4", "--cells_per_antibody", "2", "--image_size", "32"]
    start += ["--output_dir", str(tmp_path / "run"), "--use_cpu", "true"]
    with pytest.raises(InputError, match=message):
        resolve(parse_arguments([*start, *words]), world_size=1)
