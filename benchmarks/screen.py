"""A screen from tables to hits, beside copairs and pycytominer used by hand.

    python benchmarks/screen.py [--plates 20] [--width 1536] [--cells N ...] [--wells 0] [--part ours|reference|...]

One plate map per four replicate plates of 384 wells: 80 treatments at four doses, 64 controls. Ours: read, normalise,
test, fit curves, compare batch corrections, write all files. By hand: pycytominer's robust z-score per plate, copairs'
average precision and mean average precision of the same treatments, no doses, positions, counts, page or batch
corrections. Each part runs in a separate process, which gives its processor time and peak memory. `--cells N` also
measures averaging N cells to wells, by `subcell screen` and by `subcell aggregate`; `--wells N` the retrieval of
replicates among N wells.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

REPLICATES, TREATMENTS, DOSES, CONTROLS = 4, 80, 4, 64


def simulate(folder: Path, plates: int, width: int) -> None:
    """Write profiles and plate map; a fifth of the treatments do something."""
    generator = np.random.default_rng(0)
    rows, features = [], []
    for plate in range(plates):
        library = plate // REPLICATES
        treatment = [f"t{library}-{number}" for number in range(TREATMENTS) for _ in range(DOSES)] + ["DMSO"] * CONTROLS
        dose = [*([1.0, 3.0, 10.0, 30.0] * TREATMENTS), *[np.nan] * CONTROLS]
        effects = np.random.default_rng([1, library]).normal(size=(TREATMENTS, width))
        effects[TREATMENTS // 5 :] = 0
        strength = np.tile([0.1, 0.3, 0.6, 0.9], TREATMENTS)[:, None]
        profile = generator.normal(size=(384, width)) + generator.normal(size=width)
        profile[: TREATMENTS * DOSES] += strength * np.repeat(effects, DOSES, axis=0)
        order = generator.permutation(384)
        names = [f"{chr(65 + place // 24)}{place % 24 + 1:02d}" for place in order]
        rows.append(pd.DataFrame({"plate": f"p{plate}", "well": names, "treatment": treatment, "dose": dose}))
        features.append(profile.astype(np.float32))
    table = pd.concat(rows, ignore_index=True)
    table["control_type"] = np.where(table["treatment"] == "DMSO", "negcon", "")
    table.to_csv(folder / "map.csv", index=False)
    metadata = table[["plate", "well"]].rename(columns={"plate": "Metadata_Plate", "well": "Metadata_Well"})
    metadata["Metadata_cell_count"] = generator.poisson(300, size=len(table))
    names = [f"feature_{number}" for number in range(width)]
    pd.concat([metadata, pd.DataFrame(np.concatenate(features), columns=names)], axis=1).to_parquet(
        folder / "profiles.parquet"
    )


def run_ours(folder: Path) -> dict[str, float]:
    """From files to files."""
    from subcell_hf.workflows import screen_plates

    report = screen_plates([folder / "profiles.parquet"], folder / "out", plate_maps=[folder / "map.csv"])
    return {"hits": report.result.summary["hits"]}


def run_reference(folder: Path) -> dict[str, float]:
    """The same profiles with the usual libraries."""
    from copairs.map import average_precision, mean_average_precision
    from pycytominer import normalize

    profiles = pd.read_parquet(folder / "profiles.parquet")
    known = pd.read_csv(folder / "map.csv").add_prefix("Metadata_")
    known = known.rename(columns={"Metadata_plate": "Metadata_Plate", "Metadata_well": "Metadata_Well"})
    profiles = known.merge(profiles, on=["Metadata_Plate", "Metadata_Well"])
    names = [name for name in profiles if name.startswith("feature_")]
    parts = [
        normalize(part, features=names, meta_features="infer", method="mad_robustize")
        for _, part in profiles.groupby("Metadata_Plate")
    ]
    profiles = pd.concat(parts, ignore_index=True)
    metadata = profiles.filter(regex="^Metadata_").assign(Metadata_control=profiles["Metadata_treatment"] == "DMSO")
    queries = average_precision(
        metadata,
        profiles[names].to_numpy(),
        ["Metadata_treatment"],
        [],
        ["Metadata_Plate"],
        ["Metadata_control"],
        progress_bar=False,
    )
    queries = queries[~queries["Metadata_control"]]
    found = mean_average_precision(
        queries, ["Metadata_treatment"], null_size=10_000, threshold=0.05, seed=0, progress_bar=False, max_workers=1
    )
    return {"hits": int(found["below_corrected_p"].sum())}


def run_cells(folder: Path, cells: int, width: int) -> dict[str, float]:
    """Average cells to wells."""
    from subcell_hf.evaluation.screening import read_wells

    wells = read_wells([folder / f"cells_{cells}_{width}.parquet"])
    return {"wells": len(wells.profiles)}


def run_aggregate(folder: Path, cells: int, width: int) -> dict[str, float]:
    """The same, to a file."""
    from subcell_hf.workflows import aggregate_table

    found = aggregate_table(folder / f"cells_{cells}_{width}.parquet", "well", folder / "wells.parquet")
    return {"wells": len(found.table)}


def run_retrieval(wells: int, width: int) -> dict[str, float]:
    """Mean average precision of replicates among controls and among other treatments; a sixth are controls."""
    from subcell_hf.evaluation.perturbation.retrieval import RetrievalTask, retrieve_replicates

    features = np.random.default_rng(0).normal(size=(wells, width))
    plates = np.array([f"p{number // 384}" for number in range(wells)], dtype=object)
    control = np.arange(wells) % 6 == 0
    groups = np.array([None if own else f"t{row % 384}" for row, own in enumerate(control)], dtype=object)
    found = {}
    for name, positives, negatives in (
        ("controls", "any-plate", "same-plate-controls"),
        ("others", "other-plates", "others"),
    ):
        queries = retrieve_replicates(features, RetrievalTask(groups, plates, control, positives, negatives))
        found[f"map_among_{name}"] = float(queries["average_precision"].mean())
    return found


def write_cells(folder: Path, cells: int, width: int) -> None:
    """An embedding table of cells in 384 wells, written in blocks, so that this process stays small too."""
    from subcell_hf.tables import EmbeddingTable
    from subcell_hf.tables.parquet import CELLS_PER_GROUP, arrow_table, open_parquet_writer

    def make_block(start: int) -> pa.Table:
        numbers = np.arange(start, min(start + CELLS_PER_GROUP, cells))
        wells = [f"{chr(65 + place // 24)}{place % 24 + 1:02d}" for place in numbers % 384]
        ids = [f"cell{number}" for number in numbers]
        frame = pd.DataFrame({"cell_id": ids, "field_of_view": "", "plate": "p0", "well": wells})
        values = np.random.default_rng(start).normal(size=(len(ids), width)).astype(np.float32)
        return arrow_table(EmbeddingTable(frame, values))

    with open_parquet_writer(folder / f"cells_{cells}_{width}.parquet", make_block(0).schema) as writer:
        for start in range(0, cells, CELLS_PER_GROUP):
            writer.write_table(make_block(start))


def measure(folder: Path, part: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Run one part in a process of its own."""
    words = ["--part", part, "--folder", str(folder), "--width", str(arguments.width), "--wells", str(arguments.wells)]
    words += ["--cells", *map(str, arguments.cells)] if arguments.cells else []
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plates", type=int, default=20, help="plates of 384 wells, a multiple of four")
    parser.add_argument("--width", type=int, default=1536, help="features")
    parser.add_argument("--cells", type=int, nargs="+", default=[], help="cells to average to wells")
    parser.add_argument("--wells", type=int, default=0, help="wells of a retrieval; 0: not measured")
    parts = ("all", "ours", "reference", "cells", "aggregate", "retrieval")
    parser.add_argument("--part", choices=parts, default="all", help="one part only")
    parser.add_argument("--folder", type=Path, help="where the input is, for one part")
    arguments = parser.parse_args()
    if arguments.part != "all":
        start = time.perf_counter()
        folder, cells, width = arguments.folder, sum(arguments.cells), arguments.width
        runs = {
            "ours": lambda: run_ours(folder),
            "reference": lambda: run_reference(folder),
            "cells": lambda: run_cells(folder, cells, width),
            "aggregate": lambda: run_aggregate(folder, cells, width),
            "retrieval": lambda: run_retrieval(arguments.wells, width),
        }
        found = runs[arguments.part]()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        own = {"cpu_s": usage.ru_utime + usage.ru_stime, "wall_s": time.perf_counter() - start}
        print(json.dumps({**found, **own, "peak_gb": usage.ru_maxrss / 2**20}))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures: dict[str, object] = {"wells": 384 * arguments.plates, "width": arguments.width}
        if arguments.plates:
            simulate(folder, arguments.plates, arguments.width)
            figures |= {part: measure(folder, part, arguments) for part in ("ours", "reference")}
        for cells in arguments.cells:
            write_cells(folder, cells, arguments.width)
            own = argparse.Namespace(width=arguments.width, cells=[cells], wells=0)
            figures[f"{cells}_cells_to_wells"] = {part: measure(folder, part, own) for part in ("cells", "aggregate")}
            (folder / f"cells_{cells}_{arguments.width}.parquet").unlink()
        if arguments.wells:
            figures[f"retrieval_of_{arguments.wells}_wells"] = measure(folder, "retrieval", arguments)
    packages = ("subcell-hf", "copairs", "pycytominer", "numpy", "scipy")
    print(
        json.dumps(
            {
                "name": "screen",
                "figures": figures,
                "reference": "pycytominer normalize and copairs average_precision and mean_average_precision by hand",
                "versions": {package: version(package) for package in packages},
                "command": " ".join(["python", *sys.argv]),
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "load": round(os.getloadavg()[0], 1),
                "device": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
