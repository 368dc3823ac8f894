"""Names of wells: `A01` everywhere, however an instrument writes them."""

import re
from collections.abc import Sequence

_WELL = re.compile(r"\s*([A-Za-z]{1,2})[\s_-]*0*([1-9]\d?)\s*")

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
    letters = chr(ord("A") + row - 1) if row <= 26 else "A" + chr(ord("A") + row - 27)
    return f"{letters}{column:02d}"


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


def row_number(text: str) -> int | None:
    """`C`, `c` or `3` → 3; None for text that names no row."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return int(text) or None
    position = well_position(f"{text}1") if text.isalpha() else None
    return None if position is None else position[0]
