"""Opera Phenix and Operetta: the index that Harmony writes beside its images, versions 4 to 7, and Columbus on export.

The index wins over the images' tags: their resolution is that of the camera, not of the sample.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from subcell_hf.images.folder_contents import FolderContent
from subcell_hf.images.image_tables.listed_files import file_beside
from subcell_hf.images.listed_fields import FilePlace
from subcell_hf.images.plane_listing import (
    Layout,
    ListedPlane,
    PlaneListing,
    documents_named,
    list_plates,
    numbered_place,
    recognised_by,
    square_pixel_um,
    stage_position,
)
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.storage.xml_files import XmlRecord, read_xml_elements, read_xml_records

_COLUMBUS = "imageindex.columbusidx.xml"
_INDEX_NAMES = ("index.idx.xml", "index.xml", "index.ref.xml", _COLUMBUS)
"""All are of one form; of several in a folder, the first is read."""

_CHANNEL_FACTS = ("ChannelName", "ImageResolutionX", "ImageResolutionY")
_WANTED = {
    "Plate": ("Name", "PlateID", "PlateRows", "PlateColumns"),
    "Entry": _CHANNEL_FACTS,
    "Image": (
        "id", "URL", "ChannelID", "Row", "Col", "FieldID", "PlaneID", "TimepointID", "PositionX", "PositionY",
        *_CHANNEL_FACTS,
    ),
}  # fmt: skip
_PAGE = "BufferNo"
_METRE_UM = 1e6


def _recognise(content: FolderContent) -> str | None:
    return recognised_by(_indices(content))


def _indices(content: FolderContent) -> list[Path]:
    found = documents_named(content, *_INDEX_NAMES)
    order = sorted(found, key=lambda path: _INDEX_NAMES.index(path.name.lower()))
    first = {path.parent: path for path in reversed(order)}
    return [path for path in found if first[path.parent] == path]


def _list_planes(content: FolderContent, options: ReadingOptions) -> Iterable[PlaneListing]:
    return list_plates(_indices(content), partial(_read_index, folders=content.names))


def _read_index(index: Path, folders: Mapping[str, Mapping[str, FilePlace]]) -> PlaneListing:
    channels: dict[str, dict[str, str]] = {}
    planes: list[ListedPlane] = []
    plate, shape, where, folder = "", None, str(index), str(index.parent)
    places = folders[folder]
    for record in _columbus_records(index) if index.name.lower() == _COLUMBUS else read_xml_records(index, _WANTED):
        said = record.texts
        if record.tag == "Plate":
            plate = said.get("Name") or said.get("PlateID", "")
            shape = int(said["PlateRows"]), int(said["PlateColumns"])
        elif record.tag == "Entry":
            # From version 6 on, what all images of a channel share is said here alone.
            known = channels.setdefault(record.attributes.get("ChannelID", ""), {})
            known |= {name: text for name, text in said.items() if text}
        elif "Row" in said:  # wells name their images by elements of the same name
            said = said if said.get("URL") else {**said, "URL": f"{said.get('id', 'plane')} (no file in {index.name})"}
            file = file_beside(folder, said["URL"], places)
            plane = _plane(file, said, channels.get(said.get("ChannelID", ""), {}), where, plate)
            page = record.attributes.get(_PAGE)
            planes.append(plane if page is None else plane._replace(file=plane.file._replace(page=int(page))))
    return PlaneListing(planes, plate, shape)


def _columbus_records(index: Path) -> Iterator[XmlRecord]:
    """As `read_xml_records`, with the page of the TIFF, which Columbus says as an attribute of the file's name."""
    for element in read_xml_elements(index, *_WANTED):
        texts = {child.tag: (child.text or "").strip() for child in reversed(element)}
        file = element.find("URL")
        page = {} if file is None or _PAGE not in file.attrib else {_PAGE: file.attrib[_PAGE]}
        yield XmlRecord(element.tag, {**element.attrib, **page}, (element.text or "").strip(), texts)


def _plane(file: FilePlace, said: dict[str, str], of_channel: dict[str, str], where: str, plate: str) -> ListedPlane:
    name, width, height = [said.get(fact) or of_channel.get(fact, "") for fact in _CHANNEL_FACTS]
    well, z, time = numbered_place(said["Row"], said["Col"], said.get("PlaneID"), said.get("TimepointID"))
    return ListedPlane(
        file,
        name or f"channel {said.get('ChannelID', '')}",
        plate,
        well,
        said.get("FieldID", ""),
        z,
        time,
        square_pixel_um(width, height, where, _METRE_UM) if width and height else None,
        stage_position(said.get("PositionX"), said.get("PositionY"), _METRE_UM),
    )


LAYOUT = Layout("Opera Phenix or Operetta (Harmony)", _recognise, _list_planes, _INDEX_NAMES)
