"""Which files belong to which field of view: by their names in a folder, or by the rows of a table."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from subcell_hf.data.images.files import FieldError, image_suffix
from subcell_hf.data.images.tables import read_table
from subcell_hf.ontology import CHANNEL_STAINS, PUBLISHED_PIXEL_SIZE_UM

MASK_NAME = "mask"
CROPS_FILE = "crops.json"
"""Marks a folder as one of crops; such a folder inside of a folder of images is passed by."""

_SINGLE_LETTERS = {colour[0]: colour for colour in CHANNEL_STAINS}
_MASK_SUFFIXES = (".png", ".tif", ".tiff", ".tif.gz", ".tiff.gz")
_PLATE_WELL_SAMPLE = re.compile(r"(?P<plate>.+)_(?P<well>[^_]+)_(?P<sample>[^_]+)")


@dataclass(frozen=True)
class ListedField:
    """What a listing knows of a field.

    Attributes:
        name: The field's id.
        channel_files: Our channel name → file of that channel; empty where one file holds all channels.
        stack_file: The file that holds all channels.
        mask_file: Instance labels.
        metadata: Column → value.
        default_pixel_size_um: Pixel size that the naming implies.
        problem: Why the field cannot be used, found while listing.
    """

    name: str
    channel_files: Mapping[str, Path] = field(default_factory=dict)
    stack_file: Path | None = None
    mask_file: Path | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    default_pixel_size_um: float | None = None
    problem: str | None = None

    @property
    def origin(self) -> str:
        """The folder or file that the field was found in."""
        files = [*self.channel_files.values(), *([self.stack_file] if self.stack_file else [])]
        return str(files[0]) if files else "no file"


def _image_files(folder: Path) -> Iterator[Path]:
    """Image files and OME-Zarr folders at any depth, sorted; hidden files and folders of crops are left out."""
    for parent, folders, files in os.walk(folder):
        if CROPS_FILE in files and Path(parent) != folder:
            folders.clear()
            continue
        images = [name for name in (*files, *folders) if image_suffix(Path(name)) and not name.startswith(".")]
        folders[:] = sorted(name for name in folders if image_suffix(Path(name)) is None and not name.startswith("."))
        yield from (Path(parent) / name for name in sorted(images))


def list_folder(
    folder: Path, channel_mapping: Mapping[str, str], channels: tuple[str, ...] | None = None
) -> list[ListedField]:
    """List a folder: one file per channel where names end in a channel, else one file per field.

    Args:
        folder: Searched to any depth.
        channel_mapping: Names of channels in file names → our names; they are recognised beside the colours.
        channels: Further names that are recognised.
    """
    known = {**{name: name for name in (*CHANNEL_STAINS, *(channels or ()))}, **channel_mapping}
    files = list(_image_files(folder))
    parts = {path: _split_name(path, known) for path in files}
    if not any(channel not in (None, MASK_NAME) for _, channel in parts.values()):
        return _list_stacks(parts)
    groups: dict[tuple[Path, str], dict[str, list[Path]]] = {}
    strays = []
    for path, (name, channel) in parts.items():
        if channel is None:
            strays.append(_stray(path, known))
        else:
            groups.setdefault((path.parent, name), {}).setdefault(channel, []).append(path)
    return [_field_of_planes(name, files) for (_, name), files in groups.items()] + strays


def _split_name(path: Path, known: Mapping[str, str]) -> tuple[str, str | None]:
    """`800_A6_1_green.jpg` → `("800_A6_1", "green")`; None for the channel where the name ends in none."""
    stem = path.name[: -len(image_suffix(path) or "")]
    name, _, last = stem.rpartition("_")
    if not name:
        return stem, None
    if last.lower() == MASK_NAME:
        return name, MASK_NAME
    channel = known.get(last) or known.get(last.lower())
    return (name, channel) if channel else (stem, None)


def _stray(path: Path, known: Mapping[str, str]) -> ListedField:
    problem = (
        f"The name of {path} does not end in a channel, as others here do: expected <field of view>_<channel> with one "
        f"of {', '.join(known)}. Rename it, map its channel (--channel-mapping), or move it away."
    )
    return ListedField(name=path.name, problem=problem)


def _field_of_planes(name: str, files: Mapping[str, list[Path]]) -> ListedField:
    match = _PLATE_WELL_SAMPLE.fullmatch(name)
    metadata = {key: value for key, value in match.groupdict().items() if value} if match else {}
    repeated = [channel for channel, paths in files.items() if len(paths) > 1]
    problem = None
    if repeated:
        names = ", ".join(path.name for path in files[repeated[0]])
        problem = f"Field {name!r} has more than one file for {repeated[0]}: {names}. Remove or rename all but one."
    masks = files.get(MASK_NAME, [])
    if masks and image_suffix(masks[0]) not in _MASK_SUFFIXES:
        problem = f"Field {name!r}: label mask {masks[0]} is not lossless, expected one of {', '.join(_MASK_SUFFIXES)}."
    return ListedField(
        name=name,
        channel_files={channel: paths[0] for channel, paths in files.items() if channel != MASK_NAME},
        mask_file=masks[0] if masks else None,
        metadata=metadata,
        default_pixel_size_um=PUBLISHED_PIXEL_SIZE_UM,
        problem=problem,
    )


def _list_stacks(parts: Mapping[Path, tuple[str, str | None]]) -> list[ListedField]:
    masks = {(path.parent, name): path for path, (name, channel) in parts.items() if channel == MASK_NAME}
    stacks = [(path, name) for path, (name, channel) in parts.items() if channel is None]
    fields = [
        ListedField(name=name, stack_file=path, mask_file=masks.pop((path.parent, name), None)) for path, name in stacks
    ]
    fields += [ListedField(name=path.name, problem=f"{path} is a mask without its image.") for path in masks.values()]
    return fields


def list_table(path: Path, channel_mapping: Mapping[str, str]) -> list[ListedField]:
    """List a table of SubCellPortable's format.

    Columns `r_image`, `y_image`, `b_image`, `g_image` (older: `r`, `red`, …) hold one file per channel, empty cells are
    channels that are not there; any other column `<name>_image` is a channel of that name; `output_prefix` is the
    field's name, in older tables below `output_folder`; `mask` holds an instance mask. All other columns become
    metadata. Relative paths are looked up beside the table first, then in the working directory.

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
    return [_field_of_row(row, columns, path, number) for number, row in enumerate(rows, start=1)]


