"""Cells as an encoder expects them: channels, window, pixel size, masking and scaling, as its variant says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from subcell_hf.model.scaling_subcell import scale_min_max


@dataclass(frozen=True)
class Preparation:
    """Prepares cells for an encoder, with SubCell's image processor for all but the scaling.

    Attributes:
        processor: Chooses channels, masks, and brings to pixel size and size.
        scaling: See `Encoder.scaling`.
        takes_masks: Whether the masks are handed over as the last plane.
        resized_px: Edge that the window is resized to; None: it keeps its size.
    """

    processor: Any
    scaling: str
    takes_masks: bool
    resized_px: int | None

    def __call__(
        self,
        pixels: Tensor,
        *,
        cell_masks: Tensor | None,
        channels: Sequence[str],
        pixel_size_um: float,
        channel_mapping: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """Prepare cells.

        Args:
            pixels: `[cells, planes, height, width]`.
            cell_masks: `[cells, height, width]` bool, or None.
            channels: Names of the planes.
            pixel_size_um: Edge of a pixel.
            channel_mapping: Not used by encoders.

        Returns:
            `pixel_values` float32 `[cells, channels, height, width]`; with `takes_masks` the masks are a last channel.

        Raises:
            ValueError: If the cells cannot be used.
        """
        prepared: Mapping[str, Tensor] = self.processor(
            pixels,
            cell_masks=cell_masks,
            channels=list(channels),
            pixel_size_um=pixel_size_um,
            return_cell_masks=self.takes_masks,
        )
        images, edge = prepared["pixel_values"], self.resized_px
        if edge is not None and images.shape[-2:] != (edge, edge):
            images = F.interpolate(images, (edge, edge), mode="bilinear", align_corners=False, antialias=True)
        if self.scaling in ("channel", "image"):
            images = scale_min_max(images, self.scaling)
        elif self.scaling == "intensity" and not pixels.is_floating_point():
            images = images / torch.iinfo(pixels.dtype).max
        elif self.scaling == "standard":
            mean, spread = images.mean((-2, -1), keepdim=True), images.std((-2, -1), correction=0, keepdim=True)
            images = (images - mean) / (spread + 1e-6)
        if self.takes_masks:
            whole = torch.ones_like(images[:, :1])
            inside = whole if cell_masks is None else prepared["cell_masks"][:, None].to(images)
            images = torch.cat([images, F.interpolate(inside, images.shape[-2:], mode="nearest-exact")], dim=1)
        return {"pixel_values": images}
