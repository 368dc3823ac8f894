"""How a run computes: as asked for, or in the precision and with the library in which this machine is fastest."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from subcell_hf.errors import InputError
from subcell_hf.inference.models.layer_times import (
    DTYPES,
    OPENVINO_WAYS,
    LayerShape,
    LayerTimes,
    time_int8,
    time_layer,
)
from subcell_hf.inference.models.loading import ModelFolder
from subcell_hf.inference.models.openvino_encoder import (
    AUTO_BACKEND,
    OPTIMIZATION_FILE,
    choose_openvino_precision,
    has_openvino,
    read_optimization,
)

AUTO_PRECISION = "auto"
PRECISIONS = (AUTO_PRECISION, *DTYPES)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChosenPrecision:
    """A precision and who computes in it, and why.

    Attributes:
        name: `"fp32"`, `"bf16"` or `"int8"`.
        reason: Half a sentence.
        openvino: OpenVINO's name of the device that computes; None for torch.
    """

    name: str
    reason: str
    openvino: str | None = None

    @property
    def way(self) -> str | None:
        """Name of the way in `LayerTimes`; None where no layer is timed: in int8, and on OpenVINO's other devices."""
        if self.openvino is None:
            return self.name
        ways = {precision: way for way, precision in OPENVINO_WAYS.items()}
        return ways.get(self.name) if self.openvino == "CPU" else None


def choose_precision(
    asked: str,
    models: Sequence[ModelFolder],
    device: torch.device,
    *,
    backend: str = "torch",
    openvino: str | None = None,
) -> ChosenPrecision:
    """Choose how models are computed: by default in the way that is fastest on the device, as measured.

    OpenVINO is chosen only where precision and backend are both `"auto"` and it is installed: in float if it is faster
    than torch, in int8 if `subcell optimize` wrote all models, their figures meet its default limits, and it is faster
    than every float.

    Args:
        asked: `"auto"`, `"fp32"` or `"bf16"`; on OpenVINO also `"int8"`.
        models: The models of a run; of several, the one with the largest layers is measured.
        device: The device to work on.
        backend: `"auto"` or `"torch"`.
        openvino: OpenVINO's name of a device that was asked for.

    Returns:
        The precision.

    Raises:
        InputError: If the name is unknown, or an int8 model is missing or damaged.
    """
    if openvino is not None:
        folders = {model.name: model.folder for model in models}
        return ChosenPrecision(choose_openvino_precision(asked, folders), f"OpenVINO on {openvino}", openvino)
    check_precision(asked)
    if asked != AUTO_PRECISION:
        return ChosenPrecision(asked, "as asked for")
    model = min(models, key=lambda model: LayerShape.of_model(model).cpu_batch)
    times = time_layer(LayerShape.of_model(model), device)
    if backend != AUTO_BACKEND or device.type != "cpu" or not has_openvino():
        return ChosenPrecision(times.fastest_of(name for name in DTYPES if name in times.seconds), times.explain())
    # Layers of other families are not those that are timed; separate channel tokens do not run on OpenVINO.
    separate = any(model.config.get("channel_tokens") == "separate" for model in models)
    own = not separate and not any(model.config.get("backbone_config") for model in models)
    way = times.fastest if own else times.fastest_of(name for name in DTYPES if name in times.seconds)
    if all((model.folder / OPTIMIZATION_FILE).is_file() for model in models):
        chosen = _choose_int8(models, model, times, way)
        if chosen is not None:
            return chosen
    return ChosenPrecision(OPENVINO_WAYS.get(way, way), times.explain(), "CPU" if way in OPENVINO_WAYS else None)


def choose_int8(model: ModelFolder, device: torch.device) -> ChosenPrecision | None:
    """Choose int8 for a model that answers single requests, if it is there, accurate, and faster than every float.

    Args:
        model: The model.
        device: The device to work on.

    Returns:
        The precision; None for the float model on torch.

    Raises:
        InputError: If the int8 model is missing or damaged.
    """
    if device.type != "cpu" or not has_openvino() or not (model.folder / OPTIMIZATION_FILE).is_file():
        return None
    chosen = choose_precision(AUTO_PRECISION, [model], device, backend=AUTO_BACKEND)
    return chosen if chosen.name == "int8" else None


def _choose_int8(
    models: Sequence[ModelFolder], model: ModelFolder, times: LayerTimes, way: str
) -> ChosenPrecision | None:
    """Int8, if the figures of all models meet the default limits, and one model is faster in it than in float."""
    for each in models:
        if unmet := read_optimization(each.folder)["below_default_limits"]:
            _logger.info(
                "%s was written with lower limits (%s): --engine-backend openvino takes its int8 model nevertheless.",
                each.name,
                "; ".join(unmet),
            )
            return None
    spent, exact = time_int8(model), times.seconds[way] * times.shape.num_hidden_layers / times.images
    if spent >= 0.95 * exact:
        return None
    reason = f"as `subcell optimize` wrote it, {1e3 * spent:.3g} ms per image, in {way} at least {1e3 * exact:.3g}"
    return ChosenPrecision("int8", reason, "CPU")


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
