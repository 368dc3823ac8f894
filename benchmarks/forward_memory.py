"""Peak memory of one forward without gradients: ours against transformers' ViT of the same shapes.

    python benchmarks/forward_memory.py [--device cuda] [--size base] [--batch 16] [--image-size-px 448]

Counted is what a forward of a whole batch needs at its peak beyond the model and the images. On a CPU each model has a
process of its own, whose resident memory the system follows; the model has embedded one cell before. Both use fused
attention and return what they return by default.
Prints one JSON line; ratio is the reference's peak to ours: above 1, ours needs less.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import torch
import transformers
from transformers import ViTConfig, ViTModel

from subcell_hf.model.configuration_subcell import SIZES, SubCellConfig
from subcell_hf.model.modeling_subcell import SubCellModel


def build(way: str) -> torch.nn.Module:
    """A model with random weights."""
    if way == "ours":
        return SubCellModel(SubCellConfig.from_size(arguments.size, image_size=arguments.image_size_px))
    sizes = {**SIZES[arguments.size], "image_size": arguments.image_size_px, "num_channels": 4}
    return ViTModel(ViTConfig(**sizes), add_pooling_layer=False)


def resident(field: str) -> int:
    """Bytes of resident memory of this process, `VmRSS` now or `VmHWM` at most."""
    kilobytes = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if kilobytes is None:
        raise RuntimeError(f"/proc/self/status has no {field}")
    return int(kilobytes[1]) * 1024


@torch.inference_mode()
def measure(way: str) -> int:
    """Bytes that a forward needs at its peak."""
    model = build(way).eval().to(arguments.device)
    images = torch.rand(arguments.batch, 4, arguments.image_size_px, arguments.image_size_px, device=arguments.device)
    model(images[:1])
    if arguments.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model(images)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the maximum starts anew
    before = resident("VmRSS")
    model(images)
    return resident("VmHWM") - before


def measure_alone(way: str) -> int:
    """The same in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", way]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def main() -> None:
    """Measure both and print the line."""
    on_gpu = arguments.device.startswith("cuda")
    peaks = {way: (measure if on_gpu else measure_alone)(way) for way in ("ours", "reference")}
    result = {
        "name": "forward_memory",
        "ratio": round(peaks["reference"] / peaks["ours"], 2),
        "reference": "transformers ViT, fused attention, without pooling",
        "figures": {
            "peak_bytes": peaks,
            "peak_bytes_per_cell": {way: peak // arguments.batch for way, peak in peaks.items()},
            "batch": arguments.batch,
            "size": arguments.size,
            "image_size_px": arguments.image_size_px,
        },
        "machine": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="torch device: cpu or cuda")
    parser.add_argument("--size", default="base", choices=sorted(SIZES), help="size of the models")
    parser.add_argument("--batch", type=int, default=16, help="cells of the forward")
    parser.add_argument("--image-size-px", type=int, default=448, help="edge of the images in pixels")
    parser.add_argument("--only", choices=("ours", "reference"), help="measure one model and print its bytes")
    arguments = parser.parse_args()
    if arguments.only:
        print(measure(arguments.only))
    else:
        main()
