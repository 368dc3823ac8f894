"""Proteins of the nucleus of simulated cells: one function per location.

Each takes the field, the antibody's style and a generator, and returns a density float32 `[height, width]`; 1 is the
brightness of a typical bright pixel of the structure.
"""

import math

import numpy as np

from subcell_hf.simulation.antibodies import ProteinStyle
from subcell_hf.simulation.drawing import FloatImage, choose_points, draw_spots
from subcell_hf.simulation.landmarks import Landmarks, ramp, shell


def draw_nucleoplasm(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator) -> FloatImage:
    """The whole nucleus but its nucleoli, more or less grainy."""
    grain = (1 + 0.45 * style.contrast * landmarks.noise(generator, 0.22 * style.size)).clip(min=0)
    density: FloatImage = (
        0.75 * ramp(landmarks.compartments.nucleus_um - 0.15, 0.5) * grain * _spare_nucleoli(landmarks, 0.25)
    )
    return density


def draw_nucleoli(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator) -> FloatImage:
    """Filled nucleoli, brighter at their rim in some styles."""
    nucleoli_um = landmarks.compartments.nucleoli_um + 0.2 * (style.size - 1)
    grain = (1 + 0.45 * style.contrast * landmarks.noise(generator, 0.3)).clip(min=0)
    density: FloatImage = 0.85 * ramp(nucleoli_um, 0.4) * grain + 0.35 * style.contrast * shell(nucleoli_um, 0.15, 0.2)
    return density


def draw_fibrillar_centers(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator) -> FloatImage:
    """A few small dots in every nucleolus."""
    inner = (landmarks.compartments.nucleoli_um > 0.25).astype(np.float32)
    count = int(inner.sum() / landmarks.scale**2 * 0.8 * style.count) + 1
    points = choose_points(generator, inner, count)
    dots = draw_spots(inner.shape, points, generator.uniform(0.8, 1.4, len(points)), 0.2 * style.size * landmarks.scale)
    return dots + 0.05 * landmarks.compartments.in_nucleus


def draw_nuclear_membrane(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator) -> FloatImage:
    """A thin rim, with folds over the face of the nucleus in some styles."""
    compartments = landmarks.compartments
    rim = shell(compartments.nucleus_um, 0.05, 0.14 * style.size) * compartments.in_cell
    uneven = (1 + 0.3 * landmarks.noise(generator, 1.0)).clip(min=0.3)
    folds = 0.35 * style.contrast * np.exp(-((landmarks.noise(generator, 1.3) / 0.05) ** 2))
    density: FloatImage = rim * uneven + compartments.in_nucleus * (0.2 + folds)
    return density


def draw_nuclear_bodies(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator) -> FloatImage:
    """A handful of round bright bodies per nucleus, beside the nucleoli."""
    compartments = landmarks.compartments
    room = ((compartments.nucleus_um > 0.8) & (compartments.nucleoli_um < -0.4)).astype(np.float32)
    count = int(room.sum() / landmarks.scale**2 * 0.035 * style.count) + 2
    points = choose_points(generator, room, count)
    peaks = generator.uniform(0.9, 1.5, len(points))
    return draw_spots(room.shape, points, peaks, 0.26 * style.size * landmarks.scale) + 0.1 * compartments.in_nucleus


def draw_nuclear_speckles(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator) -> FloatImage:
    """Twenty to fifty irregular islands per nucleus, never in nucleoli."""
    room = ramp(landmarks.compartments.nucleus_um - 0.5, 0.4) * _spare_nucleoli(landmarks, 0.0)
    threshold = 1.05 - 0.3 * math.log(style.count)
    islands = ramp(landmarks.noise(generator, 0.36 * style.size) - threshold, 0.5)
    return room * (0.95 * islands + 0.16)


def _spare_nucleoli(landmarks: Landmarks, rest: float) -> FloatImage:
    """1 outside nucleoli, `rest` inside."""
    return 1 - (1 - rest) * ramp(landmarks.compartments.nucleoli_um, 0.4)
