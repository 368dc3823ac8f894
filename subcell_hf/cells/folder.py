"""A folder of crops: its files, written whole or not at all, and how to read it back.

| file | content |
| --- | --- |
| `crops.json` | settings, versions, counts; `finished` says whether the run came to its end |
| `crops.parquet` | one row per cell: metadata, quality columns, `file` and `index` in it |
| `skipped.csv` | fields that could not be used, with the reason |
| `unused.csv` | images that belong to no field, with the reason; where there are any |
| `filtered.csv` | cells that the filters left out, with the reason |
| `fields/<field>.tiff` | crops of one field: a series `[cells, channels, height, width]`, then a series of masks 0/255
| | `fields/<field>.json` | the rows of that field; written last, so it says that the field is finished |

Crops are TIFF with deflate and the difference along rows, since any viewer opens that. Measured for crops of an HPA
field, 8 and 16 bit (ms to write and read per cell, share of the raw bytes): deflate 5 and 2, 0.41; 10 and 4, 0.61;
zstd 2 and 1, 0.40; 5 and 6, 0.60, which few viewers open; without the difference 0.49; 0.62; lossless JPEG XL 260 and
60, 0.33; 0.43.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile

from subcell_hf.cells.pixel_sizes import PIXEL_SIZE, PIXEL_SIZE_FROM
from subcell_hf.cells.quality import FOCUS_OF
from subcell_hf.errors import InputError
from subcell_hf.images.folder_contents import CROPS_FILE
from subcell_hf.storage.atomic import remove_leftovers, write_atomically
from subcell_hf.storage.folder_lock import LOCK_FILE
from subcell_hf.storage.input_lists import SKIPPED_FILE, UNUSED_FILE
from subcell_hf.storage.parquet_files import WRITING, read_parquet_file
from subcell_hf.storage.plain_files import explaining, read_json
from subcell_hf.storage.records import find_damage, read_record
from subcell_hf.types import FieldCrops

if TYPE_CHECKING:
    import pandas as pd

TABLE_FILE = "crops.parquet"
FILTERED_FILE = "filtered.csv"
FIELDS_FOLDER = "fields"

_LEFT_BY_NOTHING = (f".{CROPS_FILE}.", LOCK_FILE, SKIPPED_FILE, UNUSED_FILE)
_LIBRARIES = ("numpy", "scipy", "scikit-image", "tifffile", "imagecodecs", "pyarrow")
_MAX_NAME_BYTES = 180
_OWN_COLUMNS = {
    "cell_id": pa.string(),
    "field_of_view": pa.string(),
    "label": pa.int32(),
    "top": pa.int32(),
    "left": pa.int32(),
    "height": pa.int32(),
    "width": pa.int32(),
    PIXEL_SIZE: pa.float64(),
    PIXEL_SIZE_FROM: pa.string(),
    "qc_cut_by_border": pa.bool_(),
    "qc_area_um2": pa.float64(),
    "qc_saturation": pa.float64(),
    "qc_focus": pa.float64(),
    "qc_empty_channels": pa.string(),
    "file": pa.string(),
    "index": pa.int32(),
}
"""Columns that every table of crops has; all others are metadata, and texts, except the focus of each channel."""


def field_file(name: str) -> str:
    """File name, without ending, of a field: its own name where a file system takes it, else a readable stand-in."""
    safe = re.sub(r'[\x00-\x1f<>:"/\\|?*%]|^\.|[. ]$', lambda match: f"%{ord(match[0]):02X}", name)
    if len(safe.encode()) <= _MAX_NAME_BYTES:
        return safe
    shortened = safe.encode()[: _MAX_NAME_BYTES - 20].decode(errors="ignore")
    return f"{shortened}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def open_crops_folder(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Begin a folder of crops, or take up one that was made with the same settings.

    Args:
        folder: New, empty, or a folder of crops.
        settings: All that decides about the crops, as JSON has it.

    Returns:
        Content of `crops.json`, which says from now on that the run is not finished.

    Raises:
        InputError: If the folder holds something else, or crops made with other settings, with the differences.
    """
    facts: dict[str, Any] = {"settings": dict(settings), "versions": {name: version(name) for name in _LIBRARIES}}
    if (folder / CROPS_FILE).is_file():
        facts = read_crops_json(folder, finished=False)
        earlier = facts.get("settings", {})
        changed = [
            f"{name}: {earlier.get(name)!r} in that run, {settings.get(name)!r} now"
            for name in sorted({*earlier, *settings})
            # What an earlier version could not be told is as it was where it is empty.
            if (earlier[name] != settings.get(name) if name in earlier else settings[name])
        ]
        if changed:
            raise InputError(
                f"{folder} contains crops made with other settings ({'; '.join(changed)}). Use the same settings, or "
                "choose a new folder (--output)."
            )
        remove_leftovers(folder)
        remove_leftovers(folder / FIELDS_FOLDER)
    # A run that was killed at its very beginning leaves a part of crops.json and its lock; one of which nothing came,
    # the lists of its inputs.
    elif folder.exists() and not (
        folder.is_dir() and all(path.name.startswith(_LEFT_BY_NOTHING) for path in folder.iterdir())
    ):
        raise InputError(f"{folder} exists and is not a folder of crops. Choose a new folder (--output).")
    facts["finished"] = False
    write_json(folder / CROPS_FILE, facts)
    return facts


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all; the same content gives the same bytes."""
    with write_atomically(path) as file:
        file.write((json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def write_crop_pixels(path: Path, crops: FieldCrops) -> None:
    """Write the pixels and masks of a field's crops."""
    size_bytes = crops.pixels.nbytes + crops.cell_masks.nbytes
    # Floats have a predictor of their own, which tifffile chooses by dtype.
    options: dict[str, Any] = {
        "compression": "zlib",
        "compressionargs": {"level": 1},
        "predictor": True,
        "photometric": "minisblack",
        "maxworkers": 1,
    }
    with write_atomically(path) as file, tifffile.TiffWriter(file, bigtiff=size_bytes > 2**31) as tiff:
        tiff.write(crops.pixels, **options)
        tiff.write(crops.cell_masks.astype(np.uint8) * 255, **options)


