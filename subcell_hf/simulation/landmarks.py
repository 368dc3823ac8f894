"""The stained landmarks of simulated cells: microtubules, endoplasmic reticulum and DNA.

Densities are float32 `[height, width]`; 1 is the brightness of a typical bright pixel of the structure.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from subcell_hf.simulation.drawing import (
    FloatImage,
    Points,
    Walls,
    choose_points,
    draw_lines,
    look_up,
    smooth_noise,
    walk_filaments,
)
from subcell_hf.simulation.shapes import CellCompartments

_MICROTUBULE_LENGTH_UM = 15.0


@dataclass(frozen=True)
class Landmarks:
    """A field's compartments and the densities that every protein shares.

    Attributes:
        compartments: Where everything lies.
        walls: Keeps filaments between the nucleus and the cell's edge.
        cytoplasm: How much of the cell's height lies in focus outside the nucleus, 0 to 1.
        microtubules: Density of microtubules.
        reticulum: Density of endoplasmic reticulum.
        chromatin: Density of DNA.
    """

    compartments: CellCompartments
    walls: Walls
    cytoplasm: FloatImage
    microtubules: FloatImage
    reticulum: FloatImage
    chromatin: FloatImage

    @property
    def scale(self) -> float:
        """Pixels per micrometre."""
        return self.compartments.scale

    def noise(self, generator: np.random.Generator, grain_um: float) -> FloatImage:
        """Noise of mean 0 and variance 1 with grains of the given size."""
        return smooth_noise(generator, self.compartments.shape, grain_um * self.scale)


def ramp(distance_um: FloatImage, width_um: float) -> FloatImage:
    """From 0 outside to 1 inside, linear over `width_um` around the edge."""
    rising: FloatImage = np.clip(distance_um / width_um + 0.5, 0, 1)
    return rising


def shell(distance_um: FloatImage, depth_um: float, width_um: float) -> FloatImage:
    """1 at the given depth, falling off as a Gaussian."""
    falling: FloatImage = np.exp(-0.5 * ((distance_um - depth_um) / width_um) ** 2)
    return falling


def near_nucleus(compartments: CellCompartments, reach_um: float) -> FloatImage:
    """1 at and in the nucleus, falling off exponentially over the cytoplasm."""
    near: FloatImage = np.exp(np.clip(compartments.nucleus_um / reach_um, -20, 0))
    return near


def find_owners(compartments: CellCompartments, points: Points) -> npt.NDArray[np.int32]:
    """Label of the cell under each point `[points]`; the first cell's where a point lies between cells."""
    owners: npt.NDArray[np.int32] = np.maximum(look_up(compartments.labels, points), 1)
    return owners


def label_in_grains(generator: np.random.Generator, compartments: CellCompartments) -> FloatImage:
    """A factor around 1: antibodies decorate even a smooth structure in grains finer than the microscope resolves."""
    grains: FloatImage = 1 + 0.3 * smooth_noise(generator, compartments.shape, 0.08 * compartments.scale)
    return grains.clip(min=0)


def simulate_landmarks(generator: np.random.Generator, compartments: CellCompartments) -> Landmarks:
    """Stain microtubules, endoplasmic reticulum and DNA of a field.

    Args:
        generator: Source of randomness.
        compartments: Where everything lies.

    Returns:
        The densities, before optics and camera.
    """
    streams = generator.spawn(4)
    # Cells thin out towards their edge, abruptly in places and over a wide lamella elsewhere.
    slope_um = np.exp(0.45 + 0.6 * smooth_noise(streams[3], compartments.shape, 4 * compartments.scale))
    height = 1 - np.exp(-compartments.edge_um.clip(min=0) / slope_um)
    mound = 0.35 + 0.65 * near_nucleus(compartments, 6.0)
    cytoplasm = height * mound * ramp(-compartments.nucleus_um, 0.5) * compartments.in_cell
    wall_px = np.minimum(compartments.edge_um, -compartments.nucleus_um) * compartments.scale
    walls = Walls.from_distance(np.where(compartments.labels > 0, wall_px, np.float32(-1)))
    return Landmarks(
        compartments=compartments,
        walls=walls,
        cytoplasm=cytoplasm,
        microtubules=_draw_microtubules(streams[0], compartments, walls, cytoplasm),
        reticulum=_draw_reticulum(streams[1], compartments, cytoplasm),
        chromatin=_draw_chromatin(streams[2], compartments),
    )


