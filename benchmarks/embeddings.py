"""Embeddings of crops, as a benchmark of frozen features needs them."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from subcell_hf.augmentation.presets import load_preset
from subcell_hf.augmentation.views import ViewMaker
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.types import CropBatch

Floats = npt.NDArray[np.float32]


@torch.no_grad()
def embed(
    model: SubCellModel, scaling: str, pixels: npt.NDArray[Any], masks: npt.NDArray[np.bool_], orientations: int = 1
) -> Floats:
    """Embeddings of crops without their surroundings, scaled as in training.

    Args:
        model: The model.
        scaling: Of its image processor.
        pixels: `[cells, channels, height, width]`.
        masks: `[cells, height, width]`.
        orientations: 4: mean over the right-angle turns of each crop; 8: and over their mirror images.

    Returns:
        `[cells, width]`.
    """
    views = load_preset("validation").with_size(model.config.image_height_width[0])
    maker = ViewMaker(replace(views, scaling=scaling))
    model.eval()
    found = []
    for start in range(0, len(pixels), 128):
        part = slice(start, start + 128)
        cells = len(pixels[part])
        pictures, inside = torch.from_numpy(np.ascontiguousarray(pixels[part])), torch.from_numpy(masks[part])
        crops = CropBatch(
            pixels=pictures, cell_masks=inside, antibodies=torch.zeros(cells, dtype=torch.int64),
            locations=torch.zeros(cells, 1),
        )  # fmt: skip
        view = maker(crops, model.config.channels, torch.Generator().manual_seed(0))["pixel_values"][:, 0]
        mirrored = [view, view.flip(-1)]
        turned = [mirrored[number // 4].rot90(number % 4, (-2, -1)) for number in range(orientations)]
        found.append(np.mean([model(seen).pooler_output.numpy() for seen in turned], axis=0))
    return np.concatenate(found)
