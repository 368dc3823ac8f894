"""Images and labels of a SpatialData store as fields of view, to be cropped and embedded."""

from pathlib import Path
from typing import Any

import numpy as np

from subcell_hf.errors import InputError
from subcell_hf.types import FieldOfView


def read_spatialdata_field(
    store: Path | str,
    image: str,
    labels: str,
    *,
    coordinate_system: str | None = None,
    pixel_size_um: float | None = None,
    channel_mapping: dict[str, str] | None = None,
) -> FieldOfView:
    """Read an image and the labels of its cells, at full resolution.

    Args:
        store: Folder of the store.
        image: Name of an image element.
        labels: Name of a labels element of the same size: 0 is background.
        coordinate_system: One in micrometres, which the pixel size is taken from.
        pixel_size_um: Edge of a pixel in micrometres, where no coordinate system says it.
        channel_mapping: Name of a channel there → colour; others keep their names.

    Returns:
        The field, named after the image; `crop_field` cuts its cells.

    Raises:
        InputError: If an element is missing, sizes differ, pixels are not square, or the pixel size is not given once.
        ModuleNotFoundError: If spatialdata is not installed.
    """
    import spatialdata

    if (coordinate_system is None) == (pixel_size_um is None):
        raise InputError("Give either coordinate_system, one in micrometres, or pixel_size_um.")
    content = spatialdata.read_zarr(store, selection=("images", "labels"))
    for name, there in ((image, content.images), (labels, content.labels)):
        if name not in there:
            raise InputError(f"{store} has no element {name!r} of this kind; it has {', '.join(there) or 'none'}.")
    element = _full_resolution(content[image])
    mask = _full_resolution(content[labels]).to_numpy()
    pixels = element.transpose("c", "y", "x").to_numpy()
    if mask.shape != pixels.shape[1:]:
        raise InputError(f"{labels} has {mask.shape} px and {image} {pixels.shape[1:]}; expected the same size.")
    names = [str(name) for name in element.coords["c"].to_numpy()]
    size = _pixel_size(element, coordinate_system, image) if coordinate_system else float(pixel_size_um or 0)
    if not 0 < size < float("inf"):
        raise InputError(f"The pixel size of {image} is {size:g} µm, expected a positive number.")
    channels = tuple((channel_mapping or {}).get(name, name) for name in names)
    return FieldOfView(image, pixels, channels, size, np.asarray(mask, np.int32), pixel_size_from="option")


def _full_resolution(element: Any) -> Any:
    """The largest image of a pyramid, or the only one."""
    return next(iter(element["scale0"].values())) if "scale0" in getattr(element, "children", {}) else element


def _pixel_size(element: Any, system: str, image: str) -> float:
    """Edge of a pixel in a coordinate system."""
    from spatialdata.transformations import get_transformation

    found: Any = get_transformation(element, get_all=True)
    if system not in found:
        raise InputError(f"{image} has no coordinate system {system!r}; it has {', '.join(found) or 'none'}.")
    matrix = found[system].to_affine_matrix(("x", "y"), ("x", "y"))
    edges = np.hypot(matrix[0, :2], matrix[1, :2])
    if not np.allclose(edges[0], edges[1], rtol=1e-3):
        raise InputError(f"Pixels of {image} are {edges[0]:g} × {edges[1]:g} in {system!r}, expected squares.")
    return float(edges[0])
