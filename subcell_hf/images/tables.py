"""Tables that travel with images: metadata per field of view, bounding boxes per cell."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from subcell_hf.errors import InputError
from subcell_hf.images.file_names import normal_form
from subcell_hf.images.files import FieldError
from subcell_hf.storage.foreign_tables import ForeignTable, read_foreign_table
from subcell_hf.storage.text_values import plain_text

METADATA_FILE = "metadata.csv"
"""Read where it lies in the folder of images and nothing else is given."""

TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
"""File name endings of tables that list images."""

FIELD_COLUMN = "field_of_view"
BOX_COLUMNS = ("cell_id", "top", "left", "height", "width")


@dataclass(frozen=True)
class CellBox:
    """Where one cell lies in its field.

    Attributes:
        label: The cell's number in the field, its value in the label mask.
        top: First row, in pixels.
        left: First column.
        height: Extent along rows.
        width: Extent along columns.
    """

    label: int
    top: int
    left: int
    height: int
    width: int


def is_table(path: Path) -> bool:
    """Whether a file is a table that may list images, by its name."""
    return path.name.lower().endswith(TABLE_SUFFIXES)


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a table as texts; rows that begin with `#` are left out, and so is a `#` before the header.

    Args:
        path: CSV or Parquet, see `read_foreign_table`.

    Raises:
        FieldError: If the file cannot be read, is not UTF-8, has no header, or a row has more cells than the header.
    """
    table = open_table(path)
    columns = {name: table.text(name, verbatim=True) for name in table.columns}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def read_column_names(path: Path) -> list[str]:
    """Names of the columns of a table; see `read_table`.

    Raises:
        FieldError: As `read_table`.
    """
    return list(open_table(path).columns)


def open_table(path: Path) -> ForeignTable:
    """A table, without the rows that begin with `#`, and without a `#` before the header.

    Raises:
        FieldError: As `read_table`.
    """
    try:
        return read_foreign_table(path, comments=True)
    except OSError as error:
        raise FieldError(f"Cannot read the table {path}: {error.strerror}.") from error
    except InputError as error:
        raise FieldError(str(error)) from error


def read_field_metadata(path: Path) -> dict[str, list[dict[str, str]]]:
    """Read a metadata table.

    Args:
        path: CSV or Parquet file with the column `field_of_view`.

    Returns:
        Field of view → its rows; more than one row for a field is for the caller to refuse.

    Raises:
        FieldError: If the column `field_of_view` is missing, or the file is not a readable table.
    """
    rows: dict[str, list[dict[str, str]]] = {}
    for row in read_table(path):
        if FIELD_COLUMN not in row:
            raise FieldError(f"The table {path} has columns {', '.join(row)}, expected one called {FIELD_COLUMN}.")
        name = normal_form(row[FIELD_COLUMN])
        rows.setdefault(name, []).append({k: v for k, v in row.items() if k != FIELD_COLUMN})
    return rows


def rows_without_field(table: Path, rows: Mapping[str, Sequence[object]], names: Iterable[str]) -> dict[str, str]:
    """The table, with the reason why some of its rows say nothing; nothing where each has its field.

    Args:
        table: Of metadata.
        rows: See `read_field_metadata`.
        names: Of all fields that there are.
    """
    lost = sorted(rows.keys() - {*names})
    if not lost:
        return {}
    shown = ", ".join(map(repr, lost[:3])) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
    return {str(table): f"{len(lost)} of the {len(rows)} fields of view that it names are not there: {shown}"}


def read_boxes(path: Path) -> dict[str, list[CellBox]]:
    """Read bounding boxes of cells.

    Args:
        path: Table with `field_of_view,cell_id,top,left,height,width` in pixels.

    Returns:
        Field of view → its boxes.

    Raises:
        FieldError: If a column is missing, a number is none, or a cell id occurs twice in a field.
    """
    boxes: dict[str, list[CellBox]] = {}
    for row in read_table(path):
        missing = [column for column in (FIELD_COLUMN, *BOX_COLUMNS) if column not in row]
        if missing:
            raise FieldError(f"The table of boxes {path} has no column {missing[0]}; it has {', '.join(row)}.")
        texts = {column: plain_text(row[column]) for column in BOX_COLUMNS}
        wrong = [
            column for column, text in texts.items() if not re.fullmatch(r"[+-]?[0-9]{1,18}", text)
        ]  # what 64 bits hold
        if wrong:
            raise FieldError(
                f"The table of boxes {path} has {texts[wrong[0]][:40]!r} in the column {wrong[0]!r} of field "
                f"{row[FIELD_COLUMN]!r}, expected a whole number, in pixels where it is a place, without separators "
                "of thousands. Correct it."
            )
        box = CellBox(*map(int, texts.values()))
        boxes.setdefault(normal_form(row[FIELD_COLUMN]), []).append(box)
    for name, field_boxes in boxes.items():
        check_boxes(field_boxes, name)
    return boxes


def check_boxes(boxes: Sequence[CellBox], field_name: str) -> None:
    """Refuse boxes that share an id or have no extent.

    Raises:
        FieldError: Naming the first such box.
    """
    for label, count in Counter(box.label for box in boxes).items():
        if count > 1:
            raise FieldError(f"Field {field_name!r} has {count} boxes with cell_id {label}, expected every id once.")
    for box in boxes:
        if box.height <= 0 or box.width <= 0:
            raise FieldError(
                f"Field {field_name!r}: box {box} has no extent, expected height and width of at least 1 px."
            )


def join_metadata(
    names: Sequence[str], metadata: Mapping[str, str], table: Mapping[str, list[dict[str, str]]], path: Path
) -> dict[str, str]:
    """Add a field's row of the metadata table to what is known of it; the table wins.

    Args:
        names: How the table may name the field, its id first.
        metadata: What is known.
        table: See `read_field_metadata`.
        path: Of the table, for the message.

    Raises:
        FieldError: If the table has no row for the field, or more than one.
    """
    rows = [row for name in names for row in table.get(name, [])]
    if len(rows) != 1:
        raise FieldError(
            f"Field {names[0]!r} has {len(rows) or 'no'} row{'s' * (len(rows) != 1)} in {path}, expected exactly one "
            f"with {FIELD_COLUMN} = {' or '.join(names)}. Correct the table, or move it away to go without metadata."
        )
    return {**metadata, **{column: value for column, value in rows[0].items() if value}}
