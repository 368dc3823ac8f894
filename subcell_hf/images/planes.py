"""From what an image file holds to checked channel planes and label masks."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from subcell_hf.images.decoders.image import FieldError, Image, without_alpha

ZProjection = Literal["max", "mean", "focus"] | int
"""How a Z-stack becomes one plane: brightest or mean value of all planes, the sharpest, or the index of one of them."""

MAX_LABELS = 65_535
"""Most cells that one label mask may hold; a mask with more is noise or not a label mask."""

_MOST_STAINS = 16
"""With more entries, an axis is no list of channels."""

# Measured on the eight HPA JPEGs of two fields: after chroma subsampling, at most 8e-5 of the pixels have a sample that
# exceeds half of the signal by more than 16 of 255. In a composite of nuclei and protein it is some percent, because
# the nuclei alone cover that. The limit stands in between.
_SAMPLES_OF_CHANNELS = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}
"""Where a red-green-blue picture shows a channel of the Human Protein Atlas."""

_LEAK_FRACTION_OF_SIGNAL = 0.5
_LEAK_OFFSET = 16 / 255
_MAX_LEAKING_PIXELS = 1e-3


def single_plane(image: Image, z_projection: ZProjection | None = None, colour: str | None = None) -> npt.NDArray[Any]:
    """The one plane of a single-channel image.

    Args:
        image: An image of one channel, or red-green-blue where one colour carries the signal.
        z_projection: Needed where the image has several Z-planes.
        colour: Channel that a red-green-blue image must show in its own colour, or in grey; None, or a name that is no
            colour, allows any.

    Returns:
        `[height, width]` of the file's dtype.

    Raises:
        FieldError: If the image has several channels, time points or Z-planes without a choice, is a composite, or
            shows another colour.
    """
    stack = channel_stack(image, z_projection, colour=colour)
    if len(stack) != 1:
        raise FieldError(
            f"{image.path} has {len(stack)} channels (shape {image.pixels.shape}, axes {image.axes}), expected one. "
            "Give it as a separate multi-channel image, or split it into one file per channel."
        )
    plane: npt.NDArray[Any] = stack[0]
    return plane


def channel_stack(
    image: Image, z_projection: ZProjection | None = None, named_channels: int = 0, colour: str | None = None
) -> npt.NDArray[Any]:
    """All channels of an image.

    Args:
        image: Any image; the samples of a red-green-blue image count as one channel.
        z_projection: Needed where the image has several Z-planes.
        named_channels: How many channels the user has named. Some writers store channels as red, green and blue, as
            Z-planes or as time points: where the names are as many as those, and there are no other channels, each is
            a channel.
        colour: As in `single_plane`.

    Returns:
        `[channels, height, width]` of the file's dtype.

    Raises:
        FieldError: If the image has time points, or Z-planes without a choice, or ambiguous axes.
    """
    pixels, axes = image.pixels, image.axes
    if "Y" not in axes or "X" not in axes or len(set(axes)) != len(axes):
        raise FieldError(
            f"{image.path} has the shape {pixels.shape}, and its axes are {axes}; expected rows and columns, with "
            "channels or without. Save every field of view as a separate file."
        )
    if image.has_palette:
        raise FieldError(
            f"{image.path} has the photometric interpretation Palette, and its palette is no ramp from black to one "
            "colour: its values are numbers of colours, expected intensities. Save it as a grey TIFF."
        )
    axes = _with_named_channels(axes, pixels.shape, named_channels, z_projection)
    if "S" in axes:
        pixels = _signal_of_colour_image(np.moveaxis(pixels, axes.index("S"), -1), image.path, colour)
        axes = axes.replace("S", "")
    for axis in sorted(set(axes) - set("YXC"), key=axes.index):
        position = axes.index(axis)
        if pixels.shape[position] == 1:
            pixels = np.take(pixels, 0, axis=position)
        elif axis == "Z":
            pixels = _project(pixels, position, z_projection, image)
        elif axis == "Q" and "C" not in axes:
            axes = axes.replace("Q", "C", 1)
            continue
        else:
            raise FieldError(
                f"{image.path} has {pixels.shape[position]} entries along axis {axis} (shape {image.pixels.shape}, "
                f"axes {image.axes}), expected one. {_advice(image, axis)}Save every time point or position as a "
                "separate file."
            )
        axes = axes[:position] + axes[position + 1 :]
    if "C" not in axes:
        pixels, axes = pixels[None], "C" + axes
    return np.ascontiguousarray(np.transpose(pixels, [axes.index(axis) for axis in "CYX"]))


def _with_named_channels(
    axes: str, shape: tuple[int, ...], named_channels: int, z_projection: ZProjection | None
) -> str:
    """Call an axis channels where the user has named as many channels as it has entries, and there is no other."""
    lengths = {axis: length for axis, length in zip(axes, shape, strict=True) if axis not in "YX" and length > 1}
    if len(lengths) != 1 or named_channels not in lengths.values():
        return axes
    (axis,) = lengths
    if axis not in ("SZTQ" if z_projection is None else "SQ"):
        return axes
    return axes.translate({ord(axis): "C", ord("C"): axis})


def _advice(image: Image, axis: str) -> str:
    """What to do where an axis holds stains; nothing where the image has channels beside it, or too many entries."""
    lengths = dict(zip(image.axes, image.pixels.shape, strict=True))
    if axis not in "ZT" or lengths[axis] > _MOST_STAINS or lengths.get("C", 1) > 1:
        return ""
    return f"If they are its channels, name all {lengths[axis]} (--channel-names). "


def _project(
    pixels: npt.NDArray[Any], position: int, z_projection: ZProjection | None, image: Image
) -> npt.NDArray[Any]:
    planes = pixels.shape[position]
    if z_projection is None:
        raise FieldError(
            f"{image.path} is a Z-stack of {planes} planes (shape {image.pixels.shape}, axes {image.axes}), expected "
            f"one plane. {_advice(image, 'Z')}To project it, choose z_projection (--z-projection): max, mean, or the "
            "index of a plane."
        )
    if not isinstance(z_projection, int):
        return project(pixels, position, z_projection)
    if not 0 <= z_projection < planes:
        raise FieldError(f"{image.path} has Z-planes 0 to {planes - 1}, asked for z_projection={z_projection}.")
    return np.asarray(np.take(pixels, z_projection, axis=position))


def project(pixels: npt.NDArray[Any], axis: int, z_projection: Literal["max", "mean", "focus"]) -> npt.NDArray[Any]:
    """The brightest or mean value along an axis, or its sharpest plane; the mean of whole numbers is rounded."""
    if z_projection == "max":
        return np.asarray(pixels.max(axis=axis))
    if z_projection == "focus":
        stack = np.moveaxis(pixels, axis, 0)
        return np.asarray(stack[sharpest_plane(len(stack), lambda z: stack[z].reshape(-1, *stack.shape[-2:]))])
    mean = pixels.mean(axis=axis, dtype=np.float64)
    return np.asarray(np.rint(mean) if pixels.dtype.kind in "ui" else mean, pixels.dtype)


def sharpest_plane(count: int, planes_at: Callable[[int], Iterable[npt.NDArray[Any]]]) -> int:
    """Which plane of a Z-stack is in focus, for all channels together.

    Sharpness is the variance of the Laplacian over the squared mean, after light smoothing, for each channel relative
    to its sharpest plane (Pech-Pacheco et al., ICPR 2000, doi:10.1109/ICPR.2000.903548).

    Args:
        count: How many planes there are.
        planes_at: From the number of a plane to its channels, `[height, width]` each.
    """
    sharpness = np.array(
        [
            [
                ndimage.gaussian_laplace(np.asarray(plane, np.float32), 1.0).var() / max(float(plane.mean()), 1e-6) ** 2
                for plane in planes_at(z)
            ]
            for z in range(count)
        ]
    )
    return int((sharpness / np.maximum(sharpness.max(axis=0), 1e-12)).sum(axis=1).argmax())


def z_planes_of(image: Image) -> int:
    """How many Z-planes an image has."""
    return image.pixels.shape[image.axes.index("Z")] if "Z" in image.axes else 1


def _signal_of_colour_image(samples: npt.NDArray[Any], path: Path, colour: str | None) -> npt.NDArray[Any]:
    """The one channel that a colour image shows: red, green, blue, yellow (red + green) or any other mixture, or grey.

    Args:
        samples: `[..., samples]`: grey + alpha, red-green-blue, or red-green-blue + alpha.
        path: For the message.
        colour: As in `single_plane`.
    """
    if samples.shape[-1] in (2, 4):
        samples = without_alpha(samples, path)
    means = samples.reshape(-1, samples.shape[-1]).mean(axis=0)
    lit = means >= _LEAK_FRACTION_OF_SIGNAL * means.max()
    signal, leaking = _signal_of_samples(samples, lit)
    said = f"mean red, green, blue = {', '.join(f'{mean:.1f}' for mean in means)}"
    if leaking > _MAX_LEAKING_PIXELS:
        raise FieldError(
            f"{path} is a colour composite: {said}, and in {leaking:.1%} of the pixels the colours disagree; expected "
            "one channel shown in one colour. Export every channel as a separate file."
        )
    own = np.isin(np.arange(len(lit)), _SAMPLES_OF_CHANNELS.get(colour or "", ()))
    # Near black, noise decides which samples are lit.
    if own.any() and not lit.all() and _signal_of_samples(samples, own)[1] > _MAX_LEAKING_PIXELS:
        raise FieldError(
            f"{path} does not show {colour}, as its name says: {said}. If it is the right file, save it in grey."
        )
    return np.asarray(np.rint(signal) if samples.dtype.kind in "ui" else signal, samples.dtype)


def _signal_of_samples(samples: npt.NDArray[Any], lit: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.float32], float]:
    """Mean of the samples that carry a signal, and the share of pixels in which a sample disagrees with it."""
    signal = samples[..., lit].mean(axis=-1, dtype=np.float32)
    full_scale = float(np.iinfo(samples.dtype).max) if samples.dtype.kind in "ui" else float(samples.max())
    leaking = np.zeros(signal.shape, bool)
    for sample, is_lit in zip(np.moveaxis(samples, -1, 0), lit, strict=True):
        leak = np.abs(sample - signal) if is_lit else sample
        leaking |= leak > _LEAK_FRACTION_OF_SIGNAL * signal + _LEAK_OFFSET * full_scale
    return signal, float(leaking.mean())


def check_intensities(pixels: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    """Bring intensities to uint8, uint16 or float32 without changing a value, or refuse them.

    Args:
        pixels: Any shape.
        where: Names the field and channel in messages.

    Raises:
        FieldError: If values are not finite, negative, above 65,535 in an integer image, or not numbers.
    """
    if pixels.dtype.kind not in "uif" or pixels.dtype.itemsize > 8:
        raise FieldError(f"{where} has dtype {pixels.dtype}, expected intensities: uint8, uint16 or float32.")
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise FieldError(
            f"{where} has {int(np.count_nonzero(~np.isfinite(pixels))):,} values that are NaN or infinite, expected "
            "finite intensities. Export the image again, or replace them before."
        )
    if pixels.dtype.kind != "u" and pixels.size and pixels.min() < 0:
        raise FieldError(
            f"{where} has negative values (smallest {pixels.min()}), expected intensities >= 0. Undo the background "
            "subtraction, or clip or shift the values yourself."
        )
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32, copy=False)
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.itemsize > 2 and pixels.size and pixels.max() > np.iinfo(np.uint16).max:
        raise FieldError(
            f"{where} has values up to {pixels.max()}, expected at most {np.iinfo(np.uint16).max} in an integer image. "
            "Scale it to 16 bits or save it as float32."
        )
    return pixels.astype(np.uint16, copy=False)  # also turns big-endian files into native order


def stack_planes(planes: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Stack planes, in their order.

    Args:
        planes: Channel name → `[height, width]`.

    Returns:
        `[channels, height, width]`.

    Raises:
        FieldError: If they differ in size or bit depth.
    """
    if len({plane.shape for plane in planes.values()}) > 1:
        sizes = ", ".join(f"{name} {plane.shape[0]}x{plane.shape[1]}" for name, plane in planes.items())
        raise FieldError(f"channels differ in size: {sizes} px, expected one size. Export them all at full resolution.")
    if len({plane.dtype for plane in planes.values()}) > 1:
        depths = ", ".join(f"{name} {plane.dtype}" for name, plane in planes.items())
        raise FieldError(
            f"channels differ in bit depth: {depths}, expected one. Their scales cannot be compared; export them alike."
        )
    return np.stack(list(planes.values()))


