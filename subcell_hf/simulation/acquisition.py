"""Domain randomisation: every field of view has its own culture and microscope.

A model that is trained on one simulated microscope may learn what is peculiar to it. Here each field draws how it is
acquired, from ranges around what real images show and wider than these. They were measured on images of the Human
Protein Atlas at 0.08 µm per pixel: two whole fields (`800_A6_1`, `89_B5_1`), ten montages of single cells (PRBioimages'
DULoc), and a field that another group cut and masked (`383_D2_1`). "Level" is one of 255.
"""

import math
from dataclasses import dataclass

import numpy as np

from subcell_hf.simulation.optics import PHOTONS, PlateOptics

Range = tuple[float, float]

GAIN: Range = (0.5, 1.7)
"""The brightest thousandth of the pixels of a channel is at level 160 to 255 in the whole fields; at most 1.1 % of the
pixels of a channel are saturated."""

PROTEIN_GAIN: Range = (0.4, 1.7)
"""Medians of the protein inside cells of the montages differ threefold, from level 21 to 60."""

GAMMA: Range = (0.6, 1.6)
"""The authors of the montages changed intensities, without saying how; so may a program that exports images."""

PHOTONS_TIMES: Range = (0.3, 10.0)
"""At levels 80 to 120, the noise of real pixels is 1 to 7 levels (red), 4 to 13 (yellow) and 1 to 11 (green), after
averaging and compression; that of the usual simulated microscope is 5, 13 and 12."""

READ_NOISE: Range = (0.001, 0.012)
"""In dark places of real images at most 1.5 levels, 0.006."""

FOCUS_UM: Range = (0.07, 0.30)
"""Plates have 0.085 to 0.125. Details below 1 µm make up 2 to 5 % (red) and 3 to 7 % (green) of the variance of real
channels, and 1 to 3 % and 2 to 6 % of that of simulated ones (`benchmarks/realism.py`)."""

DEFOCUS: Range = (0.0, 2.5)
"""Times the usual: from a field that is sharp all over to one half of which is out of focus."""

HAZE: Range = (0.02, 0.30)
"""Not measured; plates have 0.05 to 0.16."""

OFFSET: Range = (-0.045, 0.02)
"""Of the pixels of the whole fields, 1 to 52 % of red, yellow and green are exactly 0, between cells: in one of them a
program subtracted more than the dark level."""

BACKGROUND: Range = (0.001, 0.06)
"""The darkest twentieth of the pixels of the whole fields is at level 0 to 4, after what was subtracted."""

UNEVENNESS: Range = (0.0, 0.5)
"""Not measured; plates have no background."""

SHADING: Range = (0.0, 0.35)
"""Not measured; plates have 0.05 to 0.25."""

BLEED: dict[tuple[str, str], Range] = {
    ("red", "yellow"): (0.0, 0.30),
    ("yellow", "red"): (0.0, 0.15),
    ("green", "red"): (0.0, 0.10),
    ("green", "yellow"): (0.0, 0.10),
    ("blue", "yellow"): (0.0, 0.05),
    ("blue", "green"): (0.0, 0.03),
    ("red", "green"): (0.0, 0.03),
    ("yellow", "green"): (0.0, 0.03),
}
"""Real red and yellow correlate by 0.57 and 0.76, simulated ones by 0.3 to 0.56. What others shine into the protein's
channel stays below its faintest unspecific stain, so that its locations stay true."""

LEVELS = (48, 256)
"""Real channels have 251 to 256 levels; fewer are those of a faint image that a program has stretched."""

JPEG_QUALITY = (45, 98)
"""By their tables, the fields were saved with quality 50 and the montages with 95."""

CROWDING: Range = (0.55, 1.35)
"""Times the confluence of the line: from single cells to a closed layer, as in the two fields."""


_PLAIN = ("photons", "focus_um", "haze", "offset", "shading", "defocus", "read_noise", "background", "unevenness",
          "levels", "jpeg_quality")  # fmt: skip


@dataclass(frozen=True)
class Acquisition:
    """How one field of view is cultured and photographed.

    Attributes:
        optics: The microscope.
        crowding: Confluence, times that of the cell line.
    """

    optics: PlateOptics
    crowding: float = 1.0

    def columns(self) -> dict[str, str]:
        """All numbers by name, as text of four digits, such as `focus_um`, `gain_red` and `bleed_red_yellow`."""
        optics = self.optics
        found: dict[str, float | None] = {
            "crowding": self.crowding,
            **{name: getattr(optics, name) for name in _PLAIN},
            "shading_row": optics.shading_centre[0],
            "shading_column": optics.shading_centre[1],
            **{f"gain_{channel}": optics.gains.get(channel, 1.0) for channel in PHOTONS},
            **{f"gamma_{channel}": optics.gammas.get(channel, 1.0) for channel in PHOTONS},
            **{f"bleed_{source}_{channel}": optics.bleed.get((source, channel), 0.0) for source, channel in BLEED},
        }
        return {name: "" if value is None else f"{value:.4g}" for name, value in found.items()}


def draw_acquisition(seed: int, number: int) -> Acquisition:
    """Draw how a field of a randomised data set is acquired.

    Args:
        seed: Seed of the data set.
        number: Number of the field, from 0.

    Returns:
        The same for the same arguments.
    """
    generator = np.random.default_rng([seed, 5, number])

    def even(ends: Range) -> float:
        return generator.uniform(*ends)

    def even_factor(ends: Range) -> float:
        return math.exp(generator.uniform(math.log(ends[0]), math.log(ends[1])))

    gains = {channel: even_factor(PROTEIN_GAIN if channel == "green" else GAIN) for channel in PHOTONS}
    optics = PlateOptics(
        gains=gains,
        gammas={channel: even_factor(GAMMA) for channel in PHOTONS},
        photons=even_factor(PHOTONS_TIMES),
        focus_um=even_factor(FOCUS_UM),
        haze=even(HAZE),
        offset=even(OFFSET),
        shading=even(SHADING),
        shading_centre=(even((0.2, 0.8)), even((0.2, 0.8))),
        defocus=even(DEFOCUS),
        read_noise=even_factor(READ_NOISE),
        background=even_factor(BACKGROUND),
        unevenness=even(UNEVENNESS),
        bleed={pair: even(ends) for pair, ends in BLEED.items()},
        levels=int(even_factor((LEVELS[0], LEVELS[1] + 1))),
        jpeg_quality=int(generator.integers(JPEG_QUALITY[0], JPEG_QUALITY[1] + 1)),
    )
    return Acquisition(optics, crowding=even(CROWDING))
