"""Small fields of view on disk, for tests that start from image files."""

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

COLOURS = ("red", "yellow", "blue", "green")


def random_plane(seed: int, shape: tuple[int, int] = (64, 72), dtype: str = "uint8") -> npt.NDArray[Any]:
    """Noise over the whole range of a dtype, `[height, width]`."""
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def label_mask(shape: tuple[int, int] = (64, 72)) -> npt.NDArray[np.uint16]:
    """Two cells: one inside the field, one cut by its lower right corner."""
    mask = np.zeros(shape, np.uint16)
    mask[10:30, 12:40] = 3
    mask[shape[0] - 14 :, shape[1] - 20 :] = 7
    return mask


def write_png(path: Path, pixels: npt.NDArray[Any]) -> None:
    """Write a PNG of any bit depth."""
    path.write_bytes(imagecodecs.png_encode(pixels))


def write_hpa_field(
    folder: Path,
    name: str = "800_A6_1",
    colours: tuple[str, ...] = COLOURS,
    shape: tuple[int, int] = (64, 72),
    dtype: str = "uint8",
    with_mask: bool = True,
) -> dict[str, npt.NDArray[Any]]:
    """Write one PNG per colour and a mask, named as the Human Protein Atlas names them; returns the planes."""
    folder.mkdir(parents=True, exist_ok=True)
    planes = {colour: random_plane(number, shape, dtype) for number, colour in enumerate(colours)}
    for colour, plane in planes.items():
        write_png(folder / f"{name}_{colour}.png", plane)
    if with_mask:
        write_png(folder / f"{name}_mask.png", label_mask(shape))
    return planes
