"""Embedding and classifying cells: ours against a plain eager forward, and against what the machine's matmul allows.

    python benchmarks/forward.py [--device cuda] [--size base] [--batch N] [--image-size-px 448] [--no-compile]
    python benchmarks/forward.py --rounds 3 --ways fp32_compiled bf16 bf16_compiled    # torch.compile alone, minutes

The reference is the published way of working: transformers' ViT in fp32, one cell at a time, attentions always
computed, the gated pooling and two classifiers after it. Both sides have the same shapes. Peak is the best rate of a
large square matmul in the same run; the share of it counts the multiplications of the forward, two operations each, and
nothing else. `transformers` is the encoder alone of transformers' ViT, in fp32 with fused attention at our batch.
`auto` is the way that `subcell embed --precision auto` takes here; `peak_memory_bytes` is what a way needs beyond
weights and images. On a CPU also OpenVINO (extra `cpu`): in fp32, in bf16, and in int8 with attention and pooling in
the precision that is faster, quantized on random images; `subcell optimize` judges accuracy, this script does not.
`compiled` is torch.compile, which needs a C++ compiler on a CPU and takes about a minute. A way that fails is named in
`missing_ways` with the reason, and so is one that `--ways` leaves out. On a GPU with float8 `fp8`
computes the linear layers of the transformer in it, weights scaled by output and activations by token.
`cosine_to_fp32` is that of the embeddings, the smallest of the batch; with random weights, which hardly tell images
apart, it says no more than that a way computes the same.
Prints one JSON line; ratio is the best of our rates to the reference.
"""

import argparse
import copy
import ctypes
import json
import platform
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers import ViTConfig, ViTModel

from subcell_hf.inference.models.layer_times import LayerShape, time_layer
from subcell_hf.inference.models.openvino_encoder import OpenVINOEncoder, convert_encoder
from subcell_hf.inference.models.quantization import choose_float_precision, quantize_encoder
from subcell_hf.model.configuration_subcell import SIZES, SubCellConfig
from subcell_hf.model.modeling_subcell import SubCellForImageClassification

Way = tuple[Callable[[], object], int]
"""A forward pass, and the number of its cells."""

MISSING: dict[str, str] = {}
"""Ways that are not measured, and why."""

_NOT_WANTED = "left out by --ways"
_OPTIONAL = (
    "transformers", "bf16", "fp8", "fp32_compiled", "bf16_compiled", "fp8_compiled", "openvino", "openvino_bf16",
    "openvino_int8",
)  # fmt: skip


def build_vit(config: SubCellConfig, device: torch.device, attention: str) -> ViTModel:
    """The ViT of transformers in our shapes."""
    sizes = {**SIZES[arguments.size], "image_size": config.image_size, "num_channels": config.num_channels}
    vit = ViTModel(ViTConfig(**sizes, layer_norm_eps=1e-12), add_pooling_layer=False)
    vit.set_attn_implementation(attention)
    return vit.to(device).eval()


