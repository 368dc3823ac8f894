"""All measurements that need a GPU, in one go of at most eight minutes; results go to benchmarks/results/*_gpu.json.

    python benchmarks/gpu/run.py [--size base] [--image-size-px 448] [--antibodies 14] [--cells-per-antibody 8]

1. `forward`: benchmarks/forward.py in fp32, bf16, float8 where the GPU has it; last of all, `forward_compiled`, the
   same with torch.compile, which takes minutes.
2. `pretrain`: real runs of recipes/configs/mae_cell_protein_contrast.yaml with PreTrainer, from shards that are
   written first: reading, views, forward, backward and update, in bf16 at 448 px. The recipe's batch is 112 antibodies
   × 8 cells for all GPUs together; here one GPU takes the share that it has among eight, 14 × 8 = 112 cells. Figures
   are those that the trainer logs itself: MFU, time of each phase, and the share of the step in which the GPU waits for
   data.
3. `embed`: benchmarks/embed.py, the whole command from files and from shards.
4. `augment` and `train_localization`: the benchmarks of these names.

Each of them is a process of its own and ends with one line of JSON; one that fails, or for which no time is left, is
named with the reason, and the others are measured nevertheless. `--device cpu --tiny` runs all of it in small. Pixels
are random: nothing here depends on what they show.
"""

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
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
    "--decoder_intermediate_size 24 --projection_hidden_sizes 24 --projection_size 8"
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
    arguments += ["--disable_tqdm", "true", *(SMALL.split() if options.tiny else ["--size", options.size]), *words]
    arguments += ["--use_cpu", "true"] if options.device == "cpu" else []
    if options.device == "cuda":  # else what an earlier way has held would be part of this one's memory
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
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


