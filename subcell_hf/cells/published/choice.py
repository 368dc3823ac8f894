"""Which of the published cells are taken, and their rows of the published table."""

import csv
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from subcell_hf.errors import InputError
from subcell_hf.settings import Setting, comma_separated
from subcell_hf.storage.plain_files import read_lines

_PLACE = ("if_plate_id", "position", "sample")
_REQUIRED = (*_PLACE, "cell_id", "antibody")
FIELD, NUMBER = "field_of_view", "label"
"""Columns of the chosen cells: their field of view, and their number in it."""

_RENAMED = {"gene_names": "gene", "atlas_name": "cell_line", "if_plate_id": "plate", "position": "well"}
_WHOLE_NUMBER = r"^(\d+)(?:\.0*)?$"
_SHOWN = 10


@dataclass(frozen=True)
class CellChoice:
    """Which of the published cells are taken; the default is all.

    Attributes:
        antibodies: For hpa: text file with one antibody per line.
        cell_lines: For hpa: comma-separated names of cell lines. In Python, a tuple of names; empty: all.
        max_cells: For hpa: use at most so many cells. In Python, too, whole antibodies are taken in an order drawn from
            their names, the last one in part.
    """

    antibodies: Path | None = None
    cell_lines: Annotated[tuple[str, ...], Setting(parse=comma_separated)] = ()
    max_cells: Annotated[int | None, Setting(minimum=1)] = None

    def __post_init__(self) -> None:
        if self.max_cells is not None and self.max_cells < 1:
            raise InputError(f"max_cells is {self.max_cells}, expected at least 1.")

    def named_antibodies(self) -> frozenset[str] | None:
        """The antibodies of the file; None where there is none.

        Raises:
            InputError: If the file cannot be read, or is empty.
        """
        if self.antibodies is None:
            return None
        names = frozenset(read_lines(self.antibodies))
        if not names:
            raise InputError(f"{self.antibodies} names no antibody, expected one per line.")
        return names


@dataclass(frozen=True)
class ChosenCells:
    """The cells that are taken, field by field.

    Attributes:
        table: One row per cell, all columns text, sorted by field of view and number of the cell: `field_of_view`,
            `label` (the cell's number), `antibody`, `gene`, `cell_line`, `locations` (joined by `;`), `plate`, `well`,
            `sample`, and the other columns of the published table as they are.
        unknown_antibodies: Antibodies that were asked for and have no cell.
    """

    table: pa.Table
    unknown_antibodies: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def fields(self) -> Mapping[str, range]:
        """Field of view → its rows."""
        encoded = self.table[FIELD].combine_chunks().dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        starts = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist()] if len(codes) else []
        words = encoded.dictionary.to_pylist()
        return {
            words[codes[start]]: range(start, end) for start, end in zip(starts, [*starts[1:], len(codes)], strict=True)
        }

    def records(self, rows: range) -> list[dict[str, Any]]:
        """Rows of the table, without empty values."""
        found = self.table.slice(rows.start, len(rows)).to_pylist()
        return [{name: value for name, value in row.items() if value} for row in found]


def read_published_table(path: Path, choice: CellChoice, antibodies: Collection[str] | None = None) -> ChosenCells:
    """Read the rows of the cells that are taken; the others pass by in blocks.

    Args:
        path: The published `metadata.csv`: one row per cell, the first column without a name.
        choice: Which cells.
        antibodies: Only these, beside what `choice` says; those of a split.

    Raises:
        InputError: If it is no such table, or no cell is left.
    """
    names = _header(path)
    wanted = choice.named_antibodies()
    asked = wanted
    if antibodies is not None:
        wanted = frozenset(antibodies) if wanted is None else wanted & frozenset(antibodies)
    table = _filtered(path, names, wanted, choice.cell_lines)
    if not table.num_rows:
        raise InputError(f"No cell of {path} is left: {_describe(choice, asked, antibodies)}. Choose others.")
    columns = {_RENAMED.get(name, name): table[name] for name in names if name not in ("", "cell_id")}
    columns[FIELD] = pc.binary_join_element_wise(*(table[name] for name in _PLACE), "_")
    columns[NUMBER] = pc.replace_substring_regex(table["cell_id"], _WHOLE_NUMBER, r"\1")
    if "locations" in columns:
        columns["locations"] = pc.replace_substring(columns["locations"], ",", ";")
    table = pa.table(columns)
    unknown: set[str] = set()
    if asked is not None:
        unknown = set(wanted or ()) - set(pc.unique(table["antibody"]).to_pylist())
    table = table.take(pa.array(_order(table, choice.max_cells)))
    return ChosenCells(table, tuple(sorted(unknown)))


