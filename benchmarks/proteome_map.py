"""A proteome map of a million cells: time and memory.

    python benchmarks/proteome_map.py [--cells 1000000] [--width 1536] [--folder /tmp/proteome_map_benchmark] [--keep]

A simulated table is written block by block: genes of a hierarchy of places, one antibody each, plates with effects,
twelve cells to a field of view. `subcell map` then runs on it in a process of its own, whose peak memory and wall time
are measured. The reference is the step that touches every cell, its average per field of view, done as one would at a
desk: the table as a pandas DataFrame in memory, and groupby; on the first `--reference-cells` cells, in the same run.
"""

import argparse
import json
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from subcell_hf.evaluation.proteome_map.field_means import average_fields

CELLS_PER_FIELD = 12
FIELDS_PER_GENE = 8
BLOCK = 4096
PLACES = ("Nucleoplasm", "Cytosol", "Mitochondria", "Golgi apparatus", "Plasma membrane", "Nucleoli")
PARTS_PER_PLACE = 8
LATENT = 48


def write_table(file: Path, cells: int, width: int, seed: int = 0) -> None:
    """Simulate a table that need not fit into memory."""
    generator = np.random.default_rng(seed)
    genes = max(cells // (CELLS_PER_FIELD * FIELDS_PER_GENE), 40)
    parts = len(PLACES) * PARTS_PER_PLACE
    places = generator.normal(size=(len(PLACES), LATENT))
    means = places[np.arange(parts) // PARTS_PER_PLACE] + 0.8 * generator.normal(size=(parts, LATENT))
    means = means[np.arange(genes) % parts] + 0.6 * generator.normal(size=(genes, LATENT))
    plates = 0.8 * generator.normal(size=(max(genes // 90, 2), LATENT))
    loadings = (generator.normal(size=(LATENT, width)) / LATENT**0.5).astype(np.float32)
    facts = json.dumps({"classes": [], "passes": [], "provenance": {}, "schema_version": 1}, sort_keys=True)
    text = ("cell_id", "field_of_view", "antibody", "gene", "locations", "plate")
    fields = [pa.field(name, pa.string()) for name in text]
    schema = pa.schema([*fields, pa.field("embedding", pa.list_(pa.float32(), width))], {"subcell_hf": facts})
    with pq.ParquetWriter(
        file, schema, compression="zstd", compression_level=1, use_dictionary=list(text[1:]),
        use_byte_stream_split=["embedding.list.element"],
    ) as writer:  # fmt: skip
        for start in range(0, cells, BLOCK):
            rows = np.arange(start, min(start + BLOCK, cells))
            field = rows // CELLS_PER_FIELD
            gene = field // FIELDS_PER_GENE % genes
            plate = (field * 7 + gene // 90) % len(plates)
            latent = means[gene] + plates[plate] + generator.normal(size=(len(rows), LATENT))
            pixels = latent.astype(np.float32) @ loadings
            pixels += generator.standard_normal(size=pixels.shape, dtype=np.float32) * np.float32(0.3)
            columns = [
                [f"cell_{row}" for row in rows],
                [f"field_{number}" for number in field],
                [f"HPA{number:06d}" for number in gene],
                [f"GENE{number:05d}" for number in gene],
                [PLACES[number % parts // PARTS_PER_PLACE] for number in gene],
                [f"plate_{number}" for number in plate],
            ]
            lists = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), width)
            writer.write_table(pa.Table.from_arrays([*map(pa.array, columns), lists], schema=schema))


def map_in_a_process(table: Path, output: Path) -> dict[str, float]:
    """Run the command; wall and CPU seconds, and the peak of its memory in GiB."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "subcell_hf.cli", "map", str(table), "--output", str(output)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_gib": round(used.ru_maxrss / 2**20, 2),
    }


def average_with_pandas(file: Path) -> pd.DataFrame:
    """The reference: everything in memory."""
    table = pq.read_table(file, columns=["field_of_view", "embedding"]).to_pandas()
    numbers = pd.DataFrame(np.stack(table["embedding"].to_numpy()))
    return numbers.groupby(table["field_of_view"].to_numpy()).mean()


def compare_averaging(folder: Path, cells: int, width: int) -> dict[str, float]:
    """Cells per second of both ways."""
    file = folder / "reference.parquet"
    write_table(file, cells, width)
    start = time.perf_counter()
    ours = average_fields(file)
    middle = time.perf_counter()
    theirs = average_with_pandas(file)
    end = time.perf_counter()
    expected = theirs.loc[ours.fields["field_of_view"]].to_numpy()
    if not np.allclose(ours.embeddings, expected, atol=1e-4):
        raise SystemExit("The two ways give different averages.")
    return {
        "averaging_cells_per_s": round(cells / (middle - start)),
        "reference_averaging_cells_per_s": round(cells / (end - middle)),
    }


def main() -> None:
    """Simulate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000, help="cells of the table")
    parser.add_argument("--width", type=int, default=1536, help="numbers of an embedding")
    parser.add_argument("--reference-cells", type=int, default=50_000, help="cells of the comparison with pandas")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/proteome_map_benchmark"), help="room for the table")
    parser.add_argument("--keep", action="store_true", help="leave table and map in the folder")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    table = arguments.folder / "embeddings.parquet"
    comparison = compare_averaging(arguments.folder, min(arguments.reference_cells, arguments.cells), arguments.width)
    write_table(table, arguments.cells, arguments.width)
    figures = map_in_a_process(table, arguments.folder / "map")
    report = json.loads((arguments.folder / "map" / "report.json").read_text(encoding="utf-8"))
    if not arguments.keep:
        shutil.rmtree(arguments.folder)
    print(
        json.dumps(
            {
                "name": "proteome_map",
                "ratio": round(comparison["averaging_cells_per_s"] / comparison["reference_averaging_cells_per_s"], 2),
                "reference": "average per field of view with pandas, everything in memory, in the same run",
                "figures": {
                    **figures,
                    **comparison,
                    "cells": arguments.cells,
                    "width": arguments.width,
                    "genes": report["genes"],
                    "clusters": report["clusters"],
                    "best_agreement_with_places": round(
                        max(level["agreement_with_locations"] for level in report["levels"]), 3
                    ),
                },
                "device": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
