"""Profiles of cells or wells and plate maps → the wells of a screen, in memory that does not grow with the cells."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.table import ProfileTable, holds_profiles, read_profiles
from subcell_hf.evaluation.screening.settings import NO_COUNTS
from subcell_hf.images.wells import standard_well, well_position
from subcell_hf.storage.parquet_files import read_parquet_schema
from subcell_hf.storage.text_values import text_values
from subcell_hf.tables.files import EMBEDDINGS_FILE
from subcell_hf.tables.parquet import iterate_parquet, parquet_facts
from subcell_hf.tables.plate_maps import join_wells

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
        notes: What does not fit between table and plate maps.
    """

    profiles: ProfileTable
    counts: npt.NDArray[np.float64] | None
    rows_are_cells: bool
    notes: tuple[str, ...] = ()

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
        for metadata, features, names in _blocks(Path(path), columns, count_column):
            sums.add(str(path), metadata, features, names)
        sums.end_of_file(str(path))
    table = sums.table()
    if plate_maps:
        plates, wells = (list(map(str, table.profiles.column(name))) for name in (PLATE, WELL))
        texts = table.profiles.metadata.fillna("")
        joined, said = join_wells(texts, plates, wells, plate_maps)
        frame = joined.astype(object).where((joined != "") | (joined.columns == PLATE), None)
        profiles = replace(table.profiles, metadata=frame)
        notes = tuple(f"{path}: {sentence}." for path, sentence in said.items())
        table = replace(table, profiles=profiles, notes=notes)
    return table


def find_column(known: Sequence[str], name: str) -> str | None:
    """A column by its name, in any case of letters and with or without `Metadata_`; None where there is none."""
    if name in known:
        return name
    return next((column for column in known if _plain(column) == _plain(name)), None)


