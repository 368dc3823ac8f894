"""Channel names and pixel size, as image files give them."""

import logging
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tifffile

from subcell_hf.images.wells import well_name

MIN_PIXEL_SIZE_UM = 0.01
"""Smaller than any pixel of a light microscope, super-resolution included."""
MAX_PIXEL_SIZE_UM = 5.0
"""A nucleus would be two pixels wide: compartments could not be distinguished."""

_UNITS_UM = {
    "nm": 1e-3, "nanometer": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "\\u00b5m": 1.0, "micron": 1.0, "microns": 1.0,
    "micrometer": 1.0, "mm": 1e3, "millimeter": 1e3, "cm": 1e4, "centimeter": 1e4, "inch": 2.54e4, "m": 1e6,
    "angstrom": 1e-4, "å": 1e-4,
}  # fmt: skip
_BASELINE_UNITS = {2: "inch", 3: "centimeter"}
_MAX_ANISOTROPY = 1.01

# tifffile remarks on every file of a set whose XML describes all of them; what is wrong with a file is checked here and
# becomes an error. Programs that handle logs still receive them.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class ImageMetadata:
    """What an image file says of itself.

    Attributes:
        channel_names: One per channel, empty where the file names none.
        pixel_size_um: Edge of a pixel in micrometres; None where the file does not say.
        pixel_size_problem: Why the size in the file cannot be used; None where it can, or where there is none. It
            matters only where nobody gives the size.
        stage_um: Position of the stage in micrometres (x, y), where the file says it.
        chunks_missing: How many chunks of an OME-Zarr image are not stored and are read as its fill value, such as
            `1 of 16`; empty where all are stored.
    """

    channel_names: tuple[str, ...] = ()
    pixel_size_um: float | None = None
    pixel_size_problem: str | None = None
    stage_um: tuple[float, float] | None = None
    chunks_missing: str = ""


@dataclass(frozen=True)
class WellSample:
    """Where on a plate an image was taken.

    Attributes:
        plate: Name of the plate.
        well: As `A01`.
        site: Number of the image within its well, from 1.
    """

    plate: str
    well: str
    site: str


@dataclass(frozen=True)
class OmeImage:
    """One image of an OME-TIFF, as its OME-XML describes it.

    Attributes:
        height: Rows.
        width: Columns.
        metadata: Channel names and pixel size.
        sample: Where on a plate it was taken, if it was.
    """

    height: int
    width: int
    metadata: ImageMetadata
    sample: WellSample | None = None


def is_sane_pixel_size(pixel_size_um: float) -> bool:
    """Whether a pixel size in micrometres can be a light microscope's."""
    return math.isfinite(pixel_size_um) and MIN_PIXEL_SIZE_UM <= pixel_size_um <= MAX_PIXEL_SIZE_UM


def described(names: Sequence[str], size_x_um: object, size_y_um: object) -> ImageMetadata:
    """Metadata with the edge of a square pixel, or with the reason why there is none.

    Args:
        names: Channel names; they count only where every channel has one.
        size_x_um: Width of a pixel in micrometres, as a number or text; None or 0 where it is unknown.
        size_y_um: Height of a pixel.
    """
    channel_names = tuple(names) if all(names) else ()
    try:
        sizes = [float(str(size or 0)) for size in (size_x_um, size_y_um)]
    except ValueError:
        sizes = [math.nan]
    if not any(sizes):
        return ImageMetadata(channel_names)
    known = ["unknown" if size in (None, "") else str(size) for size in (size_x_um, size_y_um)]
    said = f"in the file, pixels are {' x '.join(known)} um"
    if not all(math.isfinite(size) and size > 0 for size in sizes):
        return ImageMetadata(channel_names, None, f"{said}, expected two positive numbers")
    if max(sizes) > _MAX_ANISOTROPY * min(sizes):
        return ImageMetadata(channel_names, None, f"{said}, expected positive and square; resample the image")
    return ImageMetadata(channel_names, sizes[0])


