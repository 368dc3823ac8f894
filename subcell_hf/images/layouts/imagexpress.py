"""ImageXpress: folders of MetaXpress, with an `.HTD` that says what was taken, or file names alone.

The `.HTD` lists wells, sites, wavelengths, time points and Z-steps; files are found by their names, which may end in a
UUID. `ZStep_0` holds projections where the `.HTD` says so, the folders after it the planes. A wavelength that was taken
once is copied into every Z-step.
"""

import filecmp
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from subcell_hf.images.folder_contents import FolderContent
from subcell_hf.images.plane_listing import (
    Layout,
    ListedPlane,
    ListedPlate,
    PlaneListing,
    documents_named,
    list_plates,
    recognised_by,
)
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.wells import standard_well, well_name

_INDEX_NAMES = ("*.htd",)
_NAME = re.compile(
    r"(?P<base>.+)_(?P<well>[A-Z]{1,2}\d\d)(?:_s(?P<site>\d+))?(?:_w(?P<wave>\d+))?(?P<thumbnail>_thumb)?"
    r"(?:[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12})?\.tiff?",
    re.IGNORECASE,
)
_STEP = re.compile(r"ZStep_(\d+)", re.IGNORECASE)
_TIME = re.compile(r"TimePoint_(\d+)", re.IGNORECASE)
_TRUE = "TRUE"


@dataclass(frozen=True)
class _Named:
    """What the name and the folders of an image say; `wave` is 1 where the plate has one wavelength."""

    well: str
    site: int
    wave: int
    time: int
    step: int | None


def _recognise(content: FolderContent) -> str | None:
    indices = documents_named(content, *_INDEX_NAMES)
    if indices:
        return recognised_by(indices)
    named = next((path for path in content.images if (found := _NAME.fullmatch(path.name)) and found["wave"]), None)
    return f"the name {named.name}" if named else None


def _list_planes(content: FolderContent, options: ReadingOptions) -> PlaneListing:
    files = {path: named for path in content.images if (named := _read_name(path, content.root)) is not None}
    indices = documents_named(content, *_INDEX_NAMES)
    folders = {index.parent for index in indices}
    # MetaXpress repeats the file in every folder of a plate.
    topmost = [index for index in indices if not any(parent in folders for parent in index.parent.parents)]
    left_out: dict[Path, str] = {}
    if not topmost:
        planes = [_plane(path, content.root.name, f"w{named.wave}", named) for path, named in files.items()]
        return PlaneListing(planes, size_wins=False)

    def read(index: Path) -> ListedPlate:
        own = {path: named for path, named in files.items() if index.parent in path.parents}
        return _read_plate(index, own, left_out)

    return replace(list_plates(topmost, read, size_wins=False), left_out=left_out)


def _read_name(path: Path, root: Path) -> _Named | None:
    found = _NAME.fullmatch(path.name)
    if found is None or found["thumbnail"]:
        return None
    folders = path.relative_to(root).parts[:-1]
    step = next((int(match[1]) for name in reversed(folders) if (match := _STEP.fullmatch(name))), None)
    time = next((int(match[1]) for name in reversed(folders) if (match := _TIME.fullmatch(name))), 1)
    return _Named(standard_well(found["well"]), int(found["site"] or 1), int(found["wave"] or 1), time, step)


def _plane(path: Path, plate: str, channel: str, named: _Named) -> ListedPlane:
    return ListedPlane(path, channel, plate, named.well, str(named.site), z=named.step or 0, time=named.time)


