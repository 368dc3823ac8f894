"""Benchmark of protein localization: a table beside its baselines, and the report of all of them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from subcell_hf.errors import InputError, counted
from subcell_hf.evaluation.localization.benchmark import LocalizationResult, LocalizationSettings, evaluate
from subcell_hf.evaluation.localization.labels import add_metadata, class_scheme, label_cells
from subcell_hf.evaluation.localization.localization_report import write_report
from subcell_hf.evaluation.localization.probes import LinearProbe, NeighbourProbe, Predictor
from subcell_hf.storage.folder_lock import claim_folder
from subcell_hf.tables.files import EmbeddingTable, read_table
from subcell_hf.workflows.evaluation.table_baselines import BASELINES, BaselineOptions, find_baselines

PROBES = {"linear": LinearProbe, "neighbours": NeighbourProbe}
"""Name → classifier on frozen embeddings."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalizationReport:
    """Result of `benchmark_localization`.

    Attributes:
        page: `report.html`; `results.json`, tables and figures lie beside it.
        result: All scores.
        verdicts: One sentence for each baseline: whether the model is better.
        missing_baselines: One sentence for each reason why baselines are missing.
        notes: Sentences on what was not evaluated, those on baselines among them.
    """

    page: Path
    result: LocalizationResult
    verdicts: tuple[str, ...]
    missing_baselines: tuple[str, ...]
    notes: tuple[str, ...] = ()


def benchmark_localization(
    table: str | Path,
    output: str | Path,
    settings: LocalizationSettings | None = None,
    *,
    name: str = "subcell",
    predictors: Sequence[Predictor] | None = None,
    baselines: BaselineOptions | None = None,
    metadata: str | Path | None = None,
    log_notes: bool = True,
) -> LocalizationReport:
    """Benchmark how well the locations of proteins are predicted from an embedding table, against baselines.

    Baselines that do not exist are computed from the images that the cells were cut from. What was not evaluated is
    logged as warnings and listed in the report.

    Example:
        ```python
        from subcell_hf.workflows import benchmark_localization

        report = benchmark_localization("embeddings", "benchmark")
        report.result.summary
        ```

    Args:
        table: Folder of `subcell embed`, or any embedding table, with the columns antibody, locations and split.
        output: Folder for `report.html`, `results.json`, tables and figures.
        settings: Classes, resamples and seed; default: the 31 classes of the published classifiers.
        name: Name of the model in the report.
        predictors: Classifiers to train, see `make_predictors`; the first gives the headline.
        baselines: Tables to compare with; default: those that are computed.
        metadata: CSV or Parquet with `cell_id` and columns that the table lacks.
        log_notes: Whether to log `notes` of the result as warnings.

    Raises:
        InputError: If a table cannot be read or evaluated, a baseline has the name of the model, or the folder is in
            use.
    """
    table, output = Path(table), Path(output)
    metadata = None if metadata is None else Path(metadata)
    settings = settings or LocalizationSettings(class_scheme("31"))
    baselines = baselines or BaselineOptions()
    predictors = make_predictors(seed=settings.seed) if predictors is None else predictors
    with claim_folder(output):
        tables = _read_tables(table, name, baselines.given, metadata)
        # A table that cannot be evaluated is refused before hours may go into its baselines.
        label_cells(tables[name].cells, settings.scheme, allow_shared_genes=settings.allow_shared_genes)
        found = find_baselines(
            table,
            tables[name],
            baselines.missing_in(tables),
            images=baselines.images,
            output=output,
            workers=baselines.workers,
        )
        tables |= {own: read_table(path) for own, path in found.tables.items()}
        tables = {key: tables[key] for key in dict.fromkeys((name, *BASELINES, *tables)) if key in tables}
        result = evaluate(tables, predictors, settings)
        written = write_report(result, tables, output, found.missing)
        notes = (*result.notes, *found.missing)
        for sentence in notes if log_notes else ():
            _logger.warning(sentence)
        if len(result.left_out):
            left_out = counted(len(result.left_out), "cell was", "cells were")
            _logger.warning("%s left out: see %s.", left_out, output / "left_out.csv")
        return LocalizationReport(output / "report.html", result, tuple(written["verdicts"]), found.missing, notes)


def make_predictors(
    probes: Sequence[str] = ("linear", "neighbours"), ensemble_members: int = 0, seed: int = 0
) -> tuple[Predictor, ...]:
    """Make classifiers of embeddings.

    Args:
        probes: Names of `PROBES`.
        ensemble_members: Members of SubCell's MLP ensemble, which then comes first; 0: none; published: 10.
        seed: Random seed; members of the ensemble count from it.

    Returns:
        The classifiers, in the order of the report.

    Raises:
        InputError: If a name is unknown, or there is neither a probe nor an ensemble.
    """
    if set(probes) - PROBES.keys() or not (probes or ensemble_members):
        raise InputError(
            f"Unknown classifiers {','.join(probes)!r}: expected {', '.join(PROBES)}, separated by commas, or --seeds."
        )
    own: list[Predictor] = []
    if ensemble_members:
        import torch  # seconds that evaluations without the ensemble save

        from subcell_hf.workflows.evaluation.ensemble import EnsemblePredictor

        device = "cuda" if torch.cuda.is_available() else "cpu"
        own = [EnsemblePredictor(tuple(range(seed, seed + ensemble_members)), device)]
    return (*own, *(PROBES[probe](seed=seed) for probe in probes))


def _read_tables(
    table: Path, name: str, baselines: Mapping[str, Path], metadata: Path | None
) -> dict[str, EmbeddingTable]:
    """The model's table, then the given baselines by name."""
    if name in baselines:
        raise InputError(f"The model and a baseline have the same name, {name!r}. Choose another name (--name).")
    tables = {name: read_table(table)}
    if metadata is not None:
        tables[name] = replace(tables[name], cells=add_metadata(tables[name].cells, metadata))
    return tables | {other: read_table(path) for other, path in baselines.items()}
