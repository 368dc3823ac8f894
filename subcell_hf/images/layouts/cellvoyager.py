"""Yokogawa CellVoyager, CQ1 and CQ3000: `MeasurementData.mlf` lists the images, `MeasurementDetail.mrf` describes them.

Channels are numbered; the protocol (`.mes`) says what each number is, where it was exported with the images.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

from subcell_hf.images.decoders.image import FieldError
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
from subcell_hf.storage.xml_files import read_xml_elements, read_xml_records

_RECORDS = "measurementdata.mlf"
_DETAIL = "MeasurementDetail.mrf"
_CORRECTIONS = {"DC_": "a dark image that corrects others", "SC_": "a shading image that corrects others"}


def _recognise(content: FolderContent) -> str | None:
    return recognised_by(documents_named(content, _RECORDS))


def _list_planes(content: FolderContent, options: ReadingOptions) -> Iterable[PlaneListing]:
    read = partial(_read_plate, folders=content.names)
    yield from list_plates(documents_named(content, _RECORDS), read, size_from=_DETAIL)
    left_out = {image: why for image in content.images if (why := _CORRECTIONS.get(image.name[:3].upper()))}
    yield PlaneListing(left_out=left_out)


def _read_plate(records: Path, folders: Mapping[str, Mapping[str, FilePlace]]) -> PlaneListing:
    folder = str(records.parent)
    names = folders[folder]
    detail = _beside(records, _DETAIL, names)
    if not detail.is_file():
        raise FieldError(f"{detail} is missing, which says plate, channels and pixel size. Copy it as well.")
    about: Any
    (about,) = read_xml_elements(detail, "MeasurementDetail")
    plate = about.find("MeasurementSamplePlate").get("Name") or records.parent.name
    sizes_um = {
        channel.get("Ch"): square_pixel_um(
            channel.get("HorizontalPixelDimension"), channel.get("VerticalPixelDimension"), detail
        )
        for channel in about.iter("MeasurementChannel")
    }
    protocol = PureWindowsPath(about.get("MeasurementSettingFileName", "")).name
    described = _beside(records, protocol, names) if protocol else None
    channels = _channel_names(described) if described is not None and described.is_file() else {}
    by_channel: dict[str, list[ListedPlane]] = {}  # they are listed as they were taken
    for record in read_xml_records(records, {"MeasurementRecord": ()}):
        if record.attributes.get("Type") == "IMG" and record.text:  # the instrument's errors have records, too
            file = names.get(record.text) or file_beside(folder, record.text, names)
            plane = _plane(file, record.attributes, plate, sizes_um, channels)
            by_channel.setdefault(record.attributes["Ch"], []).append(plane)
    planes = [plane for number in sorted(by_channel, key=int) for plane in by_channel[number]]
    shape = int(about.get("RowCount")), int(about.get("ColumnCount"))
    return PlaneListing(planes, plate, shape)


def _beside(records: Path, name: str, names: Iterable[str]) -> Path:
    """A file beside another, its name in any case: the instrument's Windows ignores case."""
    return records.with_name(next((other for other in names if other.lower() == name.lower()), name))


def _channel_names(protocol: Path) -> dict[str, str]:
    """Number of a channel → its name: the number, its dye or light, and its filter."""
    names = {}
    element: Any
    for element in read_xml_elements(protocol, "Channel"):
        number, passed = element.get("Ch", ""), element.get("Acquisition", "")
        light = element.get("Fluorophore") or element.get("Target", "")
        described = light if passed in light else f"{light} {passed}"
        names[number] = described if described.startswith(f"Ch{number}") else f"Ch{number} {described}"
    return names


def _plane(
    file: FilePlace, said: dict[str, str], plate: str, sizes_um: dict[str, float], channels: dict[str, str]
) -> ListedPlane:
    number = said["Ch"]
    well, z, time = numbered_place(said["Row"], said["Column"], said.get("ZIndex"), said.get("TimePoint"))
    return ListedPlane(
        file,
        channels.get(number) or f"Ch{number}",
        plate,
        well,
        said["FieldIndex"],
        z,
        time,
        sizes_um[number],
        stage_position(said.get("X"), said.get("Y")),
    )


LAYOUT = Layout("Yokogawa CellVoyager", _recognise, _list_planes, (_RECORDS, _DETAIL.lower()))
