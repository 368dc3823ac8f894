"""Names of wells: `A01` everywhere, however an instrument writes them."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

_WELL = re.compile(r"\s*([Aa]?[A-Za-z])[\s_-]*0*([1-9]\d?)\s*")
_WELL_AND_POINT = re.compile(r"(.+?)_\d+")
_NO_ROWS = frozenset("PRS")
_NUMBER = re.compile(r"0{0,2}[1-9][0-9]?")

_MOST_ROWS = 52
_MOST_COLUMNS = 99
_REMEMBERED = 4096
"""Wells of a plate are named thousands of times."""


@lru_cache(_REMEMBERED)
def well_name(row: int, column: int) -> str:
    """`(1, 2)` → `A02`; rows of 1,536-well plates continue with `AA`.

    Args:
        row: From 1.
        column: From 1.

    Raises:
        ValueError: If no plate has such a row or column.
    """
    if not (1 <= row <= _MOST_ROWS and 1 <= column <= _MOST_COLUMNS):
        raise ValueError(f"no plate has a well in row {row}, column {column}")
    return f"{row_letters(row)}{column:02d}"


def row_letters(row: int) -> str:
    """`1` → `A`, `27` → `AA`.

    Args:
        row: From 1 to 52.
    """
    return chr(ord("A") + row - 1) if row <= 26 else "A" + chr(ord("A") + row - 27)


@lru_cache(_REMEMBERED)
def standard_well(text: str) -> str:
    """`a1`, `A01`, `C - 5` → `A01`, `C05`; text that names no well as it is."""
    match = _WELL.fullmatch(text)
    return f"{match[1].upper()}{int(match[2]):02d}" if match else text


@lru_cache(_REMEMBERED)
def well_position(well: str) -> tuple[int, int] | None:
    """Row and column of a well, both from 1; None where it is no well."""
    match = _WELL.fullmatch(well)
    if match is None:
        return None
    letters = match[1].upper()
    row = ord(letters[-1]) - ord("A") + 1 + (26 if len(letters) == 2 else 0)
    return row, int(match[2])


def wells_of_names(names: Sequence[str]) -> list[str]:
    """The wells that the names of positions say; empty texts where not all of them are wells.

    A number of the position may follow, as in `B02_0001`. `P1`, `R1` and `S1` count positions, regions and scenes, so
    names of these rows alone are none.
    """
    points = (_WELL_AND_POINT.fullmatch(name.strip()) for name in names)
    wells = [found[1] if found and well_position(found[1]) else name for found, name in zip(points, names, strict=True)]
    rows = {name.strip()[:1].upper() for name in wells}
    if all(map(well_position, wells)) and not (len(rows) == 1 and rows <= _NO_ROWS):
        return [standard_well(name) for name in wells]
    return [""] * len(names)


def agreed_well(said: Mapping[str, str]) -> tuple[str, str | None]:
    """The well that several sources say of an image, and what is wrong where they contradict each other.

    Args:
        said: Source → well as it says it; empty where it says none.

    Returns:
        The well as `A01`, that of the first source where they differ; empty where none says one.
    """
    wells = {source: standard_well(text) for source, text in said.items() if text}
    first = next(iter(wells.values()), "")
    other = next((source for source, well in wells.items() if well != first), None)
    if other is None:
        return first, None
    return first, (
        f"its well is {first} by {next(iter(wells))}, and {wells[other]} by {other}, expected one. Correct it in the "
        "microscope's program, or export each well to a separate file"
    )


def well_at(row: str, column: str) -> str | None:
    """`("C", "3")` and `("3", "03")` → `C03`; None for what is no well."""
    row, column = row.strip(), column.strip()
    if _NUMBER.fullmatch(row) and _NUMBER.fullmatch(column) and int(row) <= _MOST_ROWS:
        return well_name(int(row), int(column))
    well = f"{row}{column}"
    return standard_well(well) if row.isalpha() and well_position(well) is not None else None
