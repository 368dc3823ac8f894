"""Wells and groups that a perturbation benchmark could not score, and why."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import counted
from subcell_hf.evaluation.perturbation.retrieval import RetrievalTask
from subcell_hf.evaluation.perturbation.table import ProfileTable

COLUMNS = ("plate", "well", "group", "reason")

_NO_POSITIVE = {
    "any-plate": "no other well of its group",
    "other-plates": "no well of its group on another plate",
}
_NO_NEGATIVE = {
    "same-plate-controls": "no control on its plate",
    "controls": "no control",
    "same-plate-others": "no well of another group on its plate",
    "other-plates-others": "no well of another group on another plate",
    "others": "no well of another group",
}


def wells_without_group(
    wells: ProfileTable, control: npt.NDArray[np.bool_], group_column: str, plate_column: str, well_column: str | None
) -> pd.DataFrame:
    """Treated wells that name no group: one row each, with `COLUMNS`."""
    unnamed = np.array([group is None for group in wells.column(group_column)], dtype=bool) & ~control
    reasons = np.full(int(unnamed.sum()), f"no value in {group_column}", dtype=object)
    return _rows(wells, np.flatnonzero(unnamed), reasons, group_column, plate_column, well_column)


def wells_not_scored(
    wells: ProfileTable,
    queries: pd.DataFrame,
    task: RetrievalTask,
    group_column: str,
    plate_column: str,
    well_column: str | None,
) -> pd.DataFrame:
    """Queries without positives or without negatives: one row each, with `COLUMNS`.

    Args:
        wells: The wells of the task.
        queries: As `retrieve_replicates` gives it.
        task: What it was asked.
        group_column: Column of the group.
        plate_column: Column of the plate.
        well_column: Column of the well; None, or one that the table lacks: wells are numbered by their rows.
    """
    lost = queries[queries["average_precision"].isna()]
    reasons = np.where(lost["n_pos_pairs"] == 0, _NO_POSITIVE[task.positives], _NO_NEGATIVE[task.negatives])
    return _rows(wells, lost["row"].to_numpy(), reasons, group_column, plate_column, well_column)


def describe_left_out(left_out: pd.DataFrame, queries: pd.DataFrame) -> dict[str, Any]:
    """What a report says of wells and groups that were left out, as plain data.

    Returns:
        `wells`: how many; `reasons`: reason → wells; `groups`: group of which no well was scored → reasons.
    """
    scored = set(queries.loc[queries["average_precision"].notna(), "group"])
    lost = left_out[left_out["group"].ne("") & ~left_out["group"].isin(scored)]
    groups = {str(name): sorted(set(rows["reason"])) for name, rows in lost.groupby("group", sort=True)}
    reasons = left_out["reason"].value_counts(sort=False)
    return {
        "wells": len(left_out),
        "reasons": {str(reason): int(count) for reason, count in sorted(reasons.items())},
        "groups": groups,
    }


def sentences_of(left_out: Mapping[str, Any], file: str) -> list[str]:
    """What `describe_left_out` says, in words; nothing where all was scored.

    Args:
        left_out: Of `describe_left_out`.
        file: Where the wells are listed.
    """
    sentences = []
    unknown, lost = left_out.get("groups_without_mechanism", ()), left_out.get("mechanisms_not_scored", ())
    if unknown:
        sentences.append(f"{counted(len(unknown), 'group has', 'groups have')} no mechanism: {_some(unknown)}.")
    if lost:
        sentences.append(f"{len(lost)} mechanisms were not scored, each with a single group: {_some(lost)}.")
    if not left_out["wells"]:
        return sentences
    reasons = "; ".join(f"{count}: {reason}" for reason, count in left_out["reasons"].items())
    wells = [f"{counted(left_out['wells'], 'well was', 'wells were')} not scored ({reasons}), listed in {file}."]
    if left_out["groups"]:
        groups = counted(len(left_out["groups"]), "group has", "groups have")
        wells.append(f"{groups} no score: {_some(list(left_out['groups']))}.")
    return wells + sentences


def _some(names: Sequence[str]) -> str:
    """The first ten names."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _rows(
    wells: ProfileTable,
    rows: npt.NDArray[Any],
    reasons: npt.NDArray[Any],
    group_column: str,
    plate_column: str,
    well_column: str | None,
) -> pd.DataFrame:
    names = [str(row + 1) for row in range(len(wells))]
    if well_column is not None and well_column in wells.metadata.columns:
        names = [str(name) for name in wells.column(well_column)]
    plates, groups = wells.column(plate_column), wells.column(group_column)
    found = [(plates[row], names[row], groups[row] or "", why) for row, why in zip(rows, reasons, strict=True)]
    return pd.DataFrame(found, columns=list(COLUMNS), dtype=object)
