"""Measured features as encoders, which need no training: classical features, and those of CellProfiler."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from subcell_hf.cells.cell_features import measure_cell
from subcell_hf.inference.encoders.encoder import Encoder
from subcell_hf.inference.encoders.specs import EncoderSpec
from subcell_hf.ontology import PUBLISHED_PIXEL_SIZE_UM

_EDGE_PX = 448
Cell = Callable[[npt.NDArray[np.float32], npt.NDArray[np.bool_]], Mapping[str, float]]


def _measure(images: Tensor, cell_masks: Tensor, measure: Cell) -> Tensor:
    """Measure every cell."""
    pixels, masks = images.cpu().numpy(), cell_masks.cpu().numpy()
    rows = [list(measure(crop, inside).values()) for crop, inside in zip(pixels, masks, strict=True)]
    return torch.from_numpy(np.array(rows, np.float32))


def build_features(spec: EncoderSpec) -> Encoder:
    """The classical features of `subcell baselines`, measured in SubCell's window.

    Args:
        spec: What was typed.
    """

    def encode(images: Tensor, cell_masks: Tensor, channels: Sequence[str]) -> Tensor:
        return _measure(images, cell_masks, lambda crop, inside: measure_cell(crop, inside, channels))

    return Encoder(
        name=spec.name or "features",
        encode=encode,
        pixel_size_um=2 * PUBLISHED_PIXEL_SIZE_UM,
        input_px=_EDGE_PX,
        scaling="intensity",
        mask_cells=False,
        takes_masks=True,
        licence="MIT",
        version="1",
    )
