"""The model behaves as a transformers model should."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, AutoModelForImageClassification

from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell import (
    SubCellForImageClassification,
    SubCellModel,
)
from subcell_hf.model.positions_subcell import sincos_position_embeddings

TINY = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 64,
    "pooling_hidden_size": 16, "classifier_hidden_sizes": [12, 8],
}  # fmt: skip
BACKBONES = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "convnext": {"hidden_sizes": [8, 16, 16, 24], "depths": [1, 1, 1, 1]},
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": 64},
    "dinov2": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 16},
}


def model(kind: type = SubCellModel, **changes: object):
    torch.manual_seed(0)
    built = kind(SubCellConfig(**{**TINY, **changes})).eval()
    with torch.no_grad():
        for parameter in built.parameters():  # freshly initialised weights attend to everything alike
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return built


def images(count: int = 2, channels: int = 4, height: int = 64, width: int = 64) -> Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(1))


def test_output_shapes_and_meaning() -> None:
    outputs = model()(images(height=32, width=96), output_attentions=True, output_hidden_states=True)
    assert outputs.last_hidden_state.shape == (2, 13, 32)
    assert outputs.pooler_output.shape == (2, 64)
    assert outputs.pooler_attentions.shape == (2, 2, 2, 6)
    assert [tuple(a.shape) for a in outputs.attentions] == [(2, 4, 13, 13)] * 3
    assert len(outputs.hidden_states) == 4
    torch.testing.assert_close(outputs.attentions[0].sum(-1), torch.ones(2, 4, 13))
    assert (outputs.pooler_attentions.sum((2, 3)) < 1).all()


def test_attentions_are_there_for_whoever_asks_and_cost_nothing_for_others() -> None:
    built = model()
    assert built.config._attn_implementation == "sdpa"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_attentions = built(images(), output_attentions=True)
    fused = built(images())
    assert fused.attentions is None
    torch.testing.assert_close(fused.pooler_output, with_attentions.pooler_output, atol=1e-5, rtol=1e-5)
    eager = copy.deepcopy(built)
    eager.set_attn_implementation("eager")
    torch.testing.assert_close(eager(images()).pooler_output, fused.pooler_output, atol=1e-5, rtol=1e-5)
    assert len(AutoModel.from_config(SubCellConfig(**TINY), attn_implementation="eager")(
        images(), output_attentions=True).attentions) == 3  # fmt: skip


def test_tuple_and_positional_use() -> None:
    built = model()
    outputs = built(images(), return_dict=False)
    assert isinstance(outputs, tuple)
    torch.testing.assert_close(outputs[1], built(images()).pooler_output)


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (128, 96), (16, 16)])
def test_any_size_that_patches_divide(size: tuple[int, int]) -> None:
    outputs = model(position_embedding_type="learned")(images(height=size[0], width=size[1]))
    assert outputs.pooler_attentions.shape[2:] == (size[0] // 16, size[1] // 16)
    assert torch.isfinite(outputs.pooler_output).all()


@pytest.mark.parametrize(
    ("pixel_values", "message"),
    [
        (images(height=60), "60×64 px.*multiples of the patch size 16"),
        (images(channels=3), r"shape \[2, 3, 64, 64\].*channels red, yellow, blue, green"),
        (images()[0], r"shape \[4, 64, 64\]"),
        ((images() * 255).to(torch.uint8), "torch.uint8.*SubCellImageProcessor"),
    ],
)
def test_wrong_images_are_refused(pixel_values: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model()(pixel_values)


def test_without_interpolation_only_the_configured_size() -> None:
    assert model()(images(), interpolate_pos_encoding=False).pooler_output.shape == (2, 64)
    with pytest.raises(ValueError, match="32×64 px, but the position embeddings are for 64×64 px"):
        model()(images(height=32), interpolate_pos_encoding=False)


@pytest.mark.parametrize("extreme", [torch.zeros, torch.ones])
def test_constant_images_give_finite_embeddings(extreme) -> None:
    assert torch.isfinite(model()(extreme(1, 4, 64, 64)).pooler_output).all()


def test_results_do_not_depend_on_the_batch() -> None:
    built = model()
    together = built(images(5)).pooler_output
    alone = torch.cat([built(image[None]).pooler_output for image in images(5)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_sincos_positions_are_the_formula() -> None:
    positions = sincos_position_embeddings(8, 2, 3)[0]
    assert torch.equal(positions[0], torch.zeros(8))
    row, column = 1, 2
    frequencies = torch.tensor([1.0, 0.01])
    expected = torch.cat(
        [
            (column * frequencies).sin(),
            (column * frequencies).cos(),
            (row * frequencies).sin(),
            (row * frequencies).cos(),
        ]
    )
    torch.testing.assert_close(positions[1 + row * 3 + column], expected)


@pytest.mark.parametrize("channel_tokens", ["joint", "separate"])
def test_convolutions_beside_the_linear_patch_embedding(channel_tokens: str) -> None:
    built = model(patch_embedding_type="convolutional", patch_size=8, channel_tokens=channel_tokens)
    embedding, weights = built.embeddings.patch_embeddings, built.state_dict()
    assert [weights[f"embeddings.patch_embeddings.convolutions.{n}.weight"].shape[0] for n in (0, 2, 4)] == [8, 16, 32]
    pixels = images(height=16, width=24)
    separate = channel_tokens == "separate"
    halved = pixels.flatten(0, 1)[:, None] if separate else pixels
    expected = F.conv2d(halved, embedding.projection.weight, embedding.projection.bias, stride=8)
    for number in (0, 2, 4):
        layer = embedding.convolutions[number]
        halved = F.conv2d(halved.relu() if number else halved, layer.weight, layer.bias, stride=2, padding=1)
    expected = (expected + halved).flatten(2).transpose(1, 2)  # [images or planes, patches, width]
    if separate:
        expected = expected.reshape(2, 4 * 6, 32)
    torch.testing.assert_close(embedding(pixels), expected)
    with pytest.raises(ValueError, match="needs the ViT with its linear patch embedding"):
        built(pixels, kept_patches=torch.zeros(2, 1, dtype=torch.long))


def test_convolutions_begin_with_the_variance_that_relu_needs_and_are_loaded_as_saved(tmp_path) -> None:
    torch.manual_seed(0)
    settings = {**TINY, "hidden_size": 256, "patch_size": 8, "patch_embedding_type": "convolutional"}
    built = SubCellModel(SubCellConfig(**settings))
    for layer in built.embeddings.patch_embeddings.convolutions[::2]:
        wanted = (2 / layer.weight[0].numel()) ** 0.5
        assert abs(layer.weight.std().item() / wanted - 1) < 0.1
        assert not layer.bias.any()
    built.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    for name, weight in built.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight, rtol=0, atol=0)


def test_fixed_positions_are_not_trained() -> None:
    assert "embeddings.position_embeddings" not in dict(model().named_parameters())
    assert "embeddings.position_embeddings" in model().state_dict()
    assert "embeddings.position_embeddings" in dict(model(position_embedding_type="learned").named_parameters())


@pytest.mark.parametrize("pooling", ["gated", "attention", "mean", "cls"])
def test_poolings(pooling: str) -> None:
    built = model(pooling_type=pooling)
    outputs = built(images())
    assert outputs.pooler_output.shape == (2, built.config.embedding_size)
    if pooling == "mean":
        torch.testing.assert_close(outputs.pooler_output, outputs.last_hidden_state.mean(1))
        torch.testing.assert_close(outputs.pooler_attentions, torch.full((2, 1, 4, 4), 1 / 17))
    if pooling == "cls":
        assert torch.equal(outputs.pooler_output, outputs.last_hidden_state[:, 0])
        assert outputs.pooler_attentions is None


@pytest.mark.parametrize("kind", BACKBONES)
def test_backbones_with_the_same_classes_around_them(kind: str, tmp_path) -> None:
    built = model(
        SubCellForImageClassification,
        channels=["blue", "green"],
        backbone_config={"model_type": kind, **BACKBONES[kind]},
    )
    outputs = built(images(channels=2), labels=torch.zeros(2, 31))
    assert outputs.pooler_output.shape == (2, 2 * built.config.hidden_size)
    torch.testing.assert_close(outputs.pooler_attentions.sum((2, 3)), torch.ones(2, 2))  # no CLS takes a share
    outputs.loss.backward()
    assert next(built.subcell.backbone.parameters()).grad is not None
    built.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(images(channels=2)).logits, outputs.logits)
    with pytest.raises(ValueError, match="needs the ViT"):
        built.subcell(images(channels=2), kept_patches=torch.zeros(2, 1, dtype=torch.long))


def test_attentions_of_a_backbone_that_has_none_are_refused() -> None:
    built = model(backbone_config={"model_type": "resnet", **BACKBONES["resnet"]})
    with pytest.raises(ValueError, match="the backbone 'resnet' gives no attentions"):
        built(images(), output_attentions=True)


@pytest.mark.parametrize("members", [1, 3])
def test_logits_are_those_of_the_mean_probability(members: int) -> None:
    built = model(SubCellForImageClassification, classifier_ensemble_size=members)
    with torch.no_grad():
        built.classifier.layers[-1].bias.mul_(40)  # probabilities near 0 and 1 included
        outputs = built(images())
    assert outputs.member_logits.shape == (2, members, 31)
    mean = outputs.member_logits.double().sigmoid().mean(1)
    torch.testing.assert_close(outputs.logits.double().sigmoid(), mean, atol=1e-7, rtol=1e-5)
    assert torch.isfinite(outputs.logits).all()


def test_members_are_independent_networks() -> None:
    built = model(SubCellForImageClassification, classifier_ensemble_size=3)
    outputs = built(images())
    features = outputs.pooler_output
    for index in range(3):
        hidden = features
        for number, layer in enumerate(built.classifier.layers):
            hidden = F.linear(hidden, layer.weight[index], layer.bias[index])
            hidden = F.relu(hidden) if number < 2 else hidden
        torch.testing.assert_close(outputs.member_logits[:, index], hidden)


def test_multi_label_loss_is_the_focal_loss_of_the_logits() -> None:
    built = model(SubCellForImageClassification, classifier_ensemble_size=2)
    labels = torch.randint(0, 2, (2, 31), generator=torch.Generator().manual_seed(0))
    outputs = built(images(), labels=labels)
    p = torch.where(labels.bool(), outputs.logits.sigmoid(), 1 - outputs.logits.sigmoid())
    expected = (torch.where(labels.bool(), 0.25, 0.75) * (1 - p) ** 2 * -p.log()).mean()
    torch.testing.assert_close(outputs.loss, expected)
    with pytest.raises(
        ValueError, match=r"labels have shape \[2\]; problem_type='multi_label_classification' expects \[2, 31\]"
    ):
        built(images(), labels=torch.zeros(2))


def test_single_label_ensembles() -> None:
    built = model(
        SubCellForImageClassification,
        classifier_ensemble_size=3,
        problem_type="single_label_classification",
        num_labels=4,
    )
    outputs = built(images(), labels=torch.tensor([1, 3]))
    torch.testing.assert_close(outputs.logits.softmax(-1), outputs.member_logits.softmax(-1).mean(1))
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.logits, torch.tensor([1, 3])))


def test_panels_are_passes_one_after_the_other() -> None:
    built = model()
    panel = torch.stack([images(), images() * 0.5, images().flip(1)], dim=1)  # [cells, passes, ...]
    embeddings = built.embed_panel(panel)
    assert embeddings.shape == (2, 3 * 64)
    torch.testing.assert_close(embeddings[:, 64:128], built(panel[:, 1]).pooler_output)
    with pytest.raises(ValueError, match="expected \\[batch, passes, channels"):
        built.embed_panel(images())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    built = model(SubCellForImageClassification)
    expected = built(images()).pooler_output
    half = copy.deepcopy(built).to(dtype)(images(height=96), output_attentions=True)
    assert half.pooler_output.dtype == dtype
    assert torch.isfinite(half.logits).all()
    ours = copy.deepcopy(built).to(dtype)(images()).pooler_output
    assert F.cosine_similarity(ours.float(), expected).min() > 0.999
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = built(images()).pooler_output
    assert F.cosine_similarity(mixed.float(), expected).min() > 0.999


def test_gradient_checkpointing_changes_no_gradient() -> None:
    plain = model(SubCellForImageClassification).train()
    for dropout in [module for module in plain.modules() if isinstance(module, torch.nn.Dropout)]:
        dropout.p = 0.0
    checkpointed = copy.deepcopy(plain)
    checkpointed.gradient_checkpointing_enable()
    assert all(layer.gradient_checkpointing for layer in checkpointed.subcell.layers)
    for built in (plain, checkpointed):
        built(images(), labels=torch.ones(2, 31)).loss.backward()
    for (name, one), other in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


@pytest.mark.slow
def test_compiles_to_one_graph() -> None:
    built = model(SubCellForImageClassification)
    compiled = torch.compile(built, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images()).logits, built(images()).logits, atol=1e-5, rtol=1e-4)


def test_device_map_and_dtype_on_load(tmp_path) -> None:
    model().save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["model.safetensors"]
    loaded = AutoModel.from_pretrained(tmp_path, device_map="cpu", dtype=torch.bfloat16)
    assert loaded.device.type == "cpu"
    assert loaded.layernorm.weight.dtype == torch.bfloat16
    torch.testing.assert_close(
        AutoModel.from_pretrained(tmp_path)(images()).pooler_output, model()(images()).pooler_output
    )


def test_an_encoder_becomes_a_classifier_and_back(tmp_path) -> None:
    encoder = model()
    encoder.save_pretrained(tmp_path / "encoder")
    classifier = SubCellForImageClassification.from_pretrained(tmp_path / "encoder", num_labels=3)
    torch.testing.assert_close(classifier(images()).pooler_output, encoder(images()).pooler_output)
    assert classifier.config.num_labels == 3
    assert classifier.classifier.layers[0].weight.std() > 0
    classifier.save_pretrained(tmp_path / "classifier")
    again = SubCellModel.from_pretrained(tmp_path / "classifier")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in encoder.state_dict().items())
