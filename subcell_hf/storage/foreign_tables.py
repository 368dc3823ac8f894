"""Tables that other people wrote, CSV or Parquet: the one reader for all of them.

What a cell says depends on the cell, never on the format or on the cells around it: text stays text, `0012` is not
`12`, `NA` and `None` are words, and only an empty cell is missing. Whether a column is taken for numbers is for the
reader of the table to say. A whole number that was stored with a fraction of zero, `3.0`, is `3`: so plates agree that
one tool wrote as floats and another as whole numbers.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from subcell_hf.errors import InputError
from subcell_hf.storage.parquet_files import read_parquet_file, read_parquet_schema
from subcell_hf.storage.text_files import read_text
from subcell_hf.storage.text_values import as_arrow, numbers_of, text_values

_SEPARATORS = (",", ";", "\t", "|")
_SNIFFED_LINES = 200
_ROW_NUMBERS = re.compile(r"|Unnamed: \d+(\.\d+)*|__index_level_\d+__")
_BLOCK_BYTES = 1 << 24
_FORMULA = re.compile(r'^="([^"]*)"$')  # how Excel is made to keep the zeros of 007

_NO_FEATURE = re.compile(
    r"metadata_.*|qc_.*|top_.*|label|top|left|height|width|index|x|y|field_of_view|antibody|gene|locations?|cell_line|"
    r"plate|well|site|field|fov|row|column|col|batch|donor|patient|sample|replicate|treatment|compound|concentration|"
    r"dose|split|fold|time|timepoint|passage|seed|image|(.*_)?(image|object|table)_?number|cell_count|field_count|"
    r"antibody_count|strain|treated|control|day|date|week|month|year|experiment|run|operator|slide|tissue|species|"
    r"cluster|target|.*_id|id",
    re.IGNORECASE,
)


def is_no_feature(name: str) -> bool:
    """Whether a column names or places a cell, by its own name in any case of letters: its numbers are no features."""
    return _NO_FEATURE.fullmatch(name) is not None


@dataclass(frozen=True)
class ForeignTable:
    """A table as it was written.

    Attributes:
        where: Its file, for messages.
        columns: Name → values, as Arrow has them; of a CSV all are texts.
        row_names: Of the unnamed first column, as pandas and R write it; None where there is none.
        separator: Between the cells of a CSV; empty for Parquet.
    """

    where: str
    columns: Mapping[str, Any]
    row_names: tuple[str, ...] | None = None
    separator: str = ""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), self.row_names or ()))

    def require(self, names: Iterable[str]) -> None:
        """Refuse a table that lacks a column.

        Raises:
            InputError: Naming the first one, and those that are there.
        """
        for name in names:
            if name not in self.columns:
                raise InputError(f"{self.where} has no column {name!r}; its columns are {_listed(self.columns)}.")

    def text(self, name: str, *, verbatim: bool = False) -> list[str]:
        """A column as texts, empty where a value is missing.

        Args:
            name: The column.
            verbatim: Whether `3.0` in a text stays `3.0`.

        Raises:
            InputError: If it holds what is neither text nor a number, such as lists of numbers.
        """
        return text_values(self.columns[name], f"{self.where}, column {name!r}", verbatim=verbatim)

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """A column as numbers, `[rows]`; NaN where a value is missing.

        Raises:
            InputError: Naming the first cell that is no number.
        """
        found = numbers_of(self.columns[name], decimal_comma=self.decimal_comma)
        if isinstance(found, str):
            comma = re.fullmatch(r"[+-]?[\d.]+(,\d+)+(\.\d*)?", found) is not None
            remedy = "Write decimal points and no separators of thousands." if comma else "Correct it, or leave it out."
            raise InputError(f"{self.where} has {found!r} in the column {name!r}, expected numbers. {remedy}")
        return found

    def holds_numbers(self, name: str) -> bool:
        """Whether every value of a column that is not missing is a number, and at least one is there.

        Numbers with leading zeros, `007`, and wells such as `1E05` are names.
        """
        found = numbers_of(self.columns[name], decimal_comma=self.decimal_comma, strict=True)
        return not isinstance(found, str) and bool(np.isfinite(found).any())

    def odd_among_numbers(self, name: str) -> str | None:
        """The first cell that keeps a column from being numbers where most are, such as `#DIV/0!` or `1,234.5`."""
        found = numbers_of(self.columns[name], decimal_comma=self.decimal_comma, strict=True)
        if not isinstance(found, str) or not pa.types.is_string(self.columns[name].type):
            return None
        number = r"^\s*[+-]?([1-9][\d.,]*|0|0?[.,]\d+)([eE][+-]?\d+)?\s*$"
        numbers = pc.sum(pc.match_substring_regex(self.columns[name], number)).as_py() or 0
        return found if 2 * numbers >= len(self) else None

    @cached_property
    def decimal_comma(self) -> bool:
        """Whether numbers have decimal commas: some must have, none a point, and not all may be thousands."""
        if self.separator in ("", ","):
            return False
        with_comma = [column for column in self.columns.values() if pc.any(pc.match_substring(column, ",")).as_py()]
        decimal = [column for column in with_comma if _all_match(column, r"^\s*([+-]?\d*,?\d+([eE][+-]?\d+)?)?\s*$")]
        thousands = [column for column in decimal if _all_match(column, r"^\s*([+-]?\d{1,3}(,\d{3})*)?\s*$")]
        pointed = any(
            pc.any(pc.match_substring_regex(column, r"^\s*[+-]?\d*\.\d+([eE][+-]?\d+)?\s*$")).as_py()
            for column in self.columns.values()
        )
        return len(decimal) > len(thousands) and not pointed


def read_foreign_table(path: Path, *, comments: bool = False) -> ForeignTable:
    """Read a table.

    A CSV may have commas, semicolons, tabs or `|` between its cells, whichever fits, be packed, and begin with a byte
    order mark. Rows without any value are left out, and so are unnamed columns of row numbers.

    Args:
        path: CSV or Parquet; the content says which.
        comments: Whether rows that begin with `#` are left out, and a `#` before the header.

    Raises:
        InputError: If the file is damaged, is no table, has a name twice, or a row has more cells than the header.
        OSError: If it cannot be opened.
    """
    if _is_parquet(path):
        table = read_parquet_file(path)
        names, arrays, separator = table.column_names, table.columns, ""
    else:
        opened = _open_csv(path, comments)
        names, arrays, separator = opened.header, _read_rows(opened, str(path), comments), opened.separator
    return _without_row_numbers(names, arrays, separator, str(path))


def read_column_names(path: Path) -> list[str]:
    """Names of the columns of a CSV or Parquet file, without those of row numbers.

    Raises:
        InputError: As `read_foreign_table`.
        OSError: Likewise.
    """
    names = read_parquet_schema(path).names if _is_parquet(path) else _open_csv(path, comments=False).header
    return [name for name in names if not _ROW_NUMBERS.fullmatch(name)]


def foreign_table_of(columns: Mapping[str, Any], where: str) -> ForeignTable:
    """A table that somebody made in memory.

    Args:
        columns: Name → values, such as a data frame's columns.
        where: What to call it in messages.
    """
    return _without_row_numbers(list(columns), [as_arrow(values) for values in columns.values()], "", where)


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1" or path.suffix.lower() == ".parquet"


def _without_row_numbers(names: Sequence[str], arrays: Sequence[Any], separator: str, where: str) -> ForeignTable:
    columns: dict[str, Any] = {}
    row_names: tuple[str, ...] | None = None
    for place, (name, array) in enumerate(zip(names, arrays, strict=True)):
        if not _ROW_NUMBERS.fullmatch(name):
            if name in columns:
                raise InputError(f"{where} has the column {name!r} more than once, expected every name once.")
            columns[name] = array
        elif row_names is None and (place == 0 or name.startswith("__index")):
            row_names = tuple(text_values(array, where))
        elif not name and any(text_values(array, where)):
            raise InputError(f"{where} has no name for column {place + 1}, which is not empty. Name it, or remove it.")
    return ForeignTable(where, columns, row_names, separator)


@dataclass(frozen=True)
class _Csv:
    """A CSV of which only the header has been read."""

    text: str
    separator: str
    header: list[str]
    header_lines: int


def _open_csv(path: Path, comments: bool) -> _Csv:
    """The text of a CSV and what its header says."""
    text, where = read_text(path), str(path)
    # Excel's own mark of the separator.
    marked = re.match(r'"?sep=([^"\n])"?\n', text)
    text = text[marked.end() :] if marked else text
    if not text.strip():
        raise InputError(f"{where} is empty, expected a header and rows.")
    text = re.sub(r"^(?:[ \t]*\n)+", "", text)
    separator = marked[1] if marked else _separator(text, ".tsv" in path.name.lower())
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        header = [_FORMULA.sub(r"\1", name.strip("\ufeff \t\n")) for name in next(reader)]
    except csv.Error as error:
        raise InputError(f"{where} cannot be read as CSV: {error}. Save it again as CSV UTF-8.") from error
    if comments:
        header = [name.lstrip("#").strip() for name in header]
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise InputError(f"{where} has the column {twice[0]!r} more than once, expected every name once.")
    return _Csv(text, separator, header, reader.line_num)


def _read_rows(opened: _Csv, where: str, comments: bool) -> list[Any]:
    """The columns of a CSV, as texts."""
    text, header, separator = opened.text, opened.header, opened.separator
    if text.count('"') % 2:
        raise InputError(f'{where} has an odd number of quotes ("): one is not closed. Close it, or remove it.')
    if not "".join(text.split("\n", opened.header_lines)[opened.header_lines :]).strip():
        return [pa.array([], pa.string()) for _ in header]
    try:
        table = _arrow_table(text, opened.header_lines, len(header), separator)
    except pa.ArrowInvalid:
        squared = _squared(opened, where, comments)
        if not squared:
            return [pa.array([], pa.string()) for _ in header]
        table = _arrow_table(squared, 0, len(header), separator)
    if '="' in text:
        plain = [pc.replace_substring_regex(column, _FORMULA.pattern, r"\1") for column in table.columns]
        table = pa.table(plain, names=table.column_names)
    filled = pc.invert(_empty_rows(table))
    if comments:
        filled = pc.and_(filled, pc.invert(pc.match_substring_regex(table.column(0), r"^\s*#")))
    return list(table.filter(filled).columns)


def _arrow_table(text: str, header_lines: int, width: int, separator: str) -> pa.Table:
    names = [str(number) for number in range(width)]
    return pa_csv.read_csv(
        io.BytesIO(text.encode()),
        read_options=pa_csv.ReadOptions(column_names=names, skip_rows=header_lines, block_size=_BLOCK_BYTES),
        parse_options=pa_csv.ParseOptions(delimiter=separator, newlines_in_values='"' in text),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False, check_utf8=False
        ),
    )


def _squared(opened: _Csv, where: str, comments: bool) -> str:
    """The rows below the header, short ones filled up with empty cells, as Excel leaves them out."""
    text, header, separator = opened.text, opened.header, opened.separator
    squared = io.StringIO()
    writer = csv.writer(squared, delimiter=separator, lineterminator="\n")
    row: list[str] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        next(reader)
        for row in reader:
            if comments and row and row[0].lstrip().startswith("#"):
                continue
            surplus = row[len(header) :]
            if any(cell.strip() for cell in surplus):
                shown = separator.join(row)[:200]
                raise InputError(
                    f"{where} has a row of {len(row)} cells under {len(header)} columns: {shown!r}. Quote cells "
                    f"that contain {_SPOKEN.get(separator, separator)}, and give every column a name."
                )
            if row:
                writer.writerow([*row[: len(header)], *[""] * (len(header) - len(row))])
    except csv.Error as error:
        raise InputError(f"{where} cannot be read as CSV: {error}. Save it again as CSV UTF-8.") from error
    if 0 < len(row) < len(header) and not text.endswith("\n"):
        raise InputError(
            f"{where} ends in the middle of a row: {separator.join(row)[:200]!r} has {len(row)} of {len(header)} "
            "cells. Copy it again, or complete the row."
        )
    return squared.getvalue()


_SPOKEN = {",": "commas", ";": "semicolons", "\t": "tabs"}


def _separator(text: str, tabs: bool) -> str:
    """The separator of cells: of those in the header, the one that gives all rows the header's width."""
    sample = "\n".join(text.split("\n", _SNIFFED_LINES)[:_SNIFFED_LINES])
    fits, splits = [], []
    order = ("\t", ",", ";", "|") if tabs else _SEPARATORS
    for separator in order:
        try:
            rows = [row for row in csv.reader(io.StringIO(sample, newline=""), delimiter=separator) if row]
        except csv.Error:
            continue
        if len(rows[0]) > 1:
            splits.append(separator)
            if all(len(row) == len(rows[0]) for row in rows):
                fits.append(separator)
    return (*fits, *splits, order[0])[0]


def _empty_rows(table: pa.Table) -> Any:
    """Which rows have no value at all, bool `[rows]`."""
    empty = pc.equal(pc.utf8_trim_whitespace(table.column(0)), "")
    for column in table.columns[1:]:
        if not pc.any(empty).as_py():
            break
        empty = pc.and_(empty, pc.equal(pc.utf8_trim_whitespace(column), ""))
    return empty


def _all_match(column: Any, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(column, pattern)).as_py())


def _listed(names: Iterable[str]) -> str:
    """Names for a message, not all of a thousand."""
    names = list(names)
    more = len(names) - 30
    return (", ".join(names[:30]) or "none") + (f" and {more} more" if more > 0 else "")
