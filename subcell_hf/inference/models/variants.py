"""Which model embeds a cell, and what it has to be given.

Processes that only read import this module, so what takes seconds to import, the island, is imported where it is used.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from subcell_hf.cells.single_cells import CropSettings
from subcell_hf.errors import InputError
from subcell_hf.images.files import FieldError
from subcell_hf.ontology import PUBLISHED_PIXEL_SIZE_UM

if TYPE_CHECKING:
    from subcell_hf.model.image_processing_subcell import SubCellImageProcessor

PUBLISHED_CROP_PX = 640
"""Edge of the crops that the published models are documented for, in pixels of 0.0800885 um."""


@dataclass(frozen=True)
class Variant:
    """One model, as far as reading and cropping need to know it; it can be sent to other processes.

    Attributes:
        name: What the column `model` says.
        channels: The model's channels, in order, the protein last.
        proteins: Names of the planes that take the protein's place in turn, one pass each; empty for the model's own.
        crop_px: Edge of the window that the model sees, in pixels of `pixel_size_um`; None: crops keep their size.
        pixel_size_um: Edge of the model's pixel in micrometres.
        patch_px: Height and width of what the model sees must be multiples of it.
        settings: Of the image processor, as `preprocessor_config.json` has them, and of a model with separate channel
            tokens `channels_per_pass`.
    """

    name: str
    channels: tuple[str, ...]
    proteins: tuple[str, ...] = ()
    crop_px: int | None = None
    pixel_size_um: float = PUBLISHED_PIXEL_SIZE_UM
    patch_px: int = 1
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def takes_any_channels(self) -> bool:
        """Whether the model has separate channel tokens; `channels` are then those of the images at hand."""
        return bool(self.settings.get("channel_tokens") == "separate")

    def with_channels_of(self, present: Collection[str]) -> "Variant | None":
        """The model for images with these planes; None if it cannot take them.

        A model with separate channel tokens takes the planes whose names it knows, see `channel_row`.
        """
        if not self.takes_any_channels:
            return self if set(self.planes) <= set(present) else None
        from subcell_hf.model.channels_subcell import channel_row, choose_channels

        trained: Sequence[str] = self.settings["channels"]
        if not set(self.proteins) <= set(present):
            return None
        known = [name for name in present if channel_row(name, trained) is not None and name not in self.proteins]
        if self.proteins:
            known = [*(name for name in known if channel_row(name, trained) != len(trained) - 1), trained[-1]]
        return replace(self, channels=tuple(choose_channels(trained, known, None))) if known else None

    def refuse_unknown(self, names: Sequence[str]) -> None:
        """Refuse names that the user gave to planes if they mean nothing to a model of any channels.

        Raises:
            InputError: If a name is unknown, or there are too many.
        """
        if self.takes_any_channels:
            from subcell_hf.model.channels_subcell import find_rows

            try:
                find_rows([name for name in names if name not in self.proteins], self.settings["channels"])
            except ValueError as error:
                raise InputError(str(error)) from error

    @property
    def planes(self) -> tuple[str, ...]:
        """All required planes."""
        if not self.proteins:
            return self.channels
        return tuple(dict.fromkeys((*self.channels[:-1], *self.proteins)))

    @property
    def channel_mapping(self) -> dict[str, list[str]] | None:
        """For the image processor: which planes take the protein's place."""
        return {self.channels[-1]: list(self.proteins)} if self.proteins else None

    def processor(self, **changes: Any) -> "SubCellImageProcessor":
        """The model's image processor, for windows of `crop_px`."""
        from subcell_hf.model.image_processing_subcell import SubCellImageProcessor

        # Of exactly these channels, whichever the model takes.
        own = ("channel_tokens", "channels_per_pass")
        settings = {name: value for name, value in self.settings.items() if name not in own}
        settings["channels"] = list(self.channels)
        if self.crop_px is not None and not settings.get("do_resize"):
            settings |= {"size": self.crop_px, "do_center_crop": True}
        return SubCellImageProcessor(**{**settings, **changes})

    def preparation(self) -> Callable[..., Mapping[str, Any]]:
        """What prepares batches of cells for the model: scales, masks, and brings to size."""
        return self.processor()

    def crop_settings(self, filters: CropSettings) -> CropSettings:
        """How to cut cells of a field so that the model needs no further resampling.

        Args:
            filters: Which cells are left out; its sizes are replaced.
        """
        output_px = self.crop_px or PUBLISHED_CROP_PX
        # The dilation is given in published pixels, so the window is, too.
        window_px = max(1, round(output_px * self.pixel_size_um / PUBLISHED_PIXEL_SIZE_UM))
        return replace(filters, crop_px=window_px, output_px=output_px, reference_pixel_size_um=PUBLISHED_PIXEL_SIZE_UM)

    def for_given_crops(self) -> "Variant":
        """The variant for single cells that somebody else has cropped: they are taken as the processor alone says."""
        keeps = not self.settings.get("do_center_crop", True) and not self.settings.get("do_resize", False)
        return replace(self, crop_px=None) if keeps else self


def choose_variant(variants: Sequence[Variant], present: Collection[str]) -> Variant:
    """The first variant whose planes are all there; of several, the caller lists the largest first.

    One with separate channel tokens comes with the channels that are there.

    Raises:
        FieldError: If none fits, naming what the nearest one lacks.
    """
    for variant in variants:
        if (chosen := variant.with_channels_of(present)) is not None:
            return chosen
    nearest = min(variants, key=lambda variant: len(set(variant.planes) - set(present)))
    missing = [name for name in nearest.planes if name not in present]
    raise FieldError(
        f"channel {', '.join(missing)} is missing: found {', '.join(present) or 'none'}, expected "
        f"{', '.join(nearest.planes)} for the model {nearest.name}. Add the file, map another name to it "
        "(--channel-mapping), or choose a model with fewer channels."
    )
