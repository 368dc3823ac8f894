"""Crops of one kind, all at once: multiplied by their masks, brought to the model's size, scaled."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["fit_crops", "scale_min_max", "stack_crops"]

LARGEST_INTENSITY = 1e37  # differences of such numbers still fit into float32

Settings = dict[str, Any]


def scale_min_max(pixels: Tensor, normalize: str = "image") -> Tensor:
    """`(x - min) / (max - min + 1e-6)` per crop or per channel; a constant image becomes zeros.

    Args:
        pixels: `[..., channels, height, width]` float.
        normalize: `"image"`: minimum and maximum over channels, height and width; `"channel"`: per channel.

    Returns:
        Values from 0 to 1, of the shape and dtype of `pixels`.
    """
    axes = (-2, -1) if normalize == "channel" else (-3, -2, -1)
    low = pixels.amin(dim=axes, keepdim=True)
    high = pixels.amax(dim=axes, keepdim=True)
    return (pixels - low).div_(high - low + 1e-6)


def stack_crops(
    crops: list[Tensor], masks: list[Tensor] | None, members: list[int], settings: Settings
) -> tuple[Tensor, Tensor | None]:
    """Crops of one kind, checked and masked, float32 `[crops, planes, height, width]` and their masks."""
    stacked = torch.stack([crops[index] for index in members])
    pixels = stacked.to(device=settings["device"]).float()
    if stacked.is_floating_point():
        finite = pixels.abs().amax(dim=(1, 2, 3)) <= LARGEST_INTENSITY  # NaN compares as False and is found too
        _require_all(finite, members, "Image {} holds NaN, infinite or gigantic values; expected finite ones.")
    if masks is None:
        return pixels, None
    inside = torch.stack([masks[index].float() for index in members])[:, None].to(pixels.device)
    binary = ((inside == 0) | (inside == 1)).flatten(1).all(dim=1)
    _require_all(binary, members, "Cell mask {} holds other values than 0 and 1; expected one cell's: labels == label.")
    _require_all(inside.amax(dim=(1, 2, 3)) > 0, members, "Cell mask {} is 0 everywhere; expected 1 inside the cell.")
    return pixels * inside if settings["do_mask"] else pixels, inside


def _require_all(sound: Tensor, members: list[int], message: str) -> None:
    if not bool(sound.all()):
        raise ValueError(message.format(members[int(sound.int().argmin())]))


def fit_crops(pixels: Tensor, inside: Tensor | None, factor: float, settings: Settings) -> tuple[Tensor, Tensor | None]:
    """Bring crops and masks to the model's pixel size and `size`; the pixel at `edge // 2` stays in the centre."""
    height, width = pixels.shape[-2:]
    size = settings["size"]["height"], settings["size"]["width"]
    target = size if settings["do_resize"] else (max(1, round(height * factor)), max(1, round(width * factor)))
    if target != (height, width):
        pixels = F.interpolate(pixels, target, mode="bilinear", align_corners=False, antialias=True)
        inside = None if inside is None else F.interpolate(inside, target, mode="nearest-exact")
    border: list[int] = []  # left, right, top, bottom; what is negative is cut
    for got, wanted in ((target[1], size[1]), (target[0], size[0])):
        changed = settings["do_center_crop"] if got > wanted else settings["do_pad"]
        before = wanted // 2 - got // 2
        border += [before, wanted - got - before] if changed else [0, 0]
    if any(border):
        pixels, inside = F.pad(pixels, border), None if inside is None else F.pad(inside, border)
    return pixels, inside
