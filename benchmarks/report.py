"""The report of 100,000 cells: time and memory, and the part of UMAP in it.

    python benchmarks/report.py [--cells 100000] [--width 1536] [--max-cells 20000] [--folder /tmp/report_benchmark]

A folder as `subcell embed` leaves it is simulated: cells of 31 locations in 60 clusters, with probabilities, quality
columns and 2,000 pictures. `subcell report` then runs on it in a process of its own, whose processor time and peak
memory are measured. The reference is UMAP with its own defaults (neighbours by cosine found by NN-descent) on the
embeddings of the cells that the page shows, in a process of its own, too; reading the table is part of both. The number
of torch's threads before and after a report in a notebook is printed as well.
"""

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from subcell_hf.ontology import reported_locations
from subcell_hf.tables.cell_pictures import DEFAULT_PICTURES, draw_picture, write_pictures
from subcell_hf.tables.files import EmbeddingTable, top_locations, write_parquet

CLUSTERS, LATENT, CELLS_PER_FIELD, CELLS_PER_PLATE = 60, 40, 12, 20_000

REFERENCE = """
import sys
import numpy as np, umap
from subcell_hf.tables.files import read_table
values = read_table(sys.argv[1]).embeddings
rows = np.random.default_rng(0).permutation(len(values))[: int(sys.argv[2])]
umap.UMAP(metric="cosine", random_state=0, n_jobs=1).fit_transform(values[rows])
"""
THREADS = """
import sys, torch
from subcell_hf.workflows import draw_report
before = torch.get_num_threads()
draw_report(sys.argv[1], max_cells=int(sys.argv[2]))
print(before, torch.get_num_threads())
"""


def write_run(folder: Path, cells: int, width: int) -> None:
    """Simulate the folder of a run."""
    generator = np.random.default_rng(0)
    classes = reported_locations()
    cluster = generator.integers(CLUSTERS, size=cells)
    means = 1.5 * generator.normal(size=(CLUSTERS, LATENT))
    loadings = (generator.normal(size=(LATENT, width)) / LATENT**0.5).astype(np.float32)
    embeddings = np.empty((cells, width), np.float32)
    for start in range(0, cells, 4096):
        rows = slice(start, start + 4096)
        latent = means[cluster[rows]] + generator.normal(size=(len(cluster[rows]), LATENT))
        noise = generator.standard_normal(size=(len(latent), width), dtype=np.float32)
        embeddings[rows] = latent.astype(np.float32) @ loadings + np.float32(0.3) * noise
    probabilities = generator.random((cells, len(classes)), dtype=np.float32) * np.float32(0.3)
    probabilities[np.arange(cells), cluster % len(classes)] = 0.5 + generator.random(cells, dtype=np.float32) / 2
    numbers = np.arange(cells)
    names = [f"P{n // CELLS_PER_PLATE}_F{n // CELLS_PER_FIELD}" for n in numbers]
    frame = pd.DataFrame(
        {
            "cell_id": [f"{name}_{number}" for number, name in enumerate(names)],
            "field_of_view": names,
            "gene": [f"GENE{number:03d}" for number in cluster],
            "antibody": [f"HPA{number:06d}" for number in cluster],
            "locations": [classes[number % len(classes)] for number in cluster],
            "plate": [f"P{n // CELLS_PER_PLATE}" for n in numbers],
            "qc_area_um2": generator.gamma(4, 100, cells),
            "qc_focus": generator.random(cells),
            "qc_cut_by_border": generator.random(cells) < 0.2,
            **top_locations(probabilities, classes),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_parquet(EmbeddingTable(frame, embeddings, probabilities, classes), folder / "embeddings.parquet")
    grid = np.mgrid[:128, :128] - 64
    inside = np.hypot(*grid) < 50
    planes = {name: (inside * np.abs(np.sin(grid[0] / period))).astype(np.float32) for name, period in
              (("red", 7), ("blue", 11), ("green", 5), ("yellow", 3))}  # fmt: skip
    attention = generator.random((2, 28, 28), dtype=np.float32)
    shown = frame["cell_id"][:: max(cells // DEFAULT_PICTURES, 1)]
    write_pictures(
        [draw_picture(str(cell_id), planes, inside, attention) for cell_id in shown], folder / "pictures.parquet"
    )
    (folder / "run.json").write_text(json.dumps({"format": 2, "versions": {}}))


def measure(command: Sequence[str]) -> tuple[dict[str, float], str]:
    """Run a command; its processor and wall seconds, its peak memory in GiB, and what it printed."""
    code = (
        "import json, resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], check=True, capture_output=True, text=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20, done.stdout]))"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *command], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    used, peak, printed = json.loads(done.stdout)
    return {"seconds": round(seconds, 1), "cpu_seconds": round(used, 1), "peak_gib": round(peak, 2)}, printed


def main() -> None:
    """Simulate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000, help="cells of the table")
    parser.add_argument("--width", type=int, default=1536, help="numbers of an embedding")
    parser.add_argument("--max-cells", type=int, default=20_000, help="cells that the page shows")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/report_benchmark"), help="room for the table")
    parser.add_argument("--keep", action="store_true", help="leave table and page in the folder")
    arguments = parser.parse_args()
    folder, shown = arguments.folder, str(arguments.max_cells)
    write_run(folder, arguments.cells, arguments.width)
    ours, _ = measure([sys.executable, "-m", "subcell_hf.cli", "report", str(folder), "--max-cells", shown])
    page = (folder / "report.html").read_text(encoding="utf-8")
    reference, _ = measure([sys.executable, "-c", REFERENCE, str(folder), shown])
    _, threads = measure([sys.executable, "-c", THREADS, str(folder), "200"])
    before, after = map(int, threads.split()[-2:])
    method = re.search(r"UMAP of [^<.]*", page)
    if not arguments.keep:
        shutil.rmtree(folder)
    figures = {**ours, **{f"reference_{name}": value for name, value in reference.items()}}
    print(
        json.dumps(
            {
                "name": "report",
                "ratio": round(reference["cpu_seconds"] / ours["cpu_seconds"], 2),
                "reference": "UMAP with its own defaults on the embeddings of the cells shown; processor time",
                "figures": {
                    **figures,
                    "cells": arguments.cells,
                    "width": arguments.width,
                    "cells_shown": arguments.max_cells,
                    "page_mb": round(len(page.encode()) / 1e6, 1),
                    "map": method[0] if method else "",
                    "torch_threads_before_and_after": [before, after],
                },
                "device": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
