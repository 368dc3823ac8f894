"""Plate maps: which treatment, dose or control is in which well, in the forms that laboratories have."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from subcell_hf.errors import InputError
from subcell_hf.images.wells import standard_well, well_at, well_position
from subcell_hf.storage.foreign_tables import ForeignTable, read_foreign_table

_PLATES = (
    "plate",
    "barcode",
    "plate_barcode",
    "plate_id",
    "plateid",
    "plate_name",
    "assay_plate_barcode",
    "destination_plate_barcode",
    "destination_plate_name",
)
_WELLS = ("well", "well_position", "well_id", "wellid", "well_name", "position", "destination_well")
_ROWS = ("row", "well_row", "wellrow", "plate_row")
_COLUMNS = ("col", "column", "well_col", "wellcol", "well_column", "wellcolumn", "plate_column", "plate_col")
_BARCODE, _MAP_NAME = "assay_plate_barcode", "plate_map_name"
_METADATA = "metadata_"
_MAP_SUFFIXES = (".txt", ".tsv", ".csv", ".txt.gz", ".tsv.gz", ".csv.gz", ".parquet")
_MOST_NAMED = 3

Well = tuple[str, str]
"""Plate, empty where it is any, and well as `A01`."""


@dataclass(frozen=True)
class PlateMap:
    """What one table says of wells.

    Attributes:
        path: The table.
        columns: Names of what it says.
        wells: Plate, empty where the table names none → well → column → value; empty values are left out.
        missing: Plate → the map that is named for it and is not there.
    """

    path: Path
    columns: tuple[str, ...]
    wells: Mapping[str, Mapping[str, Mapping[str, str]]]
    missing: Mapping[str, str] = field(default_factory=dict)

    def of_plate(self, plate: str) -> Mapping[str, Mapping[str, str]] | None:
        """Well → what it holds; None where the table does not know the plate.

        Raises:
            InputError: If the table names a map for the plate that is not there.
        """
        if plate in self.missing:
            raise InputError(
                f"{self.path} says that plate {plate!r} has the map {self.missing[plate]!r}, but no file of that name "
                f"({', '.join(_MAP_SUFFIXES)}) lies below {self.path.parent}. Copy it there, or give it alone."
            )
        return self.wells.get(plate, self.wells.get(""))


def read_plate_map(path: Path) -> PlateMap:
    """Read a plate map.

    Args:
        path: One of: JUMP's and LINCS's `barcode_platemap.csv`, with the maps that it names in files below its folder;
            a table with one row per well, with a column of wells (`well`, `well_position`, `Metadata_Well`, …) or of
            rows and columns, and, where it is for several plates, one of plates (`plate`, `barcode`,
            `Metadata_Plate`, …); or a grid as the plate is, with letters before its rows and numbers above its columns,
            whose values get the name in its corner, or that of the file.

    Raises:
        InputError: If it cannot be read, is none of them, names something that is no well, or says two things of one
            well.
    """
    try:
        table = read_foreign_table(path)
    except OSError as error:
        raise InputError(f"Cannot read the plate map {path}: {error.strerror}.") from error
    names = _names(table)
    if _BARCODE in names and _MAP_NAME in names:
        return _read_barcodes(path, table, names)
    if (grid := _grid(path, table)) is not None:
        return grid
    return _read_long(path, table, names)


def join_plate_maps(maps: Sequence[PlateMap], plate: str, well: str) -> dict[str, str]:
    """What maps say of one well.

    Args:
        maps: Of one or more tables.
        plate: Its plate.
        well: The well, in any form.

    Returns:
        Column → value; empty where no map has a row for the well.

    Raises:
        InputError: If two tables say different things of it, or a map is missing.
    """
    known: dict[str, str] = {}
    sources: dict[str, Path] = {}
    for one in maps:
        values = (one.of_plate(plate) or {}).get(standard_well(well), {})
        for name, value in values.items():
            sources.setdefault(name, one.path)
            if known.setdefault(name, value) != value:
                raise InputError(
                    f"{sources[name]} and {one.path} say {known[name]!r} and {value!r} of {name} in well {well} of "
                    f"plate {plate!r}. Correct one of them."
                )
    return known


def describe_join(maps: Iterable[PlateMap], wells: Iterable[Well]) -> dict[str, str]:
    """What maps say of no well of the images, and which wells they say nothing of.

    Args:
        maps: Of one or more tables.
        wells: All that the images are of.

    Returns:
        Path of a table → a sentence; nothing where all wells have their row, and all rows their well.

    Raises:
        InputError: If a table says nothing of any well.
    """
    wells = sorted({(plate, standard_well(well)) for plate, well in wells})
    return {str(one.path): f"a plate map: {said}" for one in maps if (said := _describe(one, wells))}


def _describe(one: PlateMap, wells: Sequence[Well]) -> str:
    plates = {plate for plate, _ in wells}
    lost = [f"{plate}/{well}" if plate else well for plate, well in wells if well not in (one.of_plate(plate) or {})]
    if len(lost) == len(wells):
        known = ", ".join(list(one.wells)[:_MOST_NAMED]) or "none"
        theirs = f"its plates are {known}" if "" not in one.wells else f"it has {len(one.wells[''])} wells"
        raise InputError(
            f"The plate map {one.path} says nothing of any well of the images: {theirs}, the images are of "
            f"{_first(lost) or 'no well'}. Name plates and wells alike in both, or leave the plate map out."
        )
    parts = []
    if lost:
        parts.append(f"{len(lost)} of the {len(wells)} wells of the images have no row in it: {_first(lost)}")
    used = {plate: rows for plate in plates if (rows := one.of_plate(plate)) is not None}
    there = {*wells}
    unused = [f"{plate}/{well}" for plate in sorted(used) for well in used[plate] if (plate, well) not in there]
    if unused:
        count = sum(map(len, used.values()))
        parts.append(f"{len(unused)} of its {count} wells have no image: {_first(unused)}")
    others = (one.wells.keys() | one.missing.keys()) - plates - {""}
    if others:
        parts.append(f"{len(others)} of its plates have no image: {_first(sorted(others))}")
    return "; ".join(parts)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")


def _names(table: ForeignTable) -> dict[str, str]:
    """Name in small letters, without `Metadata_` and with `_` for blanks → the name as it is."""
    plain = {re.sub(r"[\s-]+", "_", name.strip().lower()).removeprefix(_METADATA): name for name in table.columns}
    return {**plain, **{name.lower(): name for name in table.columns}}


def _found(names: Mapping[str, str], wanted: Iterable[str]) -> str | None:
    return next((names[name] for name in wanted if name in names), None)


def _read_barcodes(path: Path, table: ForeignTable, names: Mapping[str, str]) -> PlateMap:
    """The plates of a `barcode_platemap.csv`; only maps that are there are read."""
    files: dict[str, Path] = {}
    for file in sorted(path.parent.rglob("*")):
        suffix = next((end for end in _MAP_SUFFIXES if file.name.lower().endswith(end)), None)
        if suffix is not None and file != path:
            files.setdefault(file.name[: -len(suffix)], file)
    others = [name for name in table.columns if name != names[_BARCODE]]
    texts = {name: table.text(name) for name in table.columns}
    maps: dict[str, PlateMap] = {}
    wells: dict[str, Mapping[str, Mapping[str, str]]] = {}
    missing: dict[str, str] = {}
    for number, barcode in enumerate(texts[names[_BARCODE]]):
        name = texts[names[_MAP_NAME]][number]
        if barcode in wells or barcode in missing:
            raise InputError(f"{path} lists plate {barcode!r} more than once, expected every plate once.")
        if name not in files:
            missing[barcode] = name
            continue
        if name not in maps:
            maps[name] = read_plate_map(files[name])
        if "" not in maps[name].wells:
            raise InputError(f"{files[name]} names plates itself, which {path} does as well. Give it alone.")
        inner = {column.lower() for column in maps[name].columns}
        own = {other: texts[other][number] for other in others if texts[other][number] and other.lower() not in inner}
        wells[barcode] = {
            well: _together(own, values, f"{path} and {files[name]}") for well, values in maps[name].wells[""].items()
        }
    columns = dict.fromkeys(column for rows in wells.values() for values in rows.values() for column in values)
    return PlateMap(path, tuple(columns), wells, missing)


def _together(own: Mapping[str, str], values: Mapping[str, str], where: str) -> dict[str, str]:
    for name in own.keys() & values.keys():
        if own[name] != values[name]:
            raise InputError(f"{where} say {own[name]!r} and {values[name]!r} of {name}. Correct one of them.")
    return {**own, **values}


def _read_long(path: Path, table: ForeignTable, names: Mapping[str, str]) -> PlateMap:
    """A table with one row per well."""
    plate, row, column = (_found(names, wanted) for wanted in (_PLATES, _ROWS, _COLUMNS))
    forms: list[tuple[str, ...]] = [(names[name],) for name in _WELLS if name in names]
    forms += [(row, column)] if row is not None and column is not None else []
    if not forms:
        raise InputError(
            f"{path} is no plate map: it has the columns {', '.join(table.columns)}, expected one of wells (well, "
            "well_position, …) or two of rows and columns (row, col), or a grid with the letters of rows before it and "
            "the numbers of columns above it."
        )
    keys = [*forms[0], *([] if plate is None else [plate])]
    texts = {name: table.text(name, verbatim=name not in keys) for name in table.columns}
    columns = tuple(name for name in table.columns if name not in keys)
    wells: dict[str, dict[str, dict[str, str]]] = {}
    numbers: dict[Well, int] = {}
    for number in range(len(table)):
        name, *others = (_well_of([_bare(texts[key][number]) for key in form]) for form in forms)
        if name is None or any(other not in (None, name) for other in others):
            said = " and ".join(repr(" ".join(texts[key][number] for key in form)) for form in forms)
            raise InputError(f"{path} has {said} as the well of row {number + 1}, expected one such as A01.")
        barcode = texts[plate][number] if plate else ""
        values = {column: texts[column][number] for column in columns if texts[column][number].strip()}
        earlier = wells.setdefault(barcode, {}).setdefault(name, values)
        first = numbers.setdefault((barcode, name), number + 1)
        if earlier != values:
            differing = next(key for key in columns if earlier.get(key) != values.get(key))
            raise InputError(
                f"{path} says {earlier.get(differing, '')!r} and {values.get(differing, '')!r} of {differing} in well "
                f"{name}{f' of plate {barcode!r}' if barcode else ''} (rows {first} and {number + 1}). Keep one row"
                f"{'' if plate else ', or add a column of plates'}."
            )
    return PlateMap(path, columns, wells)


def _bare(text: str) -> str:
    """A cell without the quotes that keep Excel from changing it."""
    return text.strip().strip("\"'").strip()


def _well_of(cells: Sequence[str]) -> str | None:
    """`["C3"]`, `["C", "3"]` or `["3", "3"]` → `C03`; None for what is no well."""
    if len(cells) == 1:
        return standard_well(cells[0]) if well_position(cells[0]) is not None else None
    return well_at(cells[0], cells[1])


def _grid(path: Path, table: ForeignTable) -> PlateMap | None:
    """A table as the plate is; None for any other."""
    names = list(table.columns)
    if table.row_names is not None:
        corner, letters, numbers = "", list(table.row_names), names
    elif names:
        corner, letters, numbers = names[0], table.text(names[0]), names[1:]
    if not names or not numbers or not all(well_at("A", _bare(name)) for name in numbers):
        return None
    if not letters or not all(_bare(letter).isalpha() and well_at(_bare(letter), "1") for letter in letters):
        return None
    if len(corner.strip()) == 1 and corner.strip().isalnum():  # no name, but the first row of a table without header
        return None
    is_title = any(map(str.isalpha, corner)) and corner.strip().lower() not in (*_ROWS, *_WELLS, *_PLATES)
    title = corner if is_title else _stem(path)
    wells = {
        well_at(_bare(letter), _bare(name)) or "": {title: value}
        for name in numbers
        for letter, value in zip(letters, table.text(name, verbatim=True), strict=True)
        if value.strip()
    }
    if len({_bare(letter).upper() for letter in letters}) < len(letters):
        raise InputError(f"{path} has a row letter more than once, expected the grid of one plate.")
    return PlateMap(path, (title,), {"": dict(_in_order(wells))})


def _in_order(wells: Mapping[str, dict[str, str]]) -> Iterator[tuple[str, dict[str, str]]]:
    yield from sorted(wells.items(), key=lambda pair: well_position(pair[0]) or (0, 0))


def _stem(path: Path) -> str:
    return path.name.split(".")[0]
