"""The random numbers of a training step that are handed to the model: hidden patches and random directions."""

from typing import NotRequired, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from subcell_hf.model.configuration_subcell import SubCellConfig

_MODEL_STREAM = 0x5DEECE66D
"""Keeps these numbers apart from those of the views, which have the same seed."""


class ModelNoise(TypedDict):
    """Arguments of `SubCellForPreTraining.forward` of the same names; what a model does not use is left out."""

    noise: NotRequired[Tensor]  # [cells, views, patches] in [0, 1), or of every channel: which the student does not see
    teacher_noise: NotRequired[Tensor]  # the same for the teacher
    centroid_noise: NotRequired[Tensor]  # [antibodies, projection_size], unit vectors


def draw_noise(
    config: SubCellConfig,
    pixel_values: Tensor,
    seed: int,
    *,
    antibodies: int,
    first_cell: int = 0,
    global_cells: int | None = None,
) -> ModelNoise:
    """Draw the noise of a batch on its device, from a separate generator.

    All processes draw for the global batch and each takes its part, as views are drawn. So the numbers depend on the
    batch alone: they are the same after a resume, and for any number of processes.

    Args:
        config: Says what is hidden, and from whom.
        pixel_values: `[cells, views, channels, height, width]`, the views of this process; their values do not matter.
        seed: Of the global batch.
        antibodies: At least as many as the global batch has.
        first_cell: Position of the first of these cells in the global batch.
        global_cells: Cells of the global batch; None: there are no others.
    """
    cells, views, channels, height, width = pixel_values.shape
    device = pixel_values.device
    generator = torch.Generator(device).manual_seed(seed ^ _MODEL_STREAM)
    everything = [cells if global_cells is None else global_cells, views]
    tokens = channels if config.channel_masking == "apart" else 1  # of a place, that are hidden by themselves
    everything.append(tokens * (height // config.patch_size) * (width // config.patch_size))
    found = ModelNoise()
    taught = bool(config.protein_centroid_weight) and views == 2
    if config.mask_ratio or config.context_mask_ratio:
        # In float32, whatever the default dtype: in 16 bits many patches would draw the same number.
        drawn = torch.rand(everything, generator=generator, device=device, dtype=torch.float32)
        found["noise"] = drawn[first_cell : first_cell + cells]
        if taught:
            drawn = torch.rand(everything, generator=generator, device=device, dtype=torch.float32)
            found["teacher_noise"] = drawn[first_cell : first_cell + cells]
    if taught and config.centroid_noise_weight:
        size = config.embedding_size if config.projection_type == "none" else config.projection_size
        directions = torch.randn(antibodies, size, generator=generator, device=device, dtype=torch.float32)
        found["centroid_noise"] = F.normalize(directions, dim=-1)
    return found
