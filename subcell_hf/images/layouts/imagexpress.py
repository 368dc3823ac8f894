"""ImageXpress: folders of MetaXpress, with an `.HTD` that says what was taken, or file names alone.

The `.HTD` lists wells, sites, wavelengths, time points and Z-steps; files are found by their names, which may end in a
UUID. `ZStep_0` holds projections where the `.HTD` says so, the folders after it the planes. A wavelength that was taken
once is copied into every Z-step. Pixel size and position are in the images, which say them when they are read.
"""

import csv
import filecmp
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.files import read_header
from subcell_hf.images.folder_contents import FolderContent, recognised_by_names
from subcell_hf.images.listed_fields import FilePlace
from subcell_hf.images.plane_listing import (
    Layout,
    ListedPlane,
    PlaneListing,
    documents_named,
    list_plates,
    recognised_by,
)
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.wells import standard_well, well_name

_INDEX_NAMES = ("*.htd",)
_NAME = re.compile(
    r"(?P<base>.+)_(?P<well>[A-Z]{1,2}\d\d)(?:_s(?P<site>\d+))?(?:_w(?P<wave>\d+))?"
    r"(?:(?P<bracket>_?\[)?[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12}(?(bracket)\]))?\.tiff?",
    re.IGNORECASE,
)
_STEP = re.compile(r"ZStep_(\d+)", re.IGNORECASE)
_TIME = re.compile(r"TimePoint_(\d+)", re.IGNORECASE)
_TRUE, _FALSE = "TRUE", "FALSE"


_WITH_WAVE = re.compile(rf"(?=.*_w\d){_NAME.pattern}", re.IGNORECASE)


_Place = tuple[str, int, int, int, int | None]
"""Well, site, wavelength (1 where the plate has one), time point and Z-step, by name and folders of an image."""
_Found = Mapping[_Place, list[FilePlace]]


def _recognise(content: FolderContent) -> str | None:
    indices = documents_named(content, *_INDEX_NAMES)
    if indices:
        return recognised_by(indices)
    return recognised_by_names(content, _WITH_WAVE)


def _list_planes(content: FolderContent, options: ReadingOptions) -> Iterable[PlaneListing]:
    folders: dict[str, list[FilePlace]] = {}
    for image in content.images:
        folders.setdefault(image.folder, []).append(image)
    named = (own for own in folders.values() if any(_NAME.fullmatch(image.name) for image in own))
    files = {own[0].parent: own for own in named}
    indices = documents_named(content, *_INDEX_NAMES)
    with_index = {index.parent for index in indices}
    # MetaXpress repeats the file in every folder of a plate.
    topmost = [index for index in indices if not any(parent in with_index for parent in index.parent.parents)]
    left_out: dict[FilePlace, str] = {}
    if not topmost:
        plates: dict[Path, list[FilePlace]] = {}
        for folder, images in files.items():
            plates.setdefault(_plate_folder(folder), []).extend(images)
        yield from list_plates(plates, lambda folder: _read_names(folder, plates[folder], left_out), size_wins=False)
        yield PlaneListing(left_out=left_out)
        return

    def read(index: Path) -> PlaneListing:
        own = [
            image for folder, images in files.items() if index.parent in (folder, *folder.parents) for image in images
        ]
        if sum(other.parent == index.parent for other in topmost) == 1:
            return _read_plate(index, index.parent.name, _by_place(own), left_out)
        return _read_plate(index, index.stem, _by_place(own, index.stem.lower()), left_out)

    yield from list_plates(topmost, read, size_wins=False)
    yield PlaneListing(left_out=left_out)


def _plate_folder(folder: Path) -> Path:
    above = (folder, *folder.parents)
    return next(one for one in above if not (_STEP.fullmatch(one.name) or _TIME.fullmatch(one.name)))


def _number_of(folder: Path, form: re.Pattern[str]) -> int | None:
    """The number that a folder, or one above it, has in its name."""
    matches = (form.fullmatch(one.name) for one in (folder, *folder.parents))
    return next((int(match[1]) for match in matches if match), None)


def _read_names(folder: Path, files: Sequence[FilePlace], left_out: dict[FilePlace, str]) -> PlaneListing:
    """A plate whose `.HTD` is not there: its channels are called as the first image of each says."""
    named = _by_place(files)
    first: dict[int, FilePlace] = {}
    for place, images in named.items():
        first.setdefault(place[2], images[0])
    names = {wave: _illumination(first[wave].path) or f"w{wave}" for wave in sorted(first)}
    names = {wave: f"{name} w{wave}" if list(names.values()).count(name) > 1 else name for wave, name in names.items()}
    stacks: dict[_Place, list[_Place]] = {}
    for place in sorted(named, key=lambda place: (place[2], place[4] or 0)):
        stacks.setdefault((*place[:4], None), []).append(place)
    flat = {wave for wave in names if _is_copied(named, wave)}
    planes = [
        _plane(path, folder.name, names[place[2]], place)
        for own in stacks.values()
        for place in _chosen(own, named, left_out, own[0][2] in flat)
        for path in named[place]
    ]
    return PlaneListing(planes, folder.name)


def _illumination(path: Path) -> str:
    try:
        return "".join(read_header(path).metadata.channel_names[:1])
    except FieldError:  # reported when the image is read
        return ""


