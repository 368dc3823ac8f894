"""Views as a picture, to be judged by eye before a training run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from subcell_hf.augmentation.presets import AugmentationSettings
from subcell_hf.augmentation.views import ViewMaker
from subcell_hf.ontology import CHANNEL_DISPLAY_RGB
from subcell_hf.types import CropBatch

_OTHER_RGB = ((1.0, 0.0, 1.0), (0.0, 1.0, 1.0), (0.7, 0.7, 0.7), (1.0, 0.5, 0.0))
"""Colours of channels that are not SubCell's, in their order."""

_TILE_PX = 224
_GAP_PX = 4
_CAPTION_PX = 18


def picture_views(
    crops: CropBatch,
    channels: Sequence[str],
    settings: AugmentationSettings,
    generator: torch.Generator,
    gamma: float = 0.7,
) -> npt.NDArray[Any]:
    """Draw every cell's crop and, to the right of it, its views; the cell mask as a white line.

    Args:
        crops: Cells on the CPU, one row of the picture each.
        channels: Colour name of each channel.
        settings: How views are made.
        generator: Source of randomness.
        gamma: Exponent of the displayed intensities; below 1 shows faint structures.

    Returns:
        [height, width, (red, green, blue)] uint8.

    Raises:
        InputError: If crops and channels do not agree.
    """
    plain = ViewMaker({"views": [{"mask_probability": 0.0}], "size_px": settings.size_px, "scaling": settings.scaling})
    before = plain(crops, channels, torch.Generator())
    after = ViewMaker(settings)(crops, channels, generator)
    pixels = torch.cat([before["pixel_values"], after["pixel_values"]], dim=1)
    cell_masks = torch.cat([before["cell_masks"], after["cell_masks"]], dim=1)
    tiles = [
        [_tile(*pair, channels, gamma) for pair in zip(*row, strict=True)]
        for row in zip(pixels, cell_masks, strict=True)
    ]
    captions = ["crop", *(f"view {number}" for number in range(1, after["pixel_values"].shape[1] + 1))]
    return _lay_out(tiles, captions)


def compose_colours(pixels: Tensor, channels: Sequence[str], gamma: float = 0.7) -> Tensor:
    """Add up channels in their display colours.

    Args:
        pixels: [channels, height, width] floating point, intensities from 0 to 1; what lies outside is cut off.
        channels: Colour name of each channel.
        gamma: Exponent of the displayed intensities; below 1 shows faint structures.

    Returns:
        [height, width, (red, green, blue)] float32 from 0 to 1.
    """
    others = iter(_OTHER_RGB * len(channels))
    colours = torch.tensor([CHANNEL_DISPLAY_RGB.get(name) or next(others) for name in channels])
    return torch.einsum("chw,ck->hwk", pixels.float().clamp(0, 1) ** gamma, colours).clamp(0, 1)


def _tile(pixels: Tensor, cell_mask: Tensor, channels: Sequence[str], gamma: float) -> npt.NDArray[Any]:
    """One view in colour: [tile, tile, 3] uint8."""
    size = (_TILE_PX, _TILE_PX)
    pixels = F.interpolate(pixels[None].clamp(0, 1), size=size, mode="bilinear", antialias=True)[0]
    mask = F.interpolate(cell_mask[None, None].float(), size=size, mode="nearest-exact")[0]
    composite = compose_colours(pixels, channels, gamma)
    outline = F.max_pool2d(mask, 3, stride=1, padding=1)[0] != mask[0]
    composite[outline] = 1.0
    return (composite * 255).round().to(torch.uint8).numpy()


def _lay_out(tiles: Sequence[Sequence[npt.NDArray[Any]]], captions: Sequence[str]) -> npt.NDArray[Any]:
    """Put rows of tiles under a line of captions."""
    step = _TILE_PX + _GAP_PX
    size = (len(captions) * step - _GAP_PX, _CAPTION_PX + len(tiles) * step - _GAP_PX)
    sheet = Image.new("RGB", size, "black")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for column, caption in enumerate(captions):
        pen.text((column * step + _GAP_PX, _GAP_PX), caption, fill="white", font=font)
    for row, line in enumerate(tiles):
        for column, tile in enumerate(line):
            sheet.paste(Image.fromarray(tile), (column * step, _CAPTION_PX + row * step))
    return np.asarray(sheet)
