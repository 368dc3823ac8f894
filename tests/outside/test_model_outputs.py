"""Outputs on request, as transformers' ViT gives them: switches by argument or configuration, tuples, chosen layers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, ViTConfig, ViTModel, pipeline

import subcell_hf
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell import SubCellForImageClassification, SubCellModel
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from tests.hub.tiny_models import TINY, save_tiny

RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
DINO = {
    "model_type": "dinov2", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64,
    "patch_size": 16,
}  # fmt: skip
KINDS = (SubCellModel, SubCellForImageClassification, SubCellForPreTraining)


def build(kind: type, **changes: object):
    torch.manual_seed(0)
    return kind(SubCellConfig(**TINY | {"num_hidden_layers": 3} | changes)).eval()


def images(kind: type, cells: int = 2) -> Tensor:
    views = (2,) if kind is SubCellForPreTraining else ()
    return torch.rand(cells, *views, 4, 64, 64, generator=torch.Generator().manual_seed(1))


class _LargestShare(TorchDispatchMode):
    """Counts how many results of one shape are alive at once."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.shape, self.alive, self.most = shape, [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and tuple(result.shape) == self.shape:
            self.alive.append(torch._C._WeakTensorRef(result))
        self.alive = [reference for reference in self.alive if not reference.expired()]
        self.most = max(self.most, len(self.alive))
        return result


def _most_alive(model: nn.Module, pixels: Tensor) -> int:
    with torch.inference_mode(), _LargestShare((2, 17, 32)) as counter:
        model(pixels)
    return counter.most


@pytest.mark.parametrize("kind", [SubCellModel, SubCellForImageClassification])
def test_a_forward_keeps_no_more_than_it_needs(kind: type) -> None:
    """The number of layers must not change how many of their outputs are in memory at once."""
    few, many = (_most_alive(build(kind, num_hidden_layers=layers), images(kind)) for layers in (2, 12))
    assert many == few
    asked = build(kind, num_hidden_layers=12)
    asked.config.output_hidden_states = True
    assert _most_alive(asked, images(kind)) >= 13


@pytest.mark.parametrize("kind", KINDS)
def test_switches_by_argument_and_by_configuration(kind: type) -> None:
    model, pixels = build(kind), images(kind)
    views = (2,) if kind is SubCellForPreTraining else ()
    plain = model(pixels)
    assert plain.hidden_states is None
    assert plain.attentions is None
    by_argument = model(pixels, output_hidden_states=True, output_attentions=True)
    assert model.config._attn_implementation == "sdpa"
    assert [tuple(state.shape) for state in by_argument.hidden_states] == [(2, *views, 17, 32)] * 4
    assert [tuple(layer.shape) for layer in by_argument.attentions] == [(2, *views, 2, 17, 17)] * 3
    torch.testing.assert_close(by_argument.attentions[0].sum(-1), torch.ones(2, *views, 2, 17))
    model.set_attn_implementation("eager")  # transformers allows the next line to no other
    model.config.output_hidden_states = model.config.output_attentions = True
    by_configuration = model(pixels)
    for name in ("hidden_states", "attentions"):
        for one, other in zip(by_argument[name], by_configuration[name], strict=True):
            assert torch.equal(one, other)
    refused = model(pixels, output_hidden_states=False, output_attentions=False)
    assert refused.hidden_states is None
    assert refused.attentions is None


@pytest.mark.parametrize("changes", [{}, {"backbone_config": RESNET}])
@pytest.mark.parametrize("kind", KINDS)
def test_tuples_by_argument_and_by_configuration(kind: type, changes: dict) -> None:
    model, pixels = build(kind, **changes), images(kind)
    expected = model(pixels).to_tuple()
    by_argument = model(pixels, return_dict=False)
    model.config.return_dict = False
    by_configuration = model(pixels)
    for got in (by_argument, by_configuration):
        assert isinstance(got, tuple)
        for one, other in zip(got, expected, strict=True):
            assert torch.equal(one, other) if isinstance(one, Tensor) else type(one) is type(other)
    assert not isinstance(model(pixels, return_dict=True), tuple)
    if kind is SubCellModel:
        panel = pixels[:, None]
        assert torch.equal(model.embed_panel(panel), expected[1])


