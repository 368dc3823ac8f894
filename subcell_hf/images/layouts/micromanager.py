"""Micro-Manager's separate image files: a `metadata.txt` in the folder of each position describes the images beside it.

Version 1.4 describes every image below `FrameKey-<time>-<channel>-<z>`; version 2 says indices in the names of files,
names of channels in the summary, and the rest below `Metadata-<file>`, which its first releases did not write.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from subcell_hf.images.file_names import MICRO_MANAGER_STEM, image_stem
from subcell_hf.images.folder_contents import FolderContent
from subcell_hf.images.listed_fields import FilePlace
from subcell_hf.images.plane_listing import (
    Layout,
    ListedPlane,
    PlaneListing,
    documents_named,
    list_plates,
    recognised_by,
    stage_position,
)
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.wells import standard_well
from subcell_hf.storage.plain_files import read_json

_INDEX_NAME = "metadata.txt"
_INDEX_IN_NAME = re.compile(r"_(channel|time|z)(\d+)")
_FRAME = re.compile(r"FrameKey-(\d+)-(\d+)-(\d+)")
_COORDS = "Coords-"
_POSITION_IN_WELL = re.compile(r"([A-P]\d{1,2})-Site_(\d+)")
"""As Micro-Manager's generator of positions in plates labels them."""


def _recognise(content: FolderContent) -> str | None:
    return recognised_by(_indices(content))


def _indices(content: FolderContent) -> list[Path]:
    """Other programs write files of that name, too; Micro-Manager's lies beside images that are named as its are."""
    found = documents_named(content, _INDEX_NAME)
    named = (image for image in content.images if found and MICRO_MANAGER_STEM.fullmatch(image_stem(image)))
    folders = {image.folder for image in named}
    return [path for path in found if str(path.parent) in folders]


def _list_planes(content: FolderContent, options: ReadingOptions) -> Iterable[PlaneListing]:
    return list_plates(_indices(content), _read_index, size_wins=False)


def _read_index(index: Path) -> PlaneListing:
    described = read_json(index)
    frames = list(_frames_of(described))
    if not frames:
        raise ValueError(f"it describes no image: there is neither FrameKey-… nor {_COORDS}…")
    return PlaneListing([_plane(index, *frame) for frame in frames], str(index))  # one position of several


_Frame = tuple[str, str, int, int, Mapping[str, Any]]
"""File, channel, time, z, and what else is said."""


def _frames_of(described: Mapping[str, Any]) -> Iterator[_Frame]:
    channels = described.get("Summary", {}).get("ChNames", [])
    if not isinstance(channels, list):
        raise TypeError(f"ChNames is {channels!r}, expected a list of names")
    for key, said in described.items():
        if found := _FRAME.fullmatch(key):
            yield said["FileName"], said["Channel"], int(found[1]), int(found[3]), said
        elif key.startswith(_COORDS):
            file = key.removeprefix(_COORDS)
            at = {axis: int(number) for axis, number in _INDEX_IN_NAME.findall(PurePosixPath(file).stem)}
            channel = channels[at.get("channel", 0)]
            yield file, channel, at.get("time", 0), at.get("z", 0), described.get(f"Metadata-{file}", {})


def _plane(index: Path, file: str, channel: str, time: int, z: int, said: Mapping[str, Any]) -> ListedPlane:
    folder = index.parent
    position = said.get("PositionName") or PurePosixPath(file).parent.name
    plate = folder.parent.name if position == folder.name else folder.name
    place = _POSITION_IN_WELL.fullmatch(position)
    size_um, x, y = (said.get(name) for name in ("PixelSizeUm", "XPositionUm", "YPositionUm"))
    return ListedPlane(
        FilePlace(str(folder), PurePosixPath(file).name),
        channel,
        plate,
        standard_well(place[1]) if place else "",
        place[2] if place else position,
        z,
        time,
        float(size_um) if size_um else None,
        None if x is None or y is None else stage_position(str(x), str(y)),
    )


LAYOUT = Layout("Micro-Manager (separate image files)", _recognise, _list_planes)
