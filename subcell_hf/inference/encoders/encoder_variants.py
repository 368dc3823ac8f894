"""Encoders as far as reading and cropping need to know them; imported by processes that only read, without torch."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from subcell_hf.cells.single_cells import CropSettings
from subcell_hf.inference.models.variants import Variant

if TYPE_CHECKING:
    from subcell_hf.inference.encoders.encoder import Encoder
    from subcell_hf.inference.encoders.preparation import Preparation

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
    def of(cls, encoder: "Encoder", crop_px: int | None = None, mask_cells: bool | None = None) -> "EncoderVariant":
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
        from subcell_hf.inference.encoders.preparation import Preparation

        return Preparation(self.processor(), self.scaling, self.takes_masks, self.resized_px)


@dataclass(frozen=True)
class AnyChannels(Variant):
    """A model that takes all channels of the images at hand, to find out which those are."""

    def with_channels_of(self, present: Collection[str]) -> "AnyChannels":
        """The same with these channels."""
        return replace(self, channels=tuple(present))
