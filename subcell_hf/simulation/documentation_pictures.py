"""The pictures of simulated cells in docs/: `python -m subcell_hf.simulation.documentation_pictures docs/images`."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from subcell_hf.ontology import CHANNEL_DISPLAY_RGB, CHANNEL_STAINS
from subcell_hf.simulation.outlines import CELL_LINES
from subcell_hf.simulation.simulate import SIMULATED_LOCATIONS, ProteinStyle, SimulatedAntibody, simulate_field
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.types import FieldOfView

_TILE_PX = 208
_CAPTION_PX = 22
_COLUMNS = 5

Picture = npt.NDArray[np.uint8]


def blend_channels(field: FieldOfView, brightness: dict[str, float]) -> Picture:
    """Add the channels of an 8-bit field in their display colours.

    Args:
        field: What to show.
        brightness: Channel → factor; channels that are absent are left out.

    Returns:
        `[height, width, 3]` uint8.
    """
    colours = np.array([CHANNEL_DISPLAY_RGB[name] for name in field.channels])
    factors = np.array([brightness.get(name, 0.0) for name in field.channels])
    blended = np.tensordot(field.pixels.astype(np.float32), colours * factors[:, None], axes=(0, 0))
    picture: Picture = blended.clip(0, 255).astype(np.uint8)
    return picture


def picture_field(seed: int = 7) -> Picture:
    """One field: the composite, and beside it the four channels in grey with their captions."""
    antibody = SimulatedAntibody("SIM000000", "SIMG0000", ("Mitochondria",), ProteinStyle(intensity=0.7))
    field = simulate_field(seed, antibody, "SIM-A")
    composite = _shrink(blend_channels(field, dict.fromkeys(field.channels, 1.0)), 640)
    channels = [
        _caption(_shrink(np.repeat(plane[..., None], 3, axis=2), 320), f"{name}: {CHANNEL_STAINS[name]}")
        for name, plane in zip(field.channels, field.pixels, strict=True)
    ]
    grid = np.vstack([np.hstack(channels[:2]), np.hstack(channels[2:])])
    return np.hstack([_caption(_shrink(composite, 640 + _CAPTION_PX), "all channels"), grid])


def picture_locations(seed: int = 24) -> Picture:
    """The same cells stained for every location: protein green, nucleus blue, microtubules dim red."""
    tiles = []
    for location in SIMULATED_LOCATIONS:
        negative = location == "Negative"
        style = ProteinStyle(intensity=0.05, background=1.0) if negative else ProteinStyle(intensity=0.75)
        field = simulate_field(seed, SimulatedAntibody("SIM000000", "SIMG0000", (location,), style), size_px=512)
        picture = blend_channels(field, {"green": 1.2, "blue": 0.6, "red": 0.25})[48:464, 48:464]
        tiles.append(_caption(_shrink(picture, _TILE_PX), location))
    rows = [np.hstack(tiles[start : start + _COLUMNS]) for start in range(0, len(tiles), _COLUMNS)]
    return np.vstack(rows)


def picture_lines(seed: int = 5) -> Picture:
    """A field of each cell line, two lines to a row: microtubules red and DNA blue, then each of them in grey."""
    tiles = []
    for line in CELL_LINES:
        antibody = SimulatedAntibody("SIM000000", "SIMG0000", ("Negative",), ProteinStyle(intensity=0.0))
        field = simulate_field(seed, antibody, line, size_px=768, pixel_size_um=0.107, channels=("red", "blue"))
        pictures = [(blend_channels(field, {"red": 1.0, "blue": 0.8}), line)]
        captions = (CHANNEL_STAINS[name] for name in field.channels)
        pictures += [
            (np.repeat(plane[..., None], 3, axis=2), text) for plane, text in zip(field.pixels, captions, strict=True)
        ]
        tiles.append(np.hstack([_caption(_shrink(picture, _TILE_PX), text) for picture, text in pictures]))
    return np.vstack([np.hstack(tiles[start : start + 2]) for start in range(0, len(tiles), 2)])


def _shrink(picture: Picture, size_px: int) -> Picture:
    """Resize to a square, averaging."""
    return np.asarray(Image.fromarray(picture).resize((size_px, size_px), Image.Resampling.BOX))


def _caption(picture: Picture, text: str) -> Picture:
    """Write white text on a black band above a picture."""
    band = Image.new("RGB", (picture.shape[1], _CAPTION_PX))
    ImageDraw.Draw(band).text((4, 3), text, fill="white", font_size=14)
    return np.vstack([np.asarray(band), picture])


def save_pictures(folder: Path) -> list[Path]:
    """Write `simulated_field.png`, `simulated_locations.png` and `simulated_lines.png`; returns their paths."""
    pictures: dict[str, npt.NDArray[Any]] = {
        "simulated_field.png": picture_field(),
        "simulated_locations.png": picture_locations(),
        "simulated_lines.png": picture_lines(),
    }
    for name, picture in pictures.items():
        with write_atomically(folder / name) as file:
            Image.fromarray(picture).save(file, "PNG", optimize=True)
    return [folder / name for name in pictures]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m subcell_hf.simulation.documentation_pictures FOLDER")
    for path in save_pictures(Path(sys.argv[1])):
        print(path)
