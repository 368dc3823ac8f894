"""A simulated cell that lies in every repository, so that whoever loads the model can try it at once."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from subcell_hf.augmentation.view_pictures import compose_colours
from subcell_hf.cells.single_cells import CropSettings, crop_field
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.pictures_subcell import sheet_png
from subcell_hf.ontology import CHANNEL_STAINS, PROTEIN_CHANNEL, PUBLISHED_PIXEL_SIZE_UM
from subcell_hf.simulation.simulate import ProteinStyle, SimulatedAntibody, simulate_field

EXAMPLE_FOLDER = "example"
SHEET_FILE = f"{EXAMPLE_FOLDER}/sheet.png"
"""The channels side by side: the one file that the Hub's widget sends."""
_FIELD_UM = 82.0
_LARGEST_EDGE_PX = 640
_COARSEST_UM = 0.32  # structures of a simulated cell need this
_LOCATION = "Mitochondria"


@dataclass(frozen=True)
class ExampleCell:
    """One simulated cell.

    Attributes:
        pixels: `[channels, edge, edge]` uint8.
        cell_mask: `[edge, edge]` True inside the cell.
        channels: The model's names of the planes.
        pixel_size_um: Edge of a pixel in micrometres.
        files: Path in the repository → bytes of a PNG: one per channel, a sheet of all and a composite.
        planes: Channel → path of its file.
    """

    pixels: npt.NDArray[np.uint8]
    cell_mask: npt.NDArray[np.bool_]
    channels: tuple[str, ...]
    pixel_size_um: float
    files: dict[str, bytes]
    planes: dict[str, str]


def make_example(processor: SubCellImageProcessor, seed: int = 24, location: str = _LOCATION) -> ExampleCell:
    """Simulate a cell with the channels, the pixel size and the edge that a processor works with.

    Channels of other assays take the stains in turn, the protein last.

    Args:
        processor: Of the model.
        seed: Same seed, same bytes.
        location: Where the protein is, one of `simulation.simulate.SIMULATED_LOCATIONS`.
    """
    channels = tuple(processor.channels)
    pixel_size_um = processor.pixel_size_um or PUBLISHED_PIXEL_SIZE_UM
    edge = processor.size["height"] if processor.do_center_crop else _LARGEST_EDGE_PX
    edge = min(edge, _LARGEST_EDGE_PX)
    field_pixel_um = min(max(pixel_size_um, PUBLISHED_PIXEL_SIZE_UM), _COARSEST_UM)
    antibody = SimulatedAntibody("SIM000000", "SIMG0000", (location,), ProteinStyle(intensity=0.75))
    size_px = math.ceil(_FIELD_UM / field_pixel_um)
    stains = _assign_stains(channels)
    field = simulate_field(seed, antibody, size_px=size_px, pixel_size_um=field_pixel_um, channels=sorted(set(stains)))
    reference_px = max(1, round(edge * pixel_size_um / PUBLISHED_PIXEL_SIZE_UM))
    crops = crop_field(field, CropSettings(crop_px=reference_px, output_px=edge))
    # The largest cell that is whole: most of it can be seen.
    chosen = int(np.argmax([mask.sum() for mask in crops.cell_masks]))
    pixels = crops.pixels[chosen][[field.channels.index(stain) for stain in stains]]
    planes = {name: f"{EXAMPLE_FOLDER}/{_plain(name, index)}.png" for index, name in enumerate(channels)}
    files = {path: _png(plane) for path, plane in zip(planes.values(), pixels, strict=True)}
    files[SHEET_FILE] = sheet_png(dict(zip(channels, pixels, strict=True)))
    scaled = torch.from_numpy(pixels) / max(int(pixels.max()), 1)
    composite = (compose_colours(scaled, stains) * 255).round().to(torch.uint8).numpy()
    files[f"{EXAMPLE_FOLDER}/composite.png"] = _png(composite)
    return ExampleCell(pixels, crops.cell_masks[chosen], channels, pixel_size_um, files, planes)


def _assign_stains(channels: Sequence[str]) -> list[str]:
    """A simulated stain for every channel; unknown names take them in turn, the last the protein's."""
    if set(channels) <= set(CHANNEL_STAINS):
        return list(channels)
    landmarks = [stain for stain in CHANNEL_STAINS if stain != PROTEIN_CHANNEL]
    return [landmarks[index % len(landmarks)] for index in range(len(channels) - 1)] + [PROTEIN_CHANNEL]


def _plain(name: str, index: int) -> str:
    """A channel's name as the name of a file."""
    is_plain = re.fullmatch(r"[A-Za-z0-9][\w-]{0,63}", name) and name.lower() not in ("composite", "sheet")
    return name if is_plain else f"channel_{index}"


def _png(pixels: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    return file.getvalue()