@dataclass
class _Sums:
    """Sums over the rows of each well, of one block after the other."""

    names: tuple[str, ...] = ()
    first_file: str = ""
    units: dict[tuple[str, str], int] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    sums: list[npt.NDArray[np.float64]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)
    facts: list[dict[str, str]] = field(default_factory=list)

    def add(self, path: str, metadata: pd.DataFrame, features: npt.NDArray[np.float64], names: tuple[str, ...]) -> None:
        """Add the rows of a block."""
        if not self.first_file:
            self.first_file, self.names = path, names
        if names != self.names:
            raise InputError(
                f"{path} has other features ({len(names)}) than {self.first_file} ({len(self.names)}); tables that are "
                "read together must have the same features in the same order."
            )
        codes, places = pd.factorize(pd.MultiIndex.from_frame(metadata[[PLATE, WELL]]))
        order = np.argsort(codes, kind="stable")
        begins = np.searchsorted(codes[order], np.arange(len(places)))
        summed = np.add.reduceat(features[order], begins, axis=0)
        sizes = np.bincount(codes, minlength=len(places))
        has_counts = COUNT in metadata.columns
        counts = np.bincount(codes, metadata[COUNT] if has_counts else np.full(len(codes), np.nan), len(places))
        texts = metadata.drop(columns=[PLATE, WELL, COUNT], errors="ignore")
        for name in texts.columns:
            numbers = pd.factorize(texts[name])[0]
            firsts = numbers[order[begins]]
            if (numbers != firsts[codes]).any():
                well = places[int(codes[np.flatnonzero(numbers != firsts[codes])[0]])]
                raise _differs(path, name, well)
        for number, place in enumerate(places):
            self._add_well(
                path, place, summed[number], sizes[number], counts[number], texts.iloc[order[begins[number]]]
            )

    def _add_well(
        self,
        path: str,
        place: tuple[str, str],
        summed: npt.NDArray[np.float64],
        rows: int,
        count: float,
        facts: pd.Series,
    ) -> None:
        known = {str(name): str(value) for name, value in facts.items()}
        unit = self.units.setdefault(place, len(self.files))
        if unit == len(self.files):
            self.files.append(path)
            self.sums.append(summed)
            self.rows.append(int(rows))
            self.counts.append(float(count))
            self.facts.append(known)
            return
        if self.files[unit] != path:
            raise InputError(
                f"Well {place[1]} of plate {place[0]!r} is both in {self.files[unit]} and in {path}; its cells would "
                "count twice. Give plates different names, or leave one table out."
            )
        if (differing := next((name for name in known if self.facts[unit].get(name) != known[name]), None)) is not None:
            raise _differs(path, differing, place)
        self.sums[unit] += summed
        self.rows[unit] += int(rows)
        self.counts[unit] += float(count)

    def end_of_file(self, path: str) -> None:
        """Refuse a table of wells that has one of them twice."""
        rows = np.array([rows for rows, file in zip(self.rows, self.files, strict=True) if file == path])
        if len(rows) and float(np.median(rows)) == 1 and rows.max() > 1:
            wells = [place for place, unit in self.units.items() if self.files[unit] == path and self.rows[unit] > 1]
            raise InputError(
                f"{path} has one row for most wells but {int(rows.max())} for well {wells[0][1]} of plate "
                f"{wells[0][0]!r} ({len(wells)} wells so), expected one row per well, or cells. Remove the duplicates, "
                "or give plates that share a name different ones."
            )

    def table(self) -> WellTable:
        """The wells, in the order of plates and wells."""
        places = sorted(self.units)
        order = [self.units[place] for place in places]
        features = np.array([self.sums[unit] / self.rows[unit] for unit in order])
        names = dict.fromkeys(name for facts in self.facts for name in facts)
        columns = {PLATE: [p for p, _ in places], WELL: [w for _, w in places]}
        columns |= {name: [self.facts[unit].get(name, "") for unit in order] for name in names}
        metadata = pd.DataFrame(columns, dtype=object)
        known = [name for name in columns if name != PLATE]  # which is empty where there is one without a name
        metadata[known] = metadata[known].where(metadata[known] != "", None)
        cells = max(self.rows) > 1
        counts = np.array([self.counts[unit] for unit in order])
        if np.isnan(counts).all():
            counts = np.array([float(self.rows[unit]) for unit in order])
            counted = cells
        else:
            counted = True
        return WellTable(ProfileTable(metadata, features, self.names), counts if counted else None, cells)


def _differs(path: str, name: str, place: tuple[str, str]) -> InputError:
    return InputError(
        f"{path}: the rows of well {place[1]} of plate {place[0]!r} differ in {name!r}, expected one value per well. "
        "Correct the table."
    )


def _blocks(
    path: Path, columns: Sequence[str], count_column: str | None
) -> Iterator[tuple[pd.DataFrame, npt.NDArray[np.float64], tuple[str, ...]]]:
    """Texts of plate, well and the columns that are kept, numbers of cells, features and their names."""
    file = path / EMBEDDINGS_FILE if path.is_dir() else path
    if file.is_file() and file.name.lower().endswith(".parquet") and not holds_profiles(file) and parquet_facts(file):
        known = read_parquet_schema(file).names
        for block in iterate_parquet(file):
            features = np.asarray(block.embeddings, dtype=np.float64)
            names = tuple(f"embedding_{index}" for index in range(features.shape[1]))
            wanted = (PLATE, WELL, *columns, *_COUNTS, count_column or COUNT)
            kept = dict.fromkeys(found for name in wanted if (found := find_column(known, name)) is not None)
            frame = pd.DataFrame({name: text_values(block.cells[name], f"{file}, {name}") for name in kept})
            yield _kept(frame, list(block.cells.columns), path, columns, count_column), features, names
        return
    table = read_profiles([path], {*columns, *([count_column] if count_column else ())})
    texts = table.metadata.fillna("")
    yield _kept(texts, list(texts.columns), path, columns, count_column), table.features, table.names


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
