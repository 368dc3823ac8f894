"""Profiles of cells or wells and plate maps → the wells of a screen, in memory that does not grow with the cells."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.table import ProfileTable, holds_profiles, read_profiles
from subcell_hf.evaluation.screening.settings import NO_COUNTS
from subcell_hf.images.wells import standard_well, well_position
from subcell_hf.storage.parquet_files import open_parquet, read_parquet_schema
from subcell_hf.storage.text_values import text_values
from subcell_hf.tables.cell_pictures import PICTURES_FILE, CellPicture, iterate_pictures
from subcell_hf.tables.embedding_table import CELL_ID
from subcell_hf.tables.files import EMBEDDINGS_FILE, iterate_table
from subcell_hf.tables.groups import GroupedNumbers, GroupedValues, Groups
from subcell_hf.tables.parquet import batches_of, parquet_facts
from subcell_hf.tables.plate_maps import PlateMapJoin

PLATE, WELL, COUNT = "plate", "well", "cell_count"

_PREFIX = "metadata_"
_COUNTS = (COUNT, "count_cells", "cells_count", "object_count", "number_of_cells")


@dataclass(frozen=True)
class WellTable:
    """One row per well.

    Attributes:
        profiles: Features, and as metadata `plate`, `well` and whatever is known of the well, by the names of the table
            and the plate map.
        counts: Number of cells of each well, float64 [wells], NaN where missing; None where unknown.
        rows_are_cells: Whether a row of the input was a cell.
        notes: What does not fit between table and plate maps, or between tables.
        shares: Mean probability of each location over the cells of a well, float64 [wells, classes]; None where there
            is no classifier.
        classes: Names of the locations.
    """

    profiles: ProfileTable
    counts: npt.NDArray[np.float64] | None
    rows_are_cells: bool
    notes: tuple[str, ...] = ()
    shares: npt.NDArray[np.float64] | None = None
    classes: tuple[str, ...] = ()

    def positions(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]] | None:
        """Row and column of each well from 1; None where a well's name does not say them."""
        places = [well_position(str(well)) for well in self.profiles.column(WELL)]
        known = [place for place in places if place is not None]
        if len(known) < len(places):
            return None
        array = np.array(known, dtype=np.intp)
        return array[:, 0], array[:, 1]


def read_wells(
    paths: Sequence[Path], plate_maps: Sequence[Path] = (), columns: Sequence[str] = (), count_column: str | None = None
) -> WellTable:
    """Read profiles, average the rows of each well, and join plate maps.

    Embedding tables in Parquet are read block by block.

    Args:
        paths: Tables of cells or wells: of `subcell embed` or `subcell aggregate`, or CSV or Parquet as pycytominer and
            CellProfiler write them, with columns of plate and well.
        plate_maps: What is in the wells; see `subcell_hf.images.read_plate_map`.
        columns: Columns of the tables that are kept where they exist, one value per well.
        count_column: Column of the number of cells per row; None: the usual names, else rows where these are cells;
            `"none"`: of no use.

    Raises:
        InputError: If a table cannot be read, names no wells, has a well twice, or the rows of a well differ in a
            column that is kept.
    """
    if not paths:
        raise InputError("No profiles were given; name at least one table.")
    sums = _Sums()
    for path in paths:
        for block in _blocks(Path(path), columns, count_column):
            sums.add(str(path), block)
        sums.end_of_file(str(path))
    table = sums.table()
    if plate_maps:
        plates, wells = (list(map(str, table.profiles.column(name))) for name in (PLATE, WELL))
        texts = table.profiles.metadata.fillna("")
        maps = PlateMapJoin(plate_maps)
        joined = maps.to_rows(texts, plates, wells)
        frame = joined.astype(object).where((joined != "") | (joined.columns == PLATE), None)
        profiles = replace(table.profiles, metadata=frame)
        notes = tuple(f"{path}: {sentence}." for path, sentence in maps.describe().items())
        table = replace(table, profiles=profiles, notes=(*table.notes, *notes))
    return table


