"""Opera Phenix and Operetta: the index that Harmony writes beside its images, versions 4 to 7.

The index wins over the images' tags: their resolution is that of the camera, not of the sample.
"""

from pathlib import Path
from typing import Any

from subcell_hf.images.folder_contents import FolderContent
from subcell_hf.images.image_tables.listed_files import file_beside
from subcell_hf.images.plane_listing import (
    Layout,
    ListedPlane,
    ListedPlate,
    PlaneListing,
    documents_named,
    list_plates,
    recognised_by,
    square_pixel_um,
)
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.wells import well_name
from subcell_hf.storage.xml_files import read_xml_elements, text_of

_INDEX_NAMES = ("index.idx.xml", "index.xml")
_CHANNEL_FACTS = ("ChannelName", "ImageResolutionX", "ImageResolutionY")
_METRE_UM = 1e6


def _recognise(content: FolderContent) -> str | None:
    return recognised_by(documents_named(content, *_INDEX_NAMES))


def _list_planes(content: FolderContent, options: ReadingOptions) -> PlaneListing:
    return list_plates(documents_named(content, *_INDEX_NAMES), _read_index)


def _read_index(index: Path) -> ListedPlate:
    channels: dict[str, dict[str, str]] = {}
    planes: list[ListedPlane] = []
    plate, shape = "", None
    for element in read_xml_elements(index, "Plate", "Entry", "Image"):
        if element.tag == "Plate":
            plate = text_of(element, "Name", "PlateID")
            shape = int(text_of(element, "PlateRows")), int(text_of(element, "PlateColumns"))
        elif element.tag == "Entry":
            # From version 6 on, what all images of a channel share is said here alone.
            known = channels.setdefault(element.get("ChannelID", ""), {})
            known |= {name: text for name in _CHANNEL_FACTS if (text := text_of(element, name))}
        elif text_of(element, "URL"):  # wells name their images by elements of the same name
            planes.append(_plane(element, channels, index, plate))
    return ListedPlate(plate, planes, shape)


def _plane(element: Any, channels: dict[str, dict[str, str]], index: Path, plate: str) -> ListedPlane:
    number = text_of(element, "ChannelID")
    name, width, height = (text_of(element, fact) or channels.get(number, {}).get(fact, "") for fact in _CHANNEL_FACTS)
    x, y = text_of(element, "PositionX"), text_of(element, "PositionY")
    return ListedPlane(
        file=file_beside(index.parent, text_of(element, "URL")),
        channel=name or f"channel {number}",
        plate=plate,
        well=well_name(int(text_of(element, "Row")), int(text_of(element, "Col"))),
        site=text_of(element, "FieldID"),
        z=int(text_of(element, "PlaneID") or 0),
        time=int(text_of(element, "TimepointID") or 0),
        pixel_size_um=square_pixel_um(width, height, index, _METRE_UM) if width and height else None,
        stage_um=(float(x) * _METRE_UM, float(y) * _METRE_UM) if x and y else None,
    )


LAYOUT = Layout("Opera Phenix or Operetta (Harmony)", _recognise, _list_planes, _INDEX_NAMES)
