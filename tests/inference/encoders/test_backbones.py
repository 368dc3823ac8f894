"""Every adapter gives what the library's own code gives; weights are random, and nothing is downloaded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from subcell_hf.errors import InputError
from subcell_hf.inference.encoders.encoder import Encoder
from subcell_hf.inference.encoders.finding import find_encoders
from subcell_hf.inference.encoders.found_encoder import FoundEncoder

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
VIT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
IMAGES = torch.rand(3, 2, 32, 32, generator=torch.Generator().manual_seed(0))


def grey(model: Any, channel: int, **more: Any) -> Any:
    """What the library itself makes of one channel as a grey image."""
    processor = transformers.ViTImageProcessor(
        do_resize=False, do_rescale=False, image_mean=MEAN, image_std=STD, size={"height": 32, "width": 32}
    )
    pictures = [image[channel].expand(3, -1, -1).numpy() for image in IMAGES]
    given = processor(pictures, return_tensors="pt", input_data_format="channels_first")["pixel_values"]
    with torch.no_grad():
        return model(given, **more)


def naflex(channel: int) -> Any:
    """One channel as the processor of SigLIP2 hands it to its model."""
    processor = transformers.Siglip2ImageProcessor(
        do_resize=False, do_rescale=False, image_mean=MEAN, image_std=STD, patch_size=8, max_num_patches=16
    )
    pictures = [image[channel].expand(3, -1, -1).numpy() for image in IMAGES]
    return processor(pictures, return_tensors="pt", input_data_format="channels_first")


def save(model: Any, folder: Path, **more: Any) -> Path:
    model.save_pretrained(folder)
    content = {"image_mean": MEAN, "image_std": STD, "size": {"height": 32, "width": 32}, "do_resize": True, **more}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


def encoder(text: str) -> Encoder:
    (found,) = find_encoders(text)
    assert isinstance(found, FoundEncoder)
    return found.build()


def encode(text: str, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        found: Tensor = encoder(text).encode(images)
    return found


def dinov2() -> Any:
    return transformers.Dinov2Model(transformers.Dinov2Config(**VIT))


def dinov3() -> Any:
    return transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**VIT, num_register_tokens=2))


def clip() -> Any:
    words = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    text = {**words, "vocab_size": 8, "max_position_embeddings": 4, "bos_token_id": 1, "eos_token_id": 2}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=VIT, projection_dim=8))


def vit() -> Any:
    return transformers.ViTForImageClassification(transformers.ViTConfig(**VIT))


def mae() -> Any:
    decoder = {"decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_intermediate_size": 8}
    return transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**VIT, **decoder, decoder_num_attention_heads=2))


def siglip() -> Any:
    words = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    text = {**words, "vocab_size": 8, "max_position_embeddings": 4, "bos_token_id": 1, "eos_token_id": 2}
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=VIT))


def siglip2() -> Any:
    """For images of any shape; the siglip2 of one shape are of the kind `siglip`."""
    shape = {name: value for name, value in VIT.items() if name != "image_size"}
    return transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**shape, num_patches=16))


def clip_vision() -> Any:
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VIT))


def dinov2_with_registers() -> Any:
    return transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**VIT, num_register_tokens=2))


def dinov3_convnext() -> Any:
    config = transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], image_size=32)
    return transformers.DINOv3ConvNextModel(config)


def swin() -> Any:
    config = transformers.SwinConfig(
        embed_dim=8, depths=[1, 1], num_heads=[2, 2], image_size=32, patch_size=4, window_size=4
    )
    return transformers.SwinModel(config)


def resnet() -> Any:
    return transformers.ResNetModel(transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1]))


def convnext() -> Any:
    config = transformers.ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], image_size=32)
    return transformers.ConvNextModel(config)


FAMILIES = (
    "dinov2", "dinov2_with_registers", "dinov3", "dinov3_convnext", "vit", "mae", "siglip", "siglip2", "clip",
    "clip_vision", "convnext", "swin", "resnet",
)  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_each_channel_is_a_grey_image(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = globals()[family]().eval()
    with torch.no_grad():
        for value in model.parameters():
            torch.nn.init.normal_(value, std=0.2)
    folder = save(model, tmp_path / family)
    expected = []
    for channel in (0, 1):
        if family == "vit":
            expected.append(grey(model.vit, channel).last_hidden_state[:, 0])
        elif family in ("siglip", "clip"):
            expected.append(grey(model.vision_model, channel).pooler_output)
        elif family == "siglip2":
            expected.append(model(**naflex(channel)).pooler_output.detach())
        elif family != "mae":
            expected.append(grey(model, channel).pooler_output.flatten(1))
        else:
            whole = transformers.ViTMAEModel.from_pretrained(folder, mask_ratio=0.0).eval()
            expected.append(grey(whole, channel, noise=torch.arange(16.0).expand(3, -1)).last_hidden_state[:, 0])
    assert torch.allclose(encode(str(folder)), torch.cat(expected, dim=1), atol=1e-5)
    averaged = encode(f"{folder},combine=average")
    assert torch.allclose(averaged, torch.stack(expected).mean(0), atol=1e-5)


@pytest.mark.parametrize(("family", "others"), [("dinov2", 1), ("dinov3", 3), ("siglip", 0)])
def test_patches_are_averaged_without_other_tokens(family: str, others: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = globals()[family]().eval()
    folder = save(model, tmp_path / family)
    tokens = grey(getattr(model, "vision_model", model), 0).last_hidden_state
    assert tokens.shape[1] == 16 + others
    expected = tokens[:, others:].mean(1)
    assert torch.allclose(encode(f"{folder},pool=mean", IMAGES[:, :1]), expected, atol=1e-5)
    if not others:
        with pytest.raises(ValueError, match="has no CLS token"):
            encode(f"{folder},pool=cls")


def test_three_channels_are_red_green_and_blue(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = dinov2().eval()
    folder = save(model, tmp_path / "model")
    text = f"{folder},rgb=green,none,blue"
    assert encoder(text).channels == ("green", "blue")
    given = torch.stack([IMAGES[:, 0], torch.zeros_like(IMAGES[:, 0]), IMAGES[:, 1]], dim=1)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    with torch.no_grad():
        expected = model((given - mean) / std).pooler_output
    assert torch.allclose(encode(text), expected, atol=1e-5)


def test_what_a_folder_lacks_is_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = save(dinov2(), tmp_path / "model")
    assert encoder(str(folder)).input_px == 32
    cropped = save(dinov2(), tmp_path / "cropped", do_center_crop=True, crop_size={"height": 24, "width": 24})
    assert encoder(str(cropped)).input_px == 24
    for text, message in {
        f"{folder},rgb=green,blue": "expected the channels for red, green and blue",
        f"{folder},combine=maximum": "combine=maximum, expected one of concatenate, average",
        f"{folder},colour=red": "unknown option colour",
        f"{folder},pixel_size_um=small": "pixel_size_um=small, expected a number",
        f"{folder},scaling=none": "scaling is 'none', expected one of channel, image, standard, intensity",
    }.items():
        with pytest.raises(InputError, match=message):
            find_encoders(text)
    text_model = transformers.BertModel(
        transformers.BertConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=8
        )
    )
    with pytest.raises(InputError, match="expected a model of images"):
        find_encoders(str(save(text_model, tmp_path / "text")))
    (folder / "preprocessor_config.json").write_text('{"size": 32}')
    with pytest.raises(InputError, match="has no image_mean and image_std"):
        find_encoders(f"{folder},combine=average")


MODELING = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel


class StandInConfig(PretrainedConfig):
    model_type = "stand_in_{name}"


class StandIn(PreTrainedModel):
    config_class = StandInConfig

    def __init__(self, config):
        super().__init__(config)
        self.weight = nn.Parameter(torch.ones(4))
        self.post_init()

    def _init_weights(self, module):
        pass

    def forward(self, images):
        raise AssertionError("the published interface is another method")

    {method}
"""
OPENPHENOM = """def predict(self, imgs):  # [cells, channels, height, width], 0 to 255
        scaled = imgs.float() / 255.0
        return torch.stack([scaled.mean((1, 2, 3)), scaled.amax((1, 2, 3))], dim=1) * self.weight[:2]
"""
MORPHEM = """def forward_features(self, x):  # [cells, 1, height, width]
        assert x.shape[1] == 1
        pooled = torch.cat([x.mean((2, 3)), x.std((2, 3)), x.amax((2, 3)), x.amin((2, 3))], dim=1)
        return {"x_norm_clstoken": pooled * self.weight}
"""


