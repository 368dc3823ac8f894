"""How long `subcell embed` of one cell with a small model takes to start, and the help of the command line.

    python benchmarks/startup.py [--repeats 3]

A model of one layer and an image of one cell are written; `subcell embed` (with report and .h5ad) and `subcell --help`
then run in processes of their own, in turn with the reference: importing torch and the parts of transformers that every
model needs. Processor time counts, the least of the repeats, since other work on the machine distorts a clock; wall
times are beside it.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import imagecodecs
import numpy as np

from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellForImageClassification

REFERENCE = "import torch, transformers.modeling_utils, transformers.image_processing_utils"


def write_inputs(folder: Path) -> None:
    """A small model and an image of one cell."""
    config = SubCellConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, image_size=64,
        pooling_hidden_size=16, classifier_hidden_sizes=[8], pixel_size_um=0.8,
    )  # fmt: skip
    SubCellForImageClassification(config).save_pretrained(folder / "model")
    SubCellImageProcessor(config.channels, config.image_size, config.pixel_size_um).save_pretrained(folder / "model")
    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    for colour in config.channels:
        pixels = generator.integers(0, 255, (64, 64), dtype=np.uint8)
        (folder / "images" / f"1_A1_1_{colour}.png").write_bytes(imagecodecs.png_encode(pixels))


def measure(*command: str) -> tuple[float, float]:
    """Processor and wall seconds of a Python process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    # An installed package is compiled.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, *command], check=True, env=environment, **quiet)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds


def main() -> None:
    """Write, measure in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="rounds, of which the fastest counts")
    repeats = parser.parse_args().repeats
    times: dict[str, list[tuple[float, float]]] = {"reference": [], "embed": [], "help": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_inputs(folder)
        embed = ["-m", "subcell_hf.cli", "embed", str(folder / "images"), "--model", str(folder / "model")]
        for number in range(repeats):
            times["reference"].append(measure("-c", REFERENCE))
            output = ["--output", str(folder / f"out{number}"), "--pixel-size-um", "0.8", "--single-cells"]
            times["embed"].append(measure(*embed, *output))
            times["help"].append(measure("-m", "subcell_hf.cli", "--help"))
    least = {name: [round(min(values), 2) for values in zip(*found, strict=True)] for name, found in times.items()}
    figures = {f"{name}_{kind}": least[name][n] for name in least for n, kind in enumerate(("cpu_s", "wall_s"))}
    print(
        json.dumps(
            {
                "name": "startup",
                "ratio": round(least["embed"][0] / least["reference"][0], 2),
                "reference": "importing torch and transformers.modeling_utils, processor time",
                "figures": figures,
                "device": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
