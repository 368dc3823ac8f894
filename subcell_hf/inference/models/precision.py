"""The precision of a run: as asked for, or the one in which this machine is fastest."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from subcell_hf.errors import InputError
from subcell_hf.inference.models.layer_times import DTYPES, LayerShape, time_layer
from subcell_hf.inference.models.loading import ModelFolder

AUTO_PRECISION = "auto"
PRECISIONS = (AUTO_PRECISION, *DTYPES)


@dataclass(frozen=True)
class ChosenPrecision:
    """A precision, and why.

    Attributes:
        name: `"fp32"` or `"bf16"`.
        reason: Half a sentence.
    """

    name: str
    reason: str


def choose_precision(asked: str, models: Sequence[ModelFolder], device: torch.device) -> ChosenPrecision:
    """Choose the precision of models: by default the one in which the device is fastest, as measured.

    Args:
        asked: `"auto"`, `"fp32"` or `"bf16"`.
        models: The models of a run; of several, the one with the largest layers is measured.
        device: The device to work on.

    Returns:
        The precision.

    Raises:
        InputError: If the name is unknown.
    """
    check_precision(asked)
    if asked != AUTO_PRECISION:
        return ChosenPrecision(asked, "as asked for")
    times = time_layer(min(map(LayerShape.of_model, models), key=lambda shape: shape.cpu_batch), device)
    return ChosenPrecision(times.fastest, times.explain())


def choose_batch_size(models: Sequence[ModelFolder], device: torch.device) -> int:
    """Images of a forward pass on a CPU, as measured; of several models, for the one with the largest layers.

    Args:
        models: The models of a run.
        device: The device to work on; another one than a CPU is not measured.
    """
    shape = min(map(LayerShape.of_model, models), key=lambda shape: shape.cpu_batch)
    return time_layer(shape, device).batch_size if device.type == "cpu" else shape.cpu_batch


def check_precision(asked: str) -> None:
    """Refuse an unknown precision.

    Args:
        asked: `"auto"`, `"fp32"` or `"bf16"`.

    Raises:
        InputError: If it is none of these.
    """
    if asked == "int8":
        raise InputError("The precision int8 needs OpenVINO: choose --engine-backend openvino.")
    if asked not in PRECISIONS:
        raise InputError(f"Unknown precision {asked!r}: choose one of {', '.join(PRECISIONS)}.")