def build_reference(config: SubCellConfig, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """The published forward: eager attention with its probabilities, pooling, two classifiers one after the other."""
    vit = build_vit(config, device, "eager")
    width = config.hidden_size
    value, gate, score = torch.nn.Linear(width, 512), torch.nn.Linear(width, 512), torch.nn.Linear(512, 2)
    pool = torch.nn.ModuleList([value, gate, score]).to(device)
    mlps = [
        torch.nn.Sequential(
            torch.nn.Linear(2 * width, 512), torch.nn.ReLU(), torch.nn.Linear(512, 256), torch.nn.ReLU(),
            torch.nn.Linear(256, 31),
        ).to(device)
        for _ in range(2)
    ]  # fmt: skip

    def forward(images: torch.Tensor) -> torch.Tensor:
        probabilities = []
        for image in images:
            tokens = vit(image[None], output_attentions=True).last_hidden_state
            weights = pool[2](torch.tanh(pool[0](tokens)) * F.gelu(pool[1](tokens))).softmax(1)
            embedding = (weights.transpose(1, 2) @ tokens).flatten(1)
            probabilities.append(torch.stack([mlp(embedding).sigmoid() for mlp in mlps]).mean(0))
        return torch.cat(probabilities)

    return forward


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of one run."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def matmul_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Best rate of a square matmul in operations per second."""
    edge = arguments.peak_edge or (8192 if device.type == "cuda" else 3072)
    left, right = (
        torch.randn(edge, edge, device=device, dtype=dtype),
        torch.randn(edge, edge, device=device, dtype=dtype),
    )
    return 2 * edge**3 / min(seconds(lambda: left @ right, device) for _ in range(8))


def resident(field: str) -> int:
    """Bytes of resident memory of this process, `VmRSS` now or `VmHWM` at most."""
    kilobytes = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 0 if kilobytes is None else int(kilobytes[1]) * 1024


def peak_memory(run: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that a forward pass needs beyond what is held before; None where the system does not say."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    if sys.platform != "linux":
        return None
    ctypes.CDLL(None).malloc_trim(0)  # else it would use what an earlier way has given back
    Path("/proc/self/clear_refs").write_text("5")  # the maximum starts anew
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def why_not_openvino(device: torch.device) -> str:
    """Why OpenVINO is not measured; empty where it is."""
    if device.type != "cpu":
        return "OpenVINO is measured on CPUs"
    installed = find_spec("openvino") is not None and find_spec("nncf") is not None
    return ("" if installed else "subcell-hf[cpu] is not installed") if arguments.openvino else "--no-openvino"


def wanted(way: str) -> bool:
    """Whether a way is measured; what others are compared with always is."""
    return way in ("reference", "fp32") or not arguments.ways or way in arguments.ways


def build_openvino_ways(model: SubCellForImageClassification, images: torch.Tensor) -> dict[str, Way]:
    """Forward passes on OpenVINO, pooling and classifiers included."""
    names = ("openvino", "openvino_bf16", "openvino_int8")
    reason = why_not_openvino(images.device)
    if reason := reason if any(map(wanted, names)) else _NOT_WANTED:
        MISSING.update(dict.fromkeys(names, reason))
        return {}
    graph = convert_encoder(model.subcell)
    quantized = quantize_encoder(graph, [torch.rand_like(images[:1]) for _ in range(arguments.calibration_cells)])
    rest = choose_float_precision(quantized, images[:1])
    encoders = {
        "openvino": OpenVINOEncoder(model.subcell, graph, precision="fp32"),
        "openvino_bf16": OpenVINOEncoder(model.subcell, graph, precision="bf16"),
        "openvino_int8": OpenVINOEncoder(model.subcell, quantized, precision=rest),
    }

    def way(encoder: OpenVINOEncoder) -> Way:
        # OpenVINO packs weights and keeps its buffers from the first run on: this one leaves the latter small.
        encoder(images[:1, :, : 2 * model.config.patch_size, : 3 * model.config.patch_size])
        return (lambda: model.classifier(encoder(images).pooler_output)), len(images)

    return {name: way(encoder) for name, encoder in encoders.items()}


class Float8Linear(torch.nn.Module):
    """A linear layer whose product is computed in float8 (e4m3)."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        weight, self.scale = to_float8(linear.weight)
        self.weight, self.bias = weight, linear.bias.to(torch.bfloat16)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`[..., in]` → `[..., out]` bfloat16."""
        rows, scale = to_float8(features.flatten(0, -2))
        by_row = F.ScalingType.RowWise
        product = F.scaled_mm(rows, self.weight.T, scale, by_row, self.scale.T, by_row, output_dtype=torch.bfloat16)
        return (product + self.bias).unflatten(0, features.shape[:-1])


def to_float8(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in float8, and the scale `[rows, 1]` that they were divided by."""
    largest = torch.finfo(torch.float8_e4m3fn).max
    scale = rows.abs().amax(1, keepdim=True).float().clamp_min(1e-12) / largest
    return (rows / scale).to(torch.float8_e4m3fn), scale


def build_float8(model: SubCellForImageClassification) -> SubCellForImageClassification:
    """A model in bf16, the linear layers of its transformer in float8."""
    model = copy.deepcopy(model)
    for layer in model.subcell.layers:
        for part in (layer.attention, layer.mlp):
            for name, linear in list(part.named_children()):
                if isinstance(linear, torch.nn.Linear):
                    setattr(part, name, Float8Linear(linear))
    return model


def why_not_float8(device: torch.device) -> str:
    """Why float8 cannot be measured; empty where it can."""
    if device.type != "cuda":
        return "float8 is measured on GPUs"
    able = torch.cuda.get_device_capability(device)
    return "" if able >= (8, 9) else f"needs compute capability 8.9, got {able[0]}.{able[1]}"


def why_not_compiled(device: torch.device) -> str:
    """Why torch.compile is not measured; empty where it is."""
    if not arguments.compile:
        return "--no-compile"
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return "torch.compile needs a C++ compiler on CPUs"
    return ""


def build_ways(config: SubCellConfig, images: torch.Tensor) -> tuple[dict[str, Way], int]:
    """Forward passes by name, and the operations of one cell of ours."""
    device = images.device
    model = SubCellForImageClassification(config).eval().to(device)
    half = copy.deepcopy(model).to(torch.bfloat16)
    with FlopCounterMode(display=False) as counter:
        model(images[:1], output_attentions=True)
    reference, vit = build_reference(config, device), build_vit(config, device, "sdpa")
    few = images[: arguments.reference_cells]
    ways: dict[str, Way] = {
        "reference": (lambda: reference(few), len(few)),
        "transformers": (lambda: vit(images), len(images)),
        "fp32": (lambda: model(images), len(images)),
        "bf16": (lambda: half(images.bfloat16()), len(images)),
    }
    variants = {"fp32": model, "bf16": half}
    if not (wanted("fp8") or wanted("fp8_compiled")):
        MISSING["fp8"] = _NOT_WANTED
    elif reason := why_not_float8(device):
        MISSING["fp8"] = reason
    else:
        variants["fp8"] = build_float8(half)
        ways["fp8"] = (lambda: variants["fp8"](images.bfloat16()), len(images))
    for name, variant in variants.items():
        if reason := why_not_compiled(device) if wanted(f"{name}_compiled") else _NOT_WANTED:
            MISSING[f"{name}_compiled"] = reason
            continue
        compiled, inputs = torch.compile(variant), images if name == "fp32" else images.bfloat16()
        ways[f"{name}_compiled"] = ((lambda run=compiled, inputs=inputs: run(inputs)), len(images))
    ways |= build_openvino_ways(model, images)
    MISSING.update({name: _NOT_WANTED for name in ways if not wanted(name)})
    return {name: way for name, way in ways.items() if wanted(name)}, counter.get_total_flops()


def warm_up(ways: dict[str, Way], device: torch.device) -> tuple[dict[str, int | None], dict[str, float]]:
    """Bytes that each way needs, and the smallest cosine of its embeddings to those in fp32, where it returns them.

    A way that fails, for example because a compiler or memory is missing, is taken out.
    """
    memory: dict[str, int | None] = {}
    embeddings: dict[str, torch.Tensor] = {}
    for name, (run, _) in list(ways.items()):
        try:
            started = time.perf_counter()
            if not name.startswith("openvino"):  # which keeps what it needed in the first run
                output = run()
                if name != "transformers" and hasattr(output, "pooler_output"):
                    embeddings[name] = output.pooler_output.float()
                del output
            memory[name] = peak_memory(run, device)
            print(f"{name}: first runs {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
        except (RuntimeError, ImportError, AttributeError, TypeError, ValueError) as error:
            if name in ("reference", "fp32"):
                raise
            MISSING[name] = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
            del ways[name]
    exact = embeddings["fp32"]
    cosine = {name: float(F.cosine_similarity(found, exact).min()) for name, found in embeddings.items()}
    return memory, {name: round(value, 6) for name, value in cosine.items() if name != "fp32"}


@torch.inference_mode()
def main() -> None:
    """Measure every way in turn, round by round, so that all meet the same machine."""
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    config = SubCellConfig.from_size(arguments.size, image_size=arguments.image_size_px, classifier_ensemble_size=2)
    images = torch.rand(arguments.batch, config.num_channels, *config.image_height_width, device=device)
    ways, operations = build_ways(config, images)
    memory, cosine = warm_up(ways, device)
    auto = time_layer(LayerShape.of_config(config), device, again=True)
    times: dict[str, list[float]] = {name: [] for name in ways}
    processor_times: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(arguments.rounds):
        peaks["fp32"].append(matmul_peak(torch.float32, device))
        peaks["bf16"].append(matmul_peak(torch.bfloat16, device))
        for name, (run, _) in ways.items():
            started = time.process_time()
            times[name].append(seconds(run, device))
            processor_times[name].append(time.process_time() - started)
    rates = {name: cells / statistics.median(times[name]) for name, (_, cells) in ways.items()}
    peak = {name: max(values) for name, values in peaks.items()}
    allowed = [name for name in auto.seconds if name in rates]
    chosen = auto.fastest_of(allowed)
    figures: dict[str, Any] = {
        "cells_per_s": {name: round(rate, 3) for name, rate in rates.items()},
        "ratio_to_reference": {name: round(rate / rates["reference"], 2) for name, rate in rates.items()},
        "processor_s_per_cell": {
            name: round(statistics.median(processor_times[name]) / cells, 3) for name, (_, cells) in ways.items()
        },
        "missing_ways": MISSING,
        "auto": chosen,
        "auto_to_best_way": round(rates[chosen] / max(rates[name] for name in allowed), 3),
        "layer_ms": {name: round(1e3 * value / auto.images, 2) for name, value in auto.seconds.items()},
        "matmul_peak_gflops": {name: round(value / 1e9, 1) for name, value in peak.items()},
        "share_of_matmul_peak": {
            name: round(rate * operations / peak["bf16" if "bf16" in name else "fp32"], 3)
            for name, rate in rates.items()
            if "8" not in name
        },
        "cosine_to_fp32": cosine,
        "gflop_per_cell": round(operations / 1e9, 1),
        "peak_memory_bytes": memory,
        "batch": arguments.batch,
        "image_size_px": arguments.image_size_px,
        "rounds": arguments.rounds,
    }
    ours = [ratio for name, ratio in figures["ratio_to_reference"].items() if name not in ("reference", "transformers")]
    machine = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    print(
        json.dumps(
            {
                "name": "forward",
                "ratio": max(ours),
                "reference": "transformers ViT, eager fp32, one cell at a time with attentions, pooling, 2 classifiers",
                "figures": figures,
                "machine": f"{machine}, {torch.get_num_threads()} threads",
                "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            }
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="torch device: cpu or cuda")
    parser.add_argument("--size", default="base", choices=sorted(SIZES), help="size of the model")
    parser.add_argument(
        "--batch", type=int, help="cells per forward of ours; default: 2 on a CPU, whose caches they fill, else 64"
    )
    parser.add_argument("--image-size-px", type=int, default=448, help="edge of the images in pixels")
    parser.add_argument("--reference-cells", type=int, default=4, help="cells that the reference embeds per round")
    parser.add_argument("--calibration-cells", type=int, default=8, help="random images that int8 is calibrated on")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds")
    parser.add_argument("--peak-edge", type=int, help="edge of that matmul; default: 3072 on a CPU, else 8192")
    parser.add_argument(
        "--openvino", action=argparse.BooleanOptionalAction, default=True, help="whether to measure OpenVINO on a CPU"
    )
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True, help="whether to measure torch.compile"
    )
    parser.add_argument(
        "--ways", nargs="+", choices=_OPTIONAL, metavar="WAY", help="measure only reference, fp32 and these"
    )
    arguments = parser.parse_args()
    arguments.batch = arguments.batch or (64 if arguments.device.startswith("cuda") else 2)
    main()
