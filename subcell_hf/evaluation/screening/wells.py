"""Profiles of cells or wells and plate maps → the wells of a screen, in memory that does not grow with the cells."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError, counted
from subcell_hf.evaluation.perturbation.table import ProfileTable, holds_profiles, read_profiles
from subcell_hf.evaluation.screening.settings import NO_COUNTS
from subcell_hf.images.wells import standard_well, well_position
from subcell_hf.storage.parquet_files import open_parquet, read_parquet_schema
from subcell_hf.storage.text_values import text_values
from subcell_hf.tables.cell_pictures import PICTURES_FILE, CellPicture, iterate_pictures
from subcell_hf.tables.embedding_table import CELL_ID, FIELD_OF_VIEW
from subcell_hf.tables.files import EMBEDDINGS_FILE, iterate_table
from subcell_hf.tables.groups import GroupedNumbers, GroupedValues, Groups
from subcell_hf.tables.parquet import batches_of, parquet_facts
from subcell_hf.tables.plate_maps import PlateMapJoin
from subcell_hf.tables.run_record import origin_of, refuse_other_origin

PLATE, WELL, COUNT = "plate", "well", "cell_count"

_PREFIX = "metadata_"
_COUNTS = (COUNT, "count_cells", "cells_count", "object_count", "number_of_cells")
_NAMES_CELL = re.compile(r"cell|cell_?ids?|label|object|object_?id|(.*_)?object_?number")
_NAMES_FIELD = re.compile(r"field_of_view|fov|(field|site|image)(_?(id|number))?|.*_image_?number")


@dataclass(frozen=True)
class WellTable:
    """One row per well.

    Attributes:
        profiles: Features, and as metadata `plate`, `well` and whatever is known of the well, by the names of the table
            and the plate map.
        counts: Number of cells of each well, float64 [wells], NaN where missing; None where unknown.
        rows_are_cells: Whether rows of the input were cells, of which a well had several.
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
    paths: Sequence[Path],
    plate_maps: Sequence[Path] = (),
    columns: Sequence[str] = (),
    count_column: str | None = None,
    *,
    rows_are_cells: bool = False,
) -> WellTable:
    """Read profiles, average the rows of each well, and join plate maps.

    Several rows of a well are cells or fields of view, and a column must name these, so that no well counts twice.
    Rows with numbers of cells are fields or wells. Embedding tables in Parquet are read block by block.

    Args:
        paths: Tables of cells or wells: of `subcell embed` or `subcell aggregate`, or CSV or Parquet as pycytominer and
            CellProfiler write them, with columns of plate and well.
        plate_maps: What is in the wells; see `subcell_hf.images.read_plate_map`.
        columns: Columns of the tables that are kept where they exist, one value per well.
        count_column: Column of the number of cells per row; None: the usual names, else rows where these are cells;
            `"none"`: of no use.
        rows_are_cells: Rows are cells, whether or not a column names them; columns of numbers of cells are not used.

    Raises:
        InputError: If a table cannot be read, names no wells, has a well twice, the rows of a well differ in a column
            that is kept, or embeddings were computed in different ways.
    """
    if not paths:
        raise InputError("No profiles were given; name at least one table.")
    if rows_are_cells:
        if count_column not in (None, NO_COUNTS):
            raise InputError(
                f"Rows that are cells are counted, got the column {count_column!r} of numbers of cells as well. Leave "
                "out --count-column or --rows-are-cells."
            )
        count_column = NO_COUNTS
    sums = _Sums()
    for path in paths:
        for block in _blocks(Path(path), columns, count_column, rows_are_cells):
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
    cells: bool
    """Whether rows are cells, if a well has several."""
    places: pd.DataFrame | None
    """Plate, well, and columns that name the rows within a well; None where rows are known to be different."""
    shares: npt.NDArray[np.float64] | None = None
    classes: tuple[str, ...] = ()
    origin: Mapping[str, str] = field(default_factory=dict)


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
        self._origin: tuple[str, Mapping[str, str]] = ("", {})
        """What computed the numbers of the first file that records it."""
        self._cells = True
        self._places: list[pd.DataFrame] = []
        """Of the present file."""

    def add(self, path: str, block: _Block) -> None:
        """Add the rows of a block."""
        metadata = block.metadata
        if self._files and block.names != self._names:
            raise InputError(
                f"{path} has other features ({len(block.names)}) than {self._files[0]} ({len(self._names)}); tables "
                "that are read together must have the same features in the same order."
            )
        refuse_other_origin(path, block.origin, *self._origin)
        if not self._origin[1]:
            self._origin = (path, block.origin)
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
        self._cells &= block.cells
        self._places += [] if block.places is None else [block.places]
        self._classes.setdefault(block.classes, path)
        if block.shares is not None and len(self._classes) == 1:
            self._shares.add(codes, block.shares)

    def end_of_file(self, path: str) -> None:
        """Refuse a table with rows of one well that no column distinguishes."""
        if not self._places:
            return
        places, self._places = pd.concat(self._places, ignore_index=True), []
        repeated = places.duplicated(keep=False).to_numpy()
        if not repeated.any():
            return
        first = places.iloc[int(repeated.argmax())]
        rows, wells = int((places == first).all(axis=1).sum()), len(places[repeated].drop_duplicates([PLATE, WELL]))
        names = "".join(f", {name} {first[name]!r}" for name in places.columns.drop([PLATE, WELL]))
        raise InputError(
            f"{path} has {rows} rows for well {first[WELL]} of plate {first[PLATE]!r}{names} "
            f"({counted(wells, 'well')} so), expected one row per well, or a column that names the cells or fields of "
            "a well. Remove the duplicates, give plates that share a name different ones, or use --rows-are-cells if "
            "every row is another cell."
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
        cells = bool(rows.max() > 1) and self._cells
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


def _blocks(path: Path, columns: Sequence[str], count_column: str | None, rows_are_cells: bool) -> Iterator[_Block]:
    """A table in parts, with the columns that matter."""
    file = path / EMBEDDINGS_FILE if path.is_dir() else path
    if file.is_file() and file.name.lower().endswith(".parquet") and not holds_profiles(file) and parquet_facts(file):
        known = read_parquet_schema(file).names
        # Ids of cells are unique in such a table, so rows that are no groups of cells differ.
        cells = rows_are_cells or _count_column(known, path, count_column) is None
        for block in iterate_table(file):
            features = np.asarray(block.embeddings, dtype=np.float64)
            names = tuple(f"embedding_{index}" for index in range(features.shape[1]))
            wanted = (PLATE, WELL, FIELD_OF_VIEW, *columns, *_COUNTS, count_column or COUNT)
            kept = dict.fromkeys(found for name in wanted if (found := find_column(known, name)) is not None)
            frame = pd.DataFrame({name: text_values(block.cells[name], f"{file}, {name}") for name in kept})
            kept_frame = _kept(frame, list(block.cells.columns), path, columns, count_column)
            shares = None if block.probabilities is None else block.probabilities.astype(np.float64)
            places = None if cells else _places(frame, kept_frame, [FIELD_OF_VIEW])
            yield _Block(kept_frame, features, names, cells, places, shares, block.classes, origin_of(block.provenance))
        return
    table = read_profiles([path], {*columns, *([count_column] if count_column else ())})
    texts = table.metadata.fillna("")
    kept_frame = _kept(texts, list(texts.columns), path, columns, count_column)
    naming = [name for name in texts.columns if _NAMES_FIELD.fullmatch(_plain(name))]
    cells = rows_are_cells
    if not cells and COUNT not in kept_frame.columns:
        made = list(map(str, range(len(texts))))  # ids of rows, not of cells
        of_cells = [n for n in texts.columns if _NAMES_CELL.fullmatch(_plain(n)) and list(texts[n]) != made]
        cells, naming = bool(of_cells), naming + of_cells
    places = None if rows_are_cells else _places(texts, kept_frame, naming)
    yield _Block(kept_frame, table.features, table.names, cells, places, origin=table.origin)


def _places(texts: pd.DataFrame, kept: pd.DataFrame, naming: Sequence[str]) -> pd.DataFrame:
    """Plate and well of each row, and what names it within the well."""
    return pd.concat([kept[[PLATE, WELL]], texts[list(naming)]], axis=1)


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
