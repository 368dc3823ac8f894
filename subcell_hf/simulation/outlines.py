"""Shapes of simulated cells, nuclei and nucleoli: ellipse-like outlines that know the distance to their edge."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from subcell_hf.simulation.drawing import FloatImage

_CROWDING = 1.12
"""Outlines are drawn larger by this much: corners and neighbours take it away again."""


@dataclass(frozen=True)
class CellLine:
    """What the cells of one line look like, whatever protein is stained.

    Attributes:
        name: For example `"SIM-A"`.
        radius_um: Radius of a disc of a free cell's area.
        elongation: Length over width of a cell.
        corners: Exponent of the outline: 2 is an ellipse, less is pointed, more is boxy.
        ruggedness_um: How far the outline wanders from that shape.
        confluence: Share of the field that cells would cover without neighbours, 1 and more for a closed layer.
        alignment: 0 where every cell points elsewhere, 1 where all point the same way.
        nucleus_radius_um: Radius of a disc of the area of a nucleus before DNA is replicated.
        lobed: Share of nuclei with a second lobe.
        binucleate: Share of cells with two nuclei.
        nucleoli: Mean number of nucleoli.
        chromatin_grain_um: Size of the clumps of DNA.
        chromatin_contrast: Standard deviation of the DNA's density between clumps and gaps.
        microtubules: `radial` from the centrosome, `parallel` to the long axis, or `cortical` along the cell's edge.
        microtubule_density: Length of microtubules in focus, µm per µm² of cytoplasm.
        reticulum_reach_um: Distance from the nucleus over which the endoplasmic reticulum thins out.
    """

    name: str
    radius_um: float
    elongation: float
    corners: float
    ruggedness_um: float
    confluence: float
    alignment: float
    nucleus_radius_um: float
    lobed: float
    binucleate: float
    nucleoli: float
    chromatin_grain_um: float
    chromatin_contrast: float
    microtubules: Literal["radial", "parallel", "cortical"]
    microtubule_density: float
    reticulum_reach_um: float


CELL_LINES = {
    line.name: line
    for line in (
        CellLine("SIM-A", 16.0, 1.4, 2.0, 1.8, 1.00, 0.0, 8.2, 0.10, 0.0, 3.0, 0.28, 0.16, "radial", 3.6, 8.0),
        CellLine("SIM-B", 15.0, 3.4, 1.5, 1.0, 0.80, 0.8, 7.6, 0.00, 0.0, 1.5, 0.28, 0.10, "parallel", 4.4, 12.0),
        CellLine("SIM-C", 10.5, 1.1, 2.8, 0.6, 1.30, 0.0, 6.4, 0.05, 0.0, 4.5, 0.28, 0.16, "cortical", 3.6, 4.0),
        CellLine("SIM-D", 22.0, 1.3, 2.2, 2.4, 0.95, 0.0, 9.0, 0.05, 0.5, 2.0, 0.50, 0.12, "radial", 2.8, 14.0),
        CellLine("SIM-E", 8.5, 1.05, 2.0, 0.4, 0.60, 0.0, 6.4, 0.60, 0.0, 2.0, 0.80, 0.22, "radial", 2.4, 3.0),
        CellLine("SIM-F", 14.0, 1.8, 1.4, 1.6, 0.80, 0.0, 7.4, 0.00, 0.0, 2.0, 0.60, 0.45, "parallel", 3.8, 6.0),
    )
}
"""The simulated cell lines by name, each made after a kind of culture, not after measurements of one:

