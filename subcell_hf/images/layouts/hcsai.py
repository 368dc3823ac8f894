"""ImageXpress HCS.ai: an experiment's `.jdce` (JSON) and tables of its images beside it."""

import json
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from subcell_hf.images.decoders.image import FieldError
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
from subcell_hf.images.tables import read_table
from subcell_hf.images.wells import well_name
from subcell_hf.storage.text_files import read_text

_INDEX_NAMES = ("*.jdce",)


def _recognise(content: FolderContent) -> str | None:
    return recognised_by(documents_named(content, *_INDEX_NAMES))


def _list_planes(content: FolderContent, options: ReadingOptions) -> Iterable[PlaneListing]:
    return list_plates(documents_named(content, *_INDEX_NAMES), _read_experiment)


def _read_experiment(experiment: Path) -> PlaneListing:
    facts: dict[str, Any] = json.loads(read_text(experiment))["ImageStack"]
    protocol = facts["AutoLeadAcquisitionProtocol"]
    calibration, described = protocol["ObjectiveCalibration"], protocol["Plate"]
    size_um = square_pixel_um(calibration["PixelWidth"], calibration["PixelHeight"], experiment)
    name = str(facts.get("PlateId") or experiment.stem)
    tables = sorted(path for path in experiment.parent.iterdir() if fnmatch(path.name.lower(), "image_metadata_*.csv"))
    if not tables:
        raise FieldError(f"{experiment} has no image_metadata_1.csv beside it, which lists images. Copy it as well.")
    planes = [_plane(row, str(experiment.parent), name, size_um) for table in tables for row in read_table(table)]
    return PlaneListing(planes, name, (int(described["Rows"]), int(described["Columns"])))


def _plane(row: dict[str, str], folder: str, plate: str, size_um: float) -> ListedPlane:
    return ListedPlane(
        file=file_beside(folder, f"{row['ImageSubFolderPath']}\\{row['ImageFileName']}"),
        channel=row["ExcitationEmissionFilter"],
        plate=plate,
        well=well_name(int(row["Row"]), int(row["Column"])),
        site=row["Field"],
        z=int(row["ZIndex"]),
        time=int(row["Timepoint"]),
        pixel_size_um=size_um,
        stage_um=stage_position(row.get("FieldOffsetPointX"), row.get("FieldOffsetPointY")),
    )


LAYOUT = Layout("ImageXpress HCS.ai", _recognise, _list_planes, _INDEX_NAMES)
