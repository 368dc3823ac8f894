"""All measurements that need a GPU, in one go; results go to benchmarks/results/*_gpu.json.

    python benchmarks/gpu/run.py [--size base] [--image-size-px 448] [--antibodies 14] [--cells-per-antibody 8]

1. `pretrain_gpu`: real runs of recipes/configs/mae_cell_protein_contrast.yaml with PreTrainer, from shards that are
   written first: reading, views, forward, backward and update, in bf16 at 448 px. The recipe's batch is 112 antibodies
   × 8 cells for all GPUs together; here one GPU takes the share that it has among eight, 14 × 8 = 112 cells. Figures
   are those that the trainer logs itself: MFU, time of each phase, and the share of the step in which the GPU waits for
   data.
2. `forward_gpu`: benchmarks/forward.py on the GPU.

`--quick` runs the same in small on the CPU, to see that it works. Pixels are random: nothing here
depends on what they show.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from subcell_hf.shards.jobs import ListedCrops
from subcell_hf.shards.sharding import ShardSettings, write_shards
from subcell_hf.training.monitoring.throughput import PHASES
from subcell_hf.training.pretraining.arguments import parse_arguments
from subcell_hf.training.pretraining.resolution import resolve
from subcell_hf.training.pretraining.trainer import PreTrainer
from subcell_hf.types import FieldCrops

ROOT = Path(__file__).parents[2]
TARGET_MFU, TARGET_WAITING = 0.45, 0.05
SMALL = (
    "--hidden_size 32 --num_hidden_layers 1 --num_attention_heads 2 --intermediate_size 48 --pooling_hidden_size 16 "
    "--decoder_hidden_size 16 --decoder_num_hidden_layers 1 --decoder_num_attention_heads 2 "
    "--decoder_intermediate_size 24 --projection_hidden_sizes 24 --projection_size 8 --use_cpu true"
)


@dataclass(frozen=True)
class RandomCrops:
    """Antibodies with cells of smooth random pixels, which compress about as well as real ones."""

    antibodies: int
    cells: int
    size_px: int

    def fields(self) -> list[ListedCrops]:
        """One field of view for each antibody."""
        numbers = range(self.antibodies)
        return [ListedCrops(f"{n}_A1_1", {"antibody": f"HPA{n:06d}", "locations": "Cytosol"}) for n in numbers]

    def read(self, name: str) -> FieldCrops:
        """The cells of a field."""
        rng = np.random.default_rng(int(name.split("_")[0]))
        coarse = rng.integers(0, 250, (self.cells, 4, self.size_px // 4, self.size_px // 4), np.uint8)
        pixels = coarse.repeat(4, axis=2).repeat(4, axis=3)
        masks = np.zeros((self.cells, self.size_px, self.size_px), np.bool_)
        border = self.size_px // 8
        masks[:, border:-border, border:-border] = True
        metadata = {"antibody": f"HPA{int(name.split('_')[0]):06d}", "locations": "Cytosol", "cell_line": "U2OS"}
        cells = tuple(
            {"cell_id": f"{name}_{label}", "field_of_view": name, "label": label, **metadata}
            for label in range(1, self.cells + 1)
        )
        return FieldCrops(name, pixels, masks, ("red", "yellow", "blue", "green"), 0.16, cells)

    def fingerprint(self) -> str:
        """Shards are always written anew here."""
        return f"random {self.antibodies} {self.cells} {self.size_px}"


def measure_pretraining(options: argparse.Namespace, folder: Path, *words: str) -> dict[str, Any]:
    """Train some steps and read the log."""
    arguments = [
        str(ROOT / "recipes" / "configs" / "mae_cell_protein_contrast.yaml"),
        "--shards",
        str(folder / "shards"),
    ]
    arguments += ["--image_size", str(options.image_size_px), "--antibodies_per_batch", str(options.antibodies)]
    arguments += ["--cells_per_antibody", str(options.cells_per_antibody), "--output_dir", str(folder / "run")]
    arguments += ["--max_steps", str(options.steps), "--warmup_epochs", "0", "--validation_split", "none"]
    arguments += ["--save_strategy", "no", "--logging_steps", "5", "--picture_epochs", "0", "--run_page", "false"]
    arguments += ["--disable_tqdm", "true", *(SMALL.split() if options.quick else ["--size", options.size]), *words]
    run = resolve(parse_arguments(arguments), world_size=1)
    trainer = PreTrainer(run.build_model(), run.training, run.data)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "step_s" in line][1:]  # the first one still warms up
    names = ["cells_per_s", "mfu", "memory_gib", "gpu_utilization", "step_s", *(f"{phase}_s" for phase in PHASES)]
    figures = {
        name: round(statistics.median(line[name] for line in lines), 4)
        for name in names
        if all(name in line for line in lines)
    }
    return {**figures, "waiting_for_data": round(figures["data_s"] / figures["step_s"], 4), "arguments": list(words)}


def main(options: argparse.Namespace) -> None:
    """Measure, print and write."""
    if not options.quick and not torch.cuda.is_available():
        sys.exit("There is no GPU here. Use --quick to see that this script works.")
    torch.set_float32_matmul_precision("high")
    ways = {"bf16": ["--bf16", "true"]}
    if not options.quick:
        ways |= {
            "bf16_compiled": ["--bf16", "true", "--torch_compile", "true"],
            "bf16_checkpointing": ["--bf16", "true", "--gradient_checkpointing", "true"],
            "tf32": [],
        }
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = RandomCrops(4 * options.antibodies, 2 * options.cells_per_antibody, options.image_size_px)
        write_shards(source, folder / "shards", ShardSettings(split_fractions={"train": 1.0}))
        for way, words in ways.items():
            words = [*words, "--dataloader_num_workers", str(options.workers)]
            try:
                measured[way] = measure_pretraining(options, folder, *words)
            except torch.cuda.OutOfMemoryError as error:
                measured[way] = {"out_of_memory": str(error).splitlines()[0]}
            print(way, json.dumps(measured[way]), flush=True)
    fitting = [way for way in measured.values() if "cells_per_s" in way]
    best = max(fitting, key=lambda way: way["cells_per_s"])
    result = {
        "name": "pretrain_gpu",
        "ratio": round(best.get("mfu", 0.0) / TARGET_MFU, 3),
        "reference": f"{TARGET_MFU:.0%} of the device's dense 16-bit peak, waiting for data below {TARGET_WAITING:.0%}",
        "figures": measured,
        "shape": {"cells": options.antibodies * options.cells_per_antibody, "image_size_px": options.image_size_px},
    }
    _write("pretrain_gpu", result, options)
    if not options.quick:
        command = [sys.executable, str(ROOT / "benchmarks" / "forward.py"), "--device", "cuda", "--compile"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        _write("forward_gpu", json.loads(done.stdout.splitlines()[-1]), options)


def _write(name: str, result: dict[str, Any], options: argparse.Namespace) -> None:
    print(json.dumps(result))
    if options.quick:
        return
    record = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": "python benchmarks/gpu/run.py " + " ".join(sys.argv[1:]),
        "machine": torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "result": result,
    }
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="base", help="size of the model: tiny, small, base or large")
    parser.add_argument("--image-size-px", type=int, default=448, help="edge of the images in pixels")
    parser.add_argument("--antibodies", type=int, default=14, help="antibodies in a batch of this GPU")
    parser.add_argument("--cells-per-antibody", type=int, default=8, help="cells of each antibody in a batch")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of each run")
    parser.add_argument("--workers", type=int, default=8, help="processes that read ahead")
    parser.add_argument("--quick", action="store_true", help="a tiny model on the CPU; nothing is written")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.image_size_px, chosen.antibodies, chosen.cells_per_antibody = 32, 4, 2
        chosen.steps, chosen.workers = 15, 0
    main(chosen)