def check_label_mask(image: Image, shape: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Check an instance mask.

    Args:
        image: The mask's file.
        shape: Height and width of the field that it belongs to.

    Returns:
        `[height, width]` int32 labels, 0 is background.

    Raises:
        FieldError: If it is empty, not integer, of another size than the field, or has too many labels.
    """
    where = f"label mask {image.path}"
    pixels = label_plane(image, shape, where)
    if pixels.shape != shape:
        raise FieldError(
            f"{where} has shape {pixels.shape}, expected {shape} like its field. Give the mask at the full resolution "
            "of the image, one plane of labels."
        )
    # uint64 labels may exceed int64, so the check runs on the file's own dtype.
    if int(pixels.min()) < 0 or int(pixels.max()) > np.iinfo(np.int32).max:
        raise FieldError(
            f"{where} has labels {pixels.min()} to {pixels.max()}, expected 0 to {np.iinfo(np.int32).max}."
        )
    labels = np.unique(pixels)
    labels = labels[labels > 0]
    if not len(labels):
        raise FieldError(f"{where} is empty, expected at least one cell. Remove the file to have the field segmented.")
    if len(labels) > MAX_LABELS:
        raise FieldError(
            f"{where} has {len(labels):,} labels, expected at most {MAX_LABELS:,}. Is it an intensity image?"
        )
    return pixels.astype(np.int32)


def label_plane(image: Image, shape: tuple[int, int], where: str) -> npt.NDArray[Any]:
    """Whole numbers of a mask, of one plane.

    Floats without a fraction are whole, grey may be stored as red, green, blue, and the numbers of a palette's colours
    are the labels that these colours show.

    Args:
        image: The mask's file.
        shape: Height and width of the field that it belongs to.
        where: Names the mask in messages.

    Raises:
        FieldError: If it is a colour picture, or not whole numbers.
    """
    pixels = np.squeeze(image.pixels if image.palette_numbers is None else image.palette_numbers)
    if pixels.ndim == 2 and image.axes.find("X") < image.axes.find("Y"):
        pixels = pixels.T
    if pixels.ndim == 3 and pixels.shape[:2] == shape and pixels.shape[2] in (3, 4):
        colours = pixels[..., :3]
        if (colours != colours[..., :1]).any() or (
            pixels.shape[2] == 4 and pixels[..., 3].min() != pixels[..., 3].max()
        ):
            raise FieldError(
                f"{where} is a colour picture, expected one plane of whole numbers. Save the labels themselves, for "
                "example as 16-bit TIFF, rather than a view of them."
            )
        pixels = colours[..., 0]
    if pixels.dtype.kind == "b":
        return pixels.astype(np.uint8)
    if pixels.dtype.kind == "f":
        fraction = pixels[pixels != np.floor(pixels)]  # NaN and infinity included
        if fraction.size or not np.isfinite(pixels).all() or pixels.max(initial=0) > np.iinfo(np.int32).max:
            raise FieldError(
                f"{where} has dtype {pixels.dtype} and values such as {fraction.flat[0] if fraction.size else 'inf'}, "
                "expected whole numbers. A map of probabilities or intensities is no mask: save the labels."
            )
        return pixels.astype(np.int64)
    if pixels.dtype.kind not in "ui":
        raise FieldError(f"{where} has dtype {pixels.dtype}, expected integer labels. Save it as uint16 or uint32.")
    return pixels
