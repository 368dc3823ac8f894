"""What is searched for, and among which cells."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd

from subcell_hf.errors import InputError, counted
from subcell_hf.settings import Setting
from subcell_hf.tables.embedding_table import CELL_ID
from subcell_hf.tables.search.stored_cells import Mask, SearchedCells

SAME = {
    "plate": ("plate",),
    "well": ("plate", "well"),
    "field": ("field_of_view",),
    "antibody": ("antibody",),
    "gene": ("gene",),
}
"""What cells can share with the query → the columns whose values are then the same; wells of two plates are two."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchQuery:
    """What is searched for: exactly one of the three.

    Attributes:
        cells: Search for cells like the one with this cell_id; repeatable: like the mean of several.
        mean_of: Search for cells like the mean of a selection, such as "top_location_1 == 'Nucleoli'"; see --where.
        image: Search for cells like those of an image, which is embedded as the table was, by the same model.
    """

    cells: Annotated[tuple[str, ...], Setting("--cell")] = ()
    mean_of: str | None = None
    image: Path | None = None

    def check(self) -> "SearchQuery":
        """Refuse a query of nothing, or of several kinds.

        Returns:
            The same query.

        Raises:
            InputError: Naming what was given.
        """
        given = [n for n in ("cells", "mean_of", "image") if getattr(self, n) not in ((), None)]
        if len(given) != 1:
            found = " and ".join(given) or "nothing"
            raise InputError(
                f"The query consists of {found}; expected one of cell ids (--cell), a selection (--mean-of) or an "
                "image (--image)."
            )
        return self


@dataclass(frozen=True)
class SearchFilters:
    """Which cells may be found. Cells of the query itself are never found.

    Attributes:
        where: Find only cells for which this is true: a pandas expression over the columns of the table, such as
            "plate == 'P2' and top_probability_1 > 0.5".
        exclude: Leave out cells with the same plate, well, field, antibody or gene as the query; repeatable. Cells for
            which it is unknown are left out, too.
        pictured: Find only cells that have a picture.
    """

    where: str | None = None
    exclude: tuple[str, ...] = ()
    pictured: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be shared.

        Raises:
            InputError: Naming it.
        """
        for name in self.exclude:
            if name not in SAME:
                raise InputError(f"Cannot exclude the same {name!r}: expected one of {', '.join(SAME)}.")


def select_rows(cells: SearchedCells, expression: str) -> Mask:
    """Cells for which an expression is true.

    Args:
        cells: The table.
        expression: As `pandas.DataFrame.eval` reads it, over columns by name; no Python variables.

    Returns:
        `[cells]`.

    Raises:
        InputError: If it cannot be evaluated, or is no condition.
    """
    known = f"The columns are {', '.join(cells.columns)}."
    if "@" in expression or "__" in expression:
        raise InputError(f"The expression {expression!r} contains @ or __, which are not allowed. {known}")
    frame = cells.cells([name for name in cells.columns if name in expression] or [CELL_ID])
    try:
        found = frame.eval(expression, engine="python", local_dict={}, global_dict={})
    except (ValueError, TypeError, NameError, KeyError, AttributeError, SyntaxError, NotImplementedError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"The expression {expression!r} cannot be evaluated: {reason}. Expected a condition. {known}"
        ) from error
    if not isinstance(found, pd.Series) or not pd.api.types.is_bool_dtype(found):
        raise InputError(
            f"The expression {expression!r} is not true or false for each cell; compare by == or >. {known}"
        )
    chosen: Mask = found.fillna(False).to_numpy(bool)
    return chosen


def rows_of_cells(cells: SearchedCells, ids: Sequence[str]) -> Mask:
    """The rows of cells by their ids.

    Args:
        cells: The table.
        ids: Values of `cell_id`.

    Returns:
        `[cells]`, True for each that was asked for.

    Raises:
        InputError: If the table lacks one.
    """
    known = cells.cells([CELL_ID])[CELL_ID].astype(str)
    found: Mask = known.isin(ids).to_numpy(bool)
    if missing := sorted(set(ids) - set(known[found])):
        raise InputError(
            f"{cells.name} has no cell {missing[0]!r}; it has {counted(cells.count, 'cell')}, the first is "
            f"{known.iloc[0]!r}."
        )
    return found


def rows_to_search(
    cells: SearchedCells, filters: SearchFilters, query: Mask | None, pictured: Sequence[str] = ()
) -> Mask:
    """The cells that may be found.

    Args:
        cells: The table.
        filters: Which cells.
        query: `[cells]`, True for those of the query; None where it is no cell of the table.
        pictured: Ids of the cells that have a picture, if only these are wanted.

    Returns:
        `[cells]`.

    Raises:
        InputError: If an expression or column is missing or wrong, or it is unknown what the query's cells share.
    """
    allowed = np.ones(cells.count, np.bool_) if query is None else ~query
    if filters.where is not None:
        allowed &= select_rows(cells, filters.where)
    if filters.pictured:
        allowed &= cells.cells([CELL_ID])[CELL_ID].astype(str).isin(pictured).to_numpy(bool)
    for name in filters.exclude:
        allowed &= _differs(cells, name, query)
    return allowed


def _differs(cells: SearchedCells, name: str, query: Mask | None) -> Mask:
    """Cells that are known to have another plate, well, … than every cell of the query."""
    columns = [column for column in SAME[name] if column in cells.columns]
    if SAME[name][-1] not in columns:
        raise InputError(f"{cells.name} has no column {SAME[name][-1]}, so it is unknown which cells share the {name}.")
    if query is None:
        raise InputError(f"An image names no {name}, so the same {name} cannot be excluded. Leave it out of --exclude.")
    frame = cells.cells(columns).astype(str)
    values = pd.Series(list(frame[columns].itertuples(index=False, name=None)))
    unknown = (frame[columns[-1]] == "").to_numpy(bool)
    if unknown[query].any():
        raise InputError(f"For {counted(int(unknown[query].sum()), 'cell')} of the query the {name} is unknown.")
    if unknown.any():
        _logger.warning("%s without a known %s left out.", counted(int(unknown.sum()), "cell"), name)
    differs: Mask = ~values.isin(set(values[query])).to_numpy(bool) & ~unknown
    return differs
