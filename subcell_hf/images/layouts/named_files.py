"""Layouts that are nothing but names: of instruments that write no index, and of the user's own pattern.

A pattern is a regular expression with named groups, as CellProfiler's users write them: `well`, `channel`, and where
they are there `plate`, `site`, `z` and `time`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from operator import itemgetter

from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.folder_contents import FolderContent, recognised_by_names
from subcell_hf.images.listed_fields import FilePlace
from subcell_hf.images.plane_listing import Layout, ListedPlane, PlaneListing
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.wells import standard_well

_ONE_PLANE = ("EVOS (M7000, FL Auto 2)", "Leica LAS (Matrix Screener)")
"""Their files hold one plane each, and OME-XML that announces the planes of other files."""

GROUPS = ("plate", "well", "site", "channel", "z", "time")
"""Names that a pattern may give its groups; CellProfiler's capital letters are understood."""

_INSTRUMENTS = {
    # F7_01_1_2_DAPI_001.tif: well, read, number of the channel, site, channel, time point; B2_-1_1_1Z0_Tsf[GFP]_001.tif
    "BioTek Cytation (Gen5)": (
        r"(?P<well>[A-P]\d{1,2})_-?\d+_\d+_(?P<site>\d+)(?:Z(?P<z>\d+))?_(?P<channel>.+)_(?P<time>-?\d+)\.tiff?"
    ),
    # AS_09125_050116030001_D03f00d0.tif: protocol, plate, well, field, channel; not what EVOS writes
    "Cellomics ArrayScan": (
        r"(?!.+_[A-Z]_p\d+(?:_z\d+)?_\d+_[A-P]\d\d)"
        r".+_(?P<plate>\d+)_(?P<well>[A-P]\d{2})f(?P<site>\d+)(?P<channel>d\d+)\.(?:tiff?|c01)"
    ),
    # scan_Plate_R_p00_z01_0_A01f00d0.TIF: name and vessel with R for raw, Z-plane, well, field, channel
    "EVOS (M7000, FL Auto 2)": (
        r"(?P<plate>.+_R_p\d+)(?:_z(?P<z>\d+))?_\d+_(?P<well>[A-P]\d{2})f(?P<site>\d+)(?P<channel>d\d+)\.tiff?"
    ),
    # 1_T0001_XY01_00001_Z001_CH1.tif: name, time, point, tile, Z-plane, channel
    "Keyence BZ-X": (
        r"(?P<plate>.+?)_(?:T(?P<time>\d{4})_)?(?P<site>(?:XY\d+_)?\d{5})(?:_Z(?P<z>\d+))?_(?P<channel>CH\d+)\.tiff?"
    ),
    # image--L0000--S00--U00--V00--J08--E00--O00--X00--Y00--T0000--Z00--C00.ome.tif: loop and slide, chamber with job
    # and field, time, Z-plane, channel; chambers count from the first that is scanned, which need not be A01
    "Leica LAS (Matrix Screener)": (
        r"image--(?P<plate>L\d+--S\d+)--(?P<site>U\d+--V\d+(?:--[JEO]\d+)*--X\d+--Y\d+)(?:--T(?P<time>\d+))?"
        r"(?:--Z(?P<z>\d+))?--(?P<channel>C\d+)\.ome\.tiff?"
    ),
    # Green_A1_1_00d04h00m.tif, Green_A1_1_2024y01m02d_03h04m.tif: channel (as named on export), well, site, time
    "Incucyte": (
        r"(?P<channel>.+)_(?P<well>[A-P]\d{1,2})_(?P<site>\d+)_"
        r"(?P<time>\d{4}y\d\dm\d\dd_\d\dh\d\dm|\d\dd\d\dh\d\dm)\.tiff?"
    ),
    # exp_s01_t01_z05_c1.tif, exp_B02_s1c1_ORG.tif: name of the file, well, scene, time, Z-plane, channel
    "Zeiss ZEN (export to TIFF)": (
        r"(?P<plate>.+?)(?:_(?P<well>[A-P]\d{1,2}))?_s(?P<site>\d+)(?:_?t(?P<time>\d+))?(?:_?z(?P<z>\d+))?"
        r"_?(?P<channel>c\d+)(?:_ORG)?\.tiff?"
    ),
    # Plate_TileScan 1_A_1_R1_z00_ch00.tif: names of project and scan, row, column, region, time, Z-plane, channel
    "Leica LAS X (export of a plate to TIFF)": (
        r"(?P<plate>.+?)_(?P<well>[A-P]_?\d{1,2})_R(?P<site>\d+)(?:_t(?P<time>\d+))?(?:_z(?P<z>\d+))?"
        r"_(?P<channel>ch\d+)\.tiff?"
    ),
    # exp_w1DAPI_s1_t1.TIF: name, number and name of the wavelength, stage position, time; no UUID as of MetaXpress
    "MetaMorph": (
        r"(?!.*[0-9A-F]{8}-[0-9A-F]{4}-)(?P<plate>.+)_w\d+(?P<channel>[^_\d.][^_.]*)(?:_s(?P<site>\d+))?"
        r"(?:_t(?P<time>\d+))?\.tiff?"
    ),
    # WellB02_PointB02_0001_ChannelDAPI_Seq0003.tif: well, point, channel, number of the image
    "Nikon JOBS (export to TIFF)": (
        r"Well(?P<well>[A-P]\d{1,2})_(?:Point(?P<site>[^_]+(?:_\d+)?)_)?(?:Z(?P<z>\d+)_)?Channel(?P<channel>[^_,]+)"
        r"_Seq\d+\.tiff?"
    ),
}


