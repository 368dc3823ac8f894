"""How image files are to be understood."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from subcell_hf.errors import InputError
from subcell_hf.images.files import MAX_DECODED_BYTES
from subcell_hf.images.planes import ZProjection
from subcell_hf.ontology import channels_from_variant
from subcell_hf.settings import Setting, comma_separated

_FIRST = {
    "channels", "channel_mapping", "channel_names", "pixel_size_um", "z_projection", "metadata", "max_decoded_bytes",
    "trust_masks",
}  # fmt: skip
"""Options of the first versions."""


def parse_channel_mapping(pairs: Iterable[str]) -> dict[str, str]:
    """`["DAPI=blue", …]` → `{"DAPI": "blue", …}`.

    Raises:
        InputError: If a pair is not of that form.
    """
    return _parse_pairs(pairs, "Channel mapping", "NAME=COLOUR, such as DAPI=blue")


def parse_path_mapping(pairs: Iterable[str]) -> dict[str, str]:
    """`["s3://bucket/images=/data", …]` → `{"s3://bucket/images": "/data", …}`.

    Raises:
        InputError: If a pair is not of that form.
    """
    return _parse_pairs(pairs, "Path mapping", "OLD=NEW, such as s3://bucket/images=/data/images")


def _parse_pairs(pairs: Iterable[str], what: str, form: str) -> dict[str, str]:
    mapping = {}
    for pair in pairs:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not (name and equals and value):
            raise InputError(f"{what} {pair!r} is not {form}.")
        mapping[name] = value
    return mapping


def parse_z_projection(text: str | None) -> ZProjection | None:
    """`"max"`, `"mean"`, `"focus"` or the index of a plane.

    Raises:
        InputError: If it is none of them.
    """
    named: dict[str | None, ZProjection | None] = {None: None, "max": "max", "mean": "mean", "focus": "focus"}
    if text is None or text in named:
        return named[text]
    if text.isascii() and text.isdigit():
        return int(text)
    raise InputError(f"z_projection is {text!r}, expected max, mean, focus, or the index of a plane from 0.")


def bytes_of_gib(gib: float) -> int:
    """GiB → bytes."""
    return int(gib * 2**30)


@dataclass(frozen=True)
class ReadingOptions:
    r"""How image files are to be understood; the defaults are right for Human Protein Atlas files.

    Attributes:
        channels: Required channels, others are left out: rybg, rbg, …, or comma-separated names. In Python, colours in
            the order wanted; None: all that are there.
        channel_mapping: Map a channel name to a colour: NAME=COLOUR, such as DAPI=blue; repeatable. In Python,
            `{"DAPI": "blue"}`.
        channel_names: Comma-separated channel names for multi-channel files that contain none. Without --z-projection,
            as many names as there are Z-planes or time points read these as channels.
        pixel_size_um: Pixel size of the images in micrometres; overrides the files.
        z_projection: For Z-stacks: max, mean, focus, or the index of a plane.
        metadata: CSV with a column field_of_view; default: metadata.csv in INPUT, if present.
        max_decoded_bytes: Refuse images larger than this once decoded, in GiB. In Python, in bytes.
        trust_masks: Accept each label of a mask as one cell, even with many pieces or nuclei. In Python, see
            `check_instances`.
        pattern: Regular expression for file names that no instrument's layout describes, with named groups: channel,
            well, plate, site, z, time; such as '(?P<well>[A-P]\d+)_(?P<channel>\w+)\.tif'.
        path_mapping: Folder of a table's images here: OLD=NEW, such as s3://bucket/images=/data; repeatable. In
            Python, `{old: new}`. The longest one that fits is used.
        illumination: Divide images by the illumination functions (Illum…) of a LoadData table.
        plate_maps: Table of what is in the wells: barcode_platemap.csv, one row per well, or a grid as the plate;
            repeatable. In Python, see `read_plate_map`.
        masks: Label images or GeoJSON of another program: a path with {file} (name of one of the field's images),
            {name}, {plate}, {well}, {site}, {folder}/, * and ?; without a / beside the images. Such as
            'masks/{file}_cp_masks.tif'. Fields without exactly one are not used. Default: <field>_mask beside the
            images, if present.
        labels: Name of the label image inside of each OME-Zarr image, or in its SpatialData store, that is its mask;
            default: the only one, unless it is named after nuclei.
    """

    channels: Annotated[tuple[str, ...] | None, Setting(parse=channels_from_variant)] = None
    channel_mapping: Annotated[Mapping[str, str], Setting(parse=parse_channel_mapping, repeatable=True)] = field(
        default_factory=dict
    )
    channel_names: Annotated[tuple[str, ...], Setting(parse=comma_separated)] = ()
    pixel_size_um: float | None = None
    z_projection: Annotated[ZProjection | None, Setting(parse=parse_z_projection)] = None
    metadata: Path | None = None
    max_decoded_bytes: Annotated[int, Setting("--max-decoded-gib", kind=float, parse=bytes_of_gib, default=4.0)] = (
        MAX_DECODED_BYTES
    )
    trust_masks: bool = False
    pattern: str | None = None
    path_mapping: Annotated[Mapping[str, str], Setting(parse=parse_path_mapping, repeatable=True)] = field(
        default_factory=dict
    )
    illumination: bool = False
    plate_maps: Annotated[tuple[Path, ...], Setting("--plate-map")] = ()
    masks: str | None = None
    labels: str | None = None

    def facts(self) -> dict[str, Any]:
        """Options by name, for records and fingerprints of inputs.

        One that the first versions did not have is left out where it has its default: their folders are resumed.
        """
        defaults = asdict(ReadingOptions())
        return {name: value for name, value in asdict(self).items() if name in _FIRST or value != defaults[name]}
