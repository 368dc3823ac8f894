"""How long a transformer layer takes on this machine, by way and batch: measured, not guessed from the hardware.

Whether bf16 is faster than fp32, and OpenVINO than torch, depends on the processor, on its instructions, on versions
and on the shape of the model: of two CPUs with instructions for bf16, one embeds twice as fast with them and the other
half as fast. So one layer of the model's own shape is timed, which takes less than a second, and the result is
kept for the next time. On a CPU, batches of several sizes are timed as well.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subcell_hf.inference.models.loading import ModelFolder
from subcell_hf.inference.models.machine import describe_machine
from subcell_hf.inference.models.openvino_encoder import (
    INT8_FILE,
    OPTIMIZATION_FILE,
    compile_graph,
    has_openvino,
    openvino_core,
    read_optimization,
    trace_to_openvino,
)
from subcell_hf.inference.models.timing import seconds_of, time_in_turn
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell import SubCellLayer
from subcell_hf.storage.downloads.cached_files import cache_folder
from subcell_hf.storage.records import read_record, sha256_of, write_record

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Precision → dtype of the transformer in torch."""

OPENVINO_WAYS = {"openvino": "fp32", "openvino_bf16": "bf16"}
"""Way on OpenVINO → its precision; the ways of torch are called like their precisions."""

SMALLEST_COSINE = 0.999
"""A way counts only if what the layer adds to its input has at least this cosine to that in fp32."""

CPU_ACTIVATIONS = 2 * 785 * 3072
"""Size of a layer's widest activations (tokens × width) that fits a CPU's caches: two cells of ViT-B/16 at 448 px.
On two cores, larger batches are not faster (benchmarks/forward.py)."""

MOST_CELLS_ON_CPU = 64
"""Batch size of a small model; at this size, the fixed cost of a forward pass is negligible."""

_GPU_IMAGES = 16
_BUDGET_S = 0.4
_BATCHES_BUDGET_S = 0.15
_BATCHES = (1, 2, 4, 8)
"""Batches that are timed, as multiples of the one whose activations fit the caches; half of it is timed in any case."""

_CLEARLY = 0.9
"""Share of the usual batch's time per image below which another batch is taken; less may be chance."""
_BATCH_ROUNDS, _NEEDED_ROUNDS = 8, 2
_INT8_ROUNDS = 1
_PROBE_TOKENS, _PROBE_BUDGET_S = 8, 0.02
_HOPELESS = 5.0
"""Times as long as in fp32 that a few tokens may take; without instructions for bf16 all of them would take seconds."""
_CACHE_VERSION = 3


