"""Options that every command on images has."""

from pathlib import Path
from typing import Annotated

import typer

Pattern = Annotated[
    str | None,
    typer.Option(
        help="Regular expression for file names that no instrument's layout describes, with named groups: channel, "
        r"well, plate, site, z, time; such as '(?P<well>[A-P]\d+)_(?P<channel>\w+)\.tif'."
    ),
]
PathMappings = Annotated[
    list[str] | None,
    typer.Option(
        "--path-mapping", help="Folder of a table's images here: OLD=NEW, such as s3://bucket/images=/data; repeatable."
    ),
]
Illumination = Annotated[
    bool,
    typer.Option("--illumination", help="Divide images by the illumination functions (Illum…) of a LoadData table."),
]
PlateMaps = Annotated[
    list[Path] | None,
    typer.Option(
        "--plate-map",
        help="Table of what is in the wells: barcode_platemap.csv, one row per well, or a grid as the plate; "
        "repeatable.",
    ),
]
Masks = Annotated[
    str | None,
    typer.Option(
        help="Label images or GeoJSON of another program: a path with {file} (name of one of the field's images), "
        "{name}, {plate}, {well}, {site}, {folder}/, * and ?; without a / beside the images. Such as "
        "'masks/{file}_cp_masks.tif'."
    ),
]
Labels = Annotated[
    str | None, typer.Option(help="Name of the label image inside of each OME-Zarr image that is its mask.")
]
Segmentation = Annotated[
    str,
    typer.Option(
        help="Segmentation of fields without masks: watershed, cellpose, or a Python function, file.py:function or "
        "module:function."
    ),
]
