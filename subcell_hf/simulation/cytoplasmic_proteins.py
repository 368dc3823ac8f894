"""Proteins outside the nucleus of simulated cells: one function per location.

Each takes the field, the antibody's style and a generator, and returns a density float32 `[height, width]`; 1 is the
brightness of a typical bright pixel of the structure.
"""

import numpy as np

from subcell_hf.simulation.antibodies import ProteinStyle
from subcell_hf.simulation.drawing import (
    FloatImage,
    Walls,
    choose_points,
    draw_lines,
    draw_spots,
    walk_filaments,
)
from subcell_hf.simulation.landmarks import Landmarks, find_owners, near_nucleus, ramp, shell


def draw_cytosol(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator) -> FloatImage:
    """All of the cytoplasm, thinning out towards the edge, with faint dents where organelles lie."""
    even = np.sqrt(landmarks.cytoplasm)
    gathered = style.perinuclear * landmarks.cytoplasm + (1 - style.perinuclear) * even
    dents = 0.45 + 0.55 * ramp(1.9 - landmarks.noise(generator, 0.35), 1.0)
    nucleus = 0.12 * landmarks.compartments.in_nucleus
    density: FloatImage = (0.85 * gathered * dents + nucleus) * _grain(landmarks, style, generator, 0.16)
    return density


def draw_reticulum(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator) -> FloatImage:
    """The landmark's own reticulum."""
    return landmarks.reticulum * _grain(landmarks, style, generator, 0.2)


def draw_golgi(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator) -> FloatImage:
    """A ribbon of winding stacks beside the nucleus, around the centrosome, with a few loose vesicles."""
    compartments, scale = landmarks.compartments, landmarks.scale
    beside = _near_centrosomes(landmarks, 3.2 - 1.2 * style.perinuclear) * near_nucleus(compartments, 1.8)
    zone = _share_evenly(landmarks, (beside * (landmarks.cytoplasm > 0.2)) ** 2)
    starts = choose_points(generator, zone, int(28 * style.count * compartments.cells))
    angles = generator.uniform(0, 2 * np.pi, len(starts))
    lengths = generator.gamma(3.0, 1.1 * scale, len(starts))
    points, stack = walk_filaments(generator, landmarks.walls, starts, angles, lengths, 0.14, 0.6 * scale)
    peaks = generator.uniform(0.3, 0.9, len(starts))[stack]
    ribbon = np.tanh(draw_lines(compartments.shape, points, peaks, 0.18 * style.size * scale))
    gaps = 0.25 + 0.75 * np.exp(-((landmarks.noise(generator, 0.4) / 0.6) ** 2))
    loose = choose_points(generator, np.sqrt(zone), int(6 * style.count * compartments.cells))
    density: FloatImage = 1.3 * ribbon * gaps + draw_spots(
        compartments.shape, loose, np.full(len(loose), 0.35), 0.15 * scale
    )
    return density


def draw_mitochondria(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator) -> FloatImage:
    """Short winding threads, denser around the nucleus."""
    compartments, scale = landmarks.compartments, landmarks.scale
    room = landmarks.cytoplasm * near_nucleus(compartments, 9.0 - 6.0 * style.perinuclear)
    starts = choose_points(generator, room, int(room.sum() / scale**2 * 1.1 * style.count))
    angles = generator.uniform(0, 2 * np.pi, len(starts))
    lengths = generator.gamma(3.0, 1.1 * scale, len(starts))
    points, thread = walk_filaments(generator, landmarks.walls, starts, angles, lengths, 0.13, 0.4 * scale)
    peaks = generator.uniform(0.35, 1.0, len(starts))[thread]
    threads = draw_lines(compartments.shape, points, peaks, 0.15 * style.size * scale)
    return 0.9 * np.tanh(threads) + 0.04 * landmarks.cytoplasm


def draw_vesicles(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator) -> FloatImage:
    """Dozens of dots of three sizes, gathered near the centrosome in some styles."""
    compartments, scale = landmarks.compartments, landmarks.scale
    gathered = near_nucleus(compartments, 3.0) * _near_centrosomes(landmarks, 6.0)
    mixed = style.perinuclear * gathered + 0.25 * (1 - style.perinuclear)
    room = landmarks.cytoplasm * mixed
    density = 0.06 * landmarks.cytoplasm
    for radius_um in (0.13, 0.18, 0.25):
        points = choose_points(generator, room, int(18 * style.count * compartments.cells))
        peaks = generator.uniform(0.3, 1.1, len(points))
        density += draw_spots(compartments.shape, points, peaks, radius_um * style.size * scale)
    return density


def draw_lipid_droplets(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator) -> FloatImage:
    """Rings of half a micrometre to one and a half across."""
    compartments, scale = landmarks.compartments, landmarks.scale
    room = landmarks.cytoplasm * (compartments.edge_um > 1.2) * (compartments.nucleus_um < -0.8)
    centres = choose_points(generator, room, int(22 * style.count * compartments.cells))
    radii = generator.uniform(0.3, 0.75, len(centres)) * style.size * scale
    turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    circle = np.stack([np.sin(turns), np.cos(turns)], axis=1)
    points = (centres[:, None] + radii[:, None, None] * circle).reshape(-1, 2).astype(np.float32)
    spacing = np.repeat(2 * np.pi * radii / len(turns), len(turns))
    return draw_lines(compartments.shape, points, 0.9 * spacing, 0.1 * scale) + 0.05 * landmarks.cytoplasm


def draw_aggresome(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator) -> FloatImage:
    """One large lumpy clump beside the nucleus, at the centrosome."""
    clump = _near_centrosomes(landmarks, 0.95 * style.size) * ramp(-landmarks.compartments.nucleus_um - 0.2, 0.6)
    lumps = (1 + 0.5 * landmarks.noise(generator, 0.4)).clip(min=0.2)
    density: FloatImage = 1.1 * clump * lumps + 0.1 * landmarks.cytoplasm
    return density


