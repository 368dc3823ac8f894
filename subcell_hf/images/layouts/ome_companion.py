"""OME-TIFF sets: a `*.companion.ome` says which plane lies on which page of which TIFF beside it."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from subcell_hf.images.decoders.file_metadata import WellSample, metadata_of_pixels, well_samples
from subcell_hf.images.folder_contents import FolderContent
from subcell_hf.images.image_tables.listed_files import file_beside
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
from subcell_hf.storage.xml_files import read_xml_elements

_INDEX_NAMES = ("*.companion.ome",)
_MOST_PLANES = 5_000_000
_AXES = {"C": "channels", "Z": "Z-planes", "T": "time points"}


def _recognise(content: FolderContent) -> str | None:
    return recognised_by(documents_named(content, *_INDEX_NAMES))


def _list_planes(content: FolderContent, options: ReadingOptions) -> Iterable[PlaneListing]:
    return list_plates(documents_named(content, *_INDEX_NAMES), partial(_read_index, options=options))


def _read_index(index: Path, options: ReadingOptions) -> PlaneListing:
    samples = well_samples(read_xml_elements(index, "Plate"))
    planes = [
        plane
        for image in read_xml_elements(index, "Image")
        for plane in _planes_of(image, index, samples.get(image.get("ID", "")), options)
    ]
    return PlaneListing(planes, index.name)


def _planes_of(image: Any, index: Path, sample: WellSample | None, options: ReadingOptions) -> list[ListedPlane]:
    pixels = image.find("Pixels")
    sizes = {axis: int(pixels.get(f"Size{axis}", 1)) for axis in "CZT"}
    metadata = metadata_of_pixels(pixels)
    names, nameless = channel_labels(metadata.channel_names, sizes["C"], options)
    places, folder = list(_places(pixels, sizes)), str(index.parent)
    title = (image.get("Name") or image.get("ID")).replace("/", "_")
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
            site=sample.site if sample else title,
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


LAYOUT = Layout("OME-TIFF with a companion file", _recognise, _list_planes, _INDEX_NAMES)
