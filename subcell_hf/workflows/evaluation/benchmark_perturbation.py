"""Benchmark of perturbation profiles: retrieval of replicates and mechanisms, beside baselines of the same wells."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.benchmark import (
    PerturbationResult,
    PerturbationSettings,
    add_mechanisms,
    evaluate_perturbation,
)
from subcell_hf.evaluation.perturbation.left_out import sentences_of
from subcell_hf.evaluation.perturbation.perturbation_report import LEFT_OUT_FILE, write_report
from subcell_hf.evaluation.perturbation.profile_comparison import compare_groups
from subcell_hf.evaluation.perturbation.table import ProfileTable, read_profiles
from subcell_hf.evaluation.screening.wells import WELL, find_column
from subcell_hf.storage.folder_lock import claim_folder
from subcell_hf.workflows.evaluation.table_baselines import BASELINES, BaselineOptions, find_profile_baselines

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PerturbationReport:
    """Result of `benchmark_perturbation`.

    Attributes:
        page: `report.html`; `report.json`, tables and figures lie beside it.
        result: All scores.
        comparisons: One for each baseline, see `compare_groups`.
        missing_baselines: One sentence for each reason why baselines are missing.
    """

    page: Path
    result: PerturbationResult
    comparisons: tuple[Mapping[str, Any], ...]
    missing_baselines: tuple[str, ...]


def benchmark_perturbation(
    profiles: Sequence[Path],
    output: str | Path,
    settings: PerturbationSettings,
    *,
    mechanisms: str | Path | None = None,
    baselines: BaselineOptions | None = None,
) -> PerturbationReport:
    """Benchmark retrieval of replicates and mechanisms of action from profiles, against baselines.

    Wells that were not scored are logged as warnings and listed in `left_out.csv`.

    Args:
        profiles: Profiles of cells, fields or wells: CSV or Parquet with Metadata_ columns, or any embedding table.
            Several are concatenated.
        output: Folder for `report.html`, `report.json`, tables and figures.
        settings: Meaning of the columns, post-processing and scores.
        mechanisms: CSV with the columns of group and mechanism, if the profiles lack mechanisms.
        baselines: Profiles of the same wells to compare with; default: those that are computed.

    Raises:
        InputError: If a table cannot be read or scored, `mechanisms` is given without the name of its column, or the
            folder is in use.
    """
    output = Path(output)
    mechanisms = None if mechanisms is None else Path(mechanisms)
    if mechanisms is not None and settings.mechanism_column is None:
        raise InputError("--moa-table requires --moa-column, the name of the column with mechanisms of action.")
    options = baselines or BaselineOptions()
    with claim_folder(output):
        result = _score(profiles, settings, mechanisms, warn=True)
        found = find_profile_baselines(
            profiles,
            options.missing_in(options.given),
            images=options.images,
            output=output,
            workers=options.workers,
        )
        missing, comparisons = list(found.missing), []
        tables = {**options.given, **found.tables}
        for name in dict.fromkeys((*BASELINES, *options.given)):
            if name not in tables:
                continue
            try:
                scored = _score([tables[name]], settings, mechanisms)
            except InputError as error:
                if name in options.given:
                    raise
                missing.append(f"Not compared with the baseline {name}: {error}")
                continue
            comparisons.append(compare_groups(result.replicates, scored.replicates, name, settings.seed))
        write_report(result, output, tuple(comparisons), tuple(missing))
        for sentence in (*missing, *sentences_of(result.summary["left_out"], str(output / LEFT_OUT_FILE))):
            _logger.warning(sentence)
        return PerturbationReport(output / "report.html", result, tuple(comparisons), tuple(missing))


def _score(
    profiles: Sequence[Path], settings: PerturbationSettings, mechanisms: Path | None, warn: bool = False
) -> PerturbationResult:
    named = {settings.group_column, settings.plate_column, *(column for column, _ in settings.controls)}
    optional = (settings.well_column, settings.field_column, settings.mechanism_column)
    table = read_profiles(profiles, named | {column for column in optional if column})
    if warn and settings.well_column is None:
        _warn_of_shared_wells(table, settings.plate_column)
    if mechanisms is not None and settings.mechanism_column is not None:
        table = add_mechanisms(table, mechanisms, settings.group_column, settings.mechanism_column)
    return evaluate_perturbation(table, settings)


def _warn_of_shared_wells(table: ProfileTable, plate_column: str) -> None:
    """Say that rows of one well count as replicates of each other, which raises every score."""
    column = find_column(list(table.metadata.columns), WELL)
    if column is None:
        return
    shared = int(table.metadata.duplicated([plate_column, column], keep=False).sum())
    if shared:
        _logger.warning(
            "%d of %d rows share their plate and well (%s) with another row, and rows of one well count as replicates "
            "of each other, which raises scores. If they are cells or fields of view, add --well-column %s; otherwise "
            "remove the rows that occur twice.",
            shared, len(table.metadata), column, column,
        )  # fmt: skip
