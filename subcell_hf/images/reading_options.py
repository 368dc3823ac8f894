"""How image files are to be understood."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from subcell_hf.errors import InputError
from subcell_hf.images.files import MAX_DECODED_BYTES
from subcell_hf.images.planes import ZProjection


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


def parse_channel_mapping(pairs: Iterable[str]) -> dict[str, str]:
    """`["DAPI=blue", …]` → `{"DAPI": "blue", …}`.

    Raises:
        InputError: If a pair is not of that form.
    """
    mapping = {}
    for pair in pairs:
        name, equals, colour = (part.strip() for part in pair.partition("="))
        if not (name and equals and colour):
            raise InputError(f"Channel mapping {pair!r} is not NAME=COLOUR, such as DAPI=blue.")
        mapping[name] = colour
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
