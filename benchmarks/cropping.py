"""Cropping a 2048 x 2048 px field of 40 cells: whole fields at once against each cell on its own.

The reference works as the published scripts do: every cell is cut out of the field at 896 px with zeros around, its
mask is dilated over the whole crop, and each channel is resized to 448 px by itself. Both sides make the same crops
and masks, which is checked, and both run in this process, in turn. Quality columns are made by our side only.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from subcell_hf.cells.cropping import CropSettings, crop_field
from subcell_hf.ontology import CHANNEL_STAINS, PUBLISHED_PIXEL_SIZE_UM
from subcell_hf.types import FieldCrops, FieldOfView


def make_field(size_px: int, cells: int, dtype: str, seed: int) -> FieldOfView:
    """A field of elliptic cells on a jittered grid, with grain like an image's."""
    generator = np.random.default_rng(seed)
    columns = int(np.ceil(np.sqrt(cells)))
    step = size_px / columns
    rows_px, columns_px = np.ogrid[:size_px, :size_px]
    labels = np.zeros((size_px, size_px), np.int32)
    for cell in range(cells):
        row, column = ((np.array(divmod(cell, columns)) + generator.uniform(0.4, 0.6, 2)) * step).tolist()
        height, width = generator.uniform(0.3, 0.5, 2) * step
        labels[((rows_px - row) / height) ** 2 + ((columns_px - column) / width) ** 2 <= 1] = cell + 1
    top = np.iinfo(dtype).max
    grain = ndimage.gaussian_filter(generator.random((len(CHANNEL_STAINS), size_px, size_px), np.float32), (0, 2, 2))
    pixels = ((grain - grain.min()) / np.ptp(grain) * top).astype(dtype)
    return FieldOfView("benchmark", pixels, tuple(CHANNEL_STAINS), PUBLISHED_PIXEL_SIZE_UM, labels)


def crop_one_by_one(field: FieldOfView, settings: CropSettings) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Cut, dilate and resize each cell on its own."""
    assert field.label_mask is not None
    size, factor = settings.crop_px, settings.crop_px // settings.output_px
    pixels, masks = [], []
    for label, (rows, columns) in enumerate(ndimage.find_objects(field.label_mask), start=1):
        top, left = (int((side.start + side.stop) / 2 - size / 2) for side in (rows, columns))
        crop = cut_with_zeros(field.pixels, top, left, size)
        mask = (cut_with_zeros(field.label_mask, top, left, size) == label).astype(np.uint8)
        dilated = ndimage.grey_dilation(mask, size=(settings.dilation_px, settings.dilation_px))
        masks.append(dilated[::factor, ::factor] > 0)
        pixels.append(np.stack([resize(plane, settings.output_px) for plane in crop]))
    return np.array(pixels), np.array(masks)


def cut_with_zeros(image: npt.NDArray[Any], top: int, left: int, size: int) -> npt.NDArray[Any]:
    """A square of the last two axes, with zeros where it hangs over the border."""
    height, width = image.shape[-2:]
    window = image[..., max(top, 0) : min(top + size, height), max(left, 0) : min(left + size, width)]
    pad = [(0, 0)] * (image.ndim - 2)
    pad += [(max(-top, 0), max(top + size - height, 0)), (max(-left, 0), max(left + size - width, 0))]
    return np.pad(window, pad)


def resize(plane: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Linear resize of one plane."""
    image = torch.from_numpy(plane.astype(np.float32))[None, None]
    resized = torch.nn.functional.interpolate(image, (size, size), mode="bilinear", align_corners=False)
    return resized[0, 0].round().numpy().astype(plane.dtype)


def time_both(
    first: Callable[[], object], second: Callable[[], object], repeats: int
) -> tuple[list[float], list[float]]:
    """Seconds of two functions, run in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for function, into in zip((first, second), times, strict=True):
            start = time.perf_counter()
            function()
            into.append(time.perf_counter() - start)
    return times


def main() -> None:
    """Run and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-px", type=int, default=2048)
    parser.add_argument("--cells", type=int, default=40)
    parser.add_argument("--dtype", choices=["uint8", "uint16"], default="uint16")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    settings = CropSettings()
    field = make_field(options.size_px, options.cells, options.dtype, seed=0)
    ours: FieldCrops = crop_field(field, settings)
    pixels, masks = crop_one_by_one(field, settings)
    if not (np.array_equal(ours.pixels, pixels) and np.array_equal(ours.cell_masks, masks)):
        raise SystemExit("the two ways disagree: no figure is worth anything")
    ours_s, reference_s = time_both(
        lambda: crop_field(field, settings), lambda: crop_one_by_one(field, settings), options.repeats
    )
    cells = len(ours.cells)
    figures = {
        "ours_cells_per_s": round(cells / statistics.median(ours_s), 1),
        "reference_cells_per_s": round(cells / statistics.median(reference_s), 1),
        "cells": cells,
        "size_px": options.size_px,
        "dtype": options.dtype,
    }
    ratio = statistics.median(reference_s) / statistics.median(ours_s)
    reference = "each cell cut at 896 px, dilated and resized per channel on its own (scipy, torch)"
    print(json.dumps({"name": "cropping", "ratio": round(ratio, 2), "reference": reference, "figures": figures}))


if __name__ == "__main__":
    main()
