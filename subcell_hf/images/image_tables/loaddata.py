"""CellProfiler's LoadData, and the long sample sheet of nf-core/cellpainting."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.file_names import image_stem
from subcell_hf.images.image_tables.path_mapping import PathMapping
from subcell_hf.images.layouts.gathered_planes import fields_of_planes
from subcell_hf.images.listed_fields import FilePlace, Listing
from subcell_hf.images.plane_listing import ListedPlane, PlaneListing, square_pixel_um
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.wells import standard_well, well_at
from subcell_hf.storage.foreign_tables import ForeignTable

LOADDATA = "CellProfiler LoadData"
SAMPLE_SHEET = "nf-core/cellpainting sample sheet"

_FILE, _FOLDER, _ADDRESS, _FRAME, _SERIES = "FileName_", "PathName_", "URL_", "Frame_", "Series_"
_METADATA = "Metadata_"
_ILLUMINATION = "Illum"
_ORIGINAL = "Orig"
_UM_PER_M = 1e6
_OWN = ("plate", "well", "site")
_SAMPLE_COLUMNS = {"channel", "path", "plate", "well", "site"}

Row = Mapping[str, str]


def is_loaddata(columns: Iterable[str]) -> bool:
    """Whether a table has LoadData's columns of images."""
    return any(name.startswith((_FILE, _ADDRESS)) for name in columns)


def is_sample_sheet(columns: Iterable[str]) -> bool:
    """Whether a table has one row per plane, as nf-core/cellpainting wants it."""
    return {*columns} >= _SAMPLE_COLUMNS


def list_loaddata(path: Path, table: ForeignTable, options: ReadingOptions) -> Listing:
    """List a table with one row per field of view.

    The channel `X` lies in the file `FileName_X` of the folder `PathName_X`, or at `URL_X`; `Frame_X` and `Series_X`
    say which plane of it. Plate, well, site, time point and Z-plane are those of `Metadata_Plate`, `Metadata_Well` (or
    `Metadata_Row` and `Metadata_Col`), `Metadata_Site`, `Metadata_TimepointID` and `Metadata_PlaneID`; all other
    columns that begin with `Metadata_` are kept. `Metadata_ImageResolutionX` is the pixel size in metres, as
    pe2loaddata writes it.

    Args:
        path: Of the table.
        table: Its content.
        options: Where its folders lie here, and whether illumination functions are applied.
    """
    names = [name.partition("_")[2] for name in table.columns if name.startswith((_FILE, _ADDRESS))]
    names = list(dict.fromkeys(names))
    channels = [name for name in names if not name.startswith(_ILLUMINATION)]
    functions = {name.removeprefix(_ILLUMINATION): name for name in names if name.startswith(_ILLUMINATION)}
    if not channels:
        raise FieldError(
            f"{path} lists illumination functions and no image, expected columns such as FileName_OrigDNA."
        )
    rows, places = _rows(table), PathMapping(path, options.path_mapping)
    paged = {name for name in names if any(row.get(_FRAME + name, "") not in ("", "0") for row in rows)}
    lit = {name: functions.get(name.removeprefix(_ORIGINAL), "") for name in channels} if options.illumination else None
    known = {name: name.removeprefix(_METADATA).lower() for name in table.columns if name.startswith(_METADATA)}
    ours = {name: options.channel_mapping.get(name, name) for name in channels}
    wanted = {name for name in channels if options.channels is None or ours[name] in options.channels}
    planes = [
        plane
        for number, row in enumerate(rows, 1)
        for plane in _planes_of_row(row, number, path, channels, known, places, paged, lit, wanted)
    ]
    example = next(iter(channels))
    problems = {
        f"row {number}": f"Row {number} of {path} names no image, expected one in {_FILE}{example}. Complete it, "
        "or remove the row."
        for number, row in enumerate(rows, 1)
        if not any(_file_of(row, name) for name in channels)
    }
    left_out: dict[FilePlace, str] = {}
    if functions and not options.illumination:
        left_out[FilePlace.of(path)] = (
            f"its illumination functions ({', '.join(functions.values())}) are not applied; --illumination divides the "
            "images by them"
        )
    has_size = any(plane.pixel_size_um is not None for plane in planes)
    found = PlaneListing(planes, left_out=left_out, problems=problems)
    return _listing(replace(found, pixel_size_from="Metadata_ImageResolutionX", size_wins=has_size), rows, options)


def list_sample_sheet(path: Path, table: ForeignTable, options: ReadingOptions) -> Listing:
    """List a table with one row per plane: `channel`, `path`, `plate`, `well`, `site`, and what else is known.

    Args:
        path: Of the table.
        table: Its content.
        options: Where its folders lie here.
    """
    rows, places = _rows(table), PathMapping(path, options.path_mapping)
    planes = [
        ListedPlane(
            file=places.locate(row["path"]),
            channel=row["channel"],
            plate=row["plate"],
            well=_well(row["well"], row.get("row", ""), row.get("col", "")),
            site=row["site"],
            z=_whole(row.get("plane_id", "")) or 0,
            metadata={key: value for key, value in row.items() if key not in _SAMPLE_COLUMNS},
            problem=_problem_of_place(row["well"], row.get("row", ""), row.get("col", ""), f"row {number} of {path}"),
        )
        for number, row in enumerate(rows, 1)
    ]
    return _listing(PlaneListing(planes), rows, options)


