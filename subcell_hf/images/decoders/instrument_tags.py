"""What instruments write into the tags of TIFFs: MetaXpress's MetaSeries XML, Gen5's, Harmony's, and OME-XML."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from subcell_hf.errors import InputError
from subcell_hf.images.decoders.file_metadata import (
    ImageMetadata,
    described,
    in_um,
    metadata_from_tiff_tags,
    read_ome_xml,
)
from subcell_hf.storage.xml_files import parse_xml_elements, text_of

_HARMONY_TAG = 65500
_METASERIES_START = "<MetaData>"
_GEN5_ROOT = "<BTIImageMetaData"
_DECLARATION = re.compile(r"^\ufeff?\s*<\?xml[^>]*\?>")
_METRE_UM = 1e6
_MOST_PLANES = 1_000_000


def metadata_from_page(page: Any, path: Path) -> ImageMetadata:
    """What a page of a TIFF says: in an instrument's own tags, else in those that every TIFF may have.

    OME-XML of one image says the size of its pixels, whichever of its planes the page is.

    Where an instrument's tag is there, what it does not say counts as unknown: the resolution tags beside it are those
    of a printer or of the camera.

    Args:
        page: tifffile's.
        path: For messages.
    """
    description = str(page.description).strip("\0 \r\n")
    harmony = page.tags.get(_HARMONY_TAG)
    try:
        if description.startswith(_METASERIES_START):
            return _from_metaseries(description, path)
        if _GEN5_ROOT in description[:1000]:
            return _from_gen5(description, path, page.imagewidth, page.imagelength)
        if harmony is not None and b"<TiffImageDescription" in bytes(harmony.value)[:1000]:
            return _from_harmony(bytes(harmony.value).rstrip(b"\0").decode("utf-8", "replace"), path)
        if page.is_ome:
            images = read_ome_xml(description, _MOST_PLANES)
            return replace(images[0].metadata, channel_names=()) if len(images) == 1 else ImageMetadata()
    except (InputError, ValueError, LookupError, ArithmeticError, AttributeError, StopIteration) as error:
        return ImageMetadata((), None, f"the instrument's XML in the file's tags cannot be used ({error})")
    return metadata_from_tiff_tags(page)


def _from_metaseries(text: str, path: Path) -> ImageMetadata:
    """Facts of MetaXpress and MetaMorph; their pixel size includes the camera's binning."""
    facts = {fact.get("id", ""): fact.get("value", "") for fact in parse_xml_elements(text, path, "prop")}
    name, sizes, x, y = (
        facts.get("_IllumSetting_", ""),
        [facts.get(f"spatial-calibration-{axis}") for axis in "xy"],
        facts.get("stage-position-x"),
        facts.get("stage-position-y"),
    )
    is_calibrated = facts.get("spatial-calibration-state", "").lower() == "on"
    unit = facts.get("spatial-calibration-units", "") if is_calibrated else ""
    known = described([name] if name else [], *(in_um(size, unit) for size in sizes))
    stage_um = (float(x), float(y)) if x and y else None
    return ImageMetadata(known.channel_names, known.pixel_size_um, known.pixel_size_problem, stage_um)


def _from_gen5(text: str, path: Path, width: int, height: int) -> ImageMetadata:
    """Facts of BioTek's Gen5, which says the size of the whole image in micrometres."""
    acquisition = next(parse_xml_elements(_DECLARATION.sub("", text), path, "ImageAcquisition"))
    whole = [text_of(acquisition, f"Image{side}Microns") for side in ("Width", "Height")]
    return described([], *(float(um or 0) / pixels for um, pixels in zip(whole, (width, height), strict=True)))


def _from_harmony(text: str, path: Path) -> ImageMetadata:
    """Facts of Harmony's description of one image.

    A pixel is one of the camera, times its binning, divided by the magnifications of objective and tube, as in the
    index that Harmony exports.
    """
    (measurement,) = parse_xml_elements(_DECLARATION.sub("", text), path, "TiffImageDescription")
    image, instrument = _only(measurement, "Image"), _only(measurement, "InstrumentDescription")
    exposure = _numbered(measurement.findall("DeviceExperiment/Exposures/Exposure"), image, "ExposureID")
    record = _numbered(exposure.findall("Record"), image, "RecordID")
    channel = _numbered(record.findall("Channels/Channel"), image, "ChannelID")
    setting = _only(channel, "CameraSetting")
    camera = _identified(instrument.findall("Cameras/Camera"), text_of(setting, "CameraID"))
    objective = _identified(instrument.findall("Objectives/Objective"), text_of(exposure, "Objective"))
    factor = text_of(measurement, "ImageAttributes/ImageFactor")
    if factor and float(factor) != 1:
        raise ValueError(f"ImageFactor is {factor}, expected 1")
    magnification = float(text_of(objective, "Magnification")) * float(text_of(instrument, "Magnification"))
    sizes = [
        float(text_of(camera, f"PixelSize{axis}")) * _METRE_UM * float(text_of(setting, f"Binning{axis}"))
        for axis in "XY"
    ]
    return described([text_of(channel, "Name")], *(size / magnification for size in sizes))


def _only(element: Element, name: str) -> Element:
    (found,) = element.findall(name)
    return found


def _numbered(elements: list[Element], image: Element, name: str) -> Element:
    """The element whose number, from 1, an image gives."""
    number = int(text_of(image, name))
    if number < 1:
        raise ValueError(f"{name} is {number}")
    return elements[number - 1]


def _identified(elements: list[Element], name: str) -> Element:
    (found,) = (element for element in elements if text_of(element, "ID") == name)
    return found
