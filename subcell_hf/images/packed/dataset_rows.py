"""Datasets of Hugging Face as folders of images: a file for each picture, as its bytes lie there, and `metadata.csv`.

A picture is a feature `Image` of `datasets`, `{bytes, path}` in Arrow, or an array of two dimensions or more. The
column says which channel it is: `blue`, or `blue_image`; a column `mask` holds label masks; a single column of another
name holds all channels.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from subcell_hf.errors import InputError
from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.file_names import MASK_NAME
from subcell_hf.images.files import image_suffix
from subcell_hf.images.tables import FIELD_COLUMN, METADATA_FILE
from subcell_hf.ontology import CHANNEL_STAINS
from subcell_hf.progress import progress_bar
from subcell_hf.storage.folders import write_folder_atomically
from subcell_hf.storage.parquet_files import damage_named, open_parquet, read_parquet_schema

_CELL_COLUMN = "cell_id"
_IMAGE_ENDING = "_image"
_MASKS = (MASK_NAME, "cell_mask", "label_mask")
_ROWS_AT_ONCE = 16
_MAGICS = {
    b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg", b"II*\x00": ".tif", b"MM\x00*": ".tif", b"II+\x00": ".tif",
    b"MM\x00+": ".tif", b"\x93NUMPY": ".npy",
}  # fmt: skip
_ARROW = ".arrow"
_ARROW_MARKS = ("state.json", "dataset_dict.json")


def unpack_dataset(dataset: Any, folder: str | Path) -> int:
    """Write the images of a dataset as a folder of files, which `subcell embed` and the others take; pixels stay bits.

    Rows are read one after the other, so that a dataset may be streamed.

    Example:
        ```python
        from datasets import load_dataset
        from subcell_hf.images import unpack_dataset

        unpack_dataset(load_dataset("owner/cells", split="train", streaming=True), "images")
        ```

    Args:
        dataset: `Dataset` or `IterableDataset` with a column of images for each channel (`blue`, `green`, … or
            `blue_image`), or one column with all channels, `Image` or `[channels, height, width]`. Rows are named by
            the columns `cell_id`, else `field_of_view`, else numbered; masks are in `mask`. Other columns of texts and
            numbers become metadata.
        folder: New folder; it appears when it is complete.

    Returns:
        Number of rows.

    Raises:
        FieldError: If there is no column of images, or an image or a name cannot be a file.
        InputError: If the folder has content.
        OSError: If a file cannot be written.
    """
    with write_folder_atomically(folder) as staging:
        return write_rows(dataset.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE), staging, "The dataset")


def dataset_files(folder: Path) -> list[Path]:
    """The files of a dataset in a folder: Arrow as `save_to_disk` writes it, or Parquet, in it or one folder below."""
    ending = f"*{_ARROW}" if any((folder / name).is_file() for name in _ARROW_MARKS) else "*.parquet"
    return sorted([*folder.glob(ending), *folder.glob(f"*/{ending}")])


def holds_images(files: Sequence[Path]) -> bool:
    """Whether the first of these files has a column of images."""
    try:
        return any(_is_picture(field.type) for field in _schema_of(files[0]))
    except InputError:  # a damaged table, which is reported when it is read as one
        return False


def iterate_tables(files: Iterable[Path]) -> Iterator[pa.Table]:
    """The rows of Parquet and Arrow files, a few at a time.

    Args:
        files: Of one dataset.

    Raises:
        InputError: If a file is damaged.
    """
    for file in files:
        with _batches_of(file) as batches:
            for batch in batches:
                table = pa.Table.from_batches([batch])
                with damage_named(str(file)):
                    table.validate(full=True)  # damaged lengths of texts end the process
                yield table


def write_rows(tables: Iterable[pa.Table], folder: Path, where: str) -> int:
    """Write the images and metadata of rows.

    Args:
        tables: Parts of one dataset, in order.
        folder: An existing, empty folder.
        where: What to call the dataset in messages.

    Returns:
        Number of rows.

    Raises:
        FieldError: If there is no column of images, or an image or a name cannot be a file.
        OSError: If a file cannot be written.
    """
    given = iter(tables)
    first = next(given, None)
    if first is None:
        raise FieldError(f"{where} has no rows, expected images.")
    columns = _Columns.of(first.schema, where)
    names = set[str]()
    with (
        (folder / METADATA_FILE).open("w", encoding="utf-8", newline="") as file,
        progress_bar(None, "row", "write the images of the dataset") as bar,
    ):
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([FIELD_COLUMN, *columns.metadata.values()])
        for table in chain([first], given):
            for row in range(len(table)):
                name = _name_of(table, row, columns.name, len(names), where)
                if name in names:
                    raise FieldError(f"{where} has two rows called {name!r}, expected every {columns.name} once.")
                names.add(name)
                for column, ending in columns.pictures.items():
                    _write(table[column], row, folder / f"{name}{ending}", f"{where}: {column} of {name!r}")
                rows.writerow([name, *(_text(table[column][row].as_py()) for column in columns.metadata)])
                bar.update(1)
    return len(names)


@dataclass(frozen=True)
class _Columns:
    """What the columns of a dataset are.

    Attributes:
        name: Column that names rows; None where they are numbered.
        pictures: Column of pictures → what is added to the name of a row.
        metadata: Other column → its name in `metadata.csv`.
    """

    name: str | None
    pictures: Mapping[str, str]
    metadata: Mapping[str, str]

    @classmethod
    def of(cls, schema: pa.Schema, where: str) -> "_Columns":
        found = [field.name for field in schema if _is_picture(field.type)]
        masks = [name for name in found if name in _MASKS]
        channels = {name: name.removesuffix(_IMAGE_ENDING) or name for name in found if name not in masks}
        if not channels or len(masks) > 1:
            got = ", ".join(found) or f"none, but {', '.join(schema.names)}"
            raise FieldError(f"{where} has the columns of images {got}; expected images, and one column of masks.")
        split = [name for name, channel in channels.items() if "_" in channel]
        if len(channels) > 1 and split:
            raise FieldError(
                f"{where} has a column of images {split[0]!r}: a channel has no underscore in its name. Rename the "
                "column (rename_column)."
            )
        is_stack = len(channels) == 1 and not {*channels.values()} & {*CHANNEL_STAINS}
        endings = {name: "" if is_stack else f"_{channel}" for name, channel in channels.items()}
        name = next((name for name in (_CELL_COLUMN, FIELD_COLUMN) if name in schema.names), None)
        others = [field.name for field in schema if field.name != name and _is_plain(field.type)]
        renamed = {other: "source_field" if other == FIELD_COLUMN else other for other in others}
        return cls(name, endings | dict.fromkeys(masks, f"_{MASK_NAME}"), renamed)


@contextmanager
def _batches_of(file: Path) -> Iterator[Any]:
    """The rows of an open file, a few at a time."""
    if file.suffix == _ARROW:
        with damage_named(str(file)), pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
            yield stream
    else:
        with open_parquet(file) as opened:
            yield opened.iter_batches(batch_size=_ROWS_AT_ONCE)


def _schema_of(file: Path) -> pa.Schema:
    if file.suffix != _ARROW:
        return read_parquet_schema(file)
    with _batches_of(file) as stream:
        return stream.schema


def _is_picture(kind: Any) -> bool:
    """Whether a column holds `Image` of `datasets`, or arrays of two dimensions or more."""
    if pa.types.is_struct(kind):
        return {kind.field(n).name for n in range(kind.num_fields)} == {"bytes", "path"}
    kind = _storage(kind)
    depth = 0
    while _is_list(kind):
        kind, depth = kind.value_type, depth + 1
    return depth > 1 and _is_one_of(kind, "integer", "floating")


def _is_plain(kind: Any) -> bool:
    """Whether a column holds texts, one or several, or numbers."""
    if _is_list(kind):
        return _is_one_of(kind.value_type, "string", "large_string")
    return not _is_one_of(kind, "nested", "binary", "large_binary")


def _is_list(kind: Any) -> bool:
    return _is_one_of(kind, "list", "large_list", "fixed_size_list")


def _is_one_of(kind: Any, *names: str) -> bool:
    return any(getattr(pa.types, f"is_{name}")(kind) for name in names)


def _storage(kind: Any) -> Any:
    """The Arrow type of `Array2D` and the others of `datasets`."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _name_of(table: pa.Table, row: int, column: str | None, number: int, where: str) -> str:
    if column is None:
        return f"{number:06d}"
    name = str(table[column][row].as_py())
    if not name or name.startswith(".") or {"/", "\\", "\0"} & {*name} or len(name.encode()) > 200:
        raise FieldError(
            f"{where} has a row called {name[:80]!r} ({column}), which cannot be the name of a file: expected at most "
            "200 bytes without / and \\ that do not begin with a dot. Change the names."
        )
    return name


