"""Separate channel tokens: any channels by name, in any order; losses and masks against loops."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from subcell_hf.model.channels_subcell import channel_passes, channel_row, choose_channels
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellForImageClassification, SubCellModel
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from subcell_hf.model.pipeline_subcell import SubCellPipeline
from subcell_hf.model.positions_subcell import PatchSelection, select_patches

CHANNELS = ["red", "yellow", "blue", "green"]
TINY: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32,
    "pooling_hidden_size": 16, "classifier_hidden_sizes": [8], "num_labels": 5, "channel_tokens": "separate",
    "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 24, "projection_hidden_sizes": [8], "projection_size": 8, "patch_size": 8,
    "pooling_dropout": 0.0, "probe_dropout": 0.0,
}  # fmt: skip
PATCHES = 16


@pytest.fixture(scope="module")
def model() -> SubCellModel:
    torch.manual_seed(0)
    return SubCellModel(SubCellConfig(**TINY)).eval()


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(3, 4, 32, 32, generator=torch.Generator().manual_seed(1))


def _take(pixels: Tensor, names: list[str]) -> Tensor:
    return pixels[:, [CHANNELS.index(name) for name in names]]


@torch.no_grad()
@pytest.mark.parametrize("limit", [None, 2, 3])
def test_the_order_of_the_channels_does_not_matter(model: SubCellModel, pixels: Tensor, limit: int | None) -> None:
    order = ["blue", "green", "yellow", "red"]
    model.config.channels_per_pass = limit
    try:
        expected = model(pixels)
        found = model(_take(pixels, order), channels=order)
    finally:
        model.config.channels_per_pass = None
    back = [order.index(name) for name in CHANNELS]
    torch.testing.assert_close(found.pooler_output, expected.pooler_output, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.channel_attentions[:, :, back], expected.channel_attentions, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.pooler_attentions, expected.pooler_attentions, atol=1e-6, rtol=0)
    by_channel = found.last_hidden_state[:, 1:].unflatten(1, (4, PATCHES))[:, back].flatten(1, 2)
    torch.testing.assert_close(by_channel, expected.last_hidden_state[:, 1:], atol=2e-6, rtol=0)


@torch.no_grad()
def test_other_channels_are_other_embeddings_and_maps_belong_to_channels(model: SubCellModel, pixels: Tensor) -> None:
    known = model(_take(pixels, ["blue", "green"]), channels=["blue", "green"])
    renamed = model(_take(pixels, ["blue", "green"]), channels=["other", "protein"])
    assert (known.pooler_output - renamed.pooler_output).abs().max() > 1e-4
    protein = model(_take(pixels, ["blue", "green"]), channels=["blue", "protein_2"])
    assert torch.equal(known.pooler_output, protein.pooler_output)  # the last channel is the protein's
    assert known.channel_attentions.shape == (3, 2, 2, 4, 4)
    assert known.last_hidden_state.shape == (3, 1 + 2 * PATCHES, 32)
    torch.testing.assert_close(known.channel_attentions.sum(2), known.pooler_attentions)
    assert bool((known.channel_attentions.sum((2, 3, 4)) < 1).all())  # CLS takes a share


@torch.no_grad()
def test_tokens_are_those_of_a_loop(model: SubCellModel, pixels: Tensor) -> None:
    names, embeddings = ["green", "other", "red"], model.embeddings
    kept = torch.tensor([[0, 17, 18, 47]]).expand(3, -1)
    found = embeddings(pixels[:, :3], kept, True, model.config.channel_rows(names))
    convolution = embeddings.patch_embeddings.projection
    tokens = [embeddings.cls_token[0, 0] + embeddings.position_embeddings[0, 0]]
    for channel, row in enumerate([3, 4, 0]):
        for place in range(PATCHES):
            y, x = divmod(place, 4)
            patch = pixels[0, channel, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
            token = (convolution.weight[:, 0] * patch).sum((1, 2)) + convolution.bias
            tokens.append(token + embeddings.position_embeddings[0, 1 + place] + embeddings.channel_embeddings[row])
    expected = torch.stack([tokens[0], *(tokens[1 + number] for number in kept[0])])
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_passes_are_averaged(model: SubCellModel, pixels: Tensor) -> None:
    assert channel_passes(["green", "blue", "red", "other"], [3, 2, 0, 4], 3, 2) == [[0, 2], [1, 3]]
    assert channel_passes(["blue", "red", "yellow"], [2, 0, 1], 3, 2) == [[1, 2], [0]]
    assert [len(seen) for seen in channel_passes([*"abcdefgh"], [4] * 8, 3, 3)] == [3, 3, 2]
    assert channel_passes(["blue", "red"], [2, 0], 3, None) == [[0, 1]]
    pairs = [["green", "red"], ["yellow", "blue"]]
    passes = [model(_take(pixels, pair), channels=pair) for pair in pairs]
    model.config.channels_per_pass = 2
    try:
        found = model(pixels)
        with pytest.raises(ValueError, match="channels_per_pass"):
            model(pixels, output_attentions=True)
    finally:
        model.config.channels_per_pass = None
    expected = torch.stack([one.pooler_output for one in passes]).mean(0)
    torch.testing.assert_close(found.pooler_output, expected, atol=1e-6, rtol=0)
    blue = passes[1].last_hidden_state[:, 1 + PATCHES :]
    green = passes[0].last_hidden_state[:, 1 : 1 + PATCHES]
    torch.testing.assert_close(
        found.last_hidden_state[:, 1 + 2 * PATCHES :], torch.cat([blue, green], 1), atol=2e-6, rtol=0
    )
    maps = torch.stack([one.pooler_attentions for one in passes]).mean(0)
    torch.testing.assert_close(found.pooler_attentions, maps, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["blue", "actin"], "not on actin.*'other'"),
        (["blue", "blue"], "without repetition"),
        ([], "at least one"),
        (["blue", "other_x"], "other_x"),
        (["blue", *(f"other_{n}" for n in range(8))], "at most 8"),
        (["blue"], r"expected \[batch, 1, height, width\]"),
    ],
)
def test_channels_that_cannot_be_are_refused(model: SubCellModel, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(torch.rand(1, max(2, len(names)), 32, 32), channels=names)


def test_a_joint_model_takes_its_own_channels_alone() -> None:
    joint = SubCellModel(SubCellConfig(**TINY | {"channel_tokens": "joint"})).eval()
    assert not [name for name in joint.state_dict() if "channel" in name]
    assert torch.equal(*(joint(torch.ones(1, 4, 32, 32), channels=named).pooler_output for named in (CHANNELS, None)))
    with pytest.raises(ValueError, match="channel_tokens='separate'"):
        joint(torch.rand(1, 2, 32, 32), channels=["blue", "green"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channel_tokens": "both"}, "channel_tokens"),
        ({"channel_masking": "never"}, "channel_masking"),
        ({"channel_tokens": "joint", "channel_masking": "apart"}, "channel_masking"),
        ({"channel_tokens": "joint", "channels_per_pass": 2}, "channels_per_pass"),
        ({"channels_per_pass": 0}, "channels_per_pass"),
        ({"channels": [f"stain {number}" for number in range(9)]}, "at most 8"),
        ({"backbone_config": {"model_type": "resnet", "hidden_sizes": [8, 16], "depths": [1, 1]}}, "backbone_config"),
    ],
)
def test_configurations_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SubCellConfig(**TINY | settings)


def test_names_of_channels() -> None:
    rows = {
        "red": 0,
        "green": 3,
        "protein": 3,
        "protein_2": 3,
        "other": 4,
        "other_3": 4,
        "actin": None,
        "otherwise": None,
    }
    assert {name: channel_row(name, CHANNELS) for name in rows} == rows
    assert choose_channels(CHANNELS, ["green", "actin", "red"], {"other": "actin"}) == ["red", "other", "green"]
    assert choose_channels(CHANNELS, ["gfp", "blue"], {"green": "gfp"}) == ["blue", "green"]
    with pytest.raises(ValueError, match="names the planes actin"):
        choose_channels(CHANNELS, ["green", "red"], {"other": "actin"})


# ---- Pretraining ----


def _pretraining(**settings: Any) -> SubCellForPreTraining:
    torch.manual_seed(0)
    return SubCellForPreTraining(SubCellConfig(**TINY | settings)).train()


def _views(channels: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "pixel_values": torch.rand(4, 2, channels, 32, 32, generator=generator),
        "cell_masks": torch.rand(4, 2, 32, 32, generator=generator) > 0.5,
        "antibodies": torch.tensor([0, 0, 1, 1]),
        "locations": torch.rand(4, 5, generator=generator).round(),
    }


def test_patches_of_a_place_are_hidden_together() -> None:
    noise = torch.rand(2, 6, generator=torch.Generator().manual_seed(3))
    places = select_patches(noise, 0.5)
    tokens = places.of_every_channel(3)
    assert isinstance(tokens, PatchSelection)
    for cell in range(2):
        expected = [6 * channel + int(place) for channel in range(3) for place in places.kept[cell]]
        assert tokens.kept[cell].tolist() == expected
        # The decoder puts kept tokens first, then hidden ones, and gathers by rank.
        order = expected + [6 * c + p for c in range(3) for p in range(6) if places.patch_mask[cell, p]]
        assert sorted(order) == list(range(18))
        hidden_first = tokens.restore[cell] >= len(expected)
        assert torch.equal(hidden_first.float(), tokens.patch_mask[cell])
        assert all(int(tokens.restore[cell, token]) == rank for rank, token in enumerate(expected))
        assert sorted(tokens.restore[cell].tolist()) == list(range(18))


@pytest.mark.parametrize("masking", ["together", "apart"])
def test_reconstruction_is_that_of_a_loop(masking: str) -> None:
    model, names = (
        _pretraining(channel_masking=masking, mask_ratio=0.5, object_mask_ratio=0.5),
        ["other", "green", "red"],
    )
    views = _views(3)
    outputs = model(**views, channels=names)
    mask = outputs.patch_mask[:, 0].unflatten(1, (3, PATCHES))
    same = bool((mask == mask[:, :1]).all())
    assert same == (masking == "together")
    assert mask.sum((1, 2)).tolist() == [24.0] * 4
    errors = []
    for cell in range(4):
        for channel in range(3):
            for place in range(PATCHES):
                if mask[cell, channel, place]:
                    y, x = divmod(place, 4)
                    target = views["pixel_values"][cell, 0, channel, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].flatten()
                    target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
                    errors.append((outputs.reconstruction[cell, PATCHES * channel + place] - target).square().mean())
    torch.testing.assert_close(outputs.losses["reconstruction"], torch.stack(errors).mean())
    assert bool((outputs.pooler_attentions[:, 0].flatten(2)[:, 0][mask.sum(1) == 3] == 0).all())


def test_without_the_protein_nothing_is_learned_of_it_and_no_process_waits() -> None:
    model = _pretraining(protein_centroid_weight=1.0, probe_detached=False)
    with_protein = model(**_views(2), channels=["blue", "protein"])
    assert set(with_protein.losses) == {
        "reconstruction",
        "cell_contrast",
        "protein_contrast",
        "protein_centroid",
        "probe",
    }
    without = model(**_views(2), channels=["blue", "red"])
    assert set(without.losses) == {"reconstruction", "cell_contrast"}
    without.loss.backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not any(p.grad.any() for p in (*model.protein_projection.parameters(), *model.probe.parameters()))
    unused = model.subcell.embeddings.channel_embeddings.grad.abs().sum(1) == 0
    assert unused.tolist() == [False, True, False, True, True]


def test_joined_states_are_in_their_places() -> None:
    model = _pretraining(mask_ratio=0.5, channel_masking="apart")
    outputs = model(**_views(2), channels=["blue", "green"], output_hidden_states=[1], output_attentions=True)
    state = outputs.hidden_states[1]
    assert state.shape == (4, 2, 1 + 2 * PATCHES, 32)
    assert torch.equal((state[:, 0, 1:] == 0).all(-1), outputs.patch_mask[:, 0] > 0)
    assert outputs.attentions[0].shape == (4, 2, 4, 1 + 2 * PATCHES, 1 + 2 * PATCHES)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    model, views = _pretraining(mask_ratio=0.0, reconstruction_weight=0.0), _views(3)
    gradients = []
    for checkpointed in (False, True):
        (model.gradient_checkpointing_enable if checkpointed else model.gradient_checkpointing_disable)()
        model.zero_grad()
        model(**views, channels=["red", "blue", "green"]).loss.backward()
        gradients.append(model.subcell.embeddings.channel_embeddings.grad.clone())
    torch.testing.assert_close(*gradients)


# ---- Image processor and pipeline ----


@pytest.fixture(scope="module")
def processor() -> SubCellImageProcessor:
    return SubCellImageProcessor(size=32, channel_tokens="separate")


def test_the_processor_takes_channels_by_name(processor: SubCellImageProcessor, model: SubCellModel) -> None:
    planes = {
        name: np.random.default_rng(n).random((32, 32), np.float32) for n, name in enumerate(["green", "actin", "blue"])
    }
    mapping = {"other": "actin"}
    found = processor(planes, channel_mapping=mapping)
    assert found["channels"] == ["blue", "other", "green"]
    stack = np.stack([planes[name] for name in ("actin", "green", "blue")])
    stacked = processor(stack, channels=["actin", "green", "blue"], channel_mapping=mapping)
    assert stacked["channels"] == found["channels"]
    assert torch.equal(stacked["pixel_values"], found["pixel_values"])
    assert model(**found.to("cpu")).pooler_output.shape == (1, 64)
    assert "channels" not in SubCellImageProcessor(size=32)(np.ones((4, 32, 32), np.float32))
    assert processor(np.ones((4, 32, 32), np.float32))["channels"] == CHANNELS
    with pytest.raises(ValueError, match="not on actin"):
        processor(planes)
    with pytest.raises(ValueError, match="different channels"):
        processor([planes, {"green": planes["green"]}], channel_mapping=mapping)
    with pytest.raises(ValueError, match=r"expected red, yellow, blue, green"):
        SubCellImageProcessor(size=32)(planes)
    with pytest.raises(ValueError, match="not on mystery"):
        SubCellImageProcessor(size=32, channel_tokens="separate", channel_mapping={"mystery": "actin"})


def test_the_pipeline_takes_channels_by_name(processor: SubCellImageProcessor) -> None:
    torch.manual_seed(0)
    classifier = SubCellForImageClassification(SubCellConfig(**TINY)).eval()
    locate: Any = SubCellPipeline(model=classifier, image_processor=processor)
    planes = np.random.default_rng(0).integers(0, 255, (3, 32, 32), np.uint8)
    options = {"return_embedding": True, "return_attention": True}
    one = locate({"blue": planes[0], "green": planes[1]}, **options)
    assert list(one["channel_attention"]) == ["blue", "green"]
    np.testing.assert_allclose(sum(one["channel_attention"].values()), one["attention"], atol=1e-7)
    other = locate([{"image": planes[[1, 0]], "channels": ["green", "blue"]}] * 3, **options, batch_size=2)
    for cell in other:
        np.testing.assert_allclose(cell["embedding"], one["embedding"], atol=1e-6)
    mapped = locate({"actin": planes[0], "blue": planes[1]}, channel_mapping={"other": "actin"}, **options)
    assert list(mapped["channel_attention"]) == ["blue", "other"]
    panel = locate(
        {"blue": planes[0], "a": planes[1], "b": planes[2]}, channel_mapping={"green": ["a", "b"]}, **options
    )
    np.testing.assert_allclose(panel["embedding"][:64], one["embedding"], atol=1e-6)
    with pytest.raises(ValueError, match="different channels"):
        locate([{"blue": planes[0]}, {"red": planes[0]}], batch_size=2)
    with pytest.raises(ValueError, match="channel_tokens"):
        SubCellPipeline(model=classifier, image_processor=SubCellImageProcessor(size=32))


@pytest.mark.filterwarnings("ignore")
def test_traces_and_exported_programs_have_the_same_numbers(model: SubCellModel, pixels: Tensor) -> None:
    with torch.no_grad():
        expected = model(pixels).pooler_output
        compiled: Any = torch.compile(model, fullgraph=True, backend="eager")
        pair = _take(pixels, ["blue", "green"])
        torch.testing.assert_close(
            compiled(pair, channels=["blue", "green"]).pooler_output,
            model(pair, channels=["blue", "green"]).pooler_output,
        )
        trace: Any = torch.jit.trace(model, pixels[:1], strict=False)
        torch.testing.assert_close(trace(pixels)["pooler_output"], expected)
        batch = {"pixel_values": {0: torch.export.Dim.DYNAMIC}}
        exported = torch.export.export(model, (pixels,), dynamic_shapes=batch).module()
        torch.testing.assert_close(exported(pixels[:2]).pooler_output, expected[:2])
