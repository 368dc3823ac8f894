"""Yokogawa CellVoyager, CQ1 and CQ3000: `MeasurementData.mlf` lists the images, `MeasurementDetail.mrf` describes them.

Channels are numbered; the protocol (`.mes`) says what each number is, where it was exported with the images.
"""

from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any

from subcell_hf.images.decoders.image import FieldError
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
from subcell_hf.storage.xml_files import read_xml_elements

_RECORDS = "measurementdata.mlf"
_DETAIL = "MeasurementDetail.mrf"
_NAMESPACE = "{http://www.yokogawa.co.jp/BTS/BTSSchema/1.0}"
_CORRECTIONS = {"DC_": "a dark image that corrects others", "SC_": "a shading image that corrects others"}


def _recognise(content: FolderContent) -> str | None:
    return recognised_by(documents_named(content, _RECORDS))


def _list_planes(content: FolderContent, options: ReadingOptions) -> PlaneListing:
    listing = list_plates(documents_named(content, _RECORDS), _read_plate, size_from=_DETAIL)
    left_out = {path: why for path in content.images if (why := _CORRECTIONS.get(path.name[:3].upper()))}
    return replace(listing, left_out=left_out)


def _read_plate(records: Path) -> ListedPlate:
    detail = _beside(records, _DETAIL)
    if not detail.is_file():
        raise FieldError(f"{detail} is missing, which says plate, channels and pixel size. Copy it as well.")
    (about,) = (_with_plain_names(element) for element in read_xml_elements(detail, "MeasurementDetail"))
    plate = about.find("MeasurementSamplePlate").get("Name") or records.parent.name
    sizes_um = {
        channel.get("Ch"): square_pixel_um(
            channel.get("HorizontalPixelDimension"), channel.get("VerticalPixelDimension"), detail
        )
        for channel in about.iter("MeasurementChannel")
    }
    protocol = _beside(records, PureWindowsPath(about.get("MeasurementSettingFileName", "")).name or "no protocol")
    names = _channel_names(protocol) if protocol.is_file() else {}
    planes = [
        (int(element.get("Ch")), _plane(element, records.parent, plate, sizes_um, names))
        for element in map(_with_plain_names, read_xml_elements(records, "MeasurementRecord"))
        if element.get("Type") == "IMG" and element.text  # the instrument's errors have records, too
    ]
    planes.sort(key=lambda numbered: numbered[0])  # they are listed as they were taken
    return ListedPlate(
        plate, [plane for _, plane in planes], (int(about.get("RowCount")), int(about.get("ColumnCount")))
    )


def _beside(records: Path, name: str) -> Path:
    """A file beside another, its name in any case: the instrument's Windows ignores case."""
    found = (path for path in records.parent.iterdir() if path.name.lower() == name.lower())
    return next(found, records.with_name(name))


def _channel_names(protocol: Path) -> dict[str, str]:
    """Number of a channel → its name: the number, its dye or light, and its filter."""
    names = {}
    for element in map(_with_plain_names, read_xml_elements(protocol, "Channel")):
        number, passed = element.get("Ch", ""), element.get("Acquisition", "")
        light = element.get("Fluorophore") or element.get("Target", "")
        described = light if passed in light else f"{light} {passed}"
        names[number] = described if described.startswith(f"Ch{number}") else f"Ch{number} {described}"
    return names


def _plane(record: Any, folder: Path, plate: str, sizes_um: dict[str, float], names: dict[str, str]) -> ListedPlane:
    number, x, y = record.get("Ch"), record.get("X"), record.get("Y")
    return ListedPlane(
        file=file_beside(folder, record.text),
        channel=names.get(number, f"Ch{number}"),
        plate=plate,
        well=well_name(int(record.get("Row")), int(record.get("Column"))),
        site=record.get("FieldIndex"),
        z=int(record.get("ZIndex", 0)),
        time=int(record.get("TimePoint", 0)),
        pixel_size_um=sizes_um[number],
        stage_um=(float(x), float(y)) if x and y else None,
    )


def _with_plain_names(element: Any) -> Any:
    """An element, and those within it, with attributes that bear no namespace."""
    for one in element.iter():
        one.attrib = {name.removeprefix(_NAMESPACE): value for name, value in one.attrib.items()}
    return element


LAYOUT = Layout("Yokogawa CellVoyager", _recognise, _list_planes, (_RECORDS, _DETAIL.lower()))
