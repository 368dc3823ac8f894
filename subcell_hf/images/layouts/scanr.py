"""scanR: a `metadata.ome.xml` in the folder `data` lists one image per file, its wells in names alone."""

import re
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import Any

from subcell_hf.images.folder_contents import FolderContent
from subcell_hf.images.image_tables.listed_files import file_beside
from subcell_hf.images.plane_listing import (
    Layout,
    ListedPlane,
    PlaneListing,
    documents_named,
    list_plates,
    recognised_by,
    square_pixel_um,
    stage_position,
)
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.wells import standard_well
from subcell_hf.storage.xml_files import read_xml_elements

_INDEX_NAMES = ("metadata.ome.xml",)
_CREATOR = "scanR"
_FILE = re.compile(
    r"(?P<well>[A-Z]{1,2}\d+)--W\d+--P0*(?P<site>\d+)--Z(?P<z>\d+)--T(?P<time>\d+)--(?P<channel>.+)\.tif",
    re.IGNORECASE,
)
_START_BYTES = 2000


def _indices(content: FolderContent) -> list[Path]:
    """Other programs write files of that name, too; the creator is looked for in UTF-8 and UTF-16."""
    found = documents_named(content, *_INDEX_NAMES)
    return [path for path in found if _CREATOR.encode() in _start_of(path).replace(b"\0", b"")]


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_START_BYTES)


def _recognise(content: FolderContent) -> str | None:
    return recognised_by(_indices(content))


def _list_planes(content: FolderContent, options: ReadingOptions) -> Iterable[PlaneListing]:
    return list_plates(_indices(content), _read_index)


def _read_index(index: Path) -> PlaneListing:
    folder = index.parent
    plate = folder.parent.name if folder.name.lower() == "data" else folder.name
    planes = [plane for image in read_xml_elements(index, "Image") for plane in _planes(image, index, plate)]
    return PlaneListing(planes, plate)


def _planes(image: Any, index: Path, plate: str) -> list[ListedPlane]:
    pixels = image.find("Pixels")
    size_um = square_pixel_um(pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeY"), index)
    names = [channel.get("Name") for channel in pixels.iter("Channel")]
    position = next((plane for plane in pixels.iter("Plane") if plane.get("PositionX")), None)
    stage_um = None if position is None else stage_position(position.get("PositionX"), position.get("PositionY"))
    planes = []
    for data in pixels.iter("TiffData"):
        name = data.find("UUID").get("FileName")
        said = _FILE.fullmatch(PureWindowsPath(name).name)
        if said is None:
            raise ValueError(f"the name {name!r} does not say a well")
        planes.append(
            ListedPlane(
                file=file_beside(str(index.parent), name),
                channel=names[int(data.get("FirstC", 0))],
                plate=plate,
                well=standard_well(said["well"]),
                site=said["site"],
                z=int(data.get("FirstZ", 0)),
                time=int(data.get("FirstT", 0)),
                pixel_size_um=size_um,
                stage_um=stage_um,
            )
        )
    return planes


LAYOUT = Layout("scanR", _recognise, _list_planes, _INDEX_NAMES)