def _write(column: pa.ChunkedArray, row: int, path: Path, where: str) -> None:
    """One picture as a file: its bytes as they are, or an array as `.npy`; nothing where there is none."""
    picture = column[row]
    if not picture.is_valid:
        return
    if not pa.types.is_struct(column.type):
        with Path(f"{path}.npy").open("wb") as file:
            np.lib.format.write_array(file, _array(column.slice(row, 1), where), allow_pickle=False)
        return
    value = picture.as_py()
    data, origin = value["bytes"], Path(value["path"] or "")
    if data is None:
        if not origin.is_file():
            raise FieldError(f"{where} is only a path, {origin}, which is not there. Save the dataset with its images.")
        data = origin.read_bytes()
    suffix = next((suffix for magic, suffix in _MAGICS.items() if data.startswith(magic)), None) or image_suffix(origin)
    if suffix is None:
        raise FieldError(
            f"{where} begins with {data[:8]!r}, expected PNG, JPEG, TIFF or NumPy. Save it as one of them."
        )
    Path(f"{path}{suffix}").write_bytes(data)


def _array(column: pa.ChunkedArray, where: str) -> npt.NDArray[Any]:
    """The array in a column of one row, whatever the lists are nested in."""
    values: Any = column.combine_chunks()
    values = values.chunk(0) if isinstance(values, pa.ChunkedArray) else values
    values = values.storage if isinstance(values, pa.ExtensionArray) else values
    values = values.flatten()
    shape = [len(values)]
    while _is_list(values.type):
        values = values.flatten()
        shape.append(len(values) // max(1, int(np.prod(shape))))
    flat: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    if flat.size != np.prod(shape) or values.null_count:
        raise FieldError(
            f"{where} has rows of different lengths or empty places, expected an array [channels, height, width]."
        )
    return flat.reshape(shape)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ";".join(map(str, value))
    return "" if value is None else str(value)