@pytest.mark.parametrize("changes", [{}, {"backbone_config": RESNET}, {"backbone_config": DINO}])
@pytest.mark.parametrize("kind", KINDS)
def test_chosen_hidden_states(kind: type, changes: dict) -> None:
    model, pixels = build(kind, **changes), images(kind)
    everything = model(pixels, output_hidden_states=True).hidden_states
    for selection in ([0, -1], (1,), {2}, 0, -1, range(1, 3)):
        chosen = model(pixels, output_hidden_states=selection).hidden_states
        indices = [selection] if isinstance(selection, int) else selection
        wanted = {range(len(everything))[index] for index in indices}
        for index, (one, other) in enumerate(zip(chosen, everything, strict=True)):
            assert torch.equal(one, other) if index in wanted else one is None
    assert model(pixels, output_hidden_states=[]).hidden_states is None
    for wrong in ([len(everything)], [-len(everything) - 1], "all", [0.5], 99):
        with pytest.raises(ValueError, match=r"output_hidden_states=.*expected True, False or whole numbers from"):
            model(pixels, output_hidden_states=wrong)


def test_hidden_states_are_those_that_vit_means() -> None:
    sizes = {name: TINY[name] for name in ("hidden_size", "num_attention_heads", "intermediate_size", "image_size")}
    model = build(SubCellModel, position_embedding_type="learned")
    vit = ViTModel(ViTConfig(**sizes, num_hidden_layers=3, num_channels=4, patch_size=16), add_pooling_layer=False)
    vit.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("pooler.")})
    pixels = images(SubCellModel)
    ours = model(pixels, output_hidden_states=True, output_attentions=True)
    theirs = vit.eval()(pixels, output_hidden_states=True)
    for one, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(ours.last_hidden_state, theirs.last_hidden_state)


def test_hidden_states_of_hidden_patches_are_zero() -> None:
    model, pixels = build(SubCellForPreTraining), images(SubCellForPreTraining)
    noise = torch.rand(2, 2, 16, generator=torch.Generator().manual_seed(2))
    outputs = model(pixels, noise=noise, output_hidden_states=True, output_attentions=True)
    assert outputs.patch_mask[:, 0].sum() == 2 * 4  # a quarter of the first view; the second is whole
    selections = model.hide_patches(pixels, None, noise)
    encoded = model.encode(pixels, selections, output_hidden_states=True, output_attentions=True)
    for view, selection in enumerate(selections):
        for cell in range(2):
            kept = range(16) if selection is None else selection.kept[cell].tolist()
            places = [0, *(1 + patch for patch in kept)]
            for layer, state in enumerate(outputs.hidden_states):
                expected = torch.zeros(17, 32)
                for rank, place in enumerate(places):
                    expected[place] = encoded[view].hidden_states[layer][cell, rank]
                assert torch.equal(state[cell, view], expected)
            expected = torch.zeros(2, 17, 17)
            for row, place in enumerate(places):
                for column, other in enumerate(places):
                    expected[:, place, other] = encoded[view].attentions[0][cell, :, row, column]
            assert torch.equal(outputs.attentions[0][cell, view], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_patch_embedding_can_be_replaced(kind: type) -> None:
    model, pixels = build(kind), images(kind)
    before = model(pixels).pooler_output
    replacement = type(model.get_input_embeddings())(model.config)
    model.set_input_embeddings(replacement)
    assert model.get_input_embeddings() is replacement
    assert not torch.equal(model(pixels).pooler_output, before)


def test_a_model_saved_with_tuples_for_outputs_works_in_commands_and_pipelines(tmp_path: Path) -> None:
    plain = save_tiny("SubCellForImageClassification", tmp_path / "plain")
    tuples = save_tiny("SubCellForImageClassification", tmp_path / "tuples", return_dict=False)
    assert not AutoConfig.from_pretrained(tuples).return_dict
    crop = torch.rand(4, 80, 80).numpy()
    assert pipeline(model=str(tuples))(crop) == pipeline(model=str(plain))(crop)
    one, other = (
        subcell_hf.embed([crop], model=folder, precision="fp32", progress=False).embeddings
        for folder in (tuples, plain)
    )
    np.testing.assert_array_equal(one, other)
