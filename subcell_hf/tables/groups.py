"""Rows that are read block by block, reduced to groups: in memory that grows with the groups, not with the rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Codes = npt.NDArray[np.intp]


class Groups:
    """Groups by the values of key columns, numbered in the order in which they are met."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, ...], int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def names(self) -> list[tuple[str, ...]]:
        """The keys of each group, by its number."""
        return list(self._numbers)

    def codes(self, keys: pd.DataFrame) -> Codes:
        """Number of the group of each row, [rows].

        Args:
            keys: Texts that name the group of each row.
        """
        found, names = pd.factorize(pd.MultiIndex.from_frame(keys))
        numbers = [self._numbers.setdefault(tuple(name), len(self._numbers)) for name in names]
        codes: Codes = np.array(numbers, dtype=np.intp)[found]
        return codes


class GroupedNumbers:
    """Sums or largest values of columns of numbers in each group.

    Args:
        reduce: `np.add` or `np.maximum`.
        dtype: In which they are computed.
    """

    def __init__(self, reduce: np.ufunc, dtype: type[np.generic]) -> None:
        self._reduce, self._dtype = reduce, dtype
        self._found = np.empty((0, 0), dtype)

    def add(self, codes: Codes, values: npt.NDArray[Any]) -> None:
        """Add rows.

        Args:
            codes: Group of each, -1 for rows that are left out, [rows].
            values: [rows, width].
        """
        order = np.argsort(codes, kind="stable")
        order = order[np.count_nonzero(codes < 0) :]
        if not len(order):
            return
        groups, begins = np.unique(codes[order], return_index=True)
        reduced = self._reduce.reduceat(values[order].astype(self._dtype, copy=False), begins, axis=0)
        self._make_room(int(groups[-1]) + 1, values.shape[1])
        self._found[groups] = self._reduce(self._found[groups], reduced)

    def _make_room(self, groups: int, width: int) -> None:
        missing = groups - len(self._found)
        if missing > 0:
            rows = max(missing, len(self._found) // 2)  # so that few groups at a time are not each a copy of all
            fresh = np.full((rows, width), 0 if self._reduce is np.add else -np.inf).astype(self._dtype)
            self._found = np.concatenate([self._found.reshape(-1, width), fresh])

    def of(self, groups: Sequence[int]) -> npt.NDArray[Any]:
        """What was found for some groups, [groups, width]."""
        return self._found[np.asarray(groups, dtype=np.intp)]


class GroupedValues:
    """Distinct values of one column in each group.

    Args:
        every: Whether all are kept; otherwise no more are collected once a group has two.
    """

    def __init__(self, *, every: bool = False) -> None:
        self._every = every
        self._found: dict[int, dict[Any, None]] = {}
        self._types: dict[Any, None] = {}
        self.differing: int | None = None
        """The first group found to have two values."""

    def add(self, codes: Codes, values: "pd.Series[Any]") -> None:
        """Add rows.

        Args:
            codes: Group of each, -1 for rows that are left out, [rows].
            values: [rows].
        """
        if self.differing is not None and not self._every:
            return
        self._types[values.dtype] = None
        rows = pd.DataFrame({"group": codes, "value": values.reset_index(drop=True)})[codes >= 0].drop_duplicates()
        for group, value in zip(rows["group"].tolist(), rows["value"], strict=True):
            known = self._found.setdefault(group, {})
            known[None if pd.isna(value) else value] = None
            if len(known) > 1 and self.differing is None:
                self.differing = group

    def of(self, group: int) -> list[Any]:
        """The values of a group in the order in which they were met; None is a missing one."""
        return list(self._found.get(group, ()))

    def number_type(self) -> type[np.floating[Any]]:
        """In which numbers of the column are averaged: float32 where all are."""
        return np.float32 if list(self._types) == [np.dtype(np.float32)] else np.float64

    def column(self, groups: Sequence[int]) -> "pd.Series[Any]":
        """The first value of some groups."""
        values = [next(iter(self._found[group])) for group in groups]
        if len(self._types) == 1:
            return pd.Series(values, dtype=next(iter(self._types)))
        # Whole numbers are floats in a block in which one is missing.
        numeric = all(isinstance(kind, np.dtype) and kind.kind in "iuf" for kind in self._types)
        return pd.Series(values, dtype=np.result_type(*self._types) if numeric else object)
