"""Cells as an encoder expects them: channels, window, pixel size, masking and scaling, all of them here."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from subcell_hf.cells.single_cells import CropSettings
from subcell_hf.inference.encoders.encoder import Encoder
from subcell_hf.inference.models.variants import Variant
from subcell_hf.model.scaling_subcell import scale_min_max

WINDOW = CropSettings()
"""The window around a cell of encoders that were trained at no pixel size: that of SubCell's training data."""


@dataclass(frozen=True)
class EncoderVariant(Variant):
    """An encoder, as far as reading and cropping need to know it.

    Attributes:
        scaling: See `Encoder.scaling`.
        takes_masks: Whether the masks are handed over as the last plane.
        resized_px: Edge that the window is resized to; None: it keeps its size.
    """

    scaling: str = "channel"
    takes_masks: bool = False
    resized_px: int | None = None

    @classmethod
    def of(cls, encoder: Encoder, crop_px: int | None = None, mask_cells: bool | None = None) -> "EncoderVariant":
        """How cells are cut and prepared for an encoder.

        Args:
            encoder: The encoder.
            crop_px: Edge of the window, in pixels of the encoder; None: its own. An encoder with pixel size and
                `input_px` keeps its own window.
            mask_cells: Whether surroundings are set to 0; None: as the encoder says.
        """
        pixel_size_um = encoder.pixel_size_um or WINDOW.output_pixel_size_um
        own_px = encoder.input_px if encoder.pixel_size_um else None
        window_px = own_px or crop_px or WINDOW.output_px
        settings = {
            "channels": list(encoder.channels),
            "size": window_px,
            "pixel_size_um": pixel_size_um,
            "do_resize": False,
            "do_center_crop": True,
            "do_pad": True,
            "do_normalize": False,
            "do_mask": encoder.mask_cells if mask_cells is None else mask_cells,
            "normalize": "channel",
        }
        return cls(
            name=encoder.name,
            channels=encoder.channels,
            crop_px=window_px,
            pixel_size_um=pixel_size_um,
            settings=settings,
            scaling=encoder.scaling,
            takes_masks=encoder.takes_masks,
            resized_px=None if own_px else encoder.input_px,
        )

    def for_given_crops(self) -> "EncoderVariant":
        """The variant for single cells that somebody else has cropped: its window is the same."""
        return self

    def preparation(self) -> "Preparation":
        """What prepares batches of cells for the encoder."""
        return Preparation(self, self.processor())


@dataclass(frozen=True)
class AnyChannels(Variant):
    """A model that takes all channels of the images at hand, to find out which those are."""

    def with_channels_of(self, present: Collection[str]) -> "AnyChannels":
        """The same with these channels."""
        return replace(self, channels=tuple(present))


@dataclass(frozen=True)
class Preparation:
    """Prepares cells for an encoder, with SubCell's image processor for all but the scaling.

    Attributes:
        variant: The encoder's.
        processor: Chooses channels, masks, and brings to pixel size and size.
    """

    variant: EncoderVariant
    processor: Any

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
            return_cell_masks=self.variant.takes_masks,
        )
        images, edge = prepared["pixel_values"], self.variant.resized_px
        if edge is not None and images.shape[-2:] != (edge, edge):
            images = F.interpolate(images, (edge, edge), mode="bilinear", align_corners=False, antialias=True)
        if self.variant.scaling in ("channel", "image"):
            images = scale_min_max(images, self.variant.scaling)
        elif self.variant.scaling == "intensity" and not pixels.is_floating_point():
            images = images / torch.iinfo(pixels.dtype).max
        elif self.variant.scaling == "standard":
            mean, spread = images.mean((-2, -1), keepdim=True), images.std((-2, -1), correction=0, keepdim=True)
            images = (images - mean) / (spread + 1e-6)
        if self.variant.takes_masks:
            whole = torch.ones_like(images[:, :1])
            inside = whole if cell_masks is None else prepared["cell_masks"][:, None].to(images)
            images = torch.cat([images, F.interpolate(inside, images.shape[-2:], mode="nearest-exact")], dim=1)
        return {"pixel_values": images}