def _rows(table: ForeignTable) -> list[dict[str, str]]:
    columns = {name: table.text(name, verbatim=name.startswith((_FILE, _FOLDER, _ADDRESS))) for name in table.columns}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _listing(listing: PlaneListing, rows: Sequence[Row], options: ReadingOptions) -> Listing:
    """The fields, with a remedy that names a folder as the table has it."""
    first = rows[0] if rows else {}
    lights = _FOLDER + _ILLUMINATION
    folder = next(
        (text for name, text in first.items() if name.startswith(_FOLDER) and lights not in name and text), ""
    )
    address = next((value for name, value in first.items() if name.startswith(_ADDRESS) or name == "path"), "")
    folder = folder.rstrip("/\\") or re.sub(r"[/\\][^/\\]*$", "", address) or "OLD"
    remedy = f"Say where the folders of the table lie here, such as --path-mapping {folder}=FOLDER."
    return fields_of_planes([replace(listing, remedy=remedy)], None, options)


def _planes_of_row(
    row: Row,
    number: int,
    table: Path,
    channels: Sequence[str],
    names: Mapping[str, str],
    places: PathMapping,
    paged: set[str],
    lit: Mapping[str, str] | None,
    wanted: set[str],
) -> Iterator[ListedPlane]:
    where = f"row {number} of {table}"
    known = {ours: row[name] for name, ours in names.items()}
    well, rows, column = (known.get(name, "") for name in ("well", "row", "col"))
    size_um, problem = _pixel_size(known, where)
    problem = problem or _problem_of_place(well, rows, column, where)
    plate, site = known.get("plate", ""), known.get("site", "") or known.get("fieldid", "")
    given = {name: text for name in channels if (text := _file_of(row, name))}
    placed = plate or well or site or (rows and column)
    field_name = "" if placed or not given else image_stem(Path(next(iter(given.values())).replace("\\", "/")))
    metadata = {name: row[name] for name, ours in names.items() if ours not in _OWN}
    place = _well(well, rows, column)
    z, time = (_whole(known.get(name, "")) or 0 for name in ("planeid", "timepointid"))
    for name, text in given.items():
        function, missing = None, ""
        if lit is not None:
            function = places.locate(light) if (light := lit[name] and _file_of(row, lit[name])) else None
            missing = "" if function else f"channel {name} has no illumination function in {where} (FileName_Illum…)."
        file = places.locate(text)
        numbers = {kind: row[kind + name] for kind in (_FRAME, _SERIES) if row.get(kind + name)}
        for kind, said in numbers.items():
            if _whole(said) is None:
                missing = f"{kind}{name} is {said!r} in {where}, expected a whole number."
        if name in paged or numbers:
            frame, series = (_whole(numbers.get(kind, "")) for kind in (_FRAME, _SERIES))
            file = file._replace(page=frame or 0 if name in paged else None, position=series or None)
        yield ListedPlane(
            file, name, plate, place, site, z, time, size_um, None, field_name, metadata, function,
            problem or (missing if name in wanted else ""),
        )  # fmt: skip


def _file_of(row: Row, name: str) -> str:
    """Path or address of an image as the table has it; empty where it has none."""
    file = row.get(_FILE + name, "").strip()
    if not file:
        return row.get(_ADDRESS + name, "").strip()
    folder = row.get(_FOLDER + name, "").strip().rstrip("/\\")
    return f"{folder}/{file}" if row.get(_FOLDER + name, "").strip() else file


def _pixel_size(known: Row, where: str) -> tuple[float | None, str]:
    """In micrometres, and why there is none."""
    width, height = (known.get(f"imageresolution{axis}", "") for axis in "xy")
    if not (width or height):
        return None, ""
    try:
        return square_pixel_um(width or height, height or width, where, _UM_PER_M), ""
    except FieldError as error:
        return None, str(error)
    except ValueError:
        return None, f"Metadata_ImageResolutionX is {width!r} in {where}, expected metres such as 5.98e-07."


def _well(well: str, row: str, column: str) -> str:
    return standard_well(well) if well else well_at(row, column) or ""


def _problem_of_place(well: str, row: str, column: str, where: str) -> str:
    """Why a well cannot be believed: its name, and its row and column, say different things."""
    by_number = _well("", row, column)
    if well and by_number and standard_well(well) != by_number:
        return (
            f"{where} gives the well {well}, and row {row}, column {column}, which is {by_number}. Correct one of them."
        )
    return ""


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None