def _channel_of_column(column: str, channel_mapping: Mapping[str, str]) -> str | None:
    """Our channel name of a column of files; None for a column of metadata."""
    name = column.removesuffix("_image")
    if name == MASK_NAME:
        return None
    if name in channel_mapping:
        return channel_mapping[name]
    if name in CHANNEL_STAINS or name in _SINGLE_LETTERS:
        return _SINGLE_LETTERS.get(name, name)
    return name if column.endswith("_image") and name else None


def _field_of_row(row: Mapping[str, str], columns: Mapping[str, str | None], table: Path, number: int) -> ListedField:
    prefix, folder = row.get("output_prefix", "").rstrip("_/"), row.get("output_folder", "").strip("/")
    name = "/".join(part for part in (folder, prefix) if part)
    files = {channel: _beside(table, row[column]) for column, channel in columns.items() if channel and row[column]}
    mask = row.get(MASK_NAME) or row.get(f"{MASK_NAME}_image")
    named = {"output_prefix", "output_folder", MASK_NAME, f"{MASK_NAME}_image"}
    metadata = {key: value for key, value in row.items() if key not in named and columns[key] is None and value}
    problem = None
    if not name:
        name = f"row {number}"
        problem = f"Row {number} of {table} (not counting empty ones and comments) has no output_prefix, a unique name."
    return ListedField(name, files, None, _beside(table, mask) if mask else None, metadata, None, problem)


def _beside(table: Path, text: str) -> Path:
    """A path of a table: absolute, or relative to the table, or else to the working directory."""
    beside = table.parent / text
    return beside if beside.exists() else Path(text)


def refuse_duplicates(listed: list[ListedField]) -> list[ListedField]:
    """Mark every field whose name occurs more than once: nobody can tell which one is meant."""
    by_name: dict[str, list[ListedField]] = {}
    for item in listed:
        by_name.setdefault(item.name, []).append(item)
    unique = []
    for name, items in by_name.items():
        if len(items) == 1:
            unique.append(items[0])
            continue
        places = "; ".join(item.origin for item in items)
        problem = (
            f"Field {name!r} is there {len(items)} times ({places}), expected every id once. Rename or remove one."
        )
        unique.append(replace(items[0], problem=problem))
    return unique