def _draw_microtubules(
    generator: np.random.Generator, compartments: CellCompartments, walls: Walls, cytoplasm: FloatImage
) -> FloatImage:
    """Long gentle curves that weave in and out of focus."""
    scale, shape = compartments.scale, compartments.shape
    length_um = compartments.cell_line.microtubule_density * compartments.covered_um2
    count = int(length_um / _MICROTUBULE_LENGTH_UM)
    starts, angles, owners = _start_microtubules(generator, compartments, cytoplasm, count)
    lengths = generator.gamma(2.0, _MICROTUBULE_LENGTH_UM / 2 * scale, len(starts)).clip(max=45 * scale)
    clearance = generator.uniform(0.2, 1.4, len(starts)) * scale
    # A few run above or below the nucleus: nothing stops them, and what leaves the cell is not drawn.
    clearance[generator.random(len(starts)) < 0.12] = -np.inf
    points, filament = walk_filaments(generator, walls, starts, angles, lengths, 0.04, clearance, sliding_cost=1.0)
    # Each filament has a height of its own that drifts; what is far from the focal plane is dim and blurred.
    drift = smooth_noise(generator, shape, 2.0 * scale)
    height = 0.9 * generator.standard_normal(len(starts))[filament] + 0.6 * look_up(drift, points)
    focus = np.exp(-(height**2))
    own = (look_up(compartments.labels, points) == owners[filament]) * (
        1 - 0.65 * look_up(compartments.in_nucleus, points)
    )
    sharp = draw_lines(shape, points, own * focus, 0.07 * scale)
    hazy = draw_lines(shape, points, own * (1 - focus), 0.35 * scale)
    veil = 0.06 * (cytoplasm + compartments.in_nucleus) * (1 + 0.3 * drift).clip(min=0)
    bundle = 0.75 * sharp + 0.2 * hazy
    density: FloatImage = bundle / (1 + 0.3 * bundle) + veil
    return density


def _start_microtubules(
    generator: np.random.Generator, compartments: CellCompartments, cytoplasm: FloatImage, count: int
) -> tuple[Points, npt.NDArray[np.floating], npt.NDArray[np.int32]]:
    """First points `[microtubules, 2]`, directions in radians and labels of the cells `[microtubules]`."""
    organisation = compartments.cell_line.microtubules
    if organisation == "radial":
        weights = cytoplasm * (near_nucleus(compartments, 3.5) + 0.15)
    else:
        weights = cytoplasm if organisation == "parallel" else cytoplasm * shell(compartments.edge_um, 1.0, 0.7)
    starts = choose_points(generator, weights, count)
    owners = find_owners(compartments, starts)
    centrosomes = compartments.centrosomes_px[owners - 1]
    # Everywhere some start at the centrosome.
    organised = generator.random(len(starts)) < (0.5 if organisation == "radial" else 0.1)
    starts[organised] = (centrosomes + generator.normal(0, 1.5 * compartments.scale, starts.shape))[organised]
    outward = np.arctan2(*(starts - centrosomes).T)
    if organisation == "radial":
        return starts, outward + generator.normal(0, 0.6, len(starts)), owners
    either_way = np.pi * generator.integers(0, 2, len(starts))
    if organisation == "cortical":
        return starts, outward + np.pi / 2 + either_way + generator.normal(0, 0.5, len(starts)), owners
    along = np.arctan2(*compartments.axes[owners - 1].T)
    return starts, along + either_way + generator.normal(0, 0.2, len(starts)), owners


def _draw_reticulum(
    generator: np.random.Generator, compartments: CellCompartments, cytoplasm: FloatImage
) -> FloatImage:
    """A mesh that is dense and sheet-like with dark holes near the nucleus and fine and dim further out."""
    scale, shape = compartments.scale, compartments.shape
    mesh = np.exp(-((smooth_noise(generator, shape, 0.17 * scale) / 0.7) ** 2))
    holes = ramp(0.9 - smooth_noise(generator, shape, 0.4 * scale), 1.0)
    patches = (1 + 0.25 * smooth_noise(generator, shape, 1.5 * scale)).clip(0.2, 2)
    near = near_nucleus(compartments, compartments.cell_line.reticulum_reach_um)
    sheet = (0.25 + 0.75 * near) * patches * (0.25 + 0.75 * mesh * holes)
    envelope = shell(compartments.nucleus_um, -0.1, 0.16) * compartments.in_cell
    haze = compartments.in_nucleus * (0.10 * patches + 0.03 * mesh)
    stained = 1.6 * cytoplasm * sheet + 0.35 * envelope + haze
    density: FloatImage = stained * label_in_grains(generator, compartments)
    return density


def _draw_chromatin(generator: np.random.Generator, compartments: CellCompartments) -> FloatImage:
    """Mottled DNA, a little denser at the envelope, sparse in nucleoli."""
    scale, shape = compartments.scale, compartments.shape
    line = compartments.cell_line
    clumps = line.chromatin_contrast * smooth_noise(generator, shape, line.chromatin_grain_um * scale)
    patches = 0.10 * smooth_noise(generator, shape, 1.0 * scale)
    rim = 0.18 * shell(compartments.nucleus_um, 0.3, 0.25)
    content = (0.72 + clumps + patches + rim).clip(min=0.1)
    sparse = 1 - 0.45 * ramp(compartments.nucleoli_um, 0.8)
    density: FloatImage = ramp(compartments.nucleus_um, 0.8) * content * sparse
    return density