def _by_place(files: Iterable[FilePlace], base: str | None = None) -> _Found:
    """What names and folders say → the files for which they say it; several are an error of the field.

    Args:
        files: Images.
        base: Beginning of the names that are meant, in small letters; None: any.
    """
    found: dict[_Place, list[FilePlace]] = {}
    folders: dict[str, tuple[int | None, int]] = {}
    for image in files:
        match = _NAME.fullmatch(image.name)
        if match is None or base not in (None, match["base"].lower()):
            continue
        if image.folder not in folders:
            folders[image.folder] = _number_of(image.parent, _STEP), _number_of(image.parent, _TIME) or 1
        step, time = folders[image.folder]
        well, site, wave = match.group("well", "site", "wave")
        place = standard_well(well), int(site or 1), int(wave or 1), time, step
        found.setdefault(place, []).append(image)
    return found


def _plane(file: FilePlace, plate: str, channel: str, place: _Place) -> ListedPlane:
    well, site, _, time, step = place
    return ListedPlane(file, channel, plate, well, str(site), step or 0, time)


def _read_plate(index: Path, plate: str, found: _Found, left_out: dict[FilePlace, str]) -> PlaneListing:
    facts = _read_facts(index)
    rows, columns = int(facts["YWells"][0]), int(facts["XWells"][0])
    is_said = facts.get("Waves", [""])[0] == _TRUE or "NWavelengths" in facts
    waves = range(1, (int(facts["NWavelengths"][0]) if is_said else 1) + 1)
    collected = [wave for wave in waves if facts.get(f"WaveCollect{wave}", ["1"])[0] not in ("0", _FALSE)]
    names = {wave: facts.get(f"WaveName{wave}", [f"w{wave}"])[0] for wave in waves}
    steps = int(facts["ZSteps"][0]) if facts.get("ZSeries", [""])[0] == _TRUE else 0
    projected = steps > 0 and facts.get("ZProjection", [""])[0] == _TRUE
    flat = {wave for wave in collected if steps and _is_copied(found, wave)}
    sites, times = range(1, _count_sites(facts) + 1), range(1, int(facts.get("TimePoints", ["1"])[0]) + 1)
    numbers = _steps(steps, projected)
    planes: list[ListedPlane] = []
    for well in _selected_wells(facts, rows):
        for site in sites:
            for time in times:
                for wave in collected:
                    own: list[_Place] = [(well, site, wave, time, step) for step in numbers]
                    if steps and not any(place in found for place in own):
                        alone = (well, site, wave, time, None)
                        own = [alone] if alone in found else own  # what was kept of the Z-series, such as a projection
                    for place in _chosen(own, found, left_out, wave in flat) if len(own) > 1 else own:
                        files_of = found.get(place) or (_expected(place, index),)
                        planes += [_plane(file, plate, names[wave], place) for file in files_of]
    listed = {id(plane.file) for plane in planes}
    left_out |= {
        image: "not among the wells, sites and wavelengths of the .HTD"
        for image in chain.from_iterable(found.values())
        if id(image) not in listed and image not in left_out
    }
    return PlaneListing(planes, plate, (rows, columns))


def _steps(steps: int, projected: bool) -> list[int | None]:
    """Numbers of the folders of a Z-series; that of the projections first."""
    if not steps:
        return [None]
    return list(range(steps + 1)) if projected else list(range(1, steps + 1))


def _chosen(own: list[_Place], found: _Found, left_out: dict[FilePlace, str], is_flat: bool) -> list[_Place]:
    """Which of the planes of one wavelength, at one place and time, make its stack; others are left out."""
    there = [place for place in own if place in found]
    slices = [place for place in own if place[4] != 0]
    if is_flat and there:
        copies = (path for place in there[1:] for path in found[place])
        left_out |= dict.fromkeys(copies, "a copy of the same image of another Z-step")
        return there[:1]
    if len(slices) < len(own) and own[0] in found:
        if not any(place in found for place in slices):
            return own[:1]
        left_out |= dict.fromkeys(found[own[0]], "a projection of the Z-planes, which are read themselves")
    return slices


def _expected(place: _Place, index: Path) -> FilePlace:
    """Where an image that is not there should lie, without its UUID."""
    well, site, wave, time, step = place
    folder = index.parent / f"TimePoint_{time}"
    if step is not None:
        folder /= f"ZStep_{step}"
    return FilePlace(str(folder), f"{index.stem}_{well}_s{site}_w{wave}.TIF")


def _is_copied(found: _Found, wave: int) -> bool:
    """Whether a wavelength was taken once and copied into every Z-step, by the first place that has several."""
    first: dict[_Place, FilePlace] = {}
    for (well, site, own_wave, time, step), (image, *_) in found.items():
        if own_wave == wave and step is not None:
            place = (well, site, wave, time, None)
            if place in first:
                return filecmp.cmp(first[place].path, image.path, shallow=False)
            first[place] = image
    return False


def _read_facts(index: Path) -> dict[str, list[str]]:
    """`"Key", value, value` on each line; descriptions may hold bytes of any encoding."""
    data = index.read_bytes()
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    facts = {}
    for line in filter(str.strip, data.decode(encoding, "replace").splitlines()):
        key, *values = (value.strip() for value in next(csv.reader([line], skipinitialspace=True)))
        facts[key] = [value.upper() if value.upper() in (_TRUE, _FALSE) else value for value in values] or [""]
    if "EndFile" not in facts:
        raise ValueError("it does not end with EndFile")
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