def write_crop_table(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write `crops.parquet`; the same records give the same bytes.

    Args:
        path: The file.
        records: One per cell.
    """
    others = dict.fromkeys(name for record in records for name in record if name not in _OWN_COLUMNS)
    metadata = {name: pa.float64() if name.startswith(FOCUS_OF) else pa.string() for name in others}
    schema = pa.schema({**_OWN_COLUMNS, **dict(sorted(metadata.items()))})
    with write_atomically(path) as file:
        table = pa.Table.from_pylist([dict(record) for record in records], schema)
        pq.write_table(table, file, compression="zstd", **WRITING)


def read_crops(folder: Path | str) -> Iterator[FieldCrops]:
    """Read a folder of crops back, one field of view at a time, in the order of the table.

    Args:
        folder: What `subcell crops` has written.

    Yields:
        The crops of a field; fields without a cell are left out.

    Raises:
        InputError: If the folder is none of crops, is not finished, or a file does not fit the table.
    """
    folder = Path(folder)
    facts = read_crops_json(folder)
    table = read_parquet_file(folder / TABLE_FILE)
    if missing := [name for name in _OWN_COLUMNS if name not in table.column_names]:
        raise InputError(f"{folder / TABLE_FILE} lacks the column {missing[0]}. Make the folder again.")
    rows_by_file: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        rows_by_file.setdefault(row["file"], []).append(row)
    for rows in rows_by_file.values():
        yield read_field_crops(folder, rows, facts)


def read_field_crops(folder: Path, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> FieldCrops:
    """Read the crops of one field.

    Args:
        folder: The folder of crops.
        rows: All rows of that field in `crops.parquet`, in order.
        facts: Content of `crops.json`.

    Raises:
        ValueError: If the field's file is damaged or does not fit the rows.
    """
    records, file = tuple(_record_of_row(row) for row in rows), str(rows[0]["file"])
    if not file.startswith(f"{FIELDS_FOLDER}/") or Path(file).name != file.removeprefix(f"{FIELDS_FOLDER}/"):
        raise InputError(
            f"{folder / TABLE_FILE} names the file {file!r}, expected files in {FIELDS_FOLDER}/. Do not use crops from "
            "a source that you do not trust."
        )
    with explaining(folder / CROPS_FILE, "Make the folder again with subcell crops."):
        channels, pixel_size_um = tuple(map(str, facts["channels"])), float(facts["pixel_size_um"])
        if not 0 < pixel_size_um < float("inf"):
            raise ValueError(f"pixel_size_um is {pixel_size_um}")
    return _read_field(folder / file, records, channels, pixel_size_um)


def read_crop_table(folder: Path | str) -> "pd.DataFrame":
    """Read the table of a folder of crops.

    Args:
        folder: Folder that `crop_fields` wrote.

    Returns:
        One row per cell, with the columns of `crops.parquet`.

    Raises:
        InputError: If the folder is none of crops or not finished.
    """
    read_crops_json(Path(folder))
    return read_parquet_file(Path(folder) / TABLE_FILE).to_pandas()


def count_crops(folder: Path | str) -> dict[str, int]:
    """Count the fields and cells of a folder of crops.

    Args:
        folder: Folder that `crop_fields` wrote.

    Returns:
        Numbers of `fields`, `cells`, `skipped_fields` and `filtered_cells`.

    Raises:
        InputError: If the folder is none of crops or not finished.
    """
    counts: dict[str, int] = read_crops_json(Path(folder))["counts"]
    return counts


def read_crops_json(folder: Path, *, finished: bool = True) -> dict[str, Any]:
    """Content of `crops.json`.

    Args:
        folder: The folder of crops.
        finished: Whether to refuse a run that has not come to its end.

    Raises:
        InputError: If the file is missing, damaged, or of an unfinished run.
    """
    path = folder / CROPS_FILE
    if not path.is_file():
        raise InputError(f"{folder} is not a folder of crops: it has no {CROPS_FILE}. Create one with subcell crops.")
    try:
        facts: dict[str, Any] = read_json(path, "Create one with subcell crops, in a new folder.")
    except InputError as error:
        raise InputError(f"{folder} is not a folder of crops: {error}") from error
    if not isinstance(facts, dict):
        raise InputError(f"{path} is not a description of crops. Create the folder again with subcell crops.")
    if finished and not facts.get("finished"):
        raise InputError(
            f"{folder} is not finished. Run the same subcell crops command again; finished fields are kept."
        )
    if finished and not (folder / TABLE_FILE).is_file():
        raise InputError(f"{folder} has no {TABLE_FILE}. Run the same subcell crops command again.")
    return facts


def _record_of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's record as it was written: metadata that its field does not have is left out again."""
    place = ("file", "index")
    return {k: v for k, v in row.items() if k not in place and (v is not None or k in _OWN_COLUMNS)}


def _read_field(
    path: Path, records: tuple[Mapping[str, Any], ...], channels: tuple[str, ...], pixel_size_um: float
) -> FieldCrops:
    record = read_record(path.with_name(f"{path.name.removesuffix('.tiff')}.json"))
    damage = find_damage(path.parent, record["files"]) if record is not None else []
    if damage:
        raise InputError(f"{path} is damaged: {'; '.join(damage)}. Run the same subcell crops command again.")
    try:
        with tifffile.TiffFile(path) as tiff:
            pixels, masks = (series.asarray(maxworkers=1) for series in tiff.series)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read: {error}. Run the same subcell crops command again.") from error
    size = pixels.shape[-1]
    # tifffile drops axes of length 1.
    shape = (len(records), len(channels), size, size)
    if pixels.size != np.prod(shape) or masks.size != len(records) * size * size:
        raise InputError(
            f"{path} has shape {pixels.shape}, expected {shape} by the table. Run the same subcell crops command again."
        )
    masks = masks.reshape(len(records), size, size) > 0
    return FieldCrops(str(records[0]["field_of_view"]), pixels.reshape(shape), masks, channels, pixel_size_um, records)
