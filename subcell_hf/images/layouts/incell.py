"""IN Cell Analyzer: the `.xdce` beside the images lists them, with wells, fields and wavelengths."""

from collections.abc import Iterable
from pathlib import Path
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

_INDEX_NAMES = ("*.xdce",)


def _recognise(content: FolderContent) -> str | None:
    return recognised_by(documents_named(content, *_INDEX_NAMES))


def _list_planes(content: FolderContent, options: ReadingOptions) -> Iterable[PlaneListing]:
    return list_plates(documents_named(content, *_INDEX_NAMES), _read_index)


def _read_index(index: Path) -> PlaneListing:
    stack: Any
    (stack,) = read_xml_elements(index, "ImageStack")
    name = stack.get("PlateID") or index.stem
    calibration, described = next(stack.iter("ObjectiveCalibration")), next(stack.iter("Plate"))
    size_um = square_pixel_um(calibration.get("pixel_width"), calibration.get("pixel_height"), index)
    planes = [_plane(image, str(index.parent), name, size_um) for image in stack.iter("Image")]
    return PlaneListing(planes, name, (int(described.get("rows")), int(described.get("columns"))))


def _plane(image: Any, folder: str, plate: str, size_um: float) -> ListedPlane:
    place, offset = image.find("Identifier"), image.find("OffsetFromWellCenter")
    excitation, emission = (image.find(name).get("name") for name in ("ExcitationFilter", "EmissionFilter"))
    return ListedPlane(
        file=file_beside(folder, image.get("filename")),
        channel=f"{excitation} - {emission}",
        plate=plate,
        well=standard_well(image.find("Well").get("label")),
        site=str(int(place.get("field_index")) + 1),  # as in the names of the files
        z=int(place.get("z_index")),
        time=int(place.get("time_index")),
        pixel_size_um=size_um,
        stage_um=None if offset is None else stage_position(offset.get("x"), offset.get("y")),
    )


LAYOUT = Layout("IN Cell Analyzer", _recognise, _list_planes, _INDEX_NAMES)
