"""How image files are to be understood."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from subcell_hf.errors import InputError
from subcell_hf.images.files import MAX_DECODED_BYTES
from subcell_hf.images.planes import ZProjection

_FIRST = {
    "channels", "channel_mapping", "channel_names", "pixel_size_um", "z_projection", "metadata", "max_decoded_bytes",
    "trust_masks",
}  # fmt: skip
"""Options of the first versions."""


@dataclass(frozen=True)
class ReadingOptions:
    """How image files are to be understood; the defaults are right for Human Protein Atlas files.

    Attributes:
        channels: Channels that every field must have, in the order wanted; others are left out. None: all that are
            there.
        channel_mapping: A file's name of a channel → our colour name, such as `{"DAPI": "blue"}`.
        channel_names: Names of the planes of multi-channel files, where those do not name them themselves.
        pixel_size_um: Edge of a pixel in micrometres; wins over what tables and files say.
        z_projection: `"max"`, `"mean"`, `"focus"` or the index of a plane: what to do with Z-stacks.
        metadata: Table with a column `field_of_view`; None: `metadata.csv` in the folder of images, if there is one.
        max_decoded_bytes: Limit of one decoded image.
        trust_masks: Whether every label of a mask is taken as one cell without the checks of `check_instances`: right
            for cells of many nuclei or of several pieces, such as myotubes.
        pattern: Regular expression with the named groups `channel`, `well`, `plate`, `site`, `z` and `time`, or some of
            them, for files of a folder that no instrument's layout describes.
        path_mapping: Where the images of a table lie here: folder, or beginning of an address, as the table has it →
            folder. The longest one that fits is taken.
        illumination: Whether images are divided by the illumination functions that a LoadData table lists.
        plate_maps: Tables that say what is in the wells of plates, see `read_plate_map`.
        masks: Path of label masks, or the name of such a file beside the images, with placeholders that say of which
            field each is, see `MaskPattern`. Fields without exactly one are not used. None: `<field>_mask` beside the
            images, where there is one.
        labels: Name of the label image inside of each OME-Zarr image that is its mask; None: the only one, where it is
            not named after nuclei.
    """

    channels: tuple[str, ...] | None = None
    channel_mapping: Mapping[str, str] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    pixel_size_um: float | None = None
    z_projection: ZProjection | None = None
    metadata: Path | None = None
    max_decoded_bytes: int = MAX_DECODED_BYTES
    trust_masks: bool = False
    pattern: str | None = None
    path_mapping: Mapping[str, str] = field(default_factory=dict)
    illumination: bool = False
    plate_maps: tuple[Path, ...] = ()
    masks: str | None = None
    labels: str | None = None

    def facts(self) -> dict[str, Any]:
        """Options by name, for records and fingerprints of inputs.

        One that the first versions did not have is left out where it has its default: their folders are resumed.
        """
        defaults = asdict(ReadingOptions())
        return {name: value for name, value in asdict(self).items() if name in _FIRST or value != defaults[name]}


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
