"""What is in a folder of images, before any work is done with it: what `subcell inspect` shows."""

import filecmp
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from subcell_hf.cells.quality import doubtful_channels
from subcell_hf.errors import counted
from subcell_hf.images.decoders.ome_zarr import chunks_not_stored, is_zarr_folder
from subcell_hf.images.decoders.remote_paths import RemotePath, path_of
from subcell_hf.images.field_source import FieldSource
from subcell_hf.images.fields_of_view import UNUSABLE, list_fields, reason_of
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.wells import row_letters, well_position
from subcell_hf.ontology import CHANNEL_STAINS, PROTEIN_CHANNEL, channels_from_variant

_SATURATED_SHARE = 0.01
_MOST_NAMED = 3

# Names of stains and dyes, in the order in which they are looked for: nuclei first, since a dye may contain `ER`.
_STAINS = {
    "blue": r"dapi|hoechst|h33342|draq|nucle(?:us|i|ar)|\bdna\b|origdna",
    "red": r"tubulin|microtubul|\btub",
    "yellow": r"endoplasmic|calreticulin|calnexin|concanavalin|con ?a\b|\ber\b|origer",
}
_OF_PROTEINS = r"gfp|fitc|alexa ?(?:fluor ?)?488|\b488\b|protein|antibody|poi"
_NO_STAIN = r"bright ?field|phase|\bdic\b|transmi"
_VARIANTS = ("rybg", "rbg", "ybg", "bg")


_Item = TypeVar("_Item")


@dataclass(frozen=True)
class InspectedField:
    """One field of view.

    Attributes:
        name: Its id in every table.
        plate: Empty where nothing says it.
        well: As `A01`; empty where nothing says it.
        site: As the instrument counts; empty where nothing says it.
        channels: The instrument's names, in order.
        pixel_size_um: Edge of a pixel in micrometres; None where it is unknown.
        pixel_size_source: What says it.
        z_planes: Of every channel.
        files_missing: Files that its metadata name and that are not there.
        problem: Why it would be skipped; None where it would be used.
    """

    name: str
    plate: str
    well: str
    site: str
    channels: tuple[str, ...]
    pixel_size_um: float | None
    pixel_size_source: str
    z_planes: int
    files_missing: tuple[str, ...]
    problem: str | None


@dataclass(frozen=True)
class Inspection:
    """What an input holds.

    Attributes:
        layout: What it was recognised as.
        recognised_by: By what.
        fields: Sorted by name.
        problems: What keeps fields from being used or looks wrong, a sentence each.
        left_out: Image → why it is part of no field.
        suggested_command: The `subcell embed` that fits, with the channel mapping that the stains' names suggest.
    """

    layout: str
    recognised_by: str
    fields: tuple[InspectedField, ...]
    problems: tuple[str, ...]
    left_out: Mapping[str, str]
    suggested_command: str

    @property
    def usable(self) -> int:
        """How many fields would be used."""
        return sum(field.problem is None for field in self.fields)

    def as_json(self) -> dict[str, Any]:
        """The object that `subcell inspect --json` prints."""
        return {
            "layout": self.layout,
            "recognised_by": self.recognised_by,
            "fields": [asdict(field) for field in self.fields],
            "problems": list(self.problems),
            "left_out": dict(self.left_out),
            "suggested_command": self.suggested_command,
        }


def inspect_images(source: str | Path, reading: ReadingOptions | None = None, *, look_at: int = 3) -> Inspection:
    """Find out what an input holds and whether `subcell embed` would use it.

    Args:
        source: Whatever `subcell embed` takes as images.
        reading: How to read it.
        look_at: How many fields, spread over the input, are read to see whether their pixels look wrong: constant,
            saturated, or the same in two channels; in how many time series files are compared.

    Raises:
        FieldError: If the source cannot be listed at all.
    """
    source = Path(source)
    reading = reading or ReadingOptions()
    found = list_fields(source, reading)
    fields = tuple(_inspect(item) for item in found.fields)
    usable = [item for item, field in zip(found.fields, fields, strict=True) if field.problem is None]
    problems = [field.problem for field in fields if field.problem is not None]
    problems += _unstored_chunks(usable)
    problems += [note for item in _spread(usable, look_at) for note in _look_at(item)]
    problems += [note for item in _spread(_time_series(found.fields), look_at) for note in _copied_channels(item)]
    command = _suggest(source, fields, reading)
    return Inspection(found.layout, found.recognised_by, fields, tuple(problems), found.unused, command)