def in_um(size: float | str | None, unit: str) -> float | str | None:
    """A length in micrometres; None where the unit is no length, the text itself where it is no number."""
    factor = _UNITS_UM.get(unit.strip().lower())
    if size is None or factor is None:
        return None
    try:
        return float(size) * factor
    except ValueError:
        return size


def read_ome_xml(text: str, most_planes: int) -> list[OmeImage]:
    """The images of an OME-TIFF.

    Args:
        text: OME-XML.
        most_planes: How many planes the file can hold at most.

    Raises:
        ValueError: If the XML is malformed, or announces more planes than that.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"its OME-XML is malformed ({error})") from error
    images = []
    samples = well_samples(root.iterfind("{*}Plate"))
    for image in root.iterfind("{*}Image"):
        pixels = image.find("{*}Pixels")
        if pixels is None:
            continue
        planes = math.prod(int(pixels.get(f"Size{axis}", 1)) for axis in "CZT")
        counts = [int(value) for data in pixels.iterfind("{*}TiffData") for key, value in data.items() if key != "ID"]
        if max([planes, *counts]) > most_planes:
            raise ValueError(
                f"its OME-XML announces {max([planes, *counts]):,} planes, expected at most {most_planes:,}"
            )
        height, width = (int(pixels.get(f"Size{axis}", 0)) for axis in "YX")
        images.append(OmeImage(height, width, metadata_of_pixels(pixels), samples.get(image.get("ID", ""))))
    return images


def well_samples(plates: Iterable[ElementTree.Element]) -> dict[str, WellSample]:
    """Id of an image → where on a plate it was taken.

    Args:
        plates: Elements `Plate` of OME-XML.

    Raises:
        ValueError: If a row or column is no number.
    """
    samples = {}
    for plate in plates:
        for well in plate.iterfind("{*}Well"):
            name = well_name(int(well.get("Row", "")) + 1, int(well.get("Column", "")) + 1)
            references = [image.get("ID", "") for image in well.iterfind("{*}WellSample/{*}ImageRef")]
            for site, image in enumerate(references, start=1):
                samples[image] = WellSample(plate.get("Name") or plate.get("ID") or "", name, str(site))
    return samples


def metadata_of_pixels(pixels: ElementTree.Element) -> ImageMetadata:
    """Channel names and pixel size of an element `Pixels` of OME-XML."""
    names = [channel.get("Name") or channel.get("Fluor") or "" for channel in pixels.iterfind("{*}Channel")]
    size_x, size_y = (
        in_um(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY"
    )
    return described(names, size_x, size_y)


def metadata_from_imagej(tiff: tifffile.TiffFile) -> ImageMetadata:
    """Channel labels and pixel size of an ImageJ TIFF."""
    facts: Mapping[str, Any] = tiff.imagej_metadata or {}
    labels: Sequence[str] = facts.get("Labels") or ()
    channels = max(int(facts.get("channels", 1)), 1)
    # Labels belong to planes, of which channels run fastest; they name channels where they do not name planes.
    names = tuple(labels[:channels])
    if len(labels) % channels or tuple(labels) != names * (len(labels) // channels):
        names = ()
    resolution = _pixels_per_unit(tiff.pages[0])
    unit = str(facts.get("unit", ""))
    if resolution is None:
        return ImageMetadata(names)
    size_x, size_y = (in_um(1 / per_unit, unit) for per_unit in resolution)
    return described(names, size_x, size_y)


def metadata_from_tiff_tags(page: Any) -> ImageMetadata:
    """Pixel size from the resolution tags of a plain TIFF, where they are a microscope's.

    Most software writes 72 or 96 dpi without meaning it; such a resolution counts as missing, not as wrong.
    """
    resolution = _pixels_per_unit(page)
    unit = _BASELINE_UNITS.get(int(page.tags["ResolutionUnit"].value) if "ResolutionUnit" in page.tags else 2)
    if resolution is None or unit is None:
        return ImageMetadata()
    size_x, size_y = (float(in_um(1 / per_unit, unit) or 0) for per_unit in resolution)
    if not is_sane_pixel_size(size_x) or not is_sane_pixel_size(size_y):
        return ImageMetadata()
    return described((), size_x, size_y)


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
    """Metadata, axes and path of the full-resolution array of an OME-Zarr image (versions 0.1 to 0.5).

    Args:
        attributes: Attributes of the image's group.

    Returns:
        Metadata, one letter per axis, and the array's path inside the group.

    Raises:
        KeyError: If the group is no OME-Zarr image.
        ValueError: If its axes have no rows or columns.
    """
    attributes = attributes.get("ome", attributes)
    multiscale = attributes["multiscales"][0]
    dataset = multiscale["datasets"][0]
    scales = list(_in_sequence(dataset.get("coordinateTransformations", ())))
    system = _coordinate_system(multiscale, scales)
    if system is None:
        system, ways = _measured_system(multiscale)
        scales += ways
    described_axes = (multiscale if system is None else system).get("axes", "tczyx")
    all_axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in described_axes]
    axes = "".join(str(axis["name"]) for axis in all_axes).upper()
    factors = [scale.get("scale") for scale in scales if scale.get("type") == "scale"]
    sizes = []
    for letter in "XY":
        axis = axes.index(letter)
        unit = str(all_axes[axis].get("unit", ""))
        sizes.append(in_um(_product(factors, axis), unit) if factors else None)
    channels = attributes.get("omero", {}).get("channels", ())
    names = [str(channel.get("label", "")) for channel in channels]
    return described(names, sizes[0], sizes[1]), axes, str(dataset["path"])


def _in_sequence(transformations: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Transformations one by one; the draft of version 0.6 can name several as one."""
    for one in transformations:
        yield one
        yield from _in_sequence(one.get("transformations", ()) if one.get("type") == "sequence" else ())


