"""Cells → fields of view → wells → one consensus profile per perturbation."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.table import ProfileTable

STATISTICS = ("mean", "median")


def aggregate_profiles(table: ProfileTable, levels: Sequence[Sequence[str]], statistic: str = "mean") -> ProfileTable:
    """Aggregate step by step, so that a field of many cells weighs as much as one of few.

    Args:
        table: Profiles of cells, fields or wells.
        levels: Columns that name a unit, finest unit first, such as `[("plate", "well", "field"), ("plate", "well")]`.
        statistic: `"mean"` or `"median"` over the units of the next finer level.

    Returns:
        One row per unit of the last level, in order of first appearance, with the metadata that agree in each unit. A
        unit of one row keeps its numbers exactly.

    Raises:
        InputError: If the statistic is unknown, or a column is missing or has gaps.
    """
    if statistic not in STATISTICS:
        raise InputError(f"Unknown statistic {statistic!r}: choose one of {', '.join(STATISTICS)}.")
    for columns in levels:
        table = _aggregate(table, columns, statistic)
    return table


def consensus_profiles(table: ProfileTable, column: str, statistic: str = "mean") -> ProfileTable:
    """One profile per value of a column, such as one per compound; rows without a value are left out.

    Args:
        table: Profiles of wells.
        column: Metadata column whose values are joined.
        statistic: `"mean"` or `"median"`.
    """
    named = np.array([value is not None for value in table.column(column)])
    return _aggregate(table.select(named), (column,), statistic)


def unit_codes(table: ProfileTable, columns: Sequence[str]) -> tuple[npt.NDArray[np.intp], int]:
    """Number of the unit of each row, in order of first appearance, and how many there are."""
    keys = pd.MultiIndex.from_arrays([table.column(name) for name in columns])
    gaps = [name for name in columns if any(value is None for value in table.column(name))]
    if gaps:
        raise InputError(
            f"Column {gaps[0]!r} is empty in {sum(v is None for v in table.column(gaps[0]))} of {len(table)} rows; "
            "expected a value for every profile."
        )
    codes, units = pd.factorize(keys)
    return codes.astype(np.intp), len(units)


def _aggregate(table: ProfileTable, columns: Sequence[str], statistic: str) -> ProfileTable:
    """One level."""
    codes, count = unit_codes(table, columns)
    if count == len(table):
        return table
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(count))
    features = table.features[order]
    if statistic == "mean":
        sizes = np.diff([*starts, len(order)])
        aggregated = np.add.reduceat(features, starts, axis=0) / sizes[:, None]
    else:
        aggregated = np.stack([np.median(part, axis=0) for part in np.split(features, starts[1:])])
    return ProfileTable(_common_metadata(table.metadata, codes, order[starts]), aggregated, table.names)


def _common_metadata(metadata: pd.DataFrame, codes: npt.NDArray[np.intp], firsts: npt.NDArray[np.intp]) -> pd.DataFrame:
    """The columns whose value is the same in all rows of each unit."""
    kept = {}
    for name in metadata.columns:
        numbers, _ = pd.factorize(metadata[name].to_numpy(dtype=object), use_na_sentinel=True)
        if (numbers == numbers[firsts][codes]).all():
            kept[name] = metadata[name].to_numpy(dtype=object)[firsts]
    return pd.DataFrame(kept, index=pd.RangeIndex(len(firsts)), dtype=object)
