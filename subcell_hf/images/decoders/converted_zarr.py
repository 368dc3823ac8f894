"""What `OME/METADATA.ome.xml` says of the images that bioformats2raw converted to OME-Zarr.

bioformats2raw keeps all metadata of the file that it converts in this one file. The attributes of the images repeat
some of them; names of channels, pixel size and plate are missing there with some versions and options.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from subcell_hf.errors import InputError
from subcell_hf.images.decoders.file_metadata import ImageMetadata, WellSample, metadata_of_pixels, well_samples
from subcell_hf.images.decoders.remote_paths import RemotePath
from subcell_hf.images.decoders.zarr_stores import read_facts
from subcell_hf.storage.xml_files import read_xml_elements

_FILE = ("OME", "METADATA.ome.xml")
_DEEPEST_IMAGE = 3
"""Row, column and image lie between a plate's folder and the arrays."""
_PLACEHOLDER = re.compile(r"Channel \d+")
_ZARR = ".zarr"


@dataclass(frozen=True)
class ConvertedSeries:
    """One image, as the OME-XML describes it.

    Attributes:
        metadata: Channel names and pixel size.
        sample: Where on a plate it was taken, if it was.
    """

    metadata: ImageMetadata
    sample: WellSample | None = None


def with_converted_metadata(image: Path, known: ImageMetadata) -> ImageMetadata:
    """The metadata of an image, completed by the OME-XML of the folder that it was converted to.

    Names in the image's own attributes come first, but for those that bioformats2raw makes up, `Channel 0`,
    `Channel 1` and so on.

    Args:
        image: Folder of the image.
        known: What its own attributes say.

    Returns:
        The metadata; with a problem where both say a pixel size, and not the same.

    Raises:
        InputError: If the OME-XML is damaged.
        UnreachableError: If a server does not answer.
    """
    has_names = bool(known.channel_names) and not all(map(_PLACEHOLDER.fullmatch, known.channel_names))
    if has_names and known.pixel_size_um is not None:
        return known
    said = _series_of(image)
    if said is None:
        return known
    names = known.channel_names if has_names or not said.metadata.channel_names else said.metadata.channel_names
    own, other = known.pixel_size_um, said.metadata.pixel_size_um
    if own is not None and other is not None and not 0.99 < own / other < 1.01:
        problem = f"the attributes of {image} say that a pixel is {own:g} um, {'/'.join(_FILE)} says {other:g} um"
        return replace(known, channel_names=names, pixel_size_um=None, pixel_size_problem=problem)
    source = known if own is not None or known.pixel_size_problem else said.metadata
    return replace(source, channel_names=names)


def read_series(root: Path) -> dict[str, ConvertedSeries]:
    """Path of each image below a converted folder → what the OME-XML says of it; nothing where there is no such file.

    Raises:
        InputError: If it is damaged.
        UnreachableError: If a server does not answer.
    """
    file = root.joinpath(*_FILE)
    if isinstance(root, RemotePath):
        changed = 0
    else:
        try:
            changed = file.stat().st_mtime_ns
        except OSError:
            return {}
    return dict(_read(root, changed))


@lru_cache(maxsize=64)
def _read(root: Path, changed_ns: int) -> tuple[tuple[str, ConvertedSeries], ...]:
    """Once for every version of the file, which may describe thousands of images."""
    file = root.joinpath(*_FILE)
    try:
        samples = well_samples(read_xml_elements(file, "Plate"))
        images = [
            (image.get("ID", ""), pixels)
            for image in read_xml_elements(file, "Image")
            if (pixels := image.find("Pixels")) is not None
        ]
    except FileNotFoundError:
        return ()
    except (ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} holds what is no OME-XML of a plate ({error}). Convert the images again.") from error
    names = _names_of_series(root) or [str(number) for number in range(len(images))]
    if len(names) != len(images):  # which image is which is not known
        return ()
    return tuple(
        (name, ConvertedSeries(metadata_of_pixels(pixels), samples.get(identity)))
        for name, (identity, pixels) in zip(names, images, strict=True)
    )


def _names_of_series(root: Path) -> Sequence[str]:
    try:
        series = read_facts(root / "OME").get("series") or ()
    except FileNotFoundError:
        return ()
    return [str(name).strip("/") for name in series]


def _series_of(image: Path) -> ConvertedSeries | None:
    image = image.absolute()
    parents: Sequence[Path] = image.parents[:_DEEPEST_IMAGE]
    if isinstance(image, RemotePath):  # every question is a request
        parents = [parent for parent in parents if parent.name.lower().endswith(_ZARR)]
    for parent in parents:
        series = read_series(parent)
        if series:
            return series.get(image.relative_to(parent).as_posix())
    return None
