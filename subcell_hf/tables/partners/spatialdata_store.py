"""Images, masks and embeddings as SpatialData, for squidpy, napari-spatialdata and others of scverse.

| element | content |
| --- | --- |
| `<field>_image` | `[channels, height, width]`, intensities as acquired, channels by name |
| `<field>_labels` | `[height, width]` int32, labels of cells as in the table's column `label` |
| `<field>_cells` | outline of every cell in the table as a polygon; its index is the label |
| `cells` | the table as AnnData; `spatialdata_region` and `label` say which outline a row belongs to |

Two coordinate systems for each field: `<field>` in micrometres, which images and labels state as the unit of its axes,
and `<field>_px` in pixels. Cells that the run left out are in the labels and neither in the outlines nor in the table.
"""

import re
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.images.masks.polygons import polygons_of_mask
from subcell_hf.storage.folders import write_folder_atomically
from subcell_hf.tables.embedding_table import FIELD_OF_VIEW, EmbeddingTable
from subcell_hf.tables.h5ad import write_h5ad
from subcell_hf.tables.partners.places import LABEL, cells_in_field, rows_by_field
from subcell_hf.types import FieldOfView

TABLE = "cells"
REGION = "spatialdata_region"
"""Column of `obs` that names the outlines that a row belongs to."""


def write_spatialdata(table: EmbeddingTable, fields: Iterable[FieldOfView], path: Path) -> dict[str, str]:
    """Write a SpatialData store that appears when it is complete; fields are read and written one after the other.

    Args:
        table: Cells with their places in fields of view.
        fields: Every field of the table once, with masks.
        path: Folder to write, whose name should end in `.zarr`; a new one.

    Returns:
        Field or column → what it is called in the store, where SpatialData does not allow its name.

    Raises:
        InputError: If the table does not say where cells lie, or a mask is not the one that it was made with.
        ModuleNotFoundError: If spatialdata is not installed.
    """
    import spatialdata

    rows = rows_by_field(table.cells)
    names = plain_names(rows)
    with write_folder_atomically(path) as staging:
        staging.rmdir()  # SpatialData writes no folder that is there
        store = spatialdata.SpatialData()
        store.write(staging)
        for field in fields:
            elements = _elements(table, field, rows[field.name], names[field.name])
            for name, element in elements.items():
                store[name] = element
            store.write_element(list(elements))
            _check_channels(staging / "images" / f"{names[field.name]}_image", field)
            for raster in (f"images/{names[field.name]}_image", f"labels/{names[field.name]}_labels"):
                _state_unit(staging / raster, names[field.name])
            for name in elements:
                del store[name]
        with pd.option_context("future.infer_string", False):  # anndata cannot write Arrow's texts yet
            store[TABLE], columns = _annotations(table, names)
            store.write_element(TABLE)
        store.write_consolidated_metadata()
    renamed = {**names, **columns}
    return {name: other for name, other in renamed.items() if name != other}


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Names that SpatialData allows: of letters, digits, `_`, `-` and `.`, different also where case is ignored.

    Args:
        names: Of fields or columns.

    Returns:
        Name → its own, or another.
    """
    taken, plain = set[str](), dict[str, str]()
    for name in names:
        other = re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip("_.") or "unnamed"
        while other.lower() in taken:
            other += "_"
        taken.add(other.lower())
        plain[name] = other
    return plain


def _elements(table: EmbeddingTable, field: FieldOfView, rows: Any, name: str) -> dict[str, Any]:
    """Image, labels and outlines of a field."""
    import geopandas
    import shapely
    from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel
    from spatialdata.transformations import Identity, Scale

    edge = field.pixel_size_um
    systems = {name: Scale([edge, edge], axes=("x", "y")), f"{name}_px": Identity()}
    outlines = {
        label: shapely.MultiPolygon(
            [(outer, holes) for outer, *holes in polygons_of_mask(inside, top, left)]
        ).normalize()
        for label, top, left, inside in cells_in_field(table.cells.iloc[rows], field)
    }
    shapes = geopandas.GeoDataFrame({"geometry": list(outlines.values())}, index=list(outlines))
    labels = np.asarray(field.label_mask, np.int32)
    return {
        f"{name}_image": Image2DModel.parse(
            field.pixels, dims=("c", "y", "x"), c_coords=list(field.channels), transformations=systems
        ),
        f"{name}_labels": Labels2DModel.parse(labels, dims=("y", "x"), transformations=systems),
        f"{name}_cells": ShapesModel.parse(shapes, transformations=systems),
    }


def _check_channels(image: Path, field: FieldOfView) -> None:
    """Refuse what some versions of ome-zarr write: an image without the names of its channels."""
    import zarr

    attributes: Any = zarr.open_group(image, mode="r").attrs.asdict()
    found = [item["label"] for item in attributes["ome"].get("omero", {}).get("channels", [])]
    if found != list(field.channels):
        raise InputError(
            f"ome-zarr {version('ome-zarr')} writes the channels of {field.name} as {found}, expected "
            f"{list(field.channels)}. Install another version: pip install 'ome-zarr==0.15.0'."
        )


def _state_unit(element: Path, system: str) -> None:
    """Say that a coordinate system is in micrometres; SpatialData writes a placeholder for the unit."""
    import zarr

    group = zarr.open_group(element, mode="r+")
    attributes: Any = group.attrs.asdict()
    for way in attributes["ome"]["multiscales"][0]["coordinateTransformations"]:
        if way["output"]["name"] == system:
            way["output"]["axes"] = [
                {**axis, "unit": "micrometer"} if axis["type"] == "space" else axis for axis in way["output"]["axes"]
            ]
    group.attrs.update(attributes)


def _annotations(table: EmbeddingTable, names: dict[str, str]) -> tuple[Any, dict[str, str]]:
    """The table as `write_h5ad` writes it, annotating outlines; and what its columns are called."""
    import anndata
    from spatialdata.models import TableModel

    with TemporaryDirectory(prefix="subcell-") as folder:
        write_h5ad(table, Path(folder) / "cells.h5ad")
        data = anndata.read_h5ad(Path(folder) / "cells.h5ad")
    columns = plain_names([*data.obs.columns])
    data.obs = data.obs.rename(columns=columns)
    data.obs.index.name = None
    regions = {field: f"{name}_cells" for field, name in names.items()}
    data.obs[REGION] = pd.Categorical([regions[field] for field in table.cells[FIELD_OF_VIEW]])
    made = TableModel.parse(data, region=list(regions.values()), region_key=REGION, instance_key=columns[LABEL])
    return made, columns
