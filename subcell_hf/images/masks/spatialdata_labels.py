"""Labels of a SpatialData store: which of them may be the mask of an image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.decoders.ome_zarr import zarr_header
from subcell_hf.images.decoders.zarr_stores import read_facts

_IMAGES, _LABELS, _MARK = "images", "labels", "spatialdata_attrs"
_AXES = ("y", "x")

_Matrix = npt.NDArray[np.float64]
_Raster = tuple[tuple[int, ...], dict[str, _Matrix]]


def labels_in_stores(images: Sequence[Path]) -> tuple[dict[Path, dict[str, Path]], list[Path]]:
    """Which labels may be the masks of images that are elements of SpatialData stores.

    Labels may where they have the size of the image and share coordinate systems with it, in each of which the pixels
    of both have the same place.

    Args:
        images: Folders of OME-Zarr images.

    Returns:
        Image of a store → name and folder of its labels; and the labels of these stores that fit none of the images.
    """
    fitting: dict[Path, dict[str, Path]] = {}
    others: dict[Path, None] = {}
    rasters: dict[Path, _Raster | None] = {}
    for image in images:
        found = _labels_of_store(image) if image.parent.name == _IMAGES else None
        if found is None:
            continue
        rasters |= {element: _raster(element) for element in (image, *found) if element not in rasters}
        fitting[image] = {one.name: one for one in found if _fits(rasters[one], rasters[image])}
        others |= dict.fromkeys(found)
    used = {labels for names in fitting.values() for labels in names.values()}
    return fitting, [labels for labels in others if labels not in used]


def _labels_of_store(image: Path) -> list[Path] | None:
    """Every labels element of the store of an image; None where it is in no store."""
    store = image.parent.parent
    is_store = False
    names: Sequence[object] = ()
    try:
        is_store = _MARK in read_facts(store)
        names = read_facts(store / _LABELS).get("labels", ()) if is_store else ()
    except (OSError, ValueError, TypeError, RecursionError):  # no store; or no labels, or none that can be listed
        pass
    return [store / _LABELS / str(name) for name in names] if is_store else None


def _fits(labels: _Raster | None, image: _Raster | None) -> bool:
    if labels is None or image is None:
        return False
    (size, places), (own_size, own_places) = labels, image
    shared = places.keys() & own_places.keys()
    return size == own_size and bool(shared) and all(np.allclose(places[n], own_places[n]) for n in shared)


def _raster(element: Path) -> _Raster | None:
    """Height and width, and coordinate system → the matrix that leads there from pixels; None if unknown."""
    try:
        header = zarr_header(element)
        multiscale = read_facts(element)["multiscales"][0]
        names = [axis["name"] for axis in multiscale["axes"]]
        ways = multiscale["coordinateTransformations"]
        places = {str(way["output"]["name"]): _matrix(way, names) for way in ways}
    except (FieldError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError):  # reading it says why
        return None
    return tuple(header.count(axis.upper()) for axis in _AXES), places


def _matrix(way: Mapping[str, Any], names: Sequence[str]) -> _Matrix:
    """A transformation of rows and columns, `[3, 3]`.

    Raises:
        ValueError: If it is of a kind that changes more than their place.
    """
    kind, found = way["type"], np.eye(3)
    if kind == "sequence":
        for part in way["transformations"]:
            found = _matrix(part, names) @ found
        return found
    if kind == "identity":
        return found
    if kind == "affine":
        rows = [[axis["name"] for axis in way["output"]["axes"]].index(name) for name in _AXES]
        columns = [[axis["name"] for axis in way["input"]["axes"]].index(name) for name in _AXES]
        found[:2] = np.asarray(way["affine"], np.float64)[np.ix_(rows, [*columns, -1])]
        return found
    if kind not in ("scale", "translation"):
        raise ValueError(f"coordinate transformations of the type {kind} are not compared")
    own = [names.index(name) for name in _AXES]
    found[range(2), range(2) if kind == "scale" else 2] = np.asarray(way[kind], np.float64)[own]
    return found