def pretrain(options: argparse.Namespace) -> dict[str, Any]:
    """Train in every way that fits."""
    torch.set_float32_matmul_precision("high")
    ways = {"bf16": ["--bf16", "true"]}
    if not options.tiny:
        ways |= {
            "bf16_checkpointing": ["--bf16", "true", "--gradient_checkpointing", "true"],
            "tf32": [],
            "bf16_compiled": ["--bf16", "true", "--torch_compile", "true"],
        }
    measured: dict[str, Any] = {}
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = RandomCrops(4 * options.antibodies, 2 * options.cells_per_antibody, options.image_size_px)
        write_shards(source, folder / "shards", ShardSettings(split_fractions={"train": 1.0}))
        for way, words in ways.items():
            if measured and time.monotonic() > end:
                measured[way] = {"failed": "no time was left; give more --minutes"}
                continue
            words = [*words, "--dataloader_num_workers", str(options.workers)]
            try:
                measured[way] = measure_pretraining(options, folder, *words)
            except (RuntimeError, ImportError) as error:  # memory ran out, or a compiler is missing
                measured[way] = {
                    "failed": f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
                }
            print(way, json.dumps(measured[way]), file=sys.stderr, flush=True)
    fitting = [way for way in measured.values() if "cells_per_s" in way]
    if not fitting:
        sys.exit(f"No way of training works: {json.dumps(measured)}")
    best = max(fitting, key=lambda way: way["cells_per_s"])
    return {
        "name": "pretrain",
        "ratio": round(best.get("mfu", 0.0) / TARGET_MFU, 3),
        "reference": f"{TARGET_MFU:.0%} of the device's dense 16-bit peak, waiting for data below {TARGET_WAITING:.0%}",
        "figures": measured,
        "shape": {"cells": options.antibodies * options.cells_per_antibody, "image_size_px": options.image_size_px},
        "machine": torch.cuda.get_device_name() if options.device == "cuda" else platform.machine(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """Name of a measurement → its script and arguments."""
    device, size, pixels = options.device, options.size, str(options.image_size_px)
    model = ["--device", device, "--size", size, "--image-size-px", pixels]
    itself = ["--device", device, "--size", size, "--image-size-px", pixels, "--antibodies", str(options.antibodies)]
    itself += ["--cells-per-antibody", str(options.cells_per_antibody), "--steps", str(options.steps)]
    itself += ["--workers", str(options.workers), "--only", "pretrain", *(["--tiny"] if options.tiny else [])]
    itself += ["--minutes", str(options.minutes / 4)]  # the last way begins before they are over, and may end later
    if options.tiny:
        few, classifiers = ["--rounds", "1"], "--cells 200 --members 2 --epochs 1 --all"
        once = ["--no-compile", "--no-openvino", "--reference-cells", "1", "--peak-edge", "256"]
        return {
            "forward": ["forward.py", *model, *few, *once],
            "pretrain": ["gpu/run.py", *itself],
            "embed": ["embed.py", *model, *few, "--cells", "4", "--different", "2"],
            "augment": ["augment.py", "--device", device, "--cells", "4", "--size-px", "48", "--repeats", "1"],
            "train_localization": ["train_localization.py", "--device", device, *classifiers.split()],
        }
    workers = ["--workers", str(options.workers)]
    compiled = ["bf16_compiled", "fp8_compiled", "fp32_compiled"]
    return {
        "forward": ["forward.py", *model, "--rounds", "3", "--no-compile"],
        "pretrain": ["gpu/run.py", *itself],
        "embed": ["embed.py", *model, *workers, "--rounds", "1", "--cells", "4096", "--reference-cells", "256"],
        "augment": ["augment.py", "--device", device, "--cells", "112", "--size-px", pixels],
        "train_localization": ["train_localization.py", "--device", device, "--all"],
        "forward_compiled": ["forward.py", *model, "--rounds", "3", "--ways", "bf16", "fp8", *compiled],
    }


def measure(command: list[str], seconds: float) -> dict[str, Any]:
    """Run a script; its last line, or why there is none."""
    if seconds <= 0:
        return {"failed": "no time was left; give more --minutes"}
    script = [sys.executable, str(ROOT / "benchmarks" / command[0]), *command[1:]]
    try:
        done = subprocess.run(script, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {seconds:.0f} s; give more --minutes"}
    if done.returncode:
        print(done.stderr[-5000:], file=sys.stderr, flush=True)
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main(options: argparse.Namespace) -> None:
    """Measure one after the other, and write each result as soon as it is there."""
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("There is no GPU here. --device cpu --tiny --output FOLDER shows that this script works.")
    end = time.monotonic() + 60 * options.minutes
    failed = {}
    for name, command in commands(options).items():
        started = time.monotonic()
        result = measure(command, end - started)
        print(json.dumps({"measurement": name, "seconds": round(time.monotonic() - started, 1), **result}), flush=True)
        if "failed" in result:
            failed[name] = result["failed"]
            continue
        record = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "command": " ".join(["python", f"benchmarks/{command[0]}", *command[1:]]),
            "machine": result.pop("machine", result.get("device", options.device)),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "result": result,
        }
        options.output.mkdir(parents=True, exist_ok=True)
        path = options.output / f"{name}_{'gpu' if options.device == 'cuda' else options.device}.json"
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if failed:
        sys.exit(f"Not measured: {json.dumps(failed)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="torch device")
    parser.add_argument("--size", default="base", help="size of the model: tiny, small, base or large")
    parser.add_argument("--image-size-px", type=int, default=448, help="edge of the images in pixels")
    parser.add_argument("--antibodies", type=int, default=14, help="antibodies in a training batch of this GPU")
    parser.add_argument("--cells-per-antibody", type=int, default=8, help="cells of each antibody in a batch")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of each training")
    parser.add_argument("--workers", type=int, default=8, help="processes that read ahead")
    parser.add_argument("--minutes", type=float, default=8, help="time for all of it; what does not fit is left out")
    parser.add_argument("--tiny", action="store_true", help="small models and images, to see that all runs")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    parser.add_argument("--only", choices=("pretrain",), help="train in this process and print the line")
    chosen = parser.parse_args()
    if chosen.tiny:
        chosen.size, chosen.image_size_px, chosen.antibodies, chosen.cells_per_antibody = "tiny", 32, 4, 2
        chosen.steps, chosen.workers = 15, 0
    if chosen.only:
        print(json.dumps(pretrain(chosen)))
    elif chosen.tiny and chosen.output == parser.get_default("output"):
        parser.error("--tiny needs --output: its figures mean nothing")
    else:
        main(chosen)
