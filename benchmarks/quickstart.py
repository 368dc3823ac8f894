"""Seconds of each step of `make quickstart`, and what its model has learned.

    python benchmarks/quickstart.py --work FOLDER [--neighbours 1] [--copies 2]

Runs the targets of recipes/quickstart.mk one after the other in a new folder, and measures wall time and the processor
time of everything that they start; the installation is not part of it. The localization head and the report of new
images are made beside the evaluation, as `make quickstart` does. `--neighbours` keeps that many cores busy with other
work. `--copies 2` runs two quickstarts side by side, each in a separate folder: twice the seconds of one would be an
even share of the machine.

The last line is JSON; ratio is the seconds of the slowest copy to six minutes, the aim for two quiet cores.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
AIM_S = 360.0
STEPS = {
    "simulate": [".fields"],
    "crops and shards": [".shards"],
    "pretrain": [".pretrained"],
    "embed": [".embedded"],
    "localize and report, evaluate": [".reported", ".evaluated"],
    "export": ["results.json"],
}
"""Name of a step → its targets in recipes/quickstart.mk; several are made at once."""


def run_steps(folder: Path, cores: int) -> dict[str, float]:
    """Wall seconds of each step of one quickstart; what the commands say goes to `log`."""
    folder.mkdir(parents=True)
    seconds = {}
    with (folder / "log").open("w") as log:
        for name, targets in STEPS.items():
            # Prerequisites are there, and the environment is the one that runs this.
            command = ["make", "--old-file=install", f"-j{cores}", f"Q={folder}", *(f"{folder}/{t}" for t in targets)]
            started = time.perf_counter()
            subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=True)
            seconds[name] = time.perf_counter() - started
            print(f"{folder.name}: {name} {seconds[name]:.0f} s, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return seconds


def read_scores(folder: Path) -> dict[str, float]:
    """Macro mean average precision of the pretrained model: linear probe and k-nearest neighbours."""
    results = json.loads((folder / "results.json").read_text())
    model = results["model"] if "model" in results else next(iter(results["macro_map"]))
    neighbours = {
        row["model"]: row["value"]
        for row in results["scores"]
        if (row["level"], row["metric"], row["head"]) == ("cell", "macro_map", "neighbours")
    }
    return {"linear_probe": results["macro_map"][model], "neighbours": neighbours[model]}


def main(arguments: argparse.Namespace) -> None:
    """Run, measure and print."""
    folders = [arguments.work.resolve() / f"quickstart_{number}" for number in range(arguments.copies)]
    load = os.getloadavg()[0]
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(arguments.neighbours)]
    try:
        with ThreadPoolExecutor(len(folders)) as pool:
            seconds = list(pool.map(lambda folder: run_steps(folder, arguments.cores), folders))
    finally:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)  # of what has ended; neighbours have not
        for process in busy:
            process.kill()
            process.wait()
    slowest = max(sum(steps.values()) for steps in seconds)
    figures: dict[str, Any] = {
        "seconds": [{name: round(value, 1) for name, value in steps.items()} for steps in seconds],
        "total_s": round(slowest, 1),
        "processor_s": round((used.ru_utime + used.ru_stime) / len(folders), 1),
        "scores": read_scores(folders[0]),
        "neighbours": arguments.neighbours,
        "copies": arguments.copies,
        "load_before": load,
    }
    result = {
        "name": "quickstart",
        "ratio": round(slowest / AIM_S, 2),
        "reference": f"{AIM_S:.0f} seconds",
        "figures": figures,
        "machine": f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the quickstarts, which must be new there")
    parser.add_argument("--neighbours", type=int, default=0, help="cores that other work keeps busy")
    parser.add_argument("--copies", type=int, default=1, help="quickstarts side by side")
    parser.add_argument("--cores", type=int, default=2, help="targets that make may work on at once")
    main(parser.parse_args())
