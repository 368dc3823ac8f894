"""Single cells of a run as scPortrait's `.h5sc`: AnnData with the image of every cell, read by `cells.partners.h5sc`.

Intensities are those of an extraction without normalization (`normalize_output: false`): divided by the largest value
of the images' type and stored as float16, 0 outside of the cell. float16 keeps 11 significant bits: 8-bit images come
back exactly (`round(image * intensity_of_1)`), 16-bit ones to within 0.05 % of each value.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.storage.hdf5 import write_hdf5
from subcell_hf.tables.embedding_table import EmbeddingTable
from subcell_hf.tables.h5ad import stored_names, write_frame
from subcell_hf.tables.parquet import EMBEDDING
from subcell_hf.tables.partners.places import cells_in_field, rows_by_field
from subcell_hf.types import FieldOfView

_IMAGES = "single_cell_images"
_MASK = "cell"
_ROW = "_index"
_CELL_NUMBER = "scportrait_cell_id"
_COMPRESSION = "gzip"
_EDGES_ARE_MULTIPLES_OF = 16


def write_h5sc(table: EmbeddingTable, fields: Iterable[FieldOfView], path: Path) -> dict[str, str]:
    """Write the cells of a table; fields are read and written one after the other.

    Every image shows the box of its cell in the middle, as wide as the largest box of all cells. `obs` holds the
    columns of the table and scPortrait's number of each cell, `obsm["embedding"]` the embeddings.

    Args:
        table: Cells with their places in fields of view.
        fields: Every field of the table once, with masks.
        path: File to write; it appears when it is complete.

    Returns:
        Column → what it is called in the file, where HDF5 does not allow its name.

    Raises:
        InputError: If the table does not say where cells lie, a mask is not the one that it was made with, or fields
            differ in their channels, type or pixel size.
        OSError: If the file cannot be written.
    """
    rows = rows_by_field(table.cells)
    if not rows:
        raise InputError("The table has no cells, expected at least one. Embed fields of view that have cells.")
    largest = int(table.cells[["height", "width"]].to_numpy().max(initial=1))
    edge = -(-largest // _EDGES_ARE_MULTIPLES_OF) * _EDGES_ARE_MULTIPLES_OF
    renamed = stored_names(map(str, table.cells.columns))
    first: FieldOfView | None = None
    with write_hdf5(path) as file:
        for field in fields:
            if first is None:
                first = field
                images = _write_frame(file.root, table, renamed, field, edge)
            _check_same(first, field)
            _write_cells(images, table, field, rows[field.name])
            file.check()
    return renamed


def _write_frame(root: Any, table: EmbeddingTable, renamed: dict[str, str], field: FieldOfView, edge: int) -> Any:
    """All but the images, for which there is room."""
    import anndata

    names, kinds = [_MASK, *field.channels], ["mask", *["image_channel"] * len(field.channels)]
    facts: dict[str, Any] = {
        "n_cells": len(table), "n_channels": len(names), "n_masks": 1, "n_image_channels": len(field.channels),
        "image_size_x": edge, "image_size_y": edge, "normalization": False, "compression": _COMPRESSION,
        "intensity_of_1": _largest(field),
    }  # fmt: skip
    texts = {"channel_names": np.array(names, object), "channel_mapping": np.array(kinds, object)}
    numbers = pd.Series(range(len(table)))
    columns = ((renamed.get(name, name), table.cells[name]) for name in map(str, table.cells.columns))
    own = (_ROW, numbers.astype(str)), (_CELL_NUMBER, numbers.astype(np.uint64))
    write_frame(root.create_group("obs"), [*own, *(pair for pair in columns if pair[0] != _CELL_NUMBER)], _ROW)
    channels = [(_ROW, pd.Series(range(len(names))).astype(str)), ("channels", pd.Series(names))]
    write_frame(root.create_group("var"), [*channels, ("channel_mapping", pd.Series(kinds))], _ROW)
    anndata.io.write_elem(root, "uns", {_IMAGES: facts | texts})
    anndata.io.write_elem(root, "obsm", {EMBEDDING: table.embeddings})
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    images = root.create_dataset(
        f"obsm/{_IMAGES}", (len(table), len(names), edge, edge), np.float16, chunks=(1, 1, edge, edge),
        compression=_COMPRESSION, track_times=False,
    )  # fmt: skip
    described = {name: [text.encode() for text in values] for name, values in texts.items()}
    images.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0", **facts, **described})
    return images


def _largest(field: FieldOfView) -> int:
    """The intensity that is stored as 1."""
    if field.pixels.dtype.kind == "u":
        return int(np.iinfo(field.pixels.dtype).max)
    if field.pixels.min() < 0 or not field.pixels.max() <= 1:
        raise InputError(
            f"Field {field.name!r} has intensities of {field.pixels.dtype} from {field.pixels.min():g} to "
            f"{field.pixels.max():g}: .h5sc holds intensities from 0 to 1, and nothing says how to scale these. Save "
            "the images with 8 or 16 bits and embed them again."
        )
    return 1


def _check_same(first: FieldOfView, field: FieldOfView) -> None:
    for what, one, other in (
        ("channels", ", ".join(first.channels), ", ".join(field.channels)),
        ("pixel type", str(first.pixels.dtype), str(field.pixels.dtype)),
        ("pixel size", f"{first.pixel_size_um:g} um", f"{field.pixel_size_um:g} um"),
    ):
        if one != other:
            raise InputError(
                f"Field {first.name!r} has the {what} {one}, field {field.name!r} {other}; a .h5sc file holds cells of "
                f"one {what}. Embed them in separate runs."
            )
    _largest(field)


def _write_cells(images: Any, table: EmbeddingTable, field: FieldOfView, rows: Any) -> None:
    edge, scale = images.shape[-1], np.float32(_largest(field))
    cells = cells_in_field(table.cells.iloc[rows], field)
    for row, (_, top, left, inside) in zip(rows, cells, strict=True):
        height, width = inside.shape
        image = np.zeros(images.shape[1:], np.float16)
        down, right = (edge - height) // 2, (edge - width) // 2
        place = (slice(down, down + height), slice(right, right + width))
        pixels = field.pixels[:, top : top + height, left : left + width] / scale
        image[0][place] = inside
        image[(slice(1, None), *place)] = pixels * inside
        images[row] = image
