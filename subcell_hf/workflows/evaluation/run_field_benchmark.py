"""Benchmarks of the field with their published protocols: what `subcell benchmark` runs."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from subcell_hf.errors import InputError
from subcell_hf.evaluation.field_benchmarks.definitions import FieldBenchmark, field_benchmark
from subcell_hf.evaluation.localization.benchmark import LocalizationSettings
from subcell_hf.evaluation.localization.labels import class_scheme
from subcell_hf.evaluation.perturbation.benchmark import PerturbationSettings
from subcell_hf.evaluation.perturbation.postprocessing import PostProcessing
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.folder_lock import claim_folder
from subcell_hf.storage.foreign_tables import read_foreign_table
from subcell_hf.tables.files import EMBEDDINGS_FILE
from subcell_hf.workflows.evaluation.benchmark_localization import benchmark_localization
from subcell_hf.workflows.evaluation.benchmark_perturbation import benchmark_perturbation
from subcell_hf.workflows.evaluation.table_baselines import BaselineOptions

CARD_FILE = "benchmark.md"
RESULT_FILE = "benchmark.json"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BenchmarkReport:
    """Result of `run_field_benchmark`.

    Attributes:
        benchmark: What was run.
        folder: Folder of the results: `benchmark.json` with the scores, `benchmark.md` with the data set card, and what
            the runner writes.
        scores: Name of a score → value.
        left_out: Number of wells or cells that were not scored.
    """

    benchmark: FieldBenchmark
    folder: Path
    scores: dict[str, float]
    left_out: int = 0


def run_field_benchmark(
    name: str, inputs: Sequence[str | Path], output: str | Path, *, null_size: int = 10_000, resamples: int = 1000
) -> BenchmarkReport:
    """Run a published benchmark on profiles or embedding tables, as its protocol says.

    Args:
        name: One of `evaluation.field_benchmarks.field_benchmarks()`.
        inputs: As the benchmark says: tables of profiles, one embedding table, or folders of embeddings and metadata.
        output: Folder of the results.
        null_size: Random rankings for each p-value of a retrieval.
        resamples: Bootstrap samples of a localization.

    Raises:
        InputError: If there is no such benchmark, the inputs are not its files, or the folder is in use.
    """
    found, output = field_benchmark(name), Path(output)
    paths = [Path(item) for item in inputs]
    expected = {"perturbation": "one or more tables", "localization": "one table", "chammi": "two folders"}[found.kind]
    counts = {"perturbation": len(paths) >= 1, "localization": len(paths) == 1, "chammi": len(paths) == 2}
    if not counts[found.kind]:
        raise InputError(f"{name} takes {expected}, got {len(paths)}. {found.data}")
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist. {found.title}: {found.download}")
        _check_columns(found, path)
    if found.kind == "perturbation":
        report = _run_perturbation(found, paths, output, null_size)
    elif found.kind == "localization":
        report = _run_localization(found, paths[0], output, resamples)
    else:
        report = _run_chammi(found, paths[0], paths[1], output)
    record = {"format": 1, "benchmark": found.name, "title": found.title, "scores": report.scores}
    for file, text in ((CARD_FILE, found.card()), (RESULT_FILE, json.dumps(record, indent=1))):
        with write_atomically(output / file) as written:
            written.write(f"{text}\n".encode())
    return report


def _check_columns(found: FieldBenchmark, path: Path) -> None:
    """Refuse a table that is not of the benchmark, before anything is computed."""
    if not found.columns:
        return
    table = path / EMBEDDINGS_FILE if path.is_dir() else path
    if not table.is_file():
        raise InputError(f"{path} holds no table. {found.title}: {found.data}")
    names = pq.read_schema(table).names if table.suffix == ".parquet" else list(read_foreign_table(table).columns)
    if missing := [column for column in found.columns if column not in names]:
        raise InputError(
            f"{path} has no column {', '.join(missing)}, so it is not of {found.name}. {found.data} {found.download}"
        )


def _run_perturbation(found: FieldBenchmark, paths: Sequence[Path], output: Path, null_size: int) -> BenchmarkReport:
    given: dict[str, Any] = dict(found.settings)
    controls = tuple(given.pop("controls").items())
    steps = PostProcessing(normalization=given.pop("normalization"))
    settings = PerturbationSettings(**given, controls=controls, steps=steps, null_size=null_size)
    done = benchmark_perturbation(paths, output, settings, baselines=BaselineOptions(computed=()))
    summary = done.result.summary
    kinds = ("replicate_retrieval", "mechanism_retrieval")
    scores = {
        f"{kind} mean average precision": summary[kind]["mean_average_precision"] for kind in kinds if summary.get(kind)
    }
    return BenchmarkReport(found, output, scores, len(done.result.left_out))


def _run_localization(found: FieldBenchmark, path: Path, output: Path, resamples: int) -> BenchmarkReport:
    settings = LocalizationSettings(
        class_scheme(found.settings["classes"]), resamples=resamples, allow_shared_genes=True, learning_fractions=()
    )
    done = benchmark_localization(path, output, settings, name="encoder", baselines=BaselineOptions(computed=()))
    scores = {"macro average precision": done.result.macro_map()["encoder"]}
    return BenchmarkReport(found, output, scores, len(done.result.left_out))


def _run_chammi(found: FieldBenchmark, features: Path, metadata: Path, output: Path) -> BenchmarkReport:
    from subcell_hf.evaluation.field_benchmarks.chammi import CHAMMI_SETS, read_chammi, score_chammi
    from subcell_hf.evaluation.localization.localization_report import write_frame

    with claim_folder(output):
        collections = read_chammi(features, metadata)
        if lacking := [name for name in CHAMMI_SETS if name not in collections]:
            _logger.warning("Not scored, since there are no embeddings: %s.", ", ".join(lacking))
        table = score_chammi(collections)
        write_frame(table, output / "chammi.csv")
    scores = {f"{row['collection']} {row['task']} macro F1": row["macro_f1"] for row in table.to_dict("records")}
    return BenchmarkReport(found, output, scores, len(lacking))
