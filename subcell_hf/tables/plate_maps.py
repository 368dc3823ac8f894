"""Plate maps joined to tables of cells or wells that exist already."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.images.image_tables.plate_maps import describe_join, join_plate_maps, read_plate_map
from subcell_hf.images.metadata_columns import keep_apart
from subcell_hf.storage.text_values import text_values
from subcell_hf.tables.embedding_table import EmbeddingTable


class PlateMapJoin:
    """Plate maps that are joined to rows in one or more blocks.

    Args:
        paths: Of plate maps.

    Raises:
        InputError: If one cannot be read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._maps = [read_plate_map(path) for path in paths]
        self._known: dict[tuple[str, str], dict[str, str]] = {}
        values = (well for one in self._maps for wells in one.wells.values() for well in wells.values())
        self._names = tuple(keep_apart(dict.fromkeys(name for one in values for name in one)))

    def to_table(self, table: EmbeddingTable) -> EmbeddingTable:
        """A block of a table with further columns of text.

        Raises:
            InputError: If it names no wells, or a map contradicts it.
        """
        cells = table.cells
        if "well" not in cells.columns:
            raise InputError(
                f"The table has no column 'well' to join plate maps by; it has {', '.join(map(str, cells.columns))}. "
                "Add it when embedding (--metadata), or leave --plate-map out."
            )
        wells = text_values(cells["well"], "well")
        plates = text_values(cells["plate"], "plate") if "plate" in cells.columns else [""] * len(wells)
        return replace(table, cells=self.to_rows(cells, plates, wells))

    def to_rows(self, rows: pd.DataFrame, plates: Sequence[str], wells: Sequence[str]) -> pd.DataFrame:
        """Rows of which plate and well are known, with further columns of text; see `to_table`."""
        places = list(zip(plates, wells, strict=True))
        for place in dict.fromkeys(places):
            if place not in self._known:
                self._known[place] = keep_apart(join_plate_maps(self._maps, *place))
        columns = {}
        for name in self._names:
            texts = [self._known[place].get(name, "") for place in places]
            if name in rows.columns:
                there = text_values(rows[name], name, verbatim=True)
                differing = next((row for row, text in enumerate(texts) if text and there[row] not in ("", text)), None)
                if differing is not None:
                    raise InputError(
                        f"The table says {there[differing]!r} of {name} in well {'/'.join(places[differing])}, the "
                        f"plate map {texts[differing]!r}. Correct one of them."
                    )
                texts = [old or text for old, text in zip(there, texts, strict=True)]
            columns[name] = texts
        return rows.assign(**columns)

    def describe(self) -> dict[str, str]:
        """Which wells of the rows so far and of the maps lack the other: path of a plate map → sentence.

        Raises:
            InputError: If a map fits no well.
        """
        return describe_join(self._maps, [place for place in self._known if place[1]])


def with_plate_maps(table: EmbeddingTable, paths: Sequence[Path]) -> tuple[EmbeddingTable, dict[str, str]]:
    """A table with what plate maps say of the wells, and of which wells and rows there is no other.

    Args:
        table: Cells with the column `well`, and `plate` where there are several.
        paths: Of plate maps.

    Returns:
        The table, with further columns of text; path of a plate map → what does not fit.

    Raises:
        InputError: If the table names no wells, a map is wrong or fits no well, or contradicts the table.
    """
    maps = PlateMapJoin(paths)
    joined = maps.to_table(table)
    return joined, maps.describe()