* `SIM-A`: spread osteosarcoma cells (as U-2 OS): microtubules radiate from the centrosome.
* `SIM-B`: fibroblasts (as BJ): long, side by side, with parallel microtubules and smooth oval nuclei.
* `SIM-C`: epithelial islands (as MCF-7): small cells that touch all round, microtubules along their edges.
* `SIM-D`: large flat cells, half of them with two nuclei (as senescent cultures).
* `SIM-E`: round blood cells (as HL-60): a large, often lobed nucleus with coarse chromatin and little around it.
* `SIM-F`: mouse fibroblasts (as NIH 3T3): pointed, with bright spots of condensed DNA, the chromocentres.
"""


@dataclass(frozen=True)
class Outline:
    """An ellipse, or what becomes of it with sharper or blunter corners and a bow.

    Attributes:
        centre: Row and column in pixels.
        half_length: Half of the long axis in pixels.
        half_width: Half of the short axis in pixels.
        angle: Direction of the long axis in radians, from the columns towards the rows.
        corners: 2 is an ellipse, less is pointed, more is boxy.
        bow: How far the long axis bends, in half widths.
    """

    centre: tuple[float, float]
    half_length: float
    half_width: float
    angle: float
    corners: float = 2.0
    bow: float = 0.0

    def move(self, along: float, across: float) -> tuple[float, float]:
        """Row and column of the point so many pixels along and across the long axis from the centre."""
        sine, cosine = math.sin(self.angle), math.cos(self.angle)
        return self.centre[0] + along * sine + across * cosine, self.centre[1] + along * cosine - across * sine

    def radius_towards(self, direction: float) -> float:
        """Radius of the ellipse in a direction, in pixels."""
        turn = direction - self.angle
        return 1 / math.hypot(math.cos(turn) / self.half_length, math.sin(turn) / self.half_width)

    def distance(self, rows: FloatImage, columns: FloatImage) -> FloatImage:
        """Signed distance to the outline in pixels, positive inside, at the given places."""
        sine, cosine, power = math.sin(self.angle), math.cos(self.angle), self.corners
        y, x = rows - self.centre[0], columns - self.centre[1]
        along = (x * cosine + y * sine) / self.half_length
        across = np.abs((y * cosine - x * sine) / self.half_width + self.bow * along**2)
        along = np.abs(along)
        norm = np.maximum((along**power + across**power) ** (1 / power), 1e-6)
        # To first order the distance is the value over its slope.
        along_slope = (along / norm) ** (power - 1) / self.half_length
        across_slope = (across / norm) ** (power - 1) / self.half_width
        distance: FloatImage = (1 - norm) / np.hypot(along_slope, across_slope)
        return distance


@dataclass(frozen=True)
class CellShape:
    """One cell.

    Attributes:
        outline: Its edge.
        nucleus: Lobes, one or two, whose union is its nucleus; apart from each other where a cell has two nuclei.
        dna: Amount of DNA: 1 before replication, 2 after it.
    """

    outline: Outline
    nucleus: tuple[Outline, ...]
    dna: float


def place_cells(
    generator: np.random.Generator, line: CellLine, size_um: float, pixel_size_um: float
) -> list[CellShape]:
    """Throw cells at a field and a margin around it, the first near the centre, none too close to another.

    Args:
        generator: Source of randomness.
        line: How the cells are shaped.
        size_um: Edge of the field in micrometres.
        pixel_size_um: Edge of a pixel in micrometres.

    Returns:
        Shapes whose nuclei stay two micrometres clear of each other; the cells themselves may overlap.
    """
    margin = 1.2 * line.radius_um
    wanted = math.ceil(line.confluence * (size_um + 2 * margin) ** 2 / (math.pi * line.radius_um**2))
    common_angle = generator.uniform(0, math.pi)
    discs: list[tuple[float, float, float]] = []
    cells: list[CellShape] = []
    for attempt in range(40 * wanted):
        radius = line.radius_um * generator.lognormal(0, 0.16)
        row, column = generator.uniform(-margin, size_um + margin, 2).tolist()
        if attempt == 0:
            row, column = (size_um * generator.uniform(0.42, 0.58, 2)).tolist()
        if any(math.hypot(row - r, column - c) < 0.8 * (radius + other) for r, c, other in discs):
            continue
        angle = common_angle + generator.uniform(-math.pi / 2, math.pi / 2) * (1 - line.alignment)
        centre = row / pixel_size_um, column / pixel_size_um
        cell = _shape_cell(generator, line, centre, radius / pixel_size_um, angle, pixel_size_um)
        if all(_clear(cell, other, 2 / pixel_size_um) for other in cells):
            discs.append((row, column, radius))
            cells.append(cell)
        if len(cells) == wanted:
            break
    return cells


def place_nucleoli(generator: np.random.Generator, line: CellLine, nucleus: Outline, scale: float) -> list[Outline]:
    """Roundish bodies in the inner part of a nucleus, larger where they are fewer; `scale` is pixels per micrometre."""
    count = 1 + int(generator.poisson(line.nucleoli - 1))
    nucleoli = []
    for _ in range(count):
        reach, turn = 0.68 * math.sqrt(generator.random()), generator.uniform(0, 2 * math.pi)
        centre = nucleus.move(reach * math.cos(turn) * nucleus.half_length, reach * math.sin(turn) * nucleus.half_width)
        radius = generator.uniform(1.0, 1.5) * (1.6 / math.sqrt(count) + 0.4) * scale
        stretch = generator.uniform(1.0, 1.35)
        nucleoli.append(Outline(centre, radius * stretch, radius / stretch, generator.uniform(0, math.pi)))
    return nucleoli


def _shape_cell(
    generator: np.random.Generator,
    line: CellLine,
    centre: tuple[float, float],
    radius: float,
    angle: float,
    pixel_size_um: float,
) -> CellShape:
    """A cell of the given radius in pixels, with a nucleus along it."""
    stretch = math.sqrt(max(1.0, line.elongation * generator.lognormal(0, 0.18)))
    outline = Outline(
        centre=centre,
        half_length=_CROWDING * radius * stretch,
        half_width=_CROWDING * radius / stretch,
        angle=angle,
        corners=min(max(line.corners + generator.normal(0, 0.2), 1.25), 3.5),
        bow=generator.normal(0, 0.12),
    )
    # Larger cells have larger nuclei, though less than in proportion; long cells have long nuclei, though less so.
    size = line.nucleus_radius_um / pixel_size_um * (radius * pixel_size_um / line.radius_um) ** 0.7
    # In culture about half of the cells have not begun to replicate their DNA, a fifth have finished. Volume follows.
    dna = 1 + min(max(generator.uniform(-1.8, 1.7), 0), 1)
    size *= generator.lognormal(0, 0.06) * dna ** (1 / 3)
    oblong = min(1.35, math.sqrt(1.12 * (0.5 + 0.5 * stretch**2) * generator.lognormal(0, 0.08)))
    tilt = angle + generator.normal(0, 0.25)
    shifted = outline.move(
        generator.normal(0, 0.1) * outline.half_length, generator.normal(0, 0.1) * outline.half_width
    )
    whole = Outline(shifted, size * oblong, size / oblong, tilt, bow=generator.normal(0, 0.1))
    kind = generator.random()
    if kind < line.binucleate:
        halves = [Outline(whole.move(side * size, 0), 0.82 * size, 0.76 * size, tilt) for side in (-1, 1)]
        return CellShape(outline, tuple(halves), dna)
    if kind >= line.binucleate + line.lobed:
        return CellShape(outline, (whole,), dna)
    away = generator.uniform(0.55, 0.8) * size * (1 if generator.random() < 0.5 else -1)
    lobe = generator.uniform(0.6, 0.78) * size
    larger = Outline(whole.move(-0.5 * away, 0), 0.85 * size, 0.8 * size, tilt)
    return CellShape(outline, (larger, Outline(whole.move(away, 0), lobe, 0.95 * lobe, tilt)), dna)


def _clear(one: CellShape, other: CellShape, gap_px: float) -> bool:
    """Whether two nuclei keep a distance."""
    for lobe in one.nucleus:
        for foreign in other.nucleus:
            down, right = foreign.centre[0] - lobe.centre[0], foreign.centre[1] - lobe.centre[1]
            direction = math.atan2(down, right)
            reach = lobe.radius_towards(direction) + foreign.radius_towards(direction)
            if math.hypot(down, right) - reach < gap_px:
                return False
    return True
