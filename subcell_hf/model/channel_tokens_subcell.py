"""Images and their channels on the way into a model: checked, one by one, or in several passes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .configuration_subcell import SubCellConfig

__all__ = ["average_passes", "check_images", "flat_channels", "hide_protein"]


def check_images(
    config: SubCellConfig, pixel_values: Tensor, names: Sequence[str] | None = None, kept_patches: Tensor | None = None
) -> list[int] | None:
    """Refuse what a model cannot embed.

    Args:
        config: Of the model.
        pixel_values: `[batch, channels, height, width]`.
        names: Of their channels; None for the configuration's.
        kept_patches: Those that the encoder is to see; None for all.

    Returns:
        Rows of the channel embeddings; None where channels do not have separate tokens.

    Raises:
        ValueError: If shape, channels, or type is another, patches do not divide the size, or cannot be hidden.
    """
    rows = config.channel_rows(names)
    channels, size = list(config.channels if names is None else names), config.patch_size
    if pixel_values.ndim != 4 or pixel_values.shape[1] != len(channels):
        raise ValueError(
            f"pixel_values have shape {list(pixel_values.shape)}; expected [batch, {len(channels)}, height, width] "
            f"with the channels {', '.join(channels)}. SubCellImageProcessor makes them"
            f"{'' if rows is None else '; name others by channels=[…]'}."
        )
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values are {pixel_values.dtype}; expected scaled floating-point intensities, as "
            "SubCellImageProcessor makes them."
        )
    height, width = pixel_values.shape[-2:]
    if config.backbone_config is None and (height % size or width % size or not height or not width):
        raise ValueError(
            f"pixel_values are {height}×{width} px; height and width must be multiples of the patch size {size}: "
            "crop or pad the images, for example with SubCellImageProcessor(size=…)."
        )
    if kept_patches is not None and not config.separate_patches:
        raise ValueError(
            "kept_patches needs the ViT with its linear patch embedding: convolutions and backbones see every "
            "position. Leave kept_patches out."
        )
    return rows


def average_passes(outputs: Sequence[Any], passes: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Join the outputs of an image whose channels were seen in several passes.

    Args:
        outputs: A `SubCellModelOutput` per pass, without hidden states.
        passes: Positions of the channels of each pass, as `channel_passes` makes them.

    Returns:
        Fields of a `SubCellModelOutput`: the mean of the embeddings, and the tokens of every channel. The maps add up
        to the weights in the mean embedding.
    """
    device = outputs[0].last_hidden_state.device
    # Where the channels, pass by pass, are in the image.
    places = torch.tensor([place for seen in passes for place in seen], device=device).argsort()
    states = [output.last_hidden_state for output in outputs]
    patches = [s[:, 1:].unflatten(1, (len(seen), -1)) for s, seen in zip(states, passes, strict=True)]
    maps = None
    if outputs[0].channel_attentions is not None:
        maps = torch.cat([output.channel_attentions for output in outputs], dim=2)[:, :, places] / len(outputs)
    cls_token = torch.stack([s[:, :1] for s in states]).mean(0)
    return {
        "last_hidden_state": torch.cat([cls_token, torch.cat(patches, dim=1)[:, places].flatten(1, 2)], dim=1),
        "pooler_output": torch.stack([output.pooler_output for output in outputs]).mean(0),
        "pooler_attentions": None if maps is None else maps.sum(2),
        "channel_attentions": maps,
    }


def flat_channels(pixel_values: Tensor) -> Tensor:
    """`[batch, channels, height, width]` → `[batch · channels, 1, height, width]`."""
    return pixel_values.flatten(0, 1)[:, None]


def hide_protein(config: SubCellConfig, pixel_values: Tensor, names: Sequence[str] | None = None) -> Tensor:
    """Images `[batch, channels, height, width]` with 0 in the protein's channel; `names` of the channels in order."""
    rows, protein = config.channel_rows(names), config.num_channels - 1
    if rows is not None and protein not in rows:
        return pixel_values
    hidden = pixel_values.clone()
    hidden[:, protein if rows is None else rows.index(protein)] = 0
    return hidden