def suggest_mapping(channels: Sequence[str]) -> dict[str, str]:
    """Which of SubCell's colours the names of channels suggest; a name that suggests none, or several, is left out.

    Args:
        channels: The instrument's names, all of one field.
    """
    suggested: dict[str, str] = {}
    candidates = [name for name in channels if not re.search(_NO_STAIN, name, re.IGNORECASE)]
    for colour, pattern in (*_STAINS.items(), (PROTEIN_CHANNEL, _OF_PROTEINS)):
        fitting = [name for name in candidates if name not in suggested and re.search(pattern, name, re.IGNORECASE)]
        exact = [name for name in channels if name.lower() == colour]
        for name in exact or (fitting if len(fitting) == 1 else []):
            suggested[name] = colour
    return suggested


def plate_map(fields: Sequence[InspectedField]) -> dict[str, str]:
    """Plate → a picture of it in letters: how many fields each well has, `.` where it has none.

    Args:
        fields: Of any plates; fields without a well are left out.
    """
    counts: dict[str, Counter[tuple[int, int]]] = {}
    for field in fields:
        position = well_position(field.well)
        if position is not None:
            counts.setdefault(field.plate, Counter())[position] += 1
    return {plate: _draw(wells) for plate, wells in counts.items()}


def plate_shape(positions: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Rows and columns of the smallest usual plate, of 96, 384 or 1,536 wells, that holds some wells.

    Args:
        positions: Row and column of each, from 1; at least one.
    """
    rows, columns = (max(numbers) for numbers in zip(*positions, strict=True))
    usual = ((8, 12), (16, 24), (32, 48))
    return next((shape for shape in usual if rows <= shape[0] and columns <= shape[1]), (rows, columns))


def _draw(wells: Counter[tuple[int, int]]) -> str:
    rows, columns = plate_shape(wells)
    width = max(len(str(max(wells.values()))), len(str(columns))) + 1
    lines = ["  " + "".join(f"{column:>{width}}" for column in range(1, columns + 1))]
    for row in range(1, rows + 1):
        cells = (str(wells[row, column] or ".") for column in range(1, columns + 1))
        lines.append(f"{row_letters(row):<2}" + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join(lines)


def _inspect(item: FieldSource) -> InspectedField:
    facts, known = item.describe(), item.metadata
    return InspectedField(
        name=item.name,
        plate=known.get("plate", ""),
        well=known.get("well", ""),
        site=known.get("site", known.get("sample", "")),
        channels=facts.channels,
        pixel_size_um=facts.pixel_size_um,
        pixel_size_source=facts.pixel_size_source,
        z_planes=facts.z_planes,
        files_missing=item.listed.files_missing,
        problem=facts.problem,
    )


def _spread(items: Sequence[_Item], count: int) -> list[_Item]:
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in dict.fromkeys(places.tolist())]


def _look_at(item: FieldSource) -> list[str]:
    """What looks wrong in a field's pixels."""
    try:
        field = item.read()
    except UNUSABLE as error:
        return [reason_of(error)]
    notes = []
    doubtful = doubtful_channels(field.pixels, field.channels)
    if doubtful:
        notes.append(f"Field {field.name!r}: suspicious channels: {doubtful}.")
    for name, plane in zip(field.channels, field.pixels, strict=True):
        if plane.dtype.kind == "u":
            share = float(np.mean(plane == np.iinfo(plane.dtype).max))
            if share > _SATURATED_SHARE:
                notes.append(f"Field {field.name!r}: {share:.0%} of channel {name} is saturated.")
    return notes


def _unstored_chunks(items: Sequence[FieldSource]) -> list[str]:
    """Which OME-Zarr images on a disk lack chunks, in one sentence: writers leave out chunks of empty background."""
    gaps = {}
    for item in items:
        file = item.listed.stack_file
        if file is not None and not isinstance(file, RemotePath) and is_zarr_folder(file):
            gaps[item.name] = chunks_not_stored(file)
    lacking = {name: gap for name, gap in gaps.items() if gap}
    if not lacking:
        return []
    named = ", ".join(f"{gap} of field {name!r}" for name, gap in list(lacking.items())[:_MOST_NAMED])
    return [
        f"Chunks of {counted(len(lacking), 'field')} are not stored and are read as the fill value: {named}"
        f"{', …' if len(lacking) > _MOST_NAMED else ''}. This is right where the images are empty there; if they were "
        "not copied completely, copy them again."
    ]


def _time_series(items: Sequence[FieldSource]) -> list[list[FieldSource]]:
    """Fields of one file per plane that show one place at several times."""
    series: dict[tuple[str, ...], list[FieldSource]] = {}
    for item in items:
        place = tuple(item.metadata.get(part, "") for part in ("plate", "well", "site"))
        if any(place) and item.listed.channel_planes:
            series.setdefault(place, []).append(item)
    return [same_place for same_place in series.values() if len(same_place) > 1]


def _copied_channels(series: Sequence[FieldSource]) -> list[str]:
    """Which channels of a time series are copies of those of another time, as MetaXpress fills what it did not take."""
    notes = []
    for one, other in pairwise(series):
        for channel, planes in one.listed.channel_planes.items():
            pairs = list(zip(planes, other.listed.channel_planes.get(channel, ()), strict=False))
            if pairs and all(_is_copy(plane.path, same.path) for plane, same in pairs):
                notes.append(
                    f"Field {other.name!r}: channel {channel} is a copy of that of {one.name!r}. It was taken once and "
                    "copied by the instrument, or a file is in the wrong place."
                )
    return notes


def _is_copy(one: Path, other: Path) -> bool:
    try:
        return one != other and filecmp.cmp(one, other, shallow=False)
    except OSError:  # files that are not there are reported as such
        return False


def _suggest(source: Path, fields: Sequence[InspectedField], reading: ReadingOptions) -> str:
    usual = Counter(field.channels for field in fields if field.channels).most_common(1)
    channels = usual[0][0] if usual else ()
    mapped = suggest_mapping(channels)
    there = {*mapped.values(), *(name for name in channels if name in CHANNEL_STAINS)}
    variant = next((letters for letters in _VARIANTS if there.issuperset(channels_from_variant(letters))), None)
    words = ["subcell", "embed", str(path_of(source)), "--model", f"mae-{variant}" if variant else "MODEL"]
    wanted = channels_from_variant(variant) if variant else tuple(CHANNEL_STAINS)
    suggested = {name: colour for name, colour in mapped.items() if name != colour and colour in wanted}
    for name, colour in {**reading.channel_mapping, **suggested}.items():
        words += ["--channel-mapping", f"{name}={colour}"]
    if reading.channel_names:
        words += ["--channel-names", ",".join(reading.channel_names)]
    if reading.pattern is not None:
        words += ["--pattern", reading.pattern]
    if reading.masks is not None:
        words += ["--masks", reading.masks]
    words += [word for old, new in reading.path_mapping.items() for word in ("--path-mapping", f"{old}={new}")]
    words += [word for path in reading.plate_maps for word in ("--plate-map", str(path))]
    words += ["--illumination"] if reading.illumination else []
    words += ["--labels", reading.labels] if reading.labels is not None else []
    if reading.z_projection is not None or any(field.z_planes > 1 for field in fields):
        words += ["--z-projection", "max" if reading.z_projection is None else str(reading.z_projection)]
    if reading.pixel_size_um is not None:
        words += ["--pixel-size-um", str(reading.pixel_size_um)]
    elif any(field.pixel_size_um is None and field.channels and not field.files_missing for field in fields):
        words += ["--pixel-size-um", "UM"]
    return shlex.join([*words, "--output", "results"])
