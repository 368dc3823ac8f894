"""Names of wells: `A01` everywhere, however an instrument writes them."""

import re
from collections.abc import Sequence

_WELL = re.compile(r"\s*([A-Za-z]{1,2})[\s_-]*0*([1-9]\d?)\s*")
_NUMBER = re.compile(r"0{0,2}[1-9][0-9]?")

_MOST_ROWS = 52
_MOST_COLUMNS = 99


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


def standard_well(text: str) -> str:
    """`a1`, `A01`, `C - 5` → `A01`, `C05`; text that names no well as it is."""
    match = _WELL.fullmatch(text)
    return f"{match[1].upper()}{int(match[2]):02d}" if match else text


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

    `P1`, `P2`, … count positions, so names of row P alone are none.
    """
    if all(well_position(name) for name in names) and {name.strip()[:1].upper() for name in names} != {"P"}:
        return [standard_well(name) for name in names]
    return [""] * len(names)


def well_at(row: str, column: str) -> str | None:
    """`("C", "3")` and `("3", "03")` → `C03`; None for what is no well."""
    row, column = row.strip(), column.strip()
    if _NUMBER.fullmatch(row) and _NUMBER.fullmatch(column) and int(row) <= _MOST_ROWS:
        return well_name(int(row), int(column))
    well = f"{row}{column}"
    return standard_well(well) if row.isalpha() and well_position(well) is not None else None
