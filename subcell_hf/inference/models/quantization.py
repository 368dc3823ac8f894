"""Int8 by post-training quantization: weights per channel and activations, after SmoothQuant, with NNCF."""

import logging
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from torch import Tensor

from subcell_hf.inference.models.openvino_encoder import compile_graph, openvino_core

FLOAT_LAYERS = (".*patch_embeddings.*",)
"""Names of converted layers that stay in float: they take a hundredth of the time."""

FLOAT_OPERATIONS = ("ScaledDotProductAttention",)
"""Kinds of operations that stay in float: in int8, attention is not faster and less accurate."""

SMOOTHING = 0.5
"""How much of the activations' range SmoothQuant moves into the weights: the exponent of its source. NNCF's own default
of 0.95 suits no trained model that was measured (docs/speed-cpu.md)."""

_TIMED_ROUNDS = 3


def quantize_encoder(graph: Any, images: Sequence[Tensor]) -> Any:
    """Quantize a converted encoder.

    Args:
        graph: `openvino.Model` of `convert_encoder`.
        images: Cells to calibrate on, each `[1, channels, height, width]` float32.

    Returns:
        `openvino.Model` with the same inputs and outputs.

    Source: SmoothQuant (Xiao et al., ICML 2023) and fast bias correction, as NNCF does both.
    """
    openvino_core()  # before NNCF, whose own cores end
    kind = logging.getLoggerClass()
    import nncf

    logging.setLoggerClass(kind)  # NNCF makes its own that of all later loggers
    logging.getLogger("nncf").setLevel(logging.ERROR)
    inputs = [{"pixel_values": image.numpy()} for image in images]
    with redirect_stdout(sys.stderr):  # NNCF shows how far it is
        return nncf.quantize(
            graph,
            nncf.Dataset(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=SMOOTHING)
            ),
            subset_size=len(inputs),
            ignored_scope=nncf.IgnoredScope(patterns=[*FLOAT_LAYERS], types=[*FLOAT_OPERATIONS], validate=False),
        )


def choose_float_precision(graph: Any, image: Tensor, device: str = "CPU") -> str:
    """Choose the precision of what stays in float, attention above all, by measuring.

    Args:
        graph: Quantized `openvino.Model`.
        image: One cell, `[1, channels, height, width]` float32.
        device: OpenVINO's name of the device.

    Returns:
        `"bf16"` if the device has it and is faster with it, else `"fp32"`.
    """
    if "BF16" not in openvino_core().get_property(device, "OPTIMIZATION_CAPABILITIES"):
        return "fp32"
    ways = {name: compile_graph(graph, device, name) for name in ("fp32", "bf16")}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + _TIMED_ROUNDS):
        for name, run in ways.items():
            started = time.perf_counter()
            run({0: image.numpy()})
            times[name].append(time.perf_counter() - started)
    return min(times, key=lambda name: min(times[name][1:]))
