"""Which model embeds a cell, and what it has to be given."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from subcell_hf.cells.single_cells import CropSettings
from subcell_hf.images.files import FieldError
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.ontology import PUBLISHED_PIXEL_SIZE_UM

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
        settings: Of the image processor, as `preprocessor_config.json` has them.
    """

    name: str
    channels: tuple[str, ...]
    proteins: tuple[str, ...] = ()
    crop_px: int | None = None
    pixel_size_um: float = PUBLISHED_PIXEL_SIZE_UM
    patch_px: int = 1
    settings: dict[str, Any] = field(default_factory=dict)

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

    def processor(self, **changes: Any) -> SubCellImageProcessor:
        """The model's image processor, for windows of `crop_px`."""
        settings = dict(self.settings)
        if self.crop_px is not None and not settings.get("do_resize"):
            settings |= {"size": self.crop_px, "do_center_crop": True}
        return SubCellImageProcessor(**{**settings, **changes})

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

    Raises:
        FieldError: If none fits, naming what the nearest one lacks.
    """
    for variant in variants:
        if set(variant.planes) <= set(present):
            return variant
    nearest = min(variants, key=lambda variant: len(set(variant.planes) - set(present)))
    missing = [name for name in nearest.planes if name not in present]
    raise FieldError(
        f"channel {', '.join(missing)} is missing: found {', '.join(present) or 'none'}, expected "
        f"{', '.join(nearest.planes)} for the model {nearest.name}. Add the file, map another name to it "
        "(--channel-mapping), or choose a model with fewer channels."
    )
