"""Channel names and pixel size, as image files tell them."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tifffile

MIN_PIXEL_SIZE_UM = 0.01
"""Smaller than any pixel of a light microscope, super-resolution included."""
MAX_PIXEL_SIZE_UM = 5.0
"""A nucleus would be two pixels wide: no compartment could be told from another."""

_UNITS_UM = {
    "nm": 1e-3, "nanometer": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "\\u00b5m": 1.0, "micron": 1.0, "microns": 1.0,
    "micrometer": 1.0, "mm": 1e3, "millimeter": 1e3, "cm": 1e4, "centimeter": 1e4, "inch": 2.54e4, "m": 1e6,
    "angstrom": 1e-4, "å": 1e-4,
}  # fmt: skip
_BASELINE_UNITS = {2: "inch", 3: "centimeter"}
_MAX_ANISOTROPY = 1.01


@dataclass(frozen=True)
class ImageMetadata:
    """What an image file says of itself.

    Attributes:
        channel_names: One per channel, empty where the file names none.
        pixel_size_um: Edge of a pixel in micrometres; None where the file does not say.
    """

    channel_names: tuple[str, ...] = ()
    pixel_size_um: float | None = None


def is_sane_pixel_size(pixel_size_um: float) -> bool:
    """Whether a pixel size in micrometres can be a light microscope's."""
    return math.isfinite(pixel_size_um) and MIN_PIXEL_SIZE_UM <= pixel_size_um <= MAX_PIXEL_SIZE_UM


def _square_pixel(size_x_um: float, size_y_um: float) -> float:
    """The edge of a square pixel.

    Raises:
        ValueError: If the pixel is not square.
    """
    if min(size_x_um, size_y_um) <= 0 or not max(size_x_um, size_y_um) <= _MAX_ANISOTROPY * min(size_x_um, size_y_um):
        raise ValueError(f"pixels are {size_x_um} x {size_y_um} um, expected positive and square; resample the image")
    return size_x_um


def _in_um(size: float, unit: str) -> float | None:
    factor = _UNITS_UM.get(unit.strip().lower())
    return None if factor is None else size * factor


def metadata_from_ome_xml(text: str) -> ImageMetadata:
    """Channel names and pixel size of the first image in OME-XML.

    Raises:
        ValueError: If the XML is malformed or the pixels are not square.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"its OME-XML is malformed ({error})") from error
    pixels = root.find("{*}Image/{*}Pixels")
    if pixels is None:
        return ImageMetadata()
    names = tuple(channel.get("Name") or channel.get("Fluor") or "" for channel in pixels.findall("{*}Channel"))
    sizes = [pixels.get(f"PhysicalSize{axis}") for axis in "XY"]
    if sizes[0] is None or sizes[1] is None:
        return ImageMetadata(names if all(names) else ())
    size_x, size_y = (
        _in_um(float(s), pixels.get(f"PhysicalSize{a}Unit", "µm")) for s, a in zip(sizes, "XY", strict=True) if s
    )
    size = None if size_x is None or size_y is None else _square_pixel(size_x, size_y)
    return ImageMetadata(names if all(names) else (), size)


def metadata_from_imagej(tiff: tifffile.TiffFile) -> ImageMetadata:
    """Channel labels and pixel size of an ImageJ TIFF.

    Raises:
        ValueError: If the pixels are not square.
    """
    facts: Mapping[str, Any] = tiff.imagej_metadata or {}
    labels: Sequence[str] = facts.get("Labels") or ()
    channels = int(facts.get("channels", 1))
    names = tuple(labels) if len(labels) == channels else ()
    resolution = _pixels_per_unit(tiff.pages[0])
    unit = str(facts.get("unit", ""))
    if resolution is None:
        return ImageMetadata(names)
    size_x, size_y = (_in_um(1 / per_unit, unit) for per_unit in resolution)
    return ImageMetadata(names, None if size_x is None or size_y is None else _square_pixel(size_x, size_y))


def metadata_from_tiff_tags(page: Any) -> ImageMetadata:
    """Pixel size from the resolution tags of a plain TIFF, where they tell a microscope's.

    Most software writes 72 or 96 dpi without meaning it; such a resolution counts as missing, not as wrong.
    """
    resolution = _pixels_per_unit(page)
    unit = _BASELINE_UNITS.get(int(page.tags["ResolutionUnit"].value) if "ResolutionUnit" in page.tags else 2)
    if resolution is None or unit is None:
        return ImageMetadata()
    size_x, size_y = (_in_um(1 / per_unit, unit) for per_unit in resolution)
    if size_x is None or size_y is None or not is_sane_pixel_size(size_x) or not is_sane_pixel_size(size_y):
        return ImageMetadata()
    return ImageMetadata((), _square_pixel(size_x, size_y))


def _pixels_per_unit(page: Any) -> tuple[float, float] | None:
    """Horizontal and vertical resolution tags of a TIFF page, None where either is missing or 0."""
    values = []
    for name in ("XResolution", "YResolution"):
        numerator, denominator = page.tags[name].value if name in page.tags else (0, 1)
        if numerator == 0 or denominator == 0:
            return None
        values.append(numerator / denominator)
    return values[0], values[1]


def metadata_from_ome_zarr(attributes: Mapping[str, Any]) -> tuple[ImageMetadata, str, str]:
    """Metadata, axes and path of the full-resolution array of an OME-Zarr image (versions 0.4 and 0.5).

    Args:
        attributes: Attributes of the image's group.

    Returns:
        Metadata, one letter per axis, and the array's path inside the group.

    Raises:
        KeyError: If the group is no OME-Zarr image.
        ValueError: If the pixels are not square.
    """
    attributes = attributes.get("ome", attributes)
    multiscale = attributes["multiscales"][0]
    axes = "".join(str(axis["name"]) for axis in multiscale["axes"]).upper()
    dataset = multiscale["datasets"][0]
    scales = [*dataset.get("coordinateTransformations", ()), *multiscale.get("coordinateTransformations", ())]
    factors = [scale["scale"] for scale in scales if scale.get("type") == "scale"]
    sizes = []
    for letter in "XY":
        axis = axes.index(letter)
        unit = str(multiscale["axes"][axis].get("unit", ""))
        sizes.append(_in_um(math.prod(float(factor[axis]) for factor in factors), unit) if factors else None)
    channels = attributes.get("omero", {}).get("channels", ())
    names = tuple(str(channel.get("label", "")) for channel in channels)
    size = None if sizes[0] is None or sizes[1] is None else _square_pixel(sizes[0], sizes[1])
    return ImageMetadata(names if all(names) else (), size), axes, str(dataset["path"])
