"""Rows of an embedding table ↔ labels of a layer: which cell is which, and what colour it has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.report.columns import page_columns
from subcell_hf.tables.embedding_table import EmbeddingTable

_Rgba = tuple[float, float, float, float]

CLUSTER, CLASS = "cluster", "class"
_LABEL, _FIELD = "label", "field_of_view"
_GREY = (0.55, 0.58, 0.62, 1.0)
_FAINT = 0.45
"""Opacity of a class that is suggested, not given."""
_MOST_NAMED = 5


@dataclass(frozen=True)
class CellColours:
    """Colours of cells by one column.

    Attributes:
        label: What the column is called.
        rgba: `[cells, 4]` float32 in [0, 1]; grey where the value is unknown or of a level without a colour.
        legend: Level → its colour; of numbers the smallest and the largest.
    """

    label: str
    rgba: npt.NDArray[np.float32]
    legend: Mapping[str, _Rgba]


class CellsOnLayer:
    """The cells of a table, of which those of one field of view are the labels of a layer.

    Args:
        table: Cells with embeddings.
        folder: Folder of the run, or table file, that the table was read from.
        field_of_view: The field that the layer shows.
        present: Labels of the layer.

    Attributes:
        table: As given.
        folder: As given.
        field_of_view: As given.
        row_of: Label → row of the table, for the labels that the table has.
        label_of: Row → label.
        missing: Cells of the field whose label the layer lacks.

    Raises:
        InputError: If the table has no labels of masks, no such field, or none of its labels are on the layer.
    """

    def __init__(self, table: EmbeddingTable, folder: Path, field_of_view: str, present: npt.ArrayLike) -> None:
        cells = table.cells
        if _LABEL not in cells:
            raise InputError(
                f"{folder} has no column {_LABEL!r}: its cells were not cut from masks. Embed the images with masks."
            )
        rows = np.flatnonzero((cells[_FIELD] == field_of_view).to_numpy())
        if not len(rows):
            names = ", ".join(map(str, cells[_FIELD].unique()[:_MOST_NAMED]))
            raise InputError(
                f"{folder} has no field of view {field_of_view!r}; the first are {names}. Enter the name of the field "
                "that the labels layer shows."
            )
        labels = pd.to_numeric(cells[_LABEL], errors="coerce").to_numpy()[rows]  # texts in tables of other tools
        there = np.isin(labels, np.asarray(present))
        if not there.any():
            raise InputError(
                f"The layer has none of the {len(rows)} labels of field {field_of_view!r} in {folder}, such as "
                f"{labels[0]:g}. Choose the mask that the cells were cut from."
            )
        self.table, self.folder, self.field_of_view = table, folder, field_of_view
        self.row_of = {int(label): int(row) for label, row in zip(labels[there], rows[there], strict=True)}
        self.label_of = {row: label for label, row in self.row_of.items()}
        self.missing = int(len(rows) - there.sum())
        self._added: dict[str, tuple[npt.ArrayLike, npt.NDArray[np.bool_] | None]] = {}

    def set_column(self, name: str, values: npt.ArrayLike, faint: npt.NDArray[np.bool_] | None = None) -> None:
        """Add or replace a column.

        Args:
            name: Its name.
            values: One per cell of the table; empty texts are unknown.
            faint: `[cells]`, which are shown paler, as what is only suggested; None: none.
        """
        self._added[name] = (values, faint)

    def cell_id(self, row: int) -> str:
        """Id of the cell in a row."""
        return str(self.table.cells["cell_id"].iloc[row])

    def columns(self) -> dict[str, str]:
        """Columns that say something of the cells on the layer: name → what it is called, the most useful first."""
        here = self._frame().iloc[[*self.label_of]]
        described = {column["name"]: column["label"] for column in page_columns(here)}
        return {name: described[name] for name in sorted(described, key=self._order)}

    def features(self) -> pd.DataFrame:
        """What is known of the cells on the layer, with their label as `index`: the form of napari's features."""
        frame = self._frame().iloc[[*self.label_of]].reset_index(drop=True)
        shown = [name for name in (*self.columns(), "cell_id") if name in frame]
        return pd.concat([pd.DataFrame({"index": [*self.label_of.values()]}), frame[shown]], axis=1)

    def colours(self, name: str) -> CellColours:
        """Colours of all cells of the table by a column.

        Args:
            name: One of `columns`.

        Raises:
            InputError: If there is no such column.
        """
        (column, *_) = page_columns(self._frame()[[name]]) if name in self._frame() else [None]
        if column is None:
            raise InputError(f"The table has no column {name!r} to colour by, or it is empty. Choose another one.")
        if column["kind"] == "number":
            rgba, legend = _of_numbers(np.array(column["values"], dtype=np.float64))
        else:
            rgba, legend = _of_levels(column["levels"], np.array(column["codes"]), column["colours"])
        faint = self._added.get(name, ((), None))[1]
        if faint is not None:
            rgba[faint, 3] = _FAINT
        return CellColours(column["label"], rgba, legend)

    def _frame(self) -> pd.DataFrame:
        """All columns: of the table, probabilities of its locations, and those that were added."""
        table = self.table
        more: dict[str, Any] = {}
        if table.probabilities is not None:
            named = zip(table.classes, table.probabilities.T, strict=True)
            more = {f"probability of {name}": values for name, values in named}
        added = {name: values for name, (values, _) in self._added.items()}
        kept = table.cells.drop(columns=[name for name in added if name in table.cells])
        return kept.assign(**more, **added)

    def _order(self, name: str) -> int:
        first = ("top_location_1", CLUSTER, CLASS)
        return first.index(name) if name in first else len(first)


def _of_levels(
    levels: Sequence[str], codes: npt.NDArray[np.int64], given: Sequence[str] | None
) -> tuple[npt.NDArray[np.float32], dict[str, _Rgba]]:
    """Each level has a colour: the given one, or one of twenty in the order of how often the levels occur."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba

    palette = [colormaps["tab20"](number) for number in (*range(0, 20, 2), *range(1, 20, 2))]  # the strong ones first
    named = [to_rgba(colour) for colour in given or palette[: len(levels)]]
    colours = np.array([*named, *[_GREY] * (len(levels) - len(named) + 1)], dtype=np.float32)
    return colours[codes], dict(zip(levels, named, strict=False))  # the last one, grey, is that of the code -1


def _of_numbers(
    values: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float32], dict[str, _Rgba]]:
    from matplotlib import colormaps

    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    known = np.isfinite(values)
    shade = colormaps["cividis"]
    rgba = np.full((len(values), 4), _GREY, np.float32)
    rgba[known] = shade((values[known] - low) / max(high - low, 1e-12))
    return rgba, {f"{low:.4g}": shade(0.0), f"{high:.4g}": shade(1.0)}
