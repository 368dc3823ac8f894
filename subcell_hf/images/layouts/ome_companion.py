"""OME-TIFF sets: OME-XML says which plane lies on which page of which TIFF beside it.

It lies in a `*.companion.ome`, or in one of the TIFFs, or in all of them, as Micro-Manager writes its image stacks.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path, PureWindowsPath
from types import MappingProxyType
from typing import Any
from xml.sax.saxutils import unescape

import tifffile

from subcell_hf.images.decoders.file_metadata import WellSample, metadata_of_pixels, well_samples
from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.decoders.unread_formats import why_unread
from subcell_hf.images.folder_contents import FolderContent
from subcell_hf.images.image_tables.listed_files import file_beside
from subcell_hf.images.listed_fields import FilePlace
from subcell_hf.images.plane_listing import (
    Layout,
    ListedPlane,
    PlaneListing,
    channel_labels,
    documents_named,
    list_plates,
    recognised_by,
)
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.wells import standard_well
from subcell_hf.storage.xml_files import parse_xml_elements, read_xml_elements

_INDEX_NAMES = ("*.companion.ome",)
_MOST_PLANES = 5_000_000
_COMPANION = ".companion.ome"
_OME_TIFF = re.compile(r"(?!image--).+\.ome\.tiff?", re.IGNORECASE)  # Leica's Matrix Screener has another layout
_ENDING = re.compile(r"\.ome\.tiff?$", re.IGNORECASE)
_MASTER = re.compile(r"""<(?:\w+:)?BinaryOnly\s[^>]*MetadataFile=(["'])(.*?)\1""")
_FILE_NAME = re.compile(r"""<(?:\w+:)?UUID\s[^>]*FileName=(["'])(.*?)\1""")
_WELL_LABEL = re.compile(r"(?P<plate>.+)_MMStack_(?P<well>[A-P]\d{1,2})-Site_(?P<site>\d+)(?:\.ome)?")
"""As Micro-Manager's generator of positions in plates labels them."""
_REMEMBERED = 64
_NDTIFF = "ndtiff.index"
_AXES = {"C": "channels", "Z": "Z-planes", "T": "time points"}


def _recognise(content: FolderContent) -> str | None:
    return recognised_by(documents_named(content, *_INDEX_NAMES))


def _list_planes(content: FolderContent, options: ReadingOptions) -> Iterable[PlaneListing]:
    return list_plates(documents_named(content, *_INDEX_NAMES), partial(_read_index, options=options))


def _read_index(index: Path, options: ReadingOptions) -> PlaneListing:
    return _read_set(index, partial(read_xml_elements, index), options)


def _read_set(
    index: Path,
    elements: Callable[[str], Iterable[Any]],
    options: ReadingOptions,
    own_files: Mapping[str, str] = MappingProxyType({}),
) -> PlaneListing:
    samples = well_samples(elements("Plate"))
    planes = []
    for image in elements("Image"):
        sample, own_file = samples.get(image.get("ID", "")), own_files.get(image.get("ID", ""), "")
        planes += _planes_of(image, index, sample, options, own_file)
    return PlaneListing(planes, str(index))  # a set may hold a part of a plate


def _recognise_stacks(content: FolderContent) -> str | None:
    return recognised_by([*_stacks(content)])


def _list_stacks(content: FolderContent, options: ReadingOptions) -> Iterable[PlaneListing]:
    stacks = _stacks(content)

    def read(index: Path) -> PlaneListing:
        if not stacks[index]:
            raise FieldError(f"{index} is missing, which describes the OME-TIFFs beside it. Copy it as well.")
        elements = partial(parse_xml_elements, stacks[index], index)
        return _read_set(index, elements, options, _own_files(elements("Image")))

    return list_plates(stacks, read)


def _stacks(content: FolderContent) -> dict[Path, str]:
    """The file that describes each set of OME-TIFFs, and its OME-XML; empty where it is not there.

    Whether a folder holds sets is asked of its first and its last file alone: most folders hold images that are
    complete by themselves.
    """
    folders: dict[str, list[FilePlace]] = {}
    for image in content.images if any(map(_OME_TIFF.fullmatch, content.shapes)) else ():
        if _OME_TIFF.fullmatch(image.name):
            folders.setdefault(image.folder, []).append(image)
    found: dict[Path, str] = {}
    for folder, images in folders.items():
        if not any(_describes_others(image.path) for image in (images[0], images[-1])):
            continue
        known: set[str] = set()
        for image in images:
            if image.name in known:
                continue
            text = _ome_xml_of(image.path)
            master = _MASTER.search(text)
            if master is not None:
                path = Path(folder, PureWindowsPath(unescape(master[2])).name)
                if path in found or path.name.lower().endswith(_COMPANION):
                    continue
                text = _ome_xml_of(path) if path.is_file() else ""
            elif not _describes_others(image.path):
                continue
            else:
                path = image.path
            if not text or text not in found.values():  # all files of a set may have the same
                found[path] = text
            known |= {unescape(name) for _, name in _FILE_NAME.findall(text)}
    return found


def _describes_others(path: Path) -> bool:
    """Whether a TIFF's OME-XML is of other files as well, or lies in one; a single name may be this file's old one."""
    text = _ome_xml_of(path)
    return bool(_MASTER.search(text)) or len({name for _, name in _FILE_NAME.findall(text)}) > 1


def _own_files(images: Iterable[Any]) -> dict[str, str]:
    """Id of each image whose file holds nothing else → the file's name without its ending, as if it were read alone."""
    files = {image.get("ID", ""): {data.get("FileName", "") for data in image.iter("UUID")} for image in images}
    shared = Counter(name for names in files.values() for name in names)
    return {
        image: _ENDING.sub("", name)
        for image, names in files.items()
        for name in names
        if len(names) == 1 and shared[name] == 1
    }


@lru_cache(_REMEMBERED)
def _ome_xml_of(path: Path) -> str:
    try:
        with tifffile.TiffFile(path) as tiff:
            return tiff.ome_metadata or ""
    except Exception:  # tifffile's own, of damaged files, which say what is wrong when they are read
        return ""


def _planes_of(
    image: Any, index: Path, sample: WellSample | None, options: ReadingOptions, own_file: str
) -> list[ListedPlane]:
    pixels = image.find("Pixels")
    sizes = {axis: int(pixels.get(f"Size{axis}", 1)) for axis in "CZT"}
    metadata = metadata_of_pixels(pixels)
    names, nameless = channel_labels(metadata.channel_names, sizes["C"], options)
    places, folder = list(_places(pixels, sizes)), str(index.parent)
    title = (image.get("Name") or image.get("ID")).replace("/", "_")
    if sample is None and (labelled := _WELL_LABEL.fullmatch(title)):
        sample = WellSample(labelled["plate"], standard_well(labelled["well"]), labelled["site"])
    if not places:
        raise ValueError(f"image {title!r} lists no plane")
    problem = _contradiction(title, sizes, [place for place, _, _ in places], [file for _, file, _ in places])
    problem = problem or nameless
    if problem is None and options.pixel_size_um is None:
        problem = metadata.pixel_size_problem
    return [
        ListedPlane(
            file=file_beside(folder, file)._replace(page=page),
            channel=names[c] if c < len(names) else f"channel {c}",
            plate=sample.plate if sample else "",
            well=sample.well if sample else "",
            site=sample.site if sample else own_file or title,
            z=z,
            time=time,
            pixel_size_um=metadata.pixel_size_um,
            problem=f"{index}: {problem}" if problem else None,
        )
        for (c, z, time), file, page in places
    ]


def _places(pixels: Any, sizes: Mapping[str, int]) -> Iterator[tuple[tuple[int, int, int], str, int]]:
    """Channel, Z-plane and time point of every plane, its file and its page there."""
    order = [axis for axis in pixels.get("DimensionOrder", "XYCZT") if axis in sizes]
    entries = pixels.findall("TiffData")
    for data in entries:
        file = data.find("UUID").get("FileName")
        count = data.get("PlaneCount") or (1 if data.get("IFD") else None)
        if count is None and len(entries) > 1:
            raise ValueError(f"the TiffData of {file} does not say how many planes it means")
        planes = int(count or math.prod(sizes.values()))
        if not 0 <= planes <= _MOST_PLANES:
            raise ValueError(f"the TiffData of {file} means {planes:,} planes")
        first = {axis: int(data.get(f"First{axis}", 0)) for axis in sizes}
        for number in range(planes):
            place = _later(first, number, order, sizes) if number else first
            yield (place["C"], place["Z"], place["T"]), file, int(data.get("IFD", 0)) + number


def _later(place: Mapping[str, int], planes: int, order: Sequence[str], sizes: Mapping[str, int]) -> dict[str, int]:
    """The place some planes later; the first axis of the order runs fastest."""
    later = {}
    for axis in order:
        later[axis] = place[axis] + planes
        if axis != order[-1]:
            planes, later[axis] = divmod(later[axis], sizes[axis])
    return later


def _contradiction(
    title: str, sizes: Mapping[str, int], places: Sequence[tuple[int, int, int]], files: Iterable[str]
) -> str | None:
    """Where the announced sizes and the listed planes disagree."""
    said = f"Image {title!r} (files {', '.join(sorted(set(files)))})"
    for axis, indices in zip("CZT", zip(*places, strict=True), strict=False):
        if max(indices) >= sizes[axis]:
            return (
                f"{said} announces Size{axis} {sizes[axis]}, and its TiffData lists {_AXES[axis]} up to "
                f"{max(indices)}, counted from 0. One of both is wrong: export the set again, or correct it."
            )
    announced = math.prod(sizes.values())
    if len(set(places)) < announced:
        return (
            f"{said} announces {sizes['C']} channels x {sizes['Z']} Z-planes x {sizes['T']} time points = "
            f"{announced:,} planes, and its TiffData lists {len(set(places)):,}. Export the set again."
        )
    return None


def _refuse_ndtiff(content: FolderContent, options: ReadingOptions) -> Iterable[PlaneListing]:
    index = documents_named(content, _NDTIFF)[0]
    raise FieldError(f"{index} cannot be read: {why_unread(index.name)}.")


LAYOUTS = (
    Layout("OME-TIFF with a companion file", _recognise, _list_planes, _INDEX_NAMES),
    Layout("OME-TIFF of several files", _recognise_stacks, _list_stacks),
    Layout("Micro-Manager NDTiff", lambda content: recognised_by(documents_named(content, _NDTIFF)), _refuse_ndtiff),
)
