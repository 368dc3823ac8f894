"""Tables that list fields of view, as SubCellPortable has them."""

import os
from collections.abc import Mapping
from pathlib import Path

from subcell_hf.images.file_names import MASK_NAME, normal_form
from subcell_hf.images.files import FieldError
from subcell_hf.images.image_tables.listed_files import FilesOnDisk, file_beside
from subcell_hf.images.image_tables.path_mapping import PathMapping
from subcell_hf.images.listed_fields import FilePlace, ListedField, one_file_twice
from subcell_hf.images.tables import read_table
from subcell_hf.ontology import CHANNEL_STAINS

FIELD_TABLE = "SubCellPortable's table of fields of view"

_SINGLE_LETTERS = {colour[0]: colour for colour in CHANNEL_STAINS}


def list_table(
    path: Path, channel_mapping: Mapping[str, str], path_mapping: Mapping[str, str] | None = None
) -> list[ListedField]:
    """List a table of SubCellPortable's format.

    Columns `r_image`, `y_image`, `b_image`, `g_image` (older: `r`, `red`, …) hold one file per channel, empty cells are
    channels that are not there; any other column `<name>_image` is a channel of that name; `output_prefix` is the
    field's name, in older tables below `output_folder`; `mask` holds an instance mask. All other columns become
    metadata. Relative paths are looked up beside the table first, then in the working directory.

    Args:
        path: Of the table.
        channel_mapping: Names of channels → ours.
        path_mapping: Where its folders lie here; see `PathMapping`.

    Raises:
        FieldError: If the table cannot be read or has no channel column.
    """
    rows = read_table(path)
    if not rows:
        raise FieldError(f"The table {path} has no row that is not commented out, expected one per field of view.")
    columns = {column: _channel_of_column(column, channel_mapping) for column in rows[0]}
    if not any(columns.values()):
        raise FieldError(
            f"The table {path} has columns {', '.join(columns)}, expected r_image, y_image, b_image, g_image, "
            "output_prefix."
        )
    places = PathMapping(path, path_mapping) if path_mapping else None
    disk = FilesOnDisk(None)
    fields = [_field_of_row(row, columns, path, number, places, disk) for number, row in enumerate(rows, start=1)]
    disk.note_renamed()
    return fields


def _channel_of_column(column: str, channel_mapping: Mapping[str, str]) -> str | None:
    """Our channel name of a column of files; None for a column of metadata."""
    name = column.removesuffix("_image")
    if name == MASK_NAME:
        return None
    if name in channel_mapping:
        return channel_mapping[name]
    colour = _SINGLE_LETTERS.get(name.lower(), name.lower())
    if colour in CHANNEL_STAINS:
        return colour
    return name if column.endswith("_image") and name else None


def _field_of_row(
    row: Mapping[str, str],
    columns: Mapping[str, str | None],
    table: Path,
    number: int,
    places: PathMapping | None,
    disk: FilesOnDisk,
) -> ListedField:
    ambiguous: list[str] = []

    def find(text: str) -> Path:
        path = Path(text) if places is None else places.locate(text).path
        try:
            return _beside(table, str(path), disk)
        except FieldError as error:
            ambiguous.append(f"Field {name!r}: {error}")
            return path

    prefix, folder = row.get("output_prefix", "").rstrip("_/"), row.get("output_folder", "").strip("/")
    name = normal_form("/".join(part for part in (folder, prefix) if part))
    given = [column for column, channel in columns.items() if channel and row[column]]
    files = {columns[column] or "": find(row[column]) for column in given}
    masks = [row[column] for column in (MASK_NAME, f"{MASK_NAME}_image") if row.get(column)]
    mask = find(masks[0]) if masks else None
    named = {"output_prefix", "output_folder", MASK_NAME, f"{MASK_NAME}_image"}
    metadata = {key: value for key, value in row.items() if key not in named and columns[key] is None and value}
    problem = next(iter(ambiguous), None) or one_file_twice(name, {**files, MASK_NAME: mask} if mask else files)
    twice = [column for column in given if [columns[other] for other in given].count(columns[column]) > 1]
    if twice or len(masks) > 1:
        both = [column for column in given if columns[column] == columns[twice[0]]] if twice else named & row.keys()
        problem = (
            f"Row {number} of {table} (field {name!r}) gives {columns[twice[0]] if twice else 'the mask'} in more than "
            f"one column: {', '.join(sorted(both))}. Keep one of them, or leave the others empty."
        )
    if not name:
        name = f"row {number}"
        problem = f"Row {number} of {table} (not counting empty ones and comments) has no output_prefix, a unique name."
    return ListedField(
        name,
        {channel: (FilePlace.of(path),) for channel, path in files.items()},
        mask_file=mask,
        metadata=metadata,
        problem=problem,
    )


def _beside(table: Path, text: str, disk: FilesOnDisk) -> Path:
    """A path of a table: absolute, or relative to the table, or else to the working directory."""
    found = (disk.find(file_beside(folder, text)) for folder in (str(table.parent), os.curdir))
    return next((file.path for file in found if disk.holds(file)), Path(text))