def write_remote_code(folder: Path, name: str, method: str) -> Path:
    """A folder with weights and code, as such models lie on the Hub."""
    folder.mkdir()
    (folder / "modeling.py").write_text(MODELING.format(name=name, method=method))
    auto = {"AutoConfig": "modeling.StandInConfig", "AutoModel": "modeling.StandIn"}
    config = {"model_type": f"stand_in_{name}", "architectures": ["StandIn"], "auto_map": auto}
    (folder / "config.json").write_text(json.dumps(config))
    from safetensors.torch import save_file

    save_file({"weight": torch.tensor([1.0, 2.0, 3.0, 4.0])}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_models_with_published_interfaces_of_any_channels(tmp_path: Path) -> None:
    openphenom = write_remote_code(tmp_path / "openphenom", "openphenom", OPENPHENOM)
    morphem = write_remote_code(tmp_path / "morphem", "morphem", MORPHEM)
    with pytest.raises(InputError, match="trust_remote_code=true"):
        find_encoders(str(openphenom))
    trusted = f"{openphenom},trust_remote_code=true"
    expected = torch.stack([IMAGES.mean((1, 2, 3)), 2 * IMAGES.amax((1, 2, 3))], dim=1)
    assert torch.allclose(encode(trusted), expected, atol=1e-5)
    assert (encoder(trusted).input_px, encoder(trusted).scaling) == (256, "channel")
    found = encode(f"{morphem},trust_remote_code=true")
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    each = [
        torch.stack([x.mean((1, 2)), x.std((1, 2)), x.amax((1, 2)), x.amin((1, 2))], dim=1) * weights
        for x in (IMAGES[:, 0], IMAGES[:, 1])
    ]
    assert torch.allclose(found, torch.cat(each, dim=1), atol=1e-5)
    assert encoder(f"{morphem},trust_remote_code=true").scaling == "standard"