@dataclass(frozen=True)
class LayerShape:
    """What the time of a transformer layer depends on.

    Attributes:
        hidden_size: Width of a token.
        num_attention_heads: Attention heads.
        intermediate_size: Width of the feed-forward layer.
        tokens: Tokens of an image, CLS included.
        num_hidden_layers: Number of such layers in the model.
    """

    hidden_size: int = 768
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    tokens: int = 785
    num_hidden_layers: int = 12

    @classmethod
    def of_model(cls, model: ModelFolder) -> "LayerShape":
        """Shape of a model's layers; another family's backbone is taken to have that of the published ViT-B at 448 px.

        Args:
            model: The model.
        """
        if model.config.get("backbone_config"):
            return cls()
        return cls.of_config(SubCellConfig.from_dict(model.config), model.variant.crop_px)

    @classmethod
    def of_config(cls, config: SubCellConfig, image_px: int | None = None) -> "LayerShape":
        """Shape of the layers of a ViT.

        Args:
            config: Its configuration.
            image_px: Edge of the images; None: that of the configuration.
        """
        edges = ((image_px or edge) // config.patch_size for edge in config.image_height_width)
        return cls(
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            1 + math.prod(max(1, edge) for edge in edges),
            config.num_hidden_layers,
        )

    @property
    def cpu_batch(self) -> int:
        """Images whose activations fill a CPU's caches."""
        activations = self.tokens * max(self.hidden_size, self.intermediate_size)
        return min(max(1, CPU_ACTIVATIONS // activations), MOST_CELLS_ON_CPU)


@dataclass(frozen=True)
class LayerTimes:
    """What was measured of one layer on one machine.

    Attributes:
        shape: Of the layer.
        images: Images of a forward pass.
        seconds: Way → shortest time of a forward pass; without those that cannot be used.
        cosine: Way → cosine of what the layer adds to its input, to that in fp32; the smallest of the images.
        batches: Images of a forward pass → shortest time of it in the fastest way; empty on a GPU.
    """

    shape: LayerShape
    images: int
    seconds: Mapping[str, float]
    cosine: Mapping[str, float]
    batches: Mapping[int, float] = field(default_factory=dict)

    @property
    def batch_size(self) -> int:
        """Images of the forward pass with the least time per image; the usual number if none is clearly faster."""
        usual = self.shape.cpu_batch
        per_image = {images: seconds / images for images, seconds in self.batches.items()}
        best = min(per_image, key=per_image.__getitem__, default=usual)
        return best if usual in per_image and per_image[best] < _CLEARLY * per_image[usual] else usual

    @property
    def fastest(self) -> str:
        """The fastest way of all that were measured; see `fastest_of`."""
        return self.fastest_of(self.seconds)

    def fastest_of(self, ways: Iterable[str]) -> str:
        """The fastest way that is accurate enough; of two within 5 %, the one that comes first.

        Args:
            ways: Those to choose from, in order of preference; `fp32` always counts.
        """
        best = "fp32"
        for name in ways:
            accurate = self.cosine.get(name, 0.0) >= SMALLEST_COSINE
            if accurate and self.seconds[name] < 0.95 * self.seconds[best]:
                best = name
        return best

    def cells_per_s(self, way: str) -> float | None:
        """Normal rate of the whole model, as far as its layers determine it; None where it cannot be used.

        Args:
            way: `"fp32"`, `"bf16"`, `"openvino"` or `"openvino_bf16"`.
        """
        if way not in self.seconds:
            return None
        return self.images / (self.shape.num_hidden_layers * self.seconds[way])

    def explain(self) -> str:
        """Why `fastest` is the choice, as half a sentence."""
        measured = [name for name in (*DTYPES, *OPENVINO_WAYS) if name in self.seconds]
        spent = {name: f"{name} {1e3 * self.seconds[name] / self.images:.3g} ms" for name in measured}
        inaccurate = [name for name in spent if not self.cosine.get(name, 0.0) >= SMALLEST_COSINE]
        text = f"time of a layer per image: {', '.join(spent.values())}"
        text += "" if "bf16" in spent else "; bf16 takes many times as long"
        return text + (f"; {', '.join(inaccurate)} is not accurate here" if inaccurate else "")


def time_layer(shape: LayerShape, device: torch.device, *, again: bool = False) -> LayerTimes:
    """Time one layer in each way, or read what was measured before on the same machine.

    On a CPU with OpenVINO installed its ways are among them. Ways take turns, one that is clearly slower only once or
    twice, and the shortest time of each counts (see `seconds_of`). What is measured is kept in `layer_times.json` in
    the cache folder of Hugging Face, by machine, versions and shape; of several measurements the shortest times are
    kept. A cache that cannot be read or written is ignored.

    Args:
        shape: Of the layer.
        device: Where to compute.
        again: Whether to measure even if the cache has an entry.

    Returns:
        The times.
    """
    # Half of a batch: its precisions compare as those of a whole one, in half the time.
    images = max(1, shape.cpu_batch // 2) if device.type == "cpu" else _GPU_IMAGES
    key = _key(shape, device, images)
    known = _read_cache().get(key)
    if known is not None and not again:
        return _from_json(shape, images, known)
    found = _measure(shape, device, images)
    if known is not None:
        earlier = _from_json(shape, images, known)
        seconds = {name: min(value, earlier.seconds.get(name, value)) for name, value in found.seconds.items()}
        batches = {size: min(value, earlier.batches.get(size, value)) for size, value in found.batches.items()}
        found = LayerTimes(
            shape,
            images,
            {**earlier.seconds, **seconds},
            {**earlier.cosine, **found.cosine},
            {**earlier.batches, **batches},
        )
    entry = {"seconds": dict(found.seconds), "cosine": dict(found.cosine), "batches": list(found.batches.items())}
    _keep(key, entry)
    return found


def time_int8(model: ModelFolder) -> float:
    """Time the int8 model that `subcell optimize` wrote, or read what was measured before on the same machine.

    Args:
        model: The model.

    Returns:
        Shortest time of a forward pass of it, in seconds per image, its patches included.

    Raises:
        InputError: If the int8 model is missing or damaged.
    """
    shape, device, record = LayerShape.of_model(model), torch.device("cpu"), read_optimization(model.folder)
    images = max(1, shape.cpu_batch // 2)
    key = f"{_key(shape, device, images)}, int8 {sha256_of(model.folder / OPTIMIZATION_FILE)[:16]}"
    known = _read_cache().get(key)
    if known is not None:
        return float(known["seconds"]["int8"])
    compiled = compile_graph(model.folder / INT8_FILE, "CPU", record["float_precision"])
    edge = model.variant.patch_px * math.isqrt(shape.tokens - 1)
    pixels = torch.rand(images, len(model.variant.channels), edge, edge, generator=torch.Generator().manual_seed(0))
    run = partial(compiled, {"pixel_values": pixels.numpy()})
    spent = min(seconds_of(lambda _: run(), pixels) for _ in range(1 + _INT8_ROUNDS)) / images
    _keep(key, {"seconds": {"int8": spent}, "cosine": {}})
    return spent


def cache_file() -> Path:
    """Where measurements are kept."""
    return cache_folder() / "layer_times.json"


def _key(shape: LayerShape, device: torch.device, images: int) -> str:
    sizes = ", ".join(f"{name} {value}" for name, value in asdict(shape).items() if name != "num_hidden_layers")
    engines = f"torch {torch.__version__}"
    engines += f", openvino {version('openvino')}" if device.type == "cpu" and has_openvino() else ""
    return f"{describe_machine(device)}, {engines}; {sizes}, images {images}"


def _read_cache() -> dict[str, Any]:
    with suppress(OSError):
        record = read_record(cache_file())
        if record is not None and record.get("version") == _CACHE_VERSION:
            return dict(record["entries"])
    return {}


def _keep(key: str, entry: Mapping[str, Any]) -> None:
    # Read again: another process may have written in the meantime.
    entries = {**_read_cache(), key: entry}
    with suppress(OSError):
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        write_record(cache_file(), {"version": _CACHE_VERSION, "entries": entries})


def _from_json(shape: LayerShape, images: int, entry: Mapping[str, Any]) -> LayerTimes:
    return LayerTimes(shape, images, entry["seconds"], entry["cosine"], dict(entry["batches"]))


@torch.inference_mode()
def _measure(shape: LayerShape, device: torch.device, images: int) -> LayerTimes:
    exact = _make_layer(shape).to(device)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(images, shape.tokens, shape.hidden_size, generator=generator).to(device)
    few = tokens[:1, :_PROBE_TOKENS]
    runs: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, dtype in DTYPES.items():
        run = _forward(exact if dtype is torch.float32 else copy.deepcopy(exact).to(dtype), dtype)
        try:
            run(few)
        except RuntimeError:  # a device without this dtype
            if name == "fp32":
                raise
            continue
        runs[name] = run
    probes = time_in_turn(runs, few, _PROBE_BUDGET_S, leave_out=False)
    runs = {name: run for name, run in runs.items() if name == "fp32" or probes[name] <= _HOPELESS * probes["fp32"]}
    if device.type == "cpu" and has_openvino():
        runs |= _openvino_runs(exact, few)
    if device.type != "cpu":  # where the first call of a shape loads its kernels
        for run in runs.values():
            run(tokens)
    outputs: dict[str, Tensor] = {}
    seconds = time_in_turn(_keeping_outputs(runs, outputs), tokens, _BUDGET_S)
    added = {name: (output.float() - tokens).flatten(1) for name, output in outputs.items()}
    units = {name: F.normalize(output, dim=1) for name, output in added.items()}
    cosine = {name: float(torch.linalg.vecdot(unit, units["fp32"]).min()) for name, unit in units.items()}
    found = LayerTimes(shape, images, seconds, cosine)
    if device.type != "cpu":
        return found
    return replace(found, batches=_time_batches(runs[found.fastest], tokens[:1], found))


def _keeping_outputs(
    runs: Mapping[str, Callable[[Tensor], Tensor]], outputs: dict[str, Tensor]
) -> dict[str, Callable[[Tensor], object]]:
    """The same runs, of which the last output is kept."""

    def keeping(name: str, run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], object]:
        return lambda tokens: outputs.update({name: run(tokens)})

    return {name: keeping(name, run) for name, run in runs.items()}


def _time_batches(run: Callable[[Tensor], Tensor], token: Tensor, found: LayerTimes) -> dict[int, float]:
    """Images → shortest time of a forward pass, of the batches for which there is time; the usual one comes first."""
    per_image = found.seconds[found.fastest] / found.images
    batches = {found.images: found.seconds[found.fastest]}
    deadline = time.perf_counter() + _BATCHES_BUDGET_S
    for number in range(_BATCH_ROUNDS):
        for size in dict.fromkeys(max(1, int(share * found.shape.cpu_batch)) for share in _BATCHES):
            needed = number < _NEEDED_ROUNDS and size == found.shape.cpu_batch
            if not needed and time.perf_counter() + size * per_image > deadline:
                continue
            taken = seconds_of(run, token.expand(size, -1, -1))
            batches[size] = min(batches.get(size, math.inf), taken)
    return batches


def _forward(layer: SubCellLayer, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    def run(tokens: Tensor) -> Tensor:
        output: Tensor = layer(tokens.to(dtype))[0]
        return output

    return run


def _openvino_runs(layer: SubCellLayer, few: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Way → forward pass of the layer on OpenVINO, for those that its CPU has instructions for; each has run once."""
    graph = trace_to_openvino(_Tokens(layer), {"tokens": few}, check=False)  # the timed output is compared with torch's
    able = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    def forward(precision: str) -> Callable[[Tensor], Tensor]:
        compiled = compile_graph(graph, "CPU", precision)
        compiled({"tokens": few.contiguous().numpy()})  # packs its weights
        return lambda tokens: torch.from_numpy(compiled({"tokens": tokens.contiguous().numpy()})[0].copy())

    ways = OPENVINO_WAYS if "BF16" in able else {"openvino": "fp32"}
    return {name: forward(precision) for name, precision in ways.items()}


class _Tokens(nn.Module):
    """A layer that returns its tokens alone."""

    def __init__(self, layer: SubCellLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.layer(tokens)[0]
        return output


def _make_layer(shape: LayerShape) -> SubCellLayer:
    """A layer with random weights, which leave torch's own random numbers as they are."""
    config = SubCellConfig.from_dict({"attn_implementation": "sdpa"})
    with torch.device("meta"):
        layer = SubCellLayer(config, shape.hidden_size, shape.num_attention_heads, shape.intermediate_size).eval()
    layer = layer.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(1)
    for name, parameter in layer.named_parameters():
        if "layernorm" in name:
            parameter.fill_(name.endswith("weight"))
        else:
            bound = shape.hidden_size**-0.5
            parameter.uniform_(-bound, bound, generator=generator)
    return layer
