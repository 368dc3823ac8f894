"""Benchmarks of the field that start from profiles of wells: how their tables are read, scored and written."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from subcell_hf.errors import InputError, counted
from subcell_hf.evaluation.field_benchmarks.definitions import FieldBenchmark
from subcell_hf.evaluation.field_benchmarks.jump_activity import (
    score_activity,
    sphere_by_controls,
    without_brightfield,
)
from subcell_hf.evaluation.field_benchmarks.morphohelm import (
    PLATE,
    WELL,
    CompoundChoice,
    choose_wells,
    normalize_wells,
    score_mechanisms,
    score_replicates,
)
from subcell_hf.evaluation.localization.localization_report import write_frame
from subcell_hf.evaluation.perturbation.benchmark import add_mechanisms, find_controls
from subcell_hf.evaluation.perturbation.consensus_profiles import aggregate_profiles, unit_codes
from subcell_hf.evaluation.perturbation.retrieval import RetrievalTask
from subcell_hf.evaluation.perturbation.table import ProfileTable, read_profiles
from subcell_hf.storage.foreign_tables import read_foreign_table
from subcell_hf.tables.embedding_table import CELL_ID
from subcell_hf.tables.files import EMBEDDINGS_FILE

CELL_COUNT = "Metadata_cell_count"
"""Column of the number of cells of a well, in tables of wells."""

_FEWEST_CELLS = 0.05
"""Share of the wells with the fewest cells that MorphoHELM leaves out."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Wells:
    """What was read.

    Attributes:
        profiles: Of wells.
        groups: Compound of each well; None where it names none, and for controls.
        control: Which wells are negative controls, bool [wells].
        cells: Cells of each well; None if that is not known.
    """

    profiles: ProfileTable
    groups: npt.NDArray[np.object_]
    control: npt.NDArray[np.bool_]
    cells: npt.NDArray[np.float64] | None

    def select(self, rows: npt.NDArray[np.bool_]) -> "_Wells":
        """Some of the wells."""
        cells = None if self.cells is None else self.cells[rows]
        return _Wells(self.profiles.select(rows), self.groups[rows], self.control[rows], cells)


def column_names(path: Path) -> list[str]:
    """Names of the columns of a table, or of the table in a folder of `subcell embed`.

    Args:
        path: The table or folder.

    Raises:
        InputError: If there is no table, or it cannot be read.
    """
    table = path / EMBEDDINGS_FILE if path.is_dir() else path
    if not table.is_file():
        raise InputError(f"{path} holds no table. Give profiles, or a folder of `subcell embed`.")
    return pq.read_schema(table).names if table.suffix == ".parquet" else list(read_foreign_table(table).columns)


def split_labels(found: FieldBenchmark, paths: Sequence[Path]) -> tuple[list[Path], Path | None]:
    """Tables of profiles, and last of the inputs the table of labels, if the profiles lack them.

    Args:
        found: The benchmark.
        paths: All inputs.

    Raises:
        InputError: If there are no labels.
    """
    column = found.settings.get("mechanism_column")
    if column is None or column in column_names(paths[0]):
        return list(paths), None
    if len(paths) < 2:
        raise InputError(
            f"{paths[0]} has no column {column}; a table of labels as the last INPUT has to give it. {found.data}"
        )
    return list(paths[:-1]), paths[-1]


def score_wells(
    found: FieldBenchmark, paths: Sequence[Path], labels: Path | None, output: Path, null_size: int | None
) -> tuple[dict[str, float], int]:
    """Run a benchmark of wells, and write its tables.

    Args:
        found: The benchmark.
        paths: Tables of profiles.
        labels: Table of the mechanisms or targets of the compounds; None if the profiles have them.
        output: Folder of the results.
        null_size: Random rankings for each p-value; None: as published.

    Returns:
        Name of a score → value, and the number of wells that could not be scored.

    Raises:
        InputError: If the tables are not of the benchmark, or nothing can be scored.
    """
    wells = _read_wells(found, paths, labels)
    tables, scores, lost = {
        "activity": _score_activity, "replicates": _score_replicates, "mechanisms": _score_mechanisms
    }[found.kind](found, wells, null_size)  # fmt: skip
    for name, table in tables.items():
        write_frame(table, output / f"{name}.csv")
    unnamed = sum(group is None for group in wells.groups[~wells.control])
    if unnamed or lost:
        _logger.warning(
            "Not scored: %s without a name in %s, %s without a replicate.",
            counted(unnamed, "well"),
            found.settings["group_column"],
            counted(lost, "well"),
        )
    return scores, unnamed + lost


_Scored = tuple[dict[str, pd.DataFrame], dict[str, float], int]


