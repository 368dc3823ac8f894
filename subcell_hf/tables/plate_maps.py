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
    cells = table.cells
    if "well" not in cells.columns:
        raise InputError(
            f"The table has no column 'well' to join plate maps by; it has {', '.join(map(str, cells.columns))}. Add "
            "it when embedding (--metadata), or leave --plate-map out."
        )
    wells = text_values(cells["well"], "well")
    plates = text_values(cells["plate"], "plate") if "plate" in cells.columns else [""] * len(wells)
    joined, said = join_wells(cells, plates, wells, paths)
    return replace(table, cells=joined), said


def join_wells(
    rows: pd.DataFrame, plates: Sequence[str], wells: Sequence[str], paths: Sequence[Path]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Add columns of plate maps to rows of which plate and well are known; see `with_plate_maps`."""
    maps = [read_plate_map(path) for path in paths]
    places = list(zip(plates, wells, strict=True))
    known = {place: keep_apart(join_plate_maps(maps, *place)) for place in dict.fromkeys(places)}
    said = describe_join(maps, [place for place in known if place[1]])
    columns = {}
    for name in dict.fromkeys(name for values in known.values() for name in values):
        texts = [known[place].get(name, "") for place in places]
        if name in rows.columns:
            there = text_values(rows[name], name, verbatim=True)
            differing = next((row for row, text in enumerate(texts) if text and there[row] not in ("", text)), None)
            if differing is not None:
                raise InputError(
                    f"The table says {there[differing]!r} of {name} in well {'/'.join(places[differing])}, the plate "
                    f"map {texts[differing]!r}. Correct one of them."
                )
            texts = [old or text for old, text in zip(there, texts, strict=True)]
        columns[name] = texts
    return rows.assign(**columns), said
