"""OME-Zarr folders of several images: plates, wells, files that bioformats2raw converted, and SpatialData stores.

A plate and its wells are listed by what their groups say; images and arrays are not opened for it.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from subcell_hf.errors import UnreachableError
from subcell_hf.images.decoders.converted_zarr import read_series
from subcell_hf.images.decoders.file_metadata import WellSample
from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.decoders.remote_paths import RemotePath
from subcell_hf.images.decoders.zarr_stores import REMOTE_READS, consolidated_names, is_zarr_folder, read_facts
from subcell_hf.images.wells import standard_well

_CONVERTED = "bioformats2raw.layout"
_SPATIALDATA, _SPATIALDATA_IMAGES = "spatialdata_attrs", "images"
_DEEPEST_IMAGE = 3
"""Row, column and image lie between a plate's folder and the arrays."""
_ZARR_SUFFIX = re.compile(r"(\.ome)?\.zarr$", re.IGNORECASE)

_Parts = tuple[str, ...]


@dataclass(frozen=True)
class ZarrImage:
    """One image inside of an OME-Zarr folder.

    Attributes:
        path: Its folder.
        name: What its field of view is called.
        metadata: Plate, well, site and acquisition of a plate's image, as far as known.
    """

    path: Path
    name: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def list_zarr_images(path: Path, stem: str) -> list[ZarrImage]:
    """The images of an OME-Zarr folder: itself, those of a plate, well or SpatialData store, or the converted series.

    An image that is given by itself is named as where the plate around it is given.

    Args:
        path: The folder.
        stem: Name of the folder without its suffix.

    Returns:
        At least one. What cannot be read is listed as an image, and reading it says why.

    Raises:
        FieldError: If a store behind a URL does not list its images.
        UnreachableError: If a server does not answer.
    """
    outer, inside = _enclosing(path)
    if inside:
        stem = _ZARR_SUFFIX.sub("", outer.name)
    try:
        images = list(_images_inside(path)) or [((), "")]
    except (FieldError, UnreachableError):
        raise
    except Exception:  # `read_ome_zarr` reports it when the image's turn comes
        images = [((), "")]
    is_only = len(images) == 1 and not inside
    samples = _samples(outer) if len(inside) < 2 and all(len(parts) < 2 for parts, _ in images) else {}
    return [
        _listed(
            path.joinpath(*parts), stem, (*inside, *parts), acquired, is_only, samples.get("/".join((*inside, *parts)))
        )
        for parts, acquired in images
    ]


def _samples(path: Path) -> dict[str, WellSample]:
    """Where on a plate the images of a converted file were taken, where they do not lie in folders of their wells."""
    try:
        series = read_series(path) if _CONVERTED in read_facts(path) else {}
    except UnreachableError:
        raise
    except Exception:  # no OME-Zarr, or damaged metadata, of which reading says why
        return {}
    return {name: one.sample for name, one in series.items() if one.sample is not None}


def _enclosing(path: Path) -> tuple[Path, _Parts]:
    """The outermost Zarr folder around a folder, and the way from there; rows of a plate may be plain folders."""
    path = path.absolute()
    above = reversed(path.parents[:_DEEPEST_IMAGE])
    if isinstance(path, RemotePath):  # by names alone: every question would be a request
        outer = next((parent for parent in above if _ZARR_SUFFIX.search(parent.name)), path)
    else:
        outer = next((parent for parent in above if is_zarr_folder(parent)), path)
    return outer, path.relative_to(outer).parts


def _images_inside(path: Path) -> Iterator[tuple[_Parts, str]]:
    """The way to every image of a folder, and its acquisition where the plate has several."""
    facts = read_facts(path)
    if "multiscales" in facts:
        yield (), ""
    elif "plate" in facts:
        ways = [_way(well["path"]) for well in facts["plate"]["wells"]]
        wells = _map([path.joinpath(*way) for way in ways])
        several = len({acquired for images in wells for _, acquired in images}) > 1
        for way, images in zip(ways, wells, strict=True):
            yield from (((*way, *inner), acquired if several else "") for inner, acquired in images)
    elif "well" in facts:
        yield from _images_of_well(path)
    elif _CONVERTED in facts:
        yield from (((name,), "") for name in _series_of_converted(path))
    elif _SPATIALDATA in facts:
        yield from (((_SPATIALDATA_IMAGES, name), "") for name in _images_of_store(path))
    else:
        yield (), ""


def _images_of_store(path: Path) -> Sequence[str]:
    if isinstance(path, RemotePath):
        return consolidated_names(path, _SPATIALDATA_IMAGES)
    elements = (path / _SPATIALDATA_IMAGES).iterdir()
    return sorted(element.name for element in elements if is_zarr_folder(element))


def _map(wells: Sequence[Path]) -> list[list[tuple[_Parts, str]]]:
    if wells and isinstance(wells[0], RemotePath):
        with ThreadPoolExecutor(REMOTE_READS) as pool:
            return list(pool.map(_images_of_well, wells))
    return [_images_of_well(well) for well in wells]


def _images_of_well(path: Path) -> list[tuple[_Parts, str]]:
    try:
        images = read_facts(path)["well"]["images"]
        return [(_way(image["path"]), str(image.get("acquisition", ""))) for image in images]
    except UnreachableError:
        raise
    except Exception:  # a well that is lost or damaged: its own folder is listed, and reading it says why
        return [((), "")]


def _way(text: object) -> _Parts:
    """The folders of a path that a group names; ones that lead elsewhere are refused."""
    parts = tuple(str(text).strip("/").split("/"))
    if not all(parts) or {".", ".."} & set(parts):
        raise ValueError(f"{text!r} is no path inside of the folder")
    return parts


def _series_of_converted(path: Path) -> Sequence[str]:
    """Names of the images that bioformats2raw wrote: as its group `OME` lists them, else 0, 1, 2 and so on."""
    try:
        series = read_facts(path / "OME").get("series")
    except FileNotFoundError:
        series = None
    if series:
        return ["/".join(_way(name)) for name in series]
    return list(itertools.takewhile(lambda name: is_zarr_folder(path / name), map(str, itertools.count())))


def _listed(path: Path, stem: str, parts: _Parts, acquired: str, is_only: bool, sample: WellSample | None) -> ZarrImage:
    if sample is not None:
        place = asdict(sample)
        return ZarrImage(path, "_".join(place.values()), place)
    if len(parts) < 2:
        return ZarrImage(path, "_".join((stem, *parts)) if parts and not is_only else stem)
    if parts[0] == _SPATIALDATA_IMAGES:
        return ZarrImage(path, "_".join((stem, *parts[1:])))
    # row, column and image of a plate; of a lost well, row and column
    row, column, *site = parts
    well = standard_well(f"{row}{column}")
    metadata = {"plate": stem, "well": well, "site": "_".join(site), "acquisition": acquired}
    return ZarrImage(path, "_".join((stem, well, *site)), {key: value for key, value in metadata.items() if value})