def _read_plate(index: Path, files: Mapping[Path, _Named], left_out: dict[Path, str]) -> ListedPlate:
    facts = _read_facts(index)
    plate = index.parent.name
    rows, columns = int(facts["YWells"][0]), int(facts["XWells"][0])
    waves = range(1, int(facts["NWavelengths"][0]) + 1)
    collected = [wave for wave in waves if facts.get(f"WaveCollect{wave}", ["1"])[0] not in ("0", "FALSE")]
    names = {wave: facts.get(f"WaveName{wave}", [f"w{wave}"])[0] for wave in waves}
    found = {named: path for path, named in files.items()}
    steps = int(facts["ZSteps"][0]) if facts["ZSeries"][0] == _TRUE else 0
    projected = steps > 0 and facts.get("ZProjection", [""])[0] == _TRUE
    flat = {wave for wave in collected if steps and _is_copied(found, wave)}
    planes: list[ListedPlane] = []
    for well in _selected_wells(facts, rows):
        for site in range(1, _count_sites(facts) + 1):
            for time in range(1, int(facts["TimePoints"][0]) + 1):
                for wave in collected:
                    own = [_Named(well, site, wave, time, step) for step in _steps(steps, projected)]
                    planes += _planes_of_wave(own, found, names[wave], index, left_out, wave in flat)
    listed = {plane.file for plane in planes}
    left_out |= {
        path: "not among the wells, sites and wavelengths of the .HTD"
        for path in files
        if path not in listed and path not in left_out
    }
    return ListedPlate(plate, planes, (rows, columns))


def _steps(steps: int, projected: bool) -> list[int | None]:
    """Numbers of the folders of a Z-series; that of the projections first."""
    if not steps:
        return [None]
    return list(range(steps + 1)) if projected else list(range(1, steps + 1))


def _planes_of_wave(
    own: list[_Named], found: Mapping[_Named, Path], channel: str, index: Path, left_out: dict[Path, str], is_flat: bool
) -> Iterator[ListedPlane]:
    """The planes of one wavelength at one place and time, those that are not there included."""
    there = [named for named in own if named in found]
    slices = [named for named in own if named.step != 0]
    if is_flat and there:
        left_out |= {found[named]: "a copy of the same image of another Z-step" for named in there[1:]}
        slices = there[:1]
    elif len(slices) < len(own):
        if not any(named in found for named in slices) and own[0] in found:
            slices = own[:1]
        elif own[0] in found:
            left_out[found[own[0]]] = "a projection of the Z-planes, which are read themselves"
    for named in slices:
        yield _plane(found.get(named) or _expected(named, index), index.parent.name, channel, named)


def _expected(named: _Named, index: Path) -> Path:
    """Where an image that is not there should lie, without its UUID."""
    folder = index.parent / f"TimePoint_{named.time}"
    if named.step is not None:
        folder /= f"ZStep_{named.step}"
    return folder / f"{index.stem}_{named.well}_s{named.site}_w{named.wave}.TIF"


def _is_copied(found: Mapping[_Named, Path], wave: int) -> bool:
    """Whether a wavelength was taken once and copied into every Z-step, by the first place that has several."""
    first: dict[_Named, Path] = {}
    for named, path in found.items():
        if named.wave == wave and named.step is not None:
            place = replace(named, step=None)
            if place in first:
                return filecmp.cmp(first[place], path, shallow=False)
            first[place] = path
    return False


def _read_facts(index: Path) -> dict[str, list[str]]:
    """`"Key", value, value` on each line; descriptions may hold bytes of any encoding."""
    facts = {}
    for line in index.read_bytes().decode("utf-8", "replace").splitlines():
        key, _, values = line.partition(",")
        facts[key.strip().strip('"')] = [value.strip().strip('"') for value in values.split(",")]
    return facts


def _selected_wells(facts: Mapping[str, list[str]], rows: int) -> list[str]:
    return [
        well_name(row, column)
        for row in range(1, rows + 1)
        for column, chosen in enumerate(facts.get(f"WellsSelection{row}", ()), 1)
        if chosen == _TRUE
    ]


def _count_sites(facts: Mapping[str, list[str]]) -> int:
    if facts.get("Sites", [""])[0] != _TRUE:
        return 1
    across, down = int(facts["XSites"][0]), int(facts["YSites"][0])
    chosen = [value for row in range(1, down + 1) for value in facts.get(f"SiteSelection{row}", [_TRUE] * across)]
    return sum(value == _TRUE for value in chosen)


LAYOUT = Layout("ImageXpress (MetaXpress)", _recognise, _list_planes, _INDEX_NAMES)
