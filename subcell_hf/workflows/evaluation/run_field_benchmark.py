"""Benchmarks of the field with their published protocols: what `subcell benchmark` runs."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from subcell_hf.errors import InputError
from subcell_hf.evaluation.field_benchmarks.definitions import WELL_KINDS, FieldBenchmark, field_benchmark
from subcell_hf.evaluation.localization.benchmark import LocalizationSettings
from subcell_hf.evaluation.localization.labels import class_scheme
from subcell_hf.evaluation.perturbation.benchmark import PerturbationSettings
from subcell_hf.evaluation.perturbation.postprocessing import PostProcessing
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.folder_lock import claim_folder
from subcell_hf.storage.records import sha256_of
from subcell_hf.tables.files import EMBEDDINGS_FILE
from subcell_hf.tables.run_record import read_run
from subcell_hf.tables.search.stored_cells import open_table
from subcell_hf.workflows.evaluation.benchmark_localization import benchmark_localization
from subcell_hf.workflows.evaluation.benchmark_perturbation import benchmark_perturbation
from subcell_hf.workflows.evaluation.table_baselines import BaselineOptions
from subcell_hf.workflows.evaluation.well_benchmarks import column_names, score_wells, split_labels

CARD_FILE = "benchmark.md"
RESULT_FILE = "benchmark.json"
MODEL_INDEX_FILE = "model-index.yaml"
MODEL_CARD_FILE = "model_card.md"

_NULL_SIZE = 10_000

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BenchmarkReport:
    """Result of `run_field_benchmark`.

    Attributes:
        benchmark: What was run.
        folder: Folder of the results: `benchmark.json` with the scores and checksums of the tables, `benchmark.md` with
            the data set card, `model-index.yaml` with the scores for a model card, and what the runner writes. If the
            input is a folder of `subcell embed`, also `model_card.md`, a card of its encoder with the scores.
        scores: Name of a score → value.
        left_out: Number of wells or cells that were not scored.
    """

    benchmark: FieldBenchmark
    folder: Path
    scores: dict[str, float]
    left_out: int = 0


def run_field_benchmark(
    name: str, inputs: Sequence[str | Path], output: str | Path, *, null_size: int | None = None, resamples: int = 1000
) -> BenchmarkReport:
    """Run a published benchmark on profiles or embedding tables, as its protocol says.

    Args:
        name: One of `evaluation.field_benchmarks.field_benchmarks()`.
        inputs: As the benchmark says: tables of profiles, one embedding table, or folders of embeddings and metadata.
        output: Folder of the results.
        null_size: Random rankings for each p-value of a retrieval; default: as published, otherwise 10,000.
        resamples: Bootstrap samples of a localization.

    Raises:
        InputError: If there is no such benchmark, the inputs are not its files, or the folder is in use.
    """
    found, output = field_benchmark(name), Path(output)
    paths = [Path(item) for item in inputs]
    expected, fits = {"localization": ("one table", len(paths) == 1), "chammi": ("two folders", len(paths) == 2)}.get(
        found.kind, ("one or more tables", len(paths) >= 1)
    )
    if not fits:
        raise InputError(f"{name} takes {expected}, got {len(paths)}. {found.data}")
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist. {found.title}: {found.download}")
    tables, labels = split_labels(found, paths) if found.kind in WELL_KINDS else (paths, None)
    for path in tables:
        _check_columns(found, path)
    if found.kind == "perturbation":
        report = _run_perturbation(found, paths, output, null_size or _NULL_SIZE)
    elif found.kind == "localization":
        report = _run_localization(found, paths[0], output, resamples)
    elif found.kind == "chammi":
        report = _run_chammi(found, paths[0], paths[1], output)
    else:
        with claim_folder(output):
            report = BenchmarkReport(found, output, *score_wells(found, tables, labels, output, null_size))
    _write_results(report, paths)
    return report


def _write_results(report: BenchmarkReport, paths: Sequence[Path]) -> None:
    """Write scores, the card of the data, and what a card of the model says of them."""
    from subcell_hf.hub.cards.encoder_card import make_encoder_card

    found, first = report.benchmark, paths[0]
    tables = [path / EMBEDDINGS_FILE if (path / EMBEDDINGS_FILE).is_file() else path for path in paths]
    files = {str(path): {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in tables if path.is_file()}
    record = {"format": 1, "benchmark": found.name, "title": found.title, "scores": report.scores, "files": files}
    run = read_run(first) if first.is_dir() else {}
    models = run.get("models") or ()
    block = found.model_index(models[0]["name"] if models else first.resolve().stem, report.scores)
    texts = {
        CARD_FILE: f"{found.card()}\n",
        RESULT_FILE: f"{json.dumps(record, indent=1)}\n",
        MODEL_INDEX_FILE: yaml.safe_dump(block, sort_keys=False, allow_unicode=True),
    }
    if models:
        texts[MODEL_CARD_FILE] = make_encoder_card(run, open_table(first).width, block)
    for file, text in texts.items():
        with write_atomically(report.folder / file) as written:
            written.write(text.encode())


def _check_columns(found: FieldBenchmark, path: Path) -> None:
    """Refuse a table that is not of the benchmark, before anything is computed."""
    if not found.columns:
        return
    names = column_names(path)
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
    from subcell_hf.evaluation.field_benchmarks.chammi import (
        CHAMMI_SETS,
        METADATA_FILE,
        chammi_score,
        read_chammi,
        score_chammi,
    )
    from subcell_hf.evaluation.field_benchmarks.published_files import check_published_files
    from subcell_hf.evaluation.localization.localization_report import write_frame

    with claim_folder(output):
        collections = read_chammi(features, metadata)
        check_published_files(found.name, metadata, [metadata / name / METADATA_FILE for name in collections])
        if lacking := [name for name in CHAMMI_SETS if name not in collections]:
            _logger.warning("Not scored, since there are no embeddings: %s.", ", ".join(lacking))
        table = score_chammi(collections)
        write_frame(table, output / "chammi.csv")
    scores = {f"{row['collection']} {row['task']} macro F1": row["macro_f1"] for row in table.to_dict("records")}
    if (mean := chammi_score(table)) is not None:
        scores["CHAMMI score"] = mean
    return BenchmarkReport(found, output, scores, len(lacking))