def _header(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            names = next(csv.reader(file), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV table of cells: {error}. Download it again.") from error
    missing = [name for name in _REQUIRED if name not in names]
    if missing or len(set(names)) != len(names):
        raise InputError(
            f"{path} has the columns {', '.join(names[:30])}; expected each once, {', '.join(_REQUIRED)} among them."
        )
    return names


def _filtered(path: Path, names: Sequence[str], wanted: Collection[str] | None, cell_lines: Sequence[str]) -> pa.Table:
    """The rows of some antibodies and cell lines, all columns as text."""
    if cell_lines and "atlas_name" not in names:
        raise InputError(f"{path} has no column atlas_name, so that cell lines cannot be chosen.")
    options = pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    parsing = pa_csv.ParseOptions(newlines_in_values=False)
    kept = []
    try:
        with pa_csv.open_csv(path, parse_options=parsing, convert_options=options) as reader:
            schema = reader.schema
            for batch in reader:
                if wanted is not None:
                    batch = batch.filter(pc.is_in(batch["antibody"], pa.array(sorted(wanted), pa.string())))
                if cell_lines:
                    batch = batch.filter(pc.is_in(batch["atlas_name"], pa.array(cell_lines, pa.string())))
                if batch.num_rows:
                    kept.append(batch)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is damaged: {error}. Download it again.") from error
    return pa.Table.from_batches(kept, schema)


def _order(table: pa.Table, max_cells: int | None) -> npt.NDArray[np.int64]:
    """Rows to take, sorted by field and number of the cell."""
    fields = _ranked(table[FIELD], lambda name: name.encode())
    whole = pc.match_substring_regex(table[NUMBER], r"^\d{1,18}$")
    numbers = pc.cast(pc.if_else(whole, table[NUMBER], "-1"), pa.int64()).to_numpy()
    order = np.lexsort((numbers, fields))
    if max_cells is None or len(order) <= max_cells:
        return order
    drawn = _ranked(table["antibody"], lambda name: hashlib.sha256(name.encode()).digest())
    taken = np.argsort(drawn[order], kind="stable")[:max_cells]
    return order[np.sort(taken)]


def _ranked(column: pa.ChunkedArray, key: Callable[[str], bytes]) -> npt.NDArray[np.int64]:
    """For each row, the rank of its text among the column's texts."""
    encoded = column.combine_chunks().dictionary_encode()
    keys = [key(name) for name in encoded.dictionary.to_pylist()]
    ranks = np.empty(len(keys), np.int64)
    ranks[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return np.asarray(ranks[encoded.indices.to_numpy(zero_copy_only=False)])


def _describe(choice: CellChoice, asked: Collection[str] | None, antibodies: Collection[str] | None) -> str:
    conditions = []
    if asked is not None:
        conditions.append(f"antibodies {', '.join(sorted(asked)[:_SHOWN])}{', …' if len(asked) > _SHOWN else ''}")
    if antibodies is not None:
        conditions.append(f"{len(antibodies)} antibodies of the split")
    if choice.cell_lines:
        conditions.append(f"cell lines {', '.join(choice.cell_lines)}")
    return "; ".join(conditions) or "the table is empty"