def read_well_pictures(paths: Sequence[Path], most: int = 6) -> dict[tuple[str, str], list[CellPicture]]:
    """Pictures of cells that lie beside tables of `subcell embed`, by plate and well; none where there are none.

    Args:
        paths: As in `read_wells`.
        most: Pictures per well.

    Returns:
        Plate and well → pictures, in the order of the tables.
    """
    found: dict[tuple[str, str], list[CellPicture]] = {}
    for path in paths:
        file = path / EMBEDDINGS_FILE if path.is_dir() else path
        beside = file.with_name(PICTURES_FILE)
        if not (file.name == EMBEDDINGS_FILE and file.is_file() and beside.is_file()):
            continue
        pictures = {picture.cell_id: picture for picture in iterate_pictures(beside)}
        known = read_parquet_schema(file).names
        plate, well = find_column(known, PLATE), find_column(known, WELL)
        if well is None:
            continue
        columns = [CELL_ID, well, *([] if plate is None else [plate])]
        with open_parquet(file) as table:
            for batch in batches_of(table, columns):
                texts = {name: text_values(batch.column(name), name, verbatim=name == CELL_ID) for name in columns}
                plates = texts[plate] if plate is not None else [""] * len(batch)
                wells = texts[well] if well is not None else [""] * len(batch)
                for cell, place in zip(
                    texts[CELL_ID], zip(plates, map(standard_well, wells), strict=True), strict=True
                ):
                    if cell in pictures and len(found.setdefault(place, [])) < most:
                        found[place].append(pictures[cell])
    return found


def find_column(known: Sequence[str], name: str) -> str | None:
    """A column by its name, in any case of letters and with or without `Metadata_`; None where there is none."""
    if name in known:
        return name
    return next((column for column in known if _plain(column) == _plain(name)), None)


@dataclass(frozen=True)
class _Block:
    """Rows of a table: texts and numbers of cells, features and their names, probabilities and their classes."""

    metadata: pd.DataFrame
    features: npt.NDArray[np.float64]
    names: tuple[str, ...]
    shares: npt.NDArray[np.float64] | None = None
    classes: tuple[str, ...] = ()


