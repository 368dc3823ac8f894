"""Measured features as encoders, which need no training: classical features, and those of CellProfiler."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from subcell_hf.cells.cell_features import measure_cell
from subcell_hf.errors import InputError
from subcell_hf.inference.encoders.encoder import Encoder
from subcell_hf.inference.encoders.specs import EncoderSpec
from subcell_hf.ontology import PUBLISHED_PIXEL_SIZE_UM

_EDGE_PX = 448
_UNDEFINED = "NormalizedMoment_0_0", "NormalizedMoment_0_1", "NormalizedMoment_1_0"
"""Measures of cp_measure that have no value, whatever the cell."""


def build_features(spec: EncoderSpec) -> Encoder:
    """The classical features of `subcell baselines`, measured in SubCell's window.

    Args:
        spec: What was typed.
    """

    def encode(images: Tensor, cell_masks: Tensor, channels: Sequence[str]) -> Tensor:
        cells = zip(images.cpu().numpy(), cell_masks.cpu().numpy(), strict=True)
        rows = [list(measure_cell(crop, inside, channels).values()) for crop, inside in cells]
        return torch.from_numpy(np.array(rows, np.float32))

    return _encoder(spec.name or "features", encode, licence="MIT", revision="1")


def build_cellprofiler(spec: EncoderSpec) -> Encoder:
    """CellProfiler's features of the whole cell, as the library cp_measure computes them, without Costes' correlation.

    That correlation has no value in many cells.

    Args:
        spec: What was typed.

    Raises:
        InputError: If cp_measure is not installed.
    """
    if find_spec("cp_measure") is None:
        raise InputError(
            "The encoder cellprofiler needs cp_measure, which is not installed. Install it with: "
            "pip install 'subcell-hf[cellprofiler]'"
        )

    def encode(images: Tensor, cell_masks: Tensor, channels: Sequence[str]) -> Tensor:
        from cp_measure.featurizer import featurize, make_featurizer_config

        config = make_featurizer_config(list(channels), objects=["cell"], correlation_costes=False)
        labels = cell_masks[:, None].cpu().numpy().astype(np.int32)  # [cells, objects, height, width]
        values, names, rows = featurize(images.cpu().numpy(), labels, config)
        if [row[0] for row in rows] != list(range(len(images))):
            raise ValueError(f"cp_measure measured {len(rows)} objects in {len(images)} cells")
        kept = [number for number, name in enumerate(names) if not name.startswith(_UNDEFINED)]
        return torch.from_numpy(np.asarray(values, np.float32)[:, kept])

    return _encoder(spec.name or "cellprofiler", encode, licence="MIT", revision=version("cp_measure"))


def _encoder(name: str, encode: Callable[..., Tensor], licence: str, revision: str) -> Encoder:
    """An encoder that measures cells, with their surroundings, at SubCell's scale."""
    return Encoder(
        name=name,
        encode=encode,
        pixel_size_um=2 * PUBLISHED_PIXEL_SIZE_UM,
        input_px=_EDGE_PX,
        scaling="intensity",
        mask_cells=False,
        takes_masks=True,
        licence=licence,
        version=revision,
    )