def _score_activity(found: FieldBenchmark, wells: _Wells, null_size: int | None) -> _Scored:
    given, profiles = found.settings, without_brightfield(wells.profiles)
    if given["sphering_epsilon"] is not None:
        profiles = sphere_by_controls(profiles, wells.control, given["sphering_epsilon"])
    task = RetrievalTask(wells.groups, profiles.column(PLATE), wells.control)
    sizes = (null_size, null_size) if null_size else tuple(given["null_sizes"])
    scored = score_activity(
        profiles, task, given["group_column"], given["mechanism_column"], null_sizes=(sizes[0], sizes[1]), seed=0
    )
    tables = {"compounds": scored.compounds, **({} if scored.targets is None else {"targets": scored.targets})}
    return tables, scored.scores, scored.unpaired


def _score_replicates(found: FieldBenchmark, wells: _Wells, _: int | None) -> _Scored:
    wells = _prepare(wells)
    lost = 0
    if (given := found.settings.get("choice")) is not None:
        choice = CompoundChoice(**{**given, "excluded": tuple(given["excluded"])})
        wells = wells.select(choose_wells(wells.profiles, wells.groups, choice) | wells.control)
    else:
        sizes = pd.Series(wells.groups).value_counts()
        lost = int((sizes == 1).sum())
    table = score_replicates(wells.profiles, wells.groups, wells.control)
    names = {"recall_at_1": "recall@1", "map": "replicate mAP", "map_against_controls": "mAP against controls"}
    return {"replicates": table}, _by_restriction(table, names), lost


def _score_mechanisms(found: FieldBenchmark, wells: _Wells, _: int | None) -> _Scored:
    wells = _prepare(wells)
    treated = wells.select(np.array([group is not None for group in wells.groups]))
    given = found.settings
    table = score_mechanisms(
        treated.profiles, given["group_column"], given["mechanism_column"], dense_until=given["dense_until"]
    )
    names = {"fraction_significant": "fraction significant", "geometric_mean_odds_ratio": "odds ratio"}
    return {"mechanisms": table}, _by_restriction(table, names), 0


def _by_restriction(table: pd.DataFrame, names: dict[str, str]) -> dict[str, float]:
    """Name of a score and restriction → value, where something could be scored."""
    rows = table.set_index("restriction")
    scores = {f"{name}, {row}": float(rows.at[row, key]) for key, name in names.items() for row in rows.index}
    return {name: value for name, value in scores.items() if not np.isnan(value)}


def _read_wells(found: FieldBenchmark, paths: Sequence[Path], labels: Path | None) -> _Wells:
    given: dict[str, Any] = dict(found.settings)
    group, mechanism = given["group_column"], given.get("mechanism_column")
    profiles = read_profiles(paths, {*found.columns, *([] if mechanism is None else [mechanism])})
    if labels is not None and mechanism is not None:
        profiles = add_mechanisms(profiles, labels, group, mechanism)
    repeated = profiles.metadata.duplicated().to_numpy()
    if repeated.any():
        row = profiles.metadata.iloc[int(repeated.argmax())]
        raise InputError(
            f"Well {row[WELL]} of plate {row[PLATE]!r} occurs several times with equal metadata "
            f"({counted(int(repeated.sum()), 'row')} too many). Give every table once; if rows are cells, with a "
            "column that names them."
        )
    codes, count = unit_codes(profiles, (PLATE, WELL))
    wells = aggregate_profiles(profiles, [(PLATE, WELL)])
    cells = None
    if count < len(profiles):  # rows are cells, or fields of view, whose cells are not known
        cells = np.bincount(codes).astype(np.float64) if CELL_ID in profiles.metadata else None
    elif CELL_COUNT in wells.metadata:
        cells = wells.column(CELL_COUNT).astype(np.float64)
    control = find_controls(wells, tuple(given["controls"].items()))
    groups = wells.column(group).copy()
    groups[control] = None
    return _Wells(wells, groups, control, cells)


def _prepare(wells: _Wells) -> _Wells:
    """MorphoHELM's processing of profiles, and without the wells of the fewest cells."""
    profiles = wells.profiles
    if all(name.startswith("PC_") for name in profiles.names):
        _logger.info("All features are components (PC_…), as MorphoHELM writes them: they are not normalized again.")
    else:
        profiles = normalize_wells(profiles, wells.control)
    wells = _Wells(profiles, wells.groups, wells.control, wells.cells)
    if wells.cells is None:
        _logger.warning(
            "The tables do not say how many cells a well has (%s), so that wells of few cells are not left out, which "
            "the protocol asks for.",
            CELL_COUNT,
        )
        return wells
    kept = wells.cells >= np.quantile(wells.cells, _FEWEST_CELLS)
    _logger.info("Left out: %s with the fewest cells.", counted(int((~kept).sum()), "well"))
    return wells.select(kept)