class _Sums:
    """Sums over the rows of each well, of one block after the other."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._files: list[str] = []
        """File of each well."""
        self._wells = Groups()
        self._features = GroupedNumbers(np.add, np.float64)
        self._counts = GroupedNumbers(np.add, np.float64)
        """Rows and cells."""
        self._facts: dict[str, GroupedValues] = {}
        self._classes: dict[tuple[str, ...], str] = {}
        """Classes → a file that has them."""
        self._shares = GroupedNumbers(np.add, np.float64)

    def add(self, path: str, block: _Block) -> None:
        """Add the rows of a block."""
        metadata = block.metadata
        if self._files and block.names != self._names:
            raise InputError(
                f"{path} has other features ({len(block.names)}) than {self._files[0]} ({len(self._names)}); tables "
                "that are read together must have the same features in the same order."
            )
        self._names = block.names
        codes = self._wells.codes(metadata[[PLATE, WELL]])
        self._files += [path] * (len(self._wells) - len(self._files))
        for well in np.unique(codes):
            if self._files[well] != path:
                plate, name = self._wells.names()[well]
                raise InputError(
                    f"Well {name} of plate {plate!r} is both in {self._files[well]} and in {path}; its cells would "
                    "count twice. Give plates different names, or leave one table out."
                )
        for fact in metadata.columns.drop([PLATE, WELL, COUNT], errors="ignore"):
            known = self._facts.setdefault(str(fact), GroupedValues())
            known.add(codes, metadata[fact])
            if known.differing is not None:
                raise _differs(path, str(fact), self._wells.names()[known.differing])
        cells = metadata[COUNT].to_numpy() if COUNT in metadata.columns else np.full(len(codes), np.nan)
        self._counts.add(codes, np.column_stack([np.ones(len(codes)), cells]))
        self._features.add(codes, block.features)
        self._classes.setdefault(block.classes, path)
        if block.shares is not None and len(self._classes) == 1:
            self._shares.add(codes, block.shares)

    def end_of_file(self, path: str) -> None:
        """Refuse a table of wells that has one of them twice."""
        wells = [well for well, file in enumerate(self._files) if file == path]
        rows = self._counts.of(wells)[:, 0]
        single = int((rows == 1).sum())
        if single >= len(rows) / 2 and (rows > 1).any():
            plate, well = self._wells.names()[wells[int(np.flatnonzero(rows > 1)[0])]]
            raise InputError(
                f"{path} has one row for {single} of {len(rows)} wells but {int(rows.max())} for well {well} of plate "
                f"{plate!r} ({int((rows > 1).sum())} wells so), expected one row per well, or cells. Remove the "
                "duplicates, or give plates that share a name different ones."
            )

    def table(self) -> WellTable:
        """The wells, in the order of plates and wells."""
        places = self._wells.names()
        order = sorted(range(len(places)), key=places.__getitem__)
        rows, counts = self._counts.of(order).T
        columns = {PLATE: [places[well][0] for well in order], WELL: [places[well][1] for well in order]}
        columns |= {name: [next(iter(found.of(well)), "") for well in order] for name, found in self._facts.items()}
        metadata = pd.DataFrame(columns, dtype=object)
        known = [name for name in columns if name != PLATE]  # which is empty where there is one without a name
        metadata[known] = metadata[known].where(metadata[known] != "", None)
        cells = bool(rows.max() > 1)
        counted = cells
        if np.isnan(counts).all():
            counts = rows
        else:
            counted = True
        features = self._features.of(order) / rows[:, None]
        profiles = ProfileTable(metadata, features, self._names)
        classes, shares = next(iter(self._classes)), None
        notes: tuple[str, ...] = ()
        if len(self._classes) > 1:
            files = " and ".join(list(self._classes.values())[:2])
            classes, notes = (), (f"{files} have different classes of locations: changes of locations are not shown.",)
        elif classes:
            shares = self._shares.of(order) / rows[:, None]
        return WellTable(profiles, counts if counted else None, cells, notes, shares, classes)


def _differs(path: str, name: str, place: tuple[str, ...]) -> InputError:
    return InputError(
        f"{path}: the rows of well {place[1]} of plate {place[0]!r} differ in {name!r}, expected one value per well. "
        "Correct the table."
    )


def _blocks(path: Path, columns: Sequence[str], count_column: str | None) -> Iterator[_Block]:
    """A table in parts, with the columns that matter."""
    file = path / EMBEDDINGS_FILE if path.is_dir() else path
    if file.is_file() and file.name.lower().endswith(".parquet") and not holds_profiles(file) and parquet_facts(file):
        known = read_parquet_schema(file).names
        for block in iterate_table(file):
            features = np.asarray(block.embeddings, dtype=np.float64)
            names = tuple(f"embedding_{index}" for index in range(features.shape[1]))
            wanted = (PLATE, WELL, *columns, *_COUNTS, count_column or COUNT)
            kept = dict.fromkeys(found for name in wanted if (found := find_column(known, name)) is not None)
            frame = pd.DataFrame({name: text_values(block.cells[name], f"{file}, {name}") for name in kept})
            kept_frame = _kept(frame, list(block.cells.columns), path, columns, count_column)
            shares = None if block.probabilities is None else block.probabilities.astype(np.float64)
            yield _Block(kept_frame, features, names, shares, block.classes)
        return
    table = read_profiles([path], {*columns, *([count_column] if count_column else ())})
    texts = table.metadata.fillna("")
    yield _Block(_kept(texts, list(texts.columns), path, columns, count_column), table.features, table.names)


def _kept(
    texts: pd.DataFrame, known: Sequence[str], path: Path, columns: Sequence[str], count_column: str | None
) -> pd.DataFrame:
    """The columns that matter, under plain names."""
    plate, well = find_column(known, PLATE), find_column(known, WELL)
    if well is None:
        raise InputError(
            f"{path} has no column of wells (well or Metadata_Well); its metadata columns are {', '.join(known)}. "
            "Add it, or embed with --metadata."
        )
    wells = [standard_well(text) for text in texts[well]]
    kept = {PLATE: [""] * len(texts) if plate is None else list(texts[plate]), WELL: wells}
    for name in kept:
        if "" in kept[name] and not (name == PLATE and plate is None):
            raise InputError(
                f"{path}: column {plate if name == PLATE else well!r} is empty in {kept[name].count('')} of "
                f"{len(texts)} rows, expected the {name} of every row. Complete it, or leave these rows out."
            )
    kept |= {name: list(texts[found]) for name in columns if (found := find_column(known, name)) is not None}
    frame = pd.DataFrame(kept, dtype=object)
    counts = _count_column(known, path, count_column)
    if counts is not None:
        numbers = pd.to_numeric(texts[counts].replace("", np.nan), errors="coerce").to_numpy(dtype=np.float64)
        if (wrong := np.flatnonzero(np.isnan(numbers))).size:
            raise InputError(
                f"{path} has {texts[counts].iloc[int(wrong[0])]!r} as the number of cells ({counts}) in row "
                f"{int(wrong[0]) + 1}, expected a number in every row. Correct it, or use --count-column none."
            )
        frame[COUNT] = numbers
    return frame


def _count_column(known: Sequence[str], path: Path, wanted: str | None) -> str | None:
    """The column of the numbers of cells."""
    if wanted == NO_COUNTS:
        return None
    if wanted is None:
        return next((found for name in _COUNTS if (found := find_column(known, name)) is not None), None)
    if (found := find_column(known, wanted)) is None:
        raise InputError(f"{path} has no column {wanted!r} of numbers of cells; its columns are {', '.join(known)}.")
    return found


def _plain(name: str) -> str:
    return name.lower().removeprefix(_PREFIX)
