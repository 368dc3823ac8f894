"""Vision models of transformers as encoders of cells: every channel as a grey image, or three channels as RGB."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subcell_hf.errors import InputError
from subcell_hf.inference.encoders.encoder import Encoder
from subcell_hf.inference.encoders.specs import EncoderSpec
from subcell_hf.storage.model_folders import CONFIG_FILE, PROCESSOR_FILE, check_finite
from subcell_hf.storage.plain_files import explaining, read_json

_POOLS = ("", "pooler", "cls", "mean")
_COMBINATIONS = ("concatenate", "average")
_CLS = ("vit", "vit_mae", "deit", "vit_msn")
"""Families whose token CLS is the embedding: their pooler belongs to a task, or does not exist."""

_NAFLEX = "siglip2_vision_model"
"""SigLIP2 for images of any shape; the others of its family are of the kind `siglip`."""

_REMEDY = "Download the model's folder again."


class ChannelBackbone(nn.Module):
    """A vision model that is given one channel after the other, or three channels as red, green and blue.

    Args:
        model: A vision model of transformers.
        pool: `"pooler"`, `"cls"` or `"mean"` of the patches.
        mean: Of the model's three input channels, for pixels from 0 to 1.
        std: The same.
        rgb: For red, green and blue, the number of the channel in the images, or None for black; empty: each channel
            is given to the model as a grey image.
        combine: `"concatenate"` or `"average"` the embeddings of the channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: Any,
        pool: str,
        mean: Sequence[float],
        std: Sequence[float],
        rgb: Sequence[int | None] = (),
        combine: str = "concatenate",
    ) -> None:
        super().__init__()
        self.model, self.pool, self.rgb, self.combine = model, pool, tuple(rgb), combine
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Embed cells.

        Args:
            images: `[cells, channels, height, width]` from 0 to 1.

        Returns:
            `[cells, channels · width]` if embeddings are concatenated, else `[cells, width]`.
        """
        if self.rgb:
            black = torch.zeros_like(images[:, 0])
            given = torch.stack([black if number is None else images[:, number] for number in self.rgb], dim=1)
            return self._embed((given - self.mean) / self.std)
        grey = images.flatten(0, 1)[:, None]  # [cells · channels, 1, height, width]
        found = self._embed((grey - self.mean) / self.std).reshape(*images.shape[:2], -1)
        return found.flatten(1) if self.combine == "concatenate" else found.mean(1)

    def _embed(self, pixel_values: Tensor) -> Tensor:
        if self.model.config.model_type == "vit_mae":
            # Without noise in order, the model would shuffle its patches at random.
            patches = (self.model.config.image_size // self.model.config.patch_size) ** 2
            noise = torch.arange(patches, device=pixel_values.device).expand(len(pixel_values), -1).float()
            output = self.model(pixel_values, noise=noise)
        elif self.model.config.model_type == _NAFLEX:
            output = self.model(**self._patches(pixel_values))
        else:
            output = self.model(pixel_values)
        if self.pool == "pooler":
            return torch.as_tensor(output.pooler_output).flatten(1)
        tokens: Tensor = output.last_hidden_state
        if tokens.ndim == 4:  # [cells, width, rows, columns] of a convolutional network
            return tokens.mean((2, 3))
        others = self._other_tokens(tokens.shape[1], pixel_values)
        if self.pool == "mean":
            return tokens[:, others:].mean(1)
        if not others:
            raise ValueError(f"{type(self.model).__name__} has no CLS token: choose pool=pooler or pool=mean")
        return tokens[:, 0]

    def _patches(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Images as SigLIP2 takes them: the pixels of each patch side by side, colours last."""
        patch = self.model.config.patch_size
        cells, rows, columns = len(pixel_values), *(edge // patch for edge in pixel_values.shape[-2:])
        cut = pixel_values.unfold(2, patch, patch).unfold(3, patch, patch)  # [cells, 3, rows, columns, patch, patch]
        return {
            "pixel_values": cut.permute(0, 2, 3, 4, 5, 1).reshape(cells, rows * columns, -1),
            "pixel_attention_mask": torch.ones(cells, rows * columns, dtype=torch.int32, device=pixel_values.device),
            "spatial_shapes": torch.tensor([[rows, columns]] * cells),
        }

    def _other_tokens(self, count: int, pixel_values: Tensor) -> int:
        """Tokens before those of the patches: CLS and registers; none where patches are merged, as in Swin."""
        patch = getattr(self.model.config, "patch_size", None)
        if not isinstance(patch, int):
            raise ValueError(f"{type(self.model).__name__} says no patch size: choose pool=pooler")
        height, width = pixel_values.shape[-2:]
        return max(0, count - (height // patch) * (width // patch))


def build_backbone(spec: EncoderSpec, folder: Path, licence: str) -> Encoder:
    """A vision model of transformers as an encoder.

    Options: `combine=concatenate|average` of the embeddings of the channels; `rgb=RED,GREEN,BLUE` for one pass, each
    the name of a channel or `none`; `pool=pooler|cls|mean`.

    Args:
        spec: What was typed; options that are read here are removed.
        folder: Folder with `config.json`, `preprocessor_config.json` and weights.
        licence: Of the weights; empty: unknown.

    Raises:
        InputError: If the folder is damaged, or an option has no meaning for the model.
    """
    model = load_vision_model(folder)
    settings = read_json(folder / PROCESSOR_FILE, _REMEDY)
    mean, std = settings.get("image_mean"), settings.get("image_std")
    if not _three_numbers(mean) or not _three_numbers(std):
        raise InputError(
            f"{folder / PROCESSOR_FILE} has no image_mean and image_std of three numbers. {_REMEDY} Its inputs cannot "
            "be scaled without them."
        )
    combine = spec.take_choice("combine", _COMBINATIONS)
    pool = spec.take_choice("pool", _POOLS) or ("cls" if model.config.model_type in _CLS else "pooler")
    rgb = spec.take_names("rgb")
    if rgb and (len(rgb) != 3 or "channels" in spec.options or combine != _COMBINATIONS[0]):
        raise InputError(
            f"--model {spec.source}: rgb={','.join(rgb)}, expected the channels for red, green and blue, such as "
            "rgb=red,green,blue, or none for black, and neither channels= nor combine=."
        )
    channels = tuple(dict.fromkeys(name for name in rgb if name != "none"))
    places = [None if name == "none" else channels.index(name) for name in rgb]
    count = getattr(model.config, "num_channels", 3)
    if count != 3:
        raise InputError(f"{folder} takes {count} channels, expected a model of three. Give it as file.py:function.")
    size = _edge(settings, model.config)
    return Encoder(
        name=spec.name or "backbone",
        encode=ChannelBackbone(model, pool, mean, std, places, combine),
        channels=channels,
        input_px=size,
        mask_cells=True,
        licence=licence,
        source=str(folder),
        version=f"{type(model).__name__} {pool} {combine} {','.join(rgb)}",
    )


def load_vision_model(folder: Path) -> Any:
    """Load the vision part of a model of transformers, without any code of the folder.

    Args:
        folder: Its folder.

    Raises:
        InputError: If it is no vision model of this version of transformers, or weights are missing.
    """
    from transformers import AutoConfig, AutoModel

    with explaining(folder / CONFIG_FILE, "Give a vision model, such as facebook/dinov2-base."):
        config = AutoConfig.from_pretrained(folder)
        config = getattr(config, "vision_config", config)
        changes: dict[str, Any] = {"add_pooling_layer": False} if config.model_type in _CLS[:1] + _CLS[2:3] else {}
        if config.model_type == "vit_mae":
            config.mask_ratio = 0.0
        model, info = AutoModel.from_pretrained(
            folder, config=config, output_loading_info=True, dtype=torch.float32, **changes
        )
    if info["missing_keys"] or info["mismatched_keys"]:
        lacking = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
        raise InputError(f"{folder} lacks weights of the model, such as {lacking[0]}. {_REMEDY}")
    check_finite(model.state_dict(), str(folder))
    if not hasattr(model, "config") or "pixel_values" not in getattr(model, "main_input_name", ""):
        raise InputError(f"{folder} holds a {type(model).__name__}, expected a model of images.")
    model.eval()
    return model


def _three_numbers(values: Any) -> bool:
    return isinstance(values, list) and len(values) == 3 and all(isinstance(value, int | float) for value in values)


def _edge(settings: dict[str, Any], config: Any) -> int:
    """Edge of the model's images, as its image processor makes them."""
    sizes = [settings.get("crop_size") if settings.get("do_center_crop", True) else None, settings.get("size")]
    for size in sizes:
        values = [size] if isinstance(size, int) else list(size.values()) if isinstance(size, dict) else []
        if values and isinstance(values[0], int):
            return values[0]
    if config.model_type == _NAFLEX:
        return int(config.patch_size * math.isqrt(settings.get("max_num_patches") or config.num_patches))
    return int(config.image_size)
