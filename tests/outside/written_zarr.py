"""OME-Zarr folders as other programs write them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from tests.images.written_fields import COLOURS


def write_image(group: zarr.Group, pixels: npt.NDArray[Any], version: int = 2, **options: Any) -> None:
    """Write the pixels `[channels, height, width]` of one image, with 0.1 um per pixel, into its group."""
    chunks = options.pop("chunks", (1, 32, 32))
    array = group.create_array("0", shape=pixels.shape, dtype=pixels.dtype, chunks=chunks, **options)
    array[...] = pixels
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    scale = [{"type": "scale", "scale": [1, 0.1, 0.1]}]
    facts = {
        "multiscales": [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}],
        "omero": {"channels": [{"label": name} for name in COLOURS[: len(pixels)]]},
    }
    describe(group, facts, version)


def describe(group: zarr.Group, facts: dict[str, Any], version: int) -> None:
    """Write attributes as OME-Zarr 0.4 (Zarr version 2) or 0.5 (3) has them."""
    group.attrs.update(facts if version == 2 else {"ome": facts})


def write_plate(path: Path, fields: Sequence[npt.NDArray[Any]], version: int = 2, wells: Sequence[str] = "A/1") -> None:
    """Write a plate whose wells hold the same fields."""
    wells = [wells] if isinstance(wells, str) else wells
    root = zarr.open_group(path, mode="w", zarr_format=version)  # type: ignore[arg-type]
    describe(root, {"plate": {"wells": [{"path": well} for well in wells]}}, version)
    for well in wells:
        group = root.require_group(well)
        describe(group, {"well": {"images": [{"path": str(number)} for number in range(len(fields))]}}, version)
        for number, pixels in enumerate(fields):
            write_image(group.create_group(str(number)), pixels, version)


def stack(seed: int, low: int = 1, size: int = 64) -> npt.NDArray[np.uint16]:
    """Four channels of noise above a camera's offset."""
    return np.random.default_rng(seed).integers(low, 999, (len(COLOURS), size, size), np.uint16)