def _coordinate_system(
    multiscale: Mapping[str, Any], transformations: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """What the pixels' coordinates become by their transformations, as the draft of version 0.6 describes it.

    Raises:
        ValueError: If the image is turned or distorted there.
    """
    systems: dict[str, Mapping[str, Any]] = {
        str(system["name"]): system for system in multiscale.get("coordinateSystems", ())
    }
    if not systems:
        return None
    others = {str(one.get("type")) for one in transformations} - {"scale", "translation", "identity", "sequence"}
    if others:
        raise ValueError(f"coordinate transformations of the types {', '.join(sorted(others))} are not read")
    output = transformations[0].get("output") if transformations else None
    output = output.get("name") if isinstance(output, Mapping) else output
    return systems.get(str(output)) or next(iter(systems.values()))


def _measured_system(multiscale: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, list[Mapping[str, Any]]]:
    """The coordinate system that the pixel size is taken from, and the transformations that lead to it.

    All transformations of a multiscale follow one another in OME-Zarr. In SpatialData each leads to another coordinate
    system; the first one in a unit of length is taken, which must keep the axes and turn nothing.
    """
    ways = list(multiscale.get("coordinateTransformations", ()))
    if not any(isinstance(way.get("output"), Mapping) for way in ways):
        return None, ways
    axes = [axis["name"] for axis in multiscale["axes"]]
    for way in ways:
        system, parts = way["output"], list(_in_sequence([way]))
        units = {axis["name"]: str(axis.get("unit", "")) for axis in system["axes"]}
        is_plain = {str(part.get("type")) for part in parts} <= {"scale", "translation", "identity", "sequence"}
        if is_plain and list(units) == axes and all(in_um(1.0, units.get(name, "")) for name in "yx"):
            return system, parts
    return None, []


def _product(factors: Sequence[Any], axis: int) -> float | str:
    """The scale of an axis; a text where it is no number."""
    try:
        return math.prod(float(factor[axis]) for factor in factors)
    except (ValueError, TypeError, IndexError):
        return str(factors)
