"""Opera Phenix and Operetta: the index that Harmony writes beside its images, versions 4 to 7.

The index wins over the images' tags: their resolution is that of the camera, not of the sample.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from subcell_hf.errors import InputError
from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.folder_contents import FolderContent
from subcell_hf.images.plane_listing import Layout, ListedPlane, PlaneListing
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.wells import well_name
from subcell_hf.storage.xml_files import read_xml_elements, text_of

_INDEX_NAMES = ("index.idx.xml", "index.xml")
_CHANNEL_FACTS = ("ChannelName", "ImageResolutionX", "ImageResolutionY")
_METRE_UM = 1e6


def _indices(content: FolderContent) -> list[Path]:
    return [path for path in content.documents if path.name.lower() in _INDEX_NAMES]


def _recognise(content: FolderContent) -> str | None:
    found = _indices(content)
    return f"{found[0].name} in {found[0].parent}" if found else None


def _list_planes(content: FolderContent, options: ReadingOptions) -> PlaneListing:
    shapes: dict[str, tuple[int, int]] = {}
    planes: list[ListedPlane] = []
    owners: dict[str, Path] = {}
    for index in _indices(content):
        listed = list(_planes_of(index, shapes))
        plate = listed[0].plate if listed else ""
        if plate in owners:
            raise FieldError(
                f"Two plates are called {plate!r}: {owners[plate]} and {index}. Give the folder of one measurement."
            )
        owners[plate] = index
        planes += listed
    return PlaneListing(
        planes,
        pixel_size_from=" and ".join(sorted({path.name for path in owners.values()})),
        size_wins=True,
        shapes=shapes,
    )


def _planes_of(index: Path, shapes: dict[str, tuple[int, int]]) -> Iterator[ListedPlane]:
    channels: dict[str, dict[str, str]] = {}
    plate = ""
    try:
        for element in read_xml_elements(index, "Plate", "Entry", "Image"):
            if element.tag == "Plate":
                plate = text_of(element, "Name", "PlateID")
                shapes[plate] = int(text_of(element, "PlateRows")), int(text_of(element, "PlateColumns"))
            elif element.tag == "Entry":
                known = channels.setdefault(element.get("ChannelID", ""), {})
                known |= {name: text for name in _CHANNEL_FACTS if (text := text_of(element, name))}
            elif text_of(element, "URL"):  # wells name their images by elements of the same name
                yield _plane(element, channels, index, plate)
    except (ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise FieldError(str(error)) from error
        raise FieldError(
            f"{index} is no index of Harmony that can be read ({error}). Export the plate again."
        ) from error


def _plane(element: Any, channels: dict[str, dict[str, str]], index: Path, plate: str) -> ListedPlane:
    facts = {
        name: text_of(element, name) or channels.get(text_of(element, "ChannelID"), {}).get(name, "")
        for name in _CHANNEL_FACTS
    }
    width, height = (float(facts[name]) * _METRE_UM if facts[name] else None for name in _CHANNEL_FACTS[1:])
    url = text_of(element, "URL")
    if width is not None and height is not None and abs(width - height) > 0.01 * width:
        raise FieldError(f"{index}: the pixels of {url} are {width:g} x {height:g} um, expected square ones.")
    x, y = text_of(element, "PositionX"), text_of(element, "PositionY")
    return ListedPlane(
        file=index.parent / url,
        channel=facts["ChannelName"] or f"channel {text_of(element, 'ChannelID')}",
        plate=plate,
        well=well_name(int(text_of(element, "Row")), int(text_of(element, "Col"))),
        site=text_of(element, "FieldID"),
        z=int(text_of(element, "PlaneID") or 0),
        time=int(text_of(element, "TimepointID") or 0),
        pixel_size_um=width,
        stage_um=(float(x) * _METRE_UM, float(y) * _METRE_UM) if x and y else None,
    )


LAYOUT = Layout("Opera Phenix or Operetta (Harmony)", _recognise, _list_planes, _INDEX_NAMES)