def compile_pattern(text: str) -> re.Pattern[str]:
    """A user's pattern.

    Raises:
        FieldError: If it is no regular expression, or has no group `channel`.
    """
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise FieldError(f"The pattern {text!r} is no regular expression: {error}.") from error
    names = {name.lower() for name in pattern.groupindex}
    if "channel" not in names:
        raise FieldError(
            f"The pattern {text!r} has the groups {', '.join(pattern.groupindex) or 'none'}, expected (?P<channel>…) "
            f"among them, beside (?P<well>…) and others of {', '.join(GROUPS)}."
        )
    return pattern


def list_by_pattern(
    content: FolderContent, pattern: re.Pattern[str], page: int | None = None
) -> Iterable[PlaneListing]:
    """The planes of a folder whose names fit a pattern, plate by plate; other images are left out.

    Names are read twice: keeping what they say of all plates takes more memory than the list of their fields.

    Args:
        content: What lies in the folder.
        pattern: Searched in the name of every image, or, where it holds a `/`, in its path below the folder.
        page: Which page of each file holds its plane; None: all of it.

    Yields:
        The plates, and what is left out.

    Raises:
        FieldError: If no name fits.
    """
    named = _Named(content, pattern)
    plates: dict[str, list[FilePlace]] = {}
    left_out: dict[FilePlace, str] = {}
    z_texts, time_texts = set[str](), set[str]()
    for image in content.images:
        said = named.values(image)
        if said is None:
            left_out[image] = "its name does not fit the pattern"
        else:
            plates.setdefault(said[0], []).append(image)
            z_texts.add(said[-2])
            time_texts.add(said[-1])
    if not plates:
        raise FieldError(
            f"No image in {content.root} fits the pattern {pattern.pattern!r}. The first is "
            f"{content.images[0].name if content.images else 'not there'}."
        )
    orders = [{text: number for number, text in enumerate(sorted(texts))} for texts in (z_texts, time_texts)]
    for images in plates.values():
        yield PlaneListing(list(_planes(images, named, page, *orders)))
    yield PlaneListing(left_out=left_out)


class _Named:
    """What names say by a pattern."""

    def __init__(self, content: FolderContent, pattern: re.Pattern[str]):
        places = {name.lower(): number - 1 for name, number in pattern.groupindex.items()}
        # What a pattern does not name is an empty text behind its own groups.
        self._values_of = itemgetter(*(places.get(name, -1) for name in GROUPS))
        self._pattern = pattern
        self._root = content.root if "/" in pattern.pattern else None
        self._folder_names: dict[str, str] = {}

    def values(self, image: FilePlace) -> tuple[str, ...] | None:
        """A text for each of `GROUPS`, empty where nothing says it; the plate is that of the folder then.

        Args:
            image: Of the content.

        Returns:
            None where the name does not fit.
        """
        text = image.name if self._root is None else image.path.relative_to(self._root).as_posix()
        found = self._pattern.search(text)
        if found is None:
            return None
        said: tuple[str, ...] = self._values_of((*found.groups(""), ""))
        if said[0]:
            return said
        if image.folder not in self._folder_names:
            self._folder_names[image.folder] = image.parent.name
        return (self._folder_names[image.folder], *said[1:])


def _planes(
    images: Iterable[FilePlace],
    named: _Named,
    page: int | None,
    z_numbers: Mapping[str, int],
    time_numbers: Mapping[str, int],
) -> Iterator[ListedPlane]:
    """The planes of a plate by what names say."""
    for image in images:
        plate, well, site, channel, z, time = named.values(image) or ("",) * len(GROUPS)
        yield ListedPlane(
            image if page is None else image._replace(page=page),
            channel,
            plate,
            standard_well(well),
            str(int(site)) if site.isdecimal() else site,
            int(z) if z.isdecimal() else z_numbers.get(z, 0),
            int(time) if time.isdecimal() else time_numbers.get(time, 0),
        )


def _recognise(pattern: re.Pattern[str], content: FolderContent) -> str | None:
    return recognised_by_names(content, pattern)


def _list_planes(
    pattern: re.Pattern[str], page: int | None, content: FolderContent, options: ReadingOptions
) -> Iterable[PlaneListing]:
    return list_by_pattern(content, pattern, page)


def _layout(name: str, text: str) -> Layout:
    pattern = re.compile(f"^{text}$", re.IGNORECASE)
    page = 0 if name in _ONE_PLANE else None
    return Layout(name, partial(_recognise, pattern), partial(_list_planes, pattern, page))


LAYOUTS = tuple(_layout(name, text) for name, text in _INSTRUMENTS.items())
