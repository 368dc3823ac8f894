"""Opera Phenix and Operetta without the index: names say well, field and plane, the images' own XML the channel.

Harmony describes the measurement in TIFF tag 65500 of every image; one image of each channel is asked. Plates whose
images do not have it are refused, since a number is no channel.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.files import read_header
from subcell_hf.images.folder_contents import FolderContent, recognised_by_names
from subcell_hf.images.layouts import harmony
from subcell_hf.images.listed_fields import FilePlace
from subcell_hf.images.plane_listing import (
    Layout,
    ListedPlane,
    PlaneListing,
    list_plates,
)
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.wells import well_name

_NAME = re.compile(
    r"r(?P<row>\d+)c(?P<column>\d+)f(?P<site>\d+)p(?P<z>\d+)-ch(?P<channel>\d+)"
    r"sk(?P<slow>\d+)fk(?P<fast>\d+)fl\d+\.tiff?",
    re.IGNORECASE,
)


def _recognise(content: FolderContent) -> str | None:
    return None if harmony.LAYOUT.recognise(content) else recognised_by_names(content, _NAME)


def _list_planes(content: FolderContent, options: ReadingOptions) -> Iterable[PlaneListing]:
    folders: dict[str, list[re.Match[str]]] = {}
    for image in content.images:
        if found := _NAME.fullmatch(image.name):
            folders.setdefault(image.folder, []).append(found)
    places = [Path(folder) for folder in folders]
    return list_plates(places, lambda folder: _read_folder(folder, folders[str(folder)]), size_wins=False)


def _read_folder(folder: Path, files: Sequence[re.Match[str]]) -> PlaneListing:
    first: dict[int, str] = {}
    for found in files:
        first.setdefault(int(found["channel"]), found[0])
    names = {channel: _channel_name(folder / first[channel]) for channel in sorted(first)}
    plate = (folder.parent if folder.name.lower() == "images" else folder).name
    series = sorted({(int(found["slow"]), int(found["fast"])) for found in files})
    planes = [
        ListedPlane(
            file=FilePlace(str(folder), found[0]),
            channel=names[int(found["channel"])],
            plate=plate,
            well=well_name(int(found["row"]), int(found["column"])),
            site=str(int(found["site"])),
            z=int(found["z"]),
            time=series.index((int(found["slow"]), int(found["fast"]))) + 1,
        )
        for found in sorted(files, key=lambda found: int(found["channel"]))
    ]
    return PlaneListing(planes, plate)


def _channel_name(path: Path) -> str:
    names = read_header(path).metadata.channel_names
    if not names:
        raise FieldError(
            f"{path.parent} has the images of a Harmony plate without its index, and {path.name} does not say its "
            "channel and pixel size in TIFF tag 65500 either. Copy Index.idx.xml (or Index.xml), which Harmony exports "
            "beside the images, into the folder."
        )
    return names[0]


LAYOUT = Layout("Opera Phenix or Operetta (names of Harmony, no index)", _recognise, _list_planes)
