"""Search among a million embeddings by an index: recall, time of a query, size, and what it costs to build.

    python benchmarks/search.py [--cells 1000000] [--width 1536] [--queries 200] [--folder /tmp/search_benchmark]

Simulated embeddings are of low rank and in clusters, as those of cells are: 3,000 clusters (antibodies) in 64 latent
dimensions, of which cells differ in all, with noise in every number. `subcell search TABLE --index` builds the index in
a process of its own, whose processor time and peak memory are measured. Queries are further cells of the same clusters,
which are not in the table. Their exact most similar cells come from one pass over the table; the reference in time is
NumPy's product of each query with the directions of the first 100,000 cells in memory, times the number of cells. The
folder is kept, so that a second call only searches.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.tables.embedding_table import EmbeddingTable
from subcell_hf.tables.parquet import arrow_table, open_parquet_writer, table_schema
from subcell_hf.tables.search.exact import NearestCells, directions_of
from subcell_hf.tables.search.index import SearchIndex
from subcell_hf.tables.search.stored_cells import open_cells

CLUSTERS, LATENT, K, BLOCK, REFERENCE_CELLS = 3000, 64, 10, 4096, 100_000

Floats = npt.NDArray[np.float32]


class Cells:
    """Draws cells, always the same ones."""

    def __init__(self, width: int) -> None:
        generator = np.random.default_rng(0)
        self.means = generator.normal(size=(CLUSTERS, LATENT)).astype(np.float32)
        scales = np.linspace(1.5, 0.1, LATENT, dtype=np.float32)[:, None]
        self.loadings = scales * generator.normal(size=(LATENT, width)).astype(np.float32) / np.float32(LATENT**0.5)

    def draw(self, seed: int, count: int) -> tuple[npt.NDArray[np.int64], Floats]:
        """Clusters and embeddings of some cells."""
        generator = np.random.default_rng([1, seed])
        cluster = generator.integers(CLUSTERS, size=count)
        latent = self.means[cluster] + generator.standard_normal((count, LATENT), dtype=np.float32) * np.float32(0.7)
        noise = generator.standard_normal((count, self.loadings.shape[1]), dtype=np.float32)
        return cluster, latent @ self.loadings + np.float32(0.1) * noise


def tables(cells: int, width: int) -> Iterator[EmbeddingTable]:
    """The table in blocks."""
    drawn = Cells(width)
    for start in range(0, cells, BLOCK):
        cluster, embeddings = drawn.draw(start, min(BLOCK, cells - start))
        numbers = range(start, start + len(cluster))
        frame = pd.DataFrame(
            {
                "cell_id": [f"cell{number}" for number in numbers],
                "field_of_view": [f"field{number // 12}" for number in numbers],
                "antibody": [f"HPA{number:06d}" for number in cluster],
                "plate": [f"P{number // 20_000}" for number in numbers],
            }
        )
        yield EmbeddingTable(frame, embeddings)


def write_table(path: Path, cells: int, width: int) -> None:
    """Write the table in a stream."""
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = tables(cells, width)
    first = next(blocks)
    with open_parquet_writer(path, table_schema(first)) as writer:
        writer.write_table(arrow_table(first).cast(writer.schema))
        for block in blocks:
            writer.write_table(arrow_table(block).cast(writer.schema))


def build(path: Path) -> dict[str, float]:
    """Time and memory of `subcell search TABLE --index`."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "subcell_hf.cli", "search", str(path), "--index"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "build_seconds": round(time.perf_counter() - started, 1),
        "build_cpu_seconds": round(cpu, 1),
        "build_peak_gib": round(after.ru_maxrss / 2**20, 2),
    }


def measure(path: Path, width: int, count: int) -> dict[str, Any]:
    """Recall and time of queries, by the index and by NumPy."""
    cells = open_cells(path)
    queries = directions_of(Cells(width).draw(-1 % 2**32, count)[1])
    exact, known = NearestCells(queries, K), np.empty((0, width), np.float32)
    for start, block in cells.embeddings():
        directions = directions_of(block)
        exact.add(start, directions)
        if start < REFERENCE_CELLS:
            known = np.vstack([known, directions])
    index = SearchIndex(cells)
    index.search(queries[0], K)
    hits, times, cpu = 0, [], time.process_time()
    for query, wanted in zip(queries, exact.rows, strict=True):
        started = time.perf_counter()
        found = index.search(query, K)
        times.append(time.perf_counter() - started)
        hits += len(np.intersect1d(found.rows[0], wanted))
    cpu = time.process_time() - cpu
    allowed = np.zeros(cells.count, np.bool_)
    allowed[:: max(1, cells.count // 1000)] = True
    started = time.perf_counter()
    for query in queries[:20]:
        index.search(query, K, allowed)
    filtered = (time.perf_counter() - started) / min(20, count)
    brute = []
    for query in queries[:20]:
        started = time.perf_counter()
        scores = known @ query
        np.argpartition(-scores, K)[:K]
        brute.append((time.perf_counter() - started) * cells.count / len(known))
    return {
        "recall_at_10": round(hits / (K * count), 4),
        "ms_per_query": round(1000 * float(np.median(times)), 2),
        "ms_per_query_95th_percentile": round(1000 * float(np.percentile(times, 95)), 2),
        "cpu_ms_per_query": round(1000 * cpu / count, 2),
        "ms_per_query_among_1000_filtered": round(1000 * filtered, 2),
        "index_bytes": index.facts.size_bytes,
        "table_bytes": path.stat().st_size,
        "lists": index.facts.lists,
        "lists_compared": index.facts.effort.lists,
        "oversampling": index.facts.effort.oversampling,
        "recall_of_the_sample": index.facts.recall,
        "numpy_ms_per_query": round(1000 * float(np.median(brute)), 1),
        "cells": cells.count,
        "width": width,
        "queries": count,
    }


def main() -> None:
    """Write the table, build the index, search, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/search_benchmark"))
    given = parser.parse_args()
    path = given.folder / f"cells_{given.cells}_{given.width}.parquet"
    write_table(path, given.cells, given.width)
    built = build(path)
    figures = {**measure(path, given.width, given.queries), **built, "load": round(os.getloadavg()[0], 1)}
    result = {
        "name": "search",
        "ratio": round(figures["numpy_ms_per_query"] / figures["ms_per_query"], 1),
        "reference": "NumPy: product of the query with all directions in memory, float32",
        "figures": figures,
        "device": platform.machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
