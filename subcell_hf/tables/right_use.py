"""Whether a run used its models as they were trained: at their pixel size, with their window and masking."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_COARSER = 1.5
"""Pixels of images may be so many times as large as the model's before details are missing that it was trained on."""

_OTHER_WINDOW = 1.05


@dataclass(frozen=True)
class ModelUse:
    """How a run used one model.

    Attributes:
        model: Name of the model.
        trained_pixel_um: Edge of a pixel in training, in micrometres; None: any.
        image_pixel_um: Edge of the largest pixels of the images; None: unknown.
        trained_window_um: Edge of the window around a cell in training; None: any.
        window_um: Edge of the window of this run; None: crops as they were given.
        trained_masked: Whether surroundings were masked in training.
        masked: Whether they are in this run.
    """

    model: str
    trained_pixel_um: float | None
    image_pixel_um: float | None
    trained_window_um: float | None
    window_um: float | None
    trained_masked: bool
    masked: bool

    def deviations(self) -> list[str]:
        """What differs from training, one sentence each; empty for a model that is used as it was trained."""
        found = []
        pixels = self.trained_pixel_um, self.image_pixel_um
        if pixels[0] and pixels[1] and pixels[1] > _COARSER * pixels[0]:
            found.append(
                f"{self.model} was trained with pixels of {pixels[0]:.3g} um, and images have pixels of "
                f"{pixels[1]:.3g} um: they are enlarged and lack details that it was trained on"
            )
        trained, used = self.trained_window_um, self.window_um
        if trained and used and max(trained, used) > _OTHER_WINDOW * min(trained, used):
            found.append(
                f"{self.model} was trained with a window of {trained:.3g} um around a cell, and this run uses "
                f"{used:.3g} um"
            )
        if self.trained_masked != self.masked:
            how = ("with", "without")
            found.append(
                f"{self.model} was trained {how[self.trained_masked]} the surroundings of the cell, and this run is "
                f"{how[self.masked]} them"
            )
        return found


def uses_of(run: Mapping[str, Any]) -> list[ModelUse]:
    """How a run used its models, as far as it was recorded.

    Args:
        run: Content of `run.json`; runs of earlier versions do not record how models were trained.
    """
    sizes = [size["pixel_size_um"] for size in run.get("pixel_sizes", ()) if size.get("from") != "model"]
    known = [float(size) for size in sizes if isinstance(size, int | float)]
    uses = []
    for model in run.get("models", ()):
        trained = model.get("trained") if isinstance(model, Mapping) else None
        if not isinstance(trained, Mapping):
            continue
        pixel_um, crop_px = trained["pixel_size_um"], trained["crop_px"]
        uses.append(
            ModelUse(
                model=str(model["name"]),
                trained_pixel_um=pixel_um,
                image_pixel_um=max(known, default=None),
                trained_window_um=crop_px * pixel_um if crop_px and pixel_um else None,
                window_um=model["crop_px"] * model["pixel_size_um"] if model["crop_px"] else None,
                trained_masked=trained["mask_cells"],
                masked=model["processor"]["do_mask"],
            )
        )
    return uses
