"""Layers of napari → a field of view: the displayed plane of each, at their scale."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError
from subcell_hf.types import FieldOfView
from subcell_hf.workflows.inspect_images import suggest_mapping

_SAME_SIZE = 0.01
"""Relative difference below which two pixel sizes are the same."""
_SAME_PLACE_PX = 0.5
"""Distance in pixels below which the corners of two layers lie on each other."""


def guess_layers(names: Sequence[str]) -> dict[str, str]:
    """Which layer shows which of SubCell's channels, by its name.

    Args:
        names: Names of the image layers.

    Returns:
        Colour name of a channel → name of its layer; channels that no name, or several, suggest are left out.
    """
    return {colour: name for name, colour in suggest_mapping(names).items()}


def read_field(
    images: Mapping[str, Any], labels: Any, dims: Any, *, name: str = "", pixel_size_um: float | None = None
) -> FieldOfView:
    """Read what the viewer displays of some layers.

    Args:
        images: Colour name of a channel → its image layer.
        labels: The labels layer.
        dims: `viewer.dims`, which says which plane of a stack is displayed.
        name: Name of the field of view; default: the name of the labels layer.
        pixel_size_um: Edge of a pixel in micrometres; None: as the labels layer or an image layer says.

    Returns:
        The field, with `label_mask`.

    Raises:
        InputError: If layers are missing, differ in shape, place or type of numbers, or the pixel size is unknown.
    """
    if labels is None:
        raise InputError("There is no labels layer. Segment the cells first, and choose the layer of their labels.")
    if not images:
        raise InputError("No image layer is chosen. Choose the layer of each channel that the model takes.")
    mask = displayed_plane(labels, dims)
    if mask.dtype.kind not in "iu" or mask.min(initial=0) < 0:
        raise InputError(
            f"The labels layer {labels.name!r} holds {mask.dtype} from {mask.min(initial=0)}, expected whole numbers "
            "with 0 as background."
        )
    planes = {}
    for colour, layer in images.items():
        planes[colour] = _intensities(displayed_plane(layer, dims), layer.name)
        if planes[colour].shape != mask.shape:
            raise InputError(
                f"The image layer {layer.name!r} shows {_size(planes[colour])}, the labels layer {labels.name!r} "
                f"{_size(mask)}. Choose labels that were made from this image."
            )
        _check_place(layer, labels, mask.shape)
    kinds = {str(plane.dtype) for plane in planes.values()}
    if len(kinds) > 1:
        raise InputError(
            f"The image layers hold {' and '.join(sorted(kinds))}, expected one type of numbers. Open all of them as "
            "they were acquired."
        )
    size_um, said_by = _pixel_size(pixel_size_um, [labels, *images.values()])
    return FieldOfView(
        (name or labels.name).strip(),
        np.stack([*planes.values()]),
        tuple(planes),
        size_um,
        label_mask=mask,
        metadata=_place_in_stack(labels, dims),
        pixel_size_from=said_by,
    )


def displayed_plane(layer: Any, dims: Any) -> npt.NDArray[Any]:
    """The plane of a layer that the viewer displays, `[height, width]`.

    Args:
        layer: Image or labels layer.
        dims: `viewer.dims`.

    Raises:
        InputError: If the viewer shows a volume or another section than rows and columns, or the layer is RGB or has no
            such plane.
    """
    if dims.ndisplay != 2:
        raise InputError("The viewer shows a volume, and models take one plane. Switch to the 2-D display.")
    if tuple(dims.displayed) != (dims.ndim - 2, dims.ndim - 1):
        raise InputError("The viewer shows a section through other axes. Show rows and columns, the last two axes.")
    if getattr(layer, "rgb", False):
        raise InputError(
            f"The image layer {layer.name!r} is RGB, expected one channel. Split it: right-click, Split RGB."
        )
    data = layer.data[0] if layer.multiscale else layer.data
    index = [round(float(at)) for at in layer.world_to_data(dims.point)[-layer.ndim : -2]]
    outside = [axis for axis, at in enumerate(index) if not 0 <= at < data.shape[axis]]
    if outside:
        raise InputError(
            f"The layer {layer.name!r} has no plane {index[outside[0]]} on axis {outside[0]}, which has "
            f"{data.shape[outside[0]]}. Move the slider to a plane that all layers have."
        )
    return np.asarray(data[tuple(index)])


def layer_pixel_size_um(layer: Any) -> float | None:
    """Edge of a layer's pixel in micrometres.

    Args:
        layer: Any layer of napari.

    Returns:
        None where the units of the layer are pixels: a scale alone says nothing of micrometres.

    Raises:
        InputError: If pixels are not square.
    """
    edges = [
        float((float(scale) * unit).to("micrometer").magnitude)
        for scale, unit in zip(layer.scale[-2:], layer.units[-2:], strict=True)
        if unit.is_compatible_with("micrometer")
    ]
    if len(edges) < 2:
        return None
    if abs(edges[0] - edges[1]) > _SAME_SIZE * max(edges):
        raise InputError(
            f"The layer {layer.name!r} has pixels of {edges[0]:g} x {edges[1]:g} um, expected square ones. Resample "
            "it, or correct its scale."
        )
    return edges[0]


def _pixel_size(given: float | None, layers: Sequence[Any]) -> tuple[float, str]:
    """Edge of a pixel in micrometres, and where it comes from."""
    if given is not None:
        return given, "option"
    said = {layer.name: size for layer in layers if (size := layer_pixel_size_um(layer)) is not None}
    if not said:
        scale = ", ".join(f"{edge:g}" for edge in layers[0].scale[-2:])
        raise InputError(
            f"The pixel size is unknown: the layers have the scale {scale}, and their units are pixels. Enter the edge "
            "of a pixel in micrometres, or set the units of the layers."
        )
    if max(said.values()) > (1 + _SAME_SIZE) * min(said.values()):
        sizes = ", ".join(f"{name} {size:g} um" for name, size in said.items())
        raise InputError(f"The layers differ in pixel size: {sizes}. Enter the true one.")
    return next(iter(said.values())), "layer"


def _check_place(layer: Any, labels: Any, shape: tuple[int, ...]) -> None:
    """Refuse an image that lies elsewhere than the labels, as after one of them was moved or scaled."""
    for corner in ((0, 0), (shape[0], shape[1])):
        at = labels.world_to_data(layer.data_to_world([0] * (layer.ndim - 2) + [*corner]))[-2:]
        if np.abs(np.subtract(at, corner)).max() > _SAME_PLACE_PX:
            raise InputError(
                f"The image layer {layer.name!r} and the labels layer {labels.name!r} differ in scale or place: the "
                f"pixel {corner} of the image lies at ({at[0]:.1f}, {at[1]:.1f}) of the labels. Give both the same "
                "scale and translation."
            )


def _intensities(plane: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """The same numbers in a type that models are given."""
    if plane.dtype.kind == "f":
        if not np.isfinite(plane).all():
            raise InputError(f"The image layer {name!r} holds NaN or infinite numbers, expected intensities.")
        return plane.astype(np.float32, copy=False)
    if plane.dtype.kind in "iu" and plane.dtype != np.uint8:
        low, high = int(plane.min()), int(plane.max())
        if low < 0 or high > np.iinfo(np.uint16).max:
            raise InputError(
                f"The image layer {name!r} holds {plane.dtype} from {low} to {high}, expected intensities from 0 to "
                "65535. Choose the image as it was acquired."
            )
        return plane.astype(np.uint16, copy=False)
    if plane.dtype != np.uint8:
        raise InputError(f"The image layer {name!r} holds {plane.dtype}, expected intensities.")
    return plane


def _place_in_stack(labels: Any, dims: Any) -> dict[str, str]:
    """Which plane of a stack was displayed, as metadata of the field; nothing for a single image."""
    index = dims.current_step[: dims.ndim - 2]
    return {"displayed_plane": ",".join(str(int(at)) for at in index)} if len(index) else {}


def _size(plane: npt.NDArray[Any]) -> str:
    return " x ".join(map(str, plane.shape)) + " px"
