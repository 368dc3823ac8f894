"""Options that several commands have, and how a command takes them as one object."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from subcell_hf.cells.published.choice import CellChoice
    from subcell_hf.images.reading_options import ReadingOptions


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of each parameter that is a dataclass, in that parameter's place."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        group = groups.get(parameter.name)
        parameters += _options(group) if group else [parameter.replace(annotation=hints[parameter.name])]

    @wraps(command)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{option.name: given.pop(option.name) for option in fields(group)})
        command(**given)

    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__dict__["__signature__"] = inspect.Signature(
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    return run


def _options(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)

    def default(option: Field[Any]) -> Any:
        return inspect.Parameter.empty if option.default is MISSING else option.default

    return [
        inspect.Parameter(
            option.name, inspect.Parameter.KEYWORD_ONLY, default=default(option), annotation=hints[option.name]
        )
        for option in fields(group)
    ]


PlateMaps = Annotated[
    list[Path] | None,
    typer.Option(
        "--plate-map",
        help="Table of what is in the wells: barcode_platemap.csv, one row per well, or a grid as the plate; "
        "repeatable.",
    ),
]
Segmentation = Annotated[
    str,
    typer.Option(
        help="Segmentation of fields without masks: watershed, cellpose, stardist, or a Python function, "
        "file.py:function or module:function."
    ),
]


@dataclass(frozen=True)
class CellOptions:
    """Which cells are used: options of the commands that take `hpa:`."""

    split: Annotated[str | None, typer.Option(help="For shards and hpa: use only the cells of this split.")] = None
    antibodies: Annotated[Path | None, typer.Option(help="For hpa: text file with one antibody per line.")] = None
    cell_lines: Annotated[str | None, typer.Option(help="For hpa: comma-separated names of cell lines.")] = None
    max_cells: Annotated[int | None, typer.Option(min=1, help="For hpa: use at most so many cells.")] = None

    def choice(self) -> "CellChoice":
        """The published cells that are used, as the rooms below take it."""
        from subcell_hf.cells.published.choice import CellChoice

        lines = tuple(name.strip() for name in self.cell_lines.split(",")) if self.cell_lines else ()
        return CellChoice(self.antibodies, lines, self.max_cells)


@dataclass(frozen=True)
class ImageOptions:
    """How images are read: options of every command on images."""

    channel_mapping: Annotated[
        list[str] | None,
        typer.Option(help="Map a channel name to a colour: NAME=COLOUR, such as DAPI=blue; repeatable."),
    ] = None
    channel_names: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated channel names for multi-channel files that contain none. Without --z-projection, as "
            "many names as there are Z-planes or time points read these as channels."
        ),
    ] = None
    pixel_size_um: Annotated[
        float | None, typer.Option(help="Pixel size of the images in micrometres; overrides the files.")
    ] = None
    z_projection: Annotated[
        str | None, typer.Option(help="For Z-stacks: max, mean, focus, or the index of a plane.")
    ] = None
    metadata: Annotated[
        Path | None, typer.Option(help="CSV with a column field_of_view; default: metadata.csv in INPUT, if present.")
    ] = None
    plate_map: PlateMaps = None
    pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression for file names that no instrument's layout describes, with named groups: channel, "
            r"well, plate, site, z, time; such as '(?P<well>[A-P]\d+)_(?P<channel>\w+)\.tif'."
        ),
    ] = None
    path_mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--path-mapping",
            help="Folder of a table's images here: OLD=NEW, such as s3://bucket/images=/data; repeatable.",
        ),
    ] = None
    illumination: Annotated[
        bool,
        typer.Option(
            "--illumination", help="Divide images by the illumination functions (Illum…) of a LoadData table."
        ),
    ] = False
    masks: Annotated[
        str | None,
        typer.Option(
            help="Label images or GeoJSON of another program: a path with {file} (name of one of the field's images), "
            "{name}, {plate}, {well}, {site}, {folder}/, * and ?; without a / beside the images. Such as "
            "'masks/{file}_cp_masks.tif'."
        ),
    ] = None
    labels: Annotated[
        str | None, typer.Option(help="Name of the label image inside of each OME-Zarr image that is its mask.")
    ] = None
    trust_masks: Annotated[
        bool,
        typer.Option("--trust-masks", help="Accept each label of a mask as one cell, even with many pieces or nuclei."),
    ] = False

    def reading(self, channels: str | None = None, max_decoded_gib: float | None = None) -> "ReadingOptions":
        """The options as the rooms below take them.

        Args:
            channels: Required channels, as the user writes them.
            max_decoded_gib: Limit of one decoded image; None: as `ReadingOptions` has it.

        Raises:
            InputError: If an option cannot be understood.
        """
        from subcell_hf.images.reading_options import (
            ReadingOptions,
            parse_channel_mapping,
            parse_path_mapping,
            parse_z_projection,
        )
        from subcell_hf.ontology import channels_from_variant

        limit = {} if max_decoded_gib is None else {"max_decoded_bytes": int(max_decoded_gib * 2**30)}
        return ReadingOptions(
            channels=channels_from_variant(channels) if channels else None,
            channel_mapping=parse_channel_mapping(self.channel_mapping or ()),
            channel_names=tuple(name.strip() for name in self.channel_names.split(",")) if self.channel_names else (),
            pixel_size_um=self.pixel_size_um,
            z_projection=parse_z_projection(self.z_projection),
            metadata=self.metadata,
            plate_maps=tuple(self.plate_map or ()),
            pattern=self.pattern,
            path_mapping=parse_path_mapping(self.path_mapping or ()),
            illumination=self.illumination,
            masks=self.masks,
            trust_masks=self.trust_masks,
            labels=self.labels,
            **limit,
        )
