"""Perturbation benchmark: do wells of one perturbation, and perturbations of one mechanism, find each other?

The published benchmark is `subcell evaluate perturbation` with `--negatives same-plate-controls --normalize none`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.consensus_profiles import aggregate_profiles, consensus_profiles
from subcell_hf.evaluation.perturbation.left_out import describe_left_out, wells_not_scored, wells_without_group
from subcell_hf.evaluation.perturbation.postprocessing import (
    PostProcessing,
    candidates,
    describe,
    post_process,
    split_groups,
)
from subcell_hf.evaluation.perturbation.retrieval import RetrievalTask, retrieve_mechanisms, retrieve_replicates
from subcell_hf.evaluation.perturbation.significance import SIGNIFICANCE_LEVEL, score_groups
from subcell_hf.evaluation.perturbation.table import METADATA_PREFIX, ProfileTable
from subcell_hf.settings import Setting, column_values
from subcell_hf.storage.foreign_tables import read_foreign_table
from subcell_hf.storage.text_values import plain_text, warn_of_case

_BOOTSTRAPS = 2000


@dataclass(frozen=True)
class PerturbationSettings:
    """How a table of profiles is to be read and scored.

    Attributes:
        group_column: Column that names the perturbation of a well; empty for controls that have none.
        plate_column: Column that names the plate.
        well_column: Column that names the well; rows of one well are aggregated. In a table without this column, rows
            are wells.
        field_column: Column that names the field of view in a well; cells are first aggregated to fields, if the table
            has this column.
        controls: COLUMN=VALUE of control wells; repeatable. In Python, pairs of column and value.
        statistic: Aggregation of cells to fields and of fields to wells: mean or median.
        positives: Positives: wells of the same group, on any-plate or other-plates.
        negatives: Negatives: same-plate-controls, controls, same-plate-others, other-plates-others or others.
        steps: Post-processing, or where the search starts from.
        search_share: Choose normalization and sphering on this fraction of the groups; report the others.
        mechanism_column: Column of mechanisms of action, separated by |; also scores mechanisms.
        null_size: Number of random rankings for each p-value.
        seed: Random seed; the same seed gives identical output.
    """

    group_column: str
    plate_column: str = "Metadata_Plate"
    well_column: str | None = "Metadata_Well"
    field_column: str | None = "Metadata_Site"
    controls: Annotated[tuple[tuple[str, str], ...], Setting("--control", parse=column_values, repeatable=True)] = ()
    statistic: str = "mean"
    positives: str = "any-plate"
    negatives: str = "same-plate-controls"
    steps: PostProcessing = field(default_factory=PostProcessing)
    search_share: float | None = None
    mechanism_column: Annotated[str | None, Setting("--moa-column")] = None
    null_size: int = 10_000
    seed: int = 0


@dataclass(frozen=True)
class PerturbationResult:
    """Scores of one table of profiles.

    Attributes:
        replicates: One row per reported group, see `score_groups`; the first column is the group.
        queries: One row per treated well.
        mechanisms: One row per mechanism, or None.
        left_out: Treated wells without a score: `plate`, `well`, `group`, `reason`.
        grid: Every post-processing tried, its score on the choosing groups or why it failed, or None.
        summary: What a report says, as plain data.
    """

    replicates: pd.DataFrame
    queries: pd.DataFrame
    mechanisms: pd.DataFrame | None
    left_out: pd.DataFrame
    grid: pd.DataFrame | None
    summary: dict[str, Any]


def evaluate_perturbation(profiles: ProfileTable, settings: PerturbationSettings) -> PerturbationResult:
    """Aggregate, post-process and score profiles.

    Args:
        profiles: Of cells, fields or wells.
        settings: What the columns mean and what to do.

    Raises:
        InputError: If columns are missing, controls are too few for the steps, or nothing can be retrieved.
    """
    wells = aggregate_profiles(profiles, _levels(profiles, settings), settings.statistic)
    needed = (settings.group_column, *(column for column, _ in settings.controls))
    lost = [name for name in needed if name in profiles.metadata and name not in wells.metadata]
    if lost:
        raise InputError(
            f"Rows of one well ({settings.plate_column}, {settings.well_column}) differ in {lost[0]!r}, expected one "
            "value per well. Name the true columns of plate and well, or correct the table."
        )
    for name in (settings.group_column, settings.plate_column):
        warn_of_case(wells.column(name), f"Column {name}")
    control = find_controls(wells, settings.controls)
    groups = wells.column(settings.group_column)
    steps, grid, reported = settings.steps, None, np.ones(len(wells), dtype=bool)
    if settings.search_share is not None:
        treated = groups.copy()
        treated[control] = None
        choosing, reporting = split_groups(treated, settings.search_share, settings.seed)
        seen = np.array([control[row] or groups[row] in choosing for row in range(len(wells))])
        grid, steps = search_steps(wells.select(seen), settings)
        reported = np.array([control[row] or groups[row] in reporting for row in range(len(wells))])
    plates = wells.column(settings.plate_column)
    processed = post_process(wells, plates, control, steps).select(reported)
    task = make_task(processed, settings)
    queries = retrieve_replicates(processed.features, task)
    replicates = score_groups(queries, settings.group_column, null_size=settings.null_size, seed=settings.seed)
    mechanisms, without_mechanism = _score_mechanisms(processed, task, settings)
    names = (settings.group_column, settings.plate_column, settings.well_column)
    unnamed = wells_without_group(wells, control, *names)
    left_out = pd.concat([unnamed, wells_not_scored(processed, queries, task, *names)], ignore_index=True)
    summary = {
        "profiles": {
            "rows": len(profiles),
            "wells": len(wells),
            "control_wells": int(control.sum()),
            "duplicated_control_wells": int(control.sum()) - len(np.unique(wells.features[control], axis=0)),
            "features": len(profiles.names),
            "features_compared": len(processed.names),
            "plates": len(set(plates)),
        },
        "steps": describe(steps),
        "positives": settings.positives,
        "negatives": settings.negatives,
        "left_out": {**describe_left_out(left_out, queries), **without_mechanism},
        "replicate_retrieval": _summarize(replicates, settings.seed),
        "labels_shuffled": _shuffled_score(processed.features, task, settings.seed),
        "chance": _chance(queries),
        "mechanism_retrieval": None if mechanisms is None else _summarize(mechanisms, settings.seed),
    }
    return PerturbationResult(replicates, queries.drop(columns="row"), mechanisms, left_out, grid, summary)


def find_controls(table: ProfileTable, controls: Sequence[tuple[str, str]]) -> npt.NDArray[np.bool_]:
    """Find the rows that are controls.

    Args:
        table: Profiles.
        controls: Pairs of a metadata column and the value that marks a control.

    Returns:
        bool [profiles].

    Raises:
        InputError: If a column is missing or no row has the value.
    """
    found = np.zeros(len(table), dtype=bool)
    for column, value in controls:
        values = table.column(column)
        rows = np.array([cell == plain_text(value) for cell in values], dtype=bool)
        if not rows.any():
            known = sorted({str(cell) for cell in values if cell is not None})
            raise InputError(
                f"No row has {value!r} in column {column!r}; its values are {', '.join(known[:8])}"
                f"{' and more' if len(known) > 8 else ''}."
            )
        found |= rows
    return found


def make_task(wells: ProfileTable, settings: PerturbationSettings) -> RetrievalTask:
    """The retrieval task that the settings describe on these wells."""
    return RetrievalTask(
        groups=wells.column(settings.group_column),
        plates=wells.column(settings.plate_column),
        control=find_controls(wells, settings.controls),
        positives=settings.positives,
        negatives=settings.negatives,
    )


def search_steps(wells: ProfileTable, settings: PerturbationSettings) -> tuple[pd.DataFrame, PostProcessing]:
    """Score every post-processing of the grid on wells that will not be reported.

    Args:
        wells: Profiles of wells.
        settings: How they are scored.

    Returns:
        The grid, best first, and the best steps: those that gain most over shuffled labels in the mean over groups of
        the mean average precision of replicates; of equals the first of the grid, which is the simplest. The score
        alone would favour steps that fit the controls so closely that treated wells are alike whatever they got.

    Raises:
        InputError: If none of them works.
    """
    task = make_task(wells, settings)
    rows, tried = [], list(candidates(settings.steps))
    for steps in tried:
        score = shuffled = np.nan
        problem = ""
        try:
            processed = post_process(wells, task.plates, task.control, steps)
            queries = retrieve_replicates(processed.features, task)
            score = float(queries.groupby("group")["average_precision"].mean().mean())
            shuffled = _shuffled_score(processed.features, task, settings.seed)
        except InputError as error:
            problem = str(error)
        scores = {"mean_average_precision": score, "labels_shuffled": shuffled, "gain": score - shuffled}
        rows.append({**describe(steps), **scores, "problem": problem})
    grid = pd.DataFrame(rows)
    if grid["gain"].isna().all():
        raise InputError(f"No post-processing of the grid is possible; the first failed with: {rows[0]['problem']}")
    best = tried[int(grid["gain"].idxmax())]
    return grid.sort_values("gain", ascending=False, kind="stable", ignore_index=True), best


def add_mechanisms(profiles: ProfileTable, table: Path, group_column: str, column: str) -> ProfileTable:
    """Add a column of mechanisms from another table, matched by the group.

    Args:
        profiles: Profiles to extend.
        table: CSV or Parquet with the columns `group_column` and `column`, with or without `Metadata_` before them.
        group_column: Column that both have.
        column: Column to add.

    Raises:
        InputError: If the table lacks a column, says two things of one group, or names none of the groups.
    """
    rows = read_foreign_table(table)
    bare = [name.removeprefix(METADATA_PREFIX) for name in (group_column, column)]
    pair = bare if set(bare) <= set(rows.columns) else (group_column, column)
    rows.require(pair)
    mechanisms: dict[str, str] = {}
    for group, value in zip(*map(rows.text, pair), strict=True):
        if group and value and mechanisms.setdefault(group, value) != value:
            raise InputError(
                f"{table} gives more than one {column} to {group!r}; separate several with '|' in one row."
            )
    values = [mechanisms.get(group) for group in profiles.column(group_column)]
    if not any(values):
        raise InputError(f"{table} contains none of the groups in {group_column!r}.")
    return replace(profiles, metadata=profiles.metadata.assign(**{column: values}))


def _levels(profiles: ProfileTable, settings: PerturbationSettings) -> list[tuple[str, ...]]:
    """Columns that name a field, then those that name a well; nothing where the table has no wells."""
    has = set(profiles.metadata.columns)
    well = settings.well_column
    if well is None or well not in has:
        return []
    place = (settings.plate_column, well)
    field = settings.field_column
    return [(*place, field), place] if field is not None and field in has else [place]


def _score_mechanisms(
    wells: ProfileTable, task: RetrievalTask, settings: PerturbationSettings
) -> tuple[pd.DataFrame | None, dict[str, Any]]:
    """Mechanism retrieval of consensus profiles, if asked for, and what took no part in it."""
    if settings.mechanism_column is None:
        return None, {}
    treated = wells.select(~task.control)
    wells.column(settings.mechanism_column)  # A missing column is told before it is lost among differing ones.
    consensus = consensus_profiles(treated, settings.group_column, settings.statistic)
    if settings.mechanism_column not in consensus.metadata.columns:
        raise InputError(f"Wells of one group differ in {settings.mechanism_column!r}; a perturbation has one value.")
    values = consensus.column(settings.mechanism_column)
    mechanisms = [
        frozenset(name.strip() for name in str(value).split("|") if name.strip()) if value else frozenset()
        for value in values
    ]
    queries = retrieve_mechanisms(consensus.features, mechanisms)
    scored = score_groups(queries, settings.mechanism_column, null_size=settings.null_size, seed=settings.seed)
    unknown = [str(g) for g, m in zip(consensus.column(settings.group_column), mechanisms, strict=True) if not m]
    lost = sorted(set().union(*mechanisms) - set(scored[settings.mechanism_column]))
    return scored, {"groups_without_mechanism": unknown, "mechanisms_not_scored": lost}


def _summarize(groups: pd.DataFrame, seed: int) -> dict[str, float | int | list[float] | None]:
    """Means over groups, with a 95 % interval from resampled groups."""
    scores = groups["mean_average_precision"].to_numpy()
    generator = np.random.default_rng(seed)
    means = scores[generator.integers(len(scores), size=(_BOOTSTRAPS, len(scores)))].mean(axis=1)
    nearest = groups["nearest_neighbour_accuracy"].mean()
    return {
        "groups": len(groups),
        "mean_average_precision": float(scores.mean()),
        "mean_average_precision_95": [float(bound) for bound in np.quantile(means, [0.025, 0.975])],
        "mean_normalized_average_precision": float(groups["mean_normalized_average_precision"].mean()),
        "share_retrieved": float((groups["corrected_p_value"] < SIGNIFICANCE_LEVEL).mean()),
        "interpolated_mean_average_precision": float(groups["interpolated_average_precision"].mean()),
        "nearest_neighbour_accuracy": None if np.isnan(nearest) else float(nearest),
    }


def _chance(queries: pd.DataFrame) -> float:
    """What random rankings of the same numbers of positives and negatives score."""
    from copairs.map.normalization import expected_ap

    scored = queries[queries["average_precision"].notna()]
    pairs = zip(scored["n_pos_pairs"], scored["n_total_pairs"], strict=True)
    expected = pd.Series([expected_ap(int(m), int(n - m)) for m, n in pairs], index=scored.index)
    return float(expected.groupby(scored["group"]).mean().mean())


def _shuffled_score(features: npt.NDArray[np.float64], task: RetrievalTask, seed: int) -> float:
    """The mean average precision of replicates when groups are dealt out anew among the treated wells of each plate."""
    generator = np.random.default_rng(seed)
    groups = task.groups.copy()
    treated = np.zeros(len(groups), dtype=bool)
    treated[task.queries()] = True
    for plate in sorted(set(task.plates)):
        rows = np.flatnonzero(treated & (task.plates == plate))
        groups[rows] = groups[generator.permutation(rows)]
    queries = retrieve_replicates(features, replace(task, groups=groups))
    return float(queries.groupby("group")["average_precision"].mean().mean())
