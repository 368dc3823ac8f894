"""Channel sheets: one grey picture that shows the channels of a cell side by side, for widgets that take one file."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError
from subcell_hf.model.image_files_subcell import plane_of, read_file
from subcell_hf.model.pictures_subcell import sheet_png
from subcell_hf.ontology import channels_from_variant
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.model_folders import read_config
from subcell_hf.weights.model_names import find_folder
from subcell_hf.weights.published_variants import published_variants

Pixels = npt.NDArray[Any]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sheet:
    """A written channel sheet.

    Attributes:
        path: The PNG.
        channels: From left to right.
        height_px: Height of each channel.
        width_px: Width of each channel.
    """

    path: Path
    channels: tuple[str, ...]
    height_px: int
    width_px: int


def write_sheet(
    files: Sequence[str | Path],
    output: str | Path,
    *,
    model: str | Path | None = None,
    channels: str | Sequence[str] | None = None,
) -> Sheet:
    """Write the channel sheet of one cell, as the Hub's widget, `InferenceClient` and `pipeline` take it.

    Pictures of 8 bits keep their values. Others are scaled to 8 bits, since programs that open pictures for a model cut
    off what is more: by one factor, from 0 to the largest value of all channels.

    Args:
        files: One file per channel, or one TIFF or `.npy` with all. Files whose names contain the channels' names are
            taken by these, others in the order of the channels.
        output: The PNG to write; a file that exists is replaced.
        model: Folder or name of the model, whose channels the sheet shows in its order.
        channels: `"rybg"`, `"rbg"`, … or names of channels, in the order of the files or of the planes of the file;
            without a model, also of the sheet.

    Returns:
        What was written.

    Raises:
        InputError: If a file cannot be read, shows another channel, or the files do not fit the channels.
    """
    output = Path(output)
    if output.suffix.lower() != ".png":
        raise InputError(f"The output {output} must be a PNG file, such as sheet.png.")
    given = channels_from_variant(channels) if isinstance(channels, str) else channels and tuple(channels)
    if model is None and given is None:
        raise InputError("A sheet needs a model or the names of its channels: give --model or --channels.")
    names = tuple(given or ()) if model is None else _channels_of(str(model))
    order = tuple(given or names)
    if not set(names) <= set(order):
        raise InputError(f"The channels are {', '.join(order)}; the model takes {', '.join(names)}.")
    paths = [Path(file) for file in files]
    try:
        found = _read_stack(paths[0], order) if len(paths) == 1 else _read_planes(paths, order)
    except InputError:
        raise
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from error
    planes = _scale(_check_shapes({name: found[name] for name in names}))
    with write_atomically(output) as file:
        file.write(sheet_png(planes))
    height, width = next(iter(planes.values())).shape
    if height != width:
        _logger.warning(
            "Each channel has %d×%d px: the note in the file says so, which only PNG files keep. Crop the cell to a "
            "square for sheets that are saved again by other programs.",
            width,
            height,
        )
    return Sheet(output, tuple(names), height, width)


def _channels_of(model: str) -> tuple[str, ...]:
    published = None if Path(model).is_dir() else published_variants().get(model)
    if published is not None:  # its weights need not be fetched for their names
        return channels_from_variant(published.channels)
    return tuple(read_config(find_folder(model, weights=False)[0]).channels)


def _read_stack(path: Path, names: Sequence[str]) -> dict[str, Pixels]:
    if len(names) == 1:
        return {names[0]: plane_of(read_file(path), names[0], path)}
    file = read_file(path, len(names))
    own = {name.casefold(): name for name in names}
    listed = [own.get(name.casefold(), name) for name in file.channels or names]
    if file.pixels.ndim != 3 or file.is_picture or len(file.pixels) != len(listed) or not set(names) <= set(listed):
        raise InputError(
            f"{path} has the shape {list(file.pixels.shape)}{f' and the channels {listed}' if file.channels else ''}; "
            f"expected one plane for each of {', '.join(names)}, or give a file for each."
        )
    return {name: file.pixels[listed.index(name)] for name in names}


def _read_planes(paths: Sequence[Path], names: Sequence[str]) -> dict[str, Pixels]:
    if len(paths) != len(names):
        raise InputError(
            f"{len(paths)} files are given; expected one for each of {', '.join(names)}, or one file with all."
        )
    by_name = {path: [name for name in names if _contains(path.stem, name)] for path in paths}
    found = [own[0] for own in by_name.values() if len(own) == 1]
    if len(set(found)) == len(names):
        files = {own[0]: path for path, own in by_name.items()}
    elif found:
        listed = ", ".join(f"{path.name}: {' and '.join(own) or 'none'}" for path, own in by_name.items())
        raise InputError(f"The names of the files name some channels only, or some twice ({listed}); rename them.")
    else:
        files = dict(zip(names, paths, strict=True))
        _logger.info("Taken in the order given: %s.", ", ".join(f"{name} {path.name}" for name, path in files.items()))
    return {name: plane_of(read_file(files[name]), name, files[name]) for name in names}


def _contains(stem: str, name: str) -> bool:
    """Whether the name of a file contains that of a channel as a word."""
    return name.casefold() in re.split(r"[^a-z0-9]+", stem.casefold())


def _check_shapes(planes: dict[str, Pixels]) -> dict[str, Pixels]:
    kinds = {name: (list(plane.shape), str(plane.dtype)) for name, plane in planes.items()}
    if len(set(map(str, kinds.values()))) != 1:
        raise InputError(f"The channels differ in shape or depth ({kinds}): give files of one image.")
    return planes


def _scale(planes: dict[str, Pixels]) -> dict[str, Pixels]:
    """Planes as uint8, by one factor for all."""
    stack = np.stack(list(planes.values()))
    if stack.dtype == np.uint8:
        return planes
    if stack.dtype.kind not in "uif" or not np.isfinite(stack).all() or stack.min() < 0:
        raise InputError(f"The channels hold {stack.dtype} with NaN, infinite or negative values: expected 0 and more.")
    highest = float(stack.max())
    _logger.info("Scaled to 8 bits: the largest value %g of all channels is 255.", highest)
    scaled = np.rint(stack * (255 / highest if highest else 0)).astype(np.uint8)
    return dict(zip(planes, scaled, strict=True))