def draw_plasma_membrane(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator) -> FloatImage:
    """The cell's outline, ruffles beside it, and a faint face."""
    compartments = landmarks.compartments
    line = shell(compartments.edge_um, 0.15, 0.2 * style.size)
    uneven = (1 + 0.35 * landmarks.noise(generator, 1.2)).clip(min=0.25)
    folds = np.exp(-((landmarks.noise(generator, 0.45) / 0.15) ** 2)) * shell(compartments.edge_um, 0.0, 2.2)
    face = 0.12 * _grain(landmarks, style, generator, 0.2)
    density: FloatImage = (line * uneven + 0.35 * style.contrast * folds + face) * compartments.in_cell
    return density


def draw_cell_junctions(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator) -> FloatImage:
    """The outline where, and only where, it touches a neighbour."""
    compartments = landmarks.compartments
    seam = shell(compartments.contact_um, 0.05, 0.22 * style.size) * compartments.in_cell
    beads = (1 + 0.7 * style.contrast * landmarks.noise(generator, 0.4)).clip(min=0.1)
    density: FloatImage = seam * beads + 0.06 * landmarks.cytoplasm
    return density


def draw_centrosome(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator) -> FloatImage:
    """A pair of dots beside the nucleus."""
    compartments, scale = landmarks.compartments, landmarks.scale
    first = compartments.centrosomes_px
    second = first + generator.normal(0, 0.45 * scale, first.shape).astype(np.float32)
    peaks = np.concatenate([np.full(len(first), 1.3), generator.uniform(0.4, 1.2, len(first))])
    dots = draw_spots(compartments.shape, np.concatenate([first, second]), peaks, 0.28 * style.size * scale)
    return dots + 0.12 * landmarks.cytoplasm * _grain(landmarks, style, generator, 0.2)


def draw_actin(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator) -> FloatImage:
    """Straight parallel stress fibres along the cell and a cortex at its edge."""
    compartments, scale = landmarks.compartments, landmarks.scale
    inside = compartments.in_cell * (compartments.edge_um > 0.4)
    starts = choose_points(generator, inside, int(compartments.covered_um2 * 0.13 * style.count))
    axes = compartments.axes[find_owners(compartments, starts) - 1]
    either_way = np.pi * generator.integers(0, 2, len(starts))
    angles = np.arctan2(*axes.T) + generator.normal(0, 0.09, len(starts)) + either_way
    lengths = generator.gamma(3.0, 4.0 * scale, len(starts))
    walls = Walls.from_distance(np.where(inside > 0, compartments.edge_um * scale, np.float32(-1)))
    points, fibre = walk_filaments(generator, walls, starts, angles, lengths, 0.004, 0.3 * scale)
    peaks = generator.gamma(2.0, 0.28, len(starts))[fibre]
    fibres = np.tanh(draw_lines(compartments.shape, points, peaks, 0.12 * style.size * scale))
    return (0.9 * fibres + 0.6 * shell(compartments.edge_um, 0.25, 0.28) + 0.1) * compartments.in_cell


def draw_intermediate_filaments(
    landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator
) -> FloatImage:
    """Wavy bundles that cage the nucleus and thin out towards the edge."""
    compartments, scale = landmarks.compartments, landmarks.scale
    room = landmarks.cytoplasm * near_nucleus(compartments, 6.0 - 3.0 * style.perinuclear)
    starts = choose_points(generator, room, int(compartments.covered_um2 * 0.22 * style.count))
    angles = generator.uniform(0, 2 * np.pi, len(starts))
    lengths = generator.gamma(2.5, 3.5 * scale, len(starts))
    points, bundle = walk_filaments(generator, landmarks.walls, starts, angles, lengths, 0.035, 0.4 * scale)
    peaks = generator.gamma(2.0, 0.22, len(starts))[bundle]
    bundles: FloatImage = np.tanh(draw_lines(compartments.shape, points, peaks, 0.13 * style.size * scale))
    return bundles


def draw_microtubules(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator) -> FloatImage:
    """The landmark's own microtubules, unevenly decorated."""
    return landmarks.microtubules * _grain(landmarks, style, generator, 0.3)


def _grain(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator, grain_um: float) -> FloatImage:
    """A factor around 1 that makes a smooth density as grainy as the style wants."""
    grain: FloatImage = 1 + 0.45 * style.contrast * landmarks.noise(generator, grain_um)
    return grain.clip(min=0)


def _share_evenly(landmarks: Landmarks, weights: FloatImage) -> FloatImage:
    """Scale weights so that cells weigh the same in total; cells of which little shows weigh less."""
    compartments = landmarks.compartments
    totals = np.bincount(compartments.labels.ravel(), weights.ravel(), minlength=compartments.cells + 1)[1:]
    floor = max(0.3 * float(totals.max(initial=0.0)), 1e-6)
    return weights * compartments.spread(1 / np.maximum(totals, floor))


def _near_centrosomes(landmarks: Landmarks, reach_um: float) -> FloatImage:
    """1 at each cell's centrosome, falling off as a Gaussian within the cell."""
    compartments = landmarks.compartments
    rows, columns = (compartments.spread(places) for places in compartments.centrosomes_px.T)
    grid = np.arange(max(compartments.shape), dtype=np.float32)
    squared_px = (rows - grid[: len(rows), None]) ** 2 + (columns - grid[None, : rows.shape[1]]) ** 2
    near: FloatImage = np.exp(-squared_px / (2 * (reach_um * landmarks.scale) ** 2)) * compartments.in_cell
    return near
