"""Compartments of simulated cells: which pixel belongs to which cell, and how deep in what it lies."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from subcell_hf.simulation.drawing import FloatImage, Points, smooth_noise
from subcell_hf.simulation.outlines import CellLine, CellShape, Outline, place_cells, place_nucleoli

_FAR_PX = -1e4
"""Distance far outside of everything."""


@dataclass(frozen=True)
class CellCompartments:
    """The ground truth of a simulated field: what lies where, before anything is stained.

    Distances are in micrometres, float32 `[height, width]`, positive inside.

    Attributes:
        pixel_size_um: Edge of a pixel.
        cell_line: The line whose cells these are.
        labels: `[height, width]` int32, 1 … cells, 0 between cells; also cells whose nucleus lies outside the field.
        edge_um: Distance to the cell's edge.
        contact_um: Distance to the territory of the nearest other cell; large where there is none.
        nucleus_um: Distance to the edge of the cell's own nucleus.
        nucleoli_um: Distance to the edge of the nearest nucleolus.
        centrosomes_px: `[cells, 2]` row and column; may lie outside the field.
        axes: `[cells, 2]` unit vector (row, column) of the cell's long axis.
        whole_nucleus_px: `[cells]` area that the nucleus has if nothing cuts it.
        dna: `[cells]` amount of DNA, 1 before replication to 2 after it.
    """

    pixel_size_um: float
    cell_line: CellLine
    labels: npt.NDArray[np.int32]
    edge_um: FloatImage
    contact_um: FloatImage
    nucleus_um: FloatImage
    nucleoli_um: FloatImage
    centrosomes_px: Points
    axes: Points
    whole_nucleus_px: npt.NDArray[np.float32]
    dna: npt.NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.labels.shape
        return height, width

    @property
    def cells(self) -> int:
        """Number of cells, those without a nucleus in the field included."""
        return len(self.axes)

    @property
    def scale(self) -> float:
        """Pixels per micrometre."""
        return 1 / self.pixel_size_um

    @property
    def covered_um2(self) -> float:
        """Area of all cells together."""
        return float(np.count_nonzero(self.labels)) * self.pixel_size_um**2

    @cached_property
    def in_cell(self) -> FloatImage:
        """`[height, width]` float32, 1 in a cell, else 0."""
        return (self.labels > 0).astype(np.float32)

    @cached_property
    def in_nucleus(self) -> FloatImage:
        """`[height, width]` float32, 1 in a nucleus, else 0."""
        return (self.nucleus_um > 0).astype(np.float32)

    def spread(self, per_cell: npt.NDArray[np.floating]) -> FloatImage:
        """Lay one number per cell over the cell's pixels: `[cells]` → `[height, width]`, 0 between cells."""
        return np.concatenate([[0], per_cell]).astype(np.float32)[self.labels]

    def label_mask(self) -> npt.NDArray[np.uint16]:
        """Instance labels `[height, width]` of the cells that show at least a third of their nucleus, numbered anew.

        The others are left unlabelled, as a segmentation that starts from nuclei leaves them.
        """
        visible = np.bincount(self.labels[self.nucleus_um > 0], minlength=self.cells + 1)[1:]
        kept = visible >= self.whole_nucleus_px / 3
        renumbered = np.where(kept, np.cumsum(kept), 0)
        return np.concatenate([[0], renumbered]).astype(np.uint16)[self.labels]


def simulate_cell_compartments(
    generator: np.random.Generator, cell_line: CellLine, size_px: int, pixel_size_um: float
) -> CellCompartments:
    """Place cells of one line in a square field and give each a nucleus, nucleoli and a centrosome.

    Cells touch but never overlap: every pixel belongs to the cell whose outline it lies deepest in.

    Args:
        generator: Source of randomness.
        cell_line: How the cells are shaped.
        size_px: Edge of the field in pixels.
        pixel_size_um: Edge of a pixel in micrometres.

    Returns:
        The compartments of every cell.
    """
    scale = 1 / pixel_size_um
    cells = place_cells(generator, cell_line, size_px * pixel_size_um, pixel_size_um)
    rugged = cell_line.ruggedness_um * scale
    waves = [(5 * scale, 0.8 * rugged), (1.6 * scale, 0.2 * rugged), (0.5 * scale, 0.08 * rugged)]
    labels, edge, contact = _grow_cells(cells, *_warp_grid(generator, size_px, waves), scale)
    seen, labels = _keep_largest_pieces(labels)
    cells = [cells[index] for index in seen]
    nucleus, nucleoli = np.full((2, size_px, size_px), _FAR_PX, np.float32)
    grid = _warp_grid(generator, size_px, [(3.5 * scale, 0.7 * scale)])
    centrosomes = []
    for label, (cell, box) in enumerate(zip(cells, ndimage.find_objects(labels), strict=True), start=1):
        own, rows, columns = labels[box] == label, grid[0][box], grid[1][box]
        depth = np.maximum.reduce([lobe.distance(rows, columns) for lobe in cell.nucleus])
        # A nucleus stays clear of the cell's edge, a nucleolus of the nucleus's.
        depth = np.minimum(depth, edge[box] - 0.7 * scale)
        nucleus[box][own] = depth[own]
        for lobe in cell.nucleus:
            for nucleolus in place_nucleoli(generator, cell_line, lobe, scale):
                inner = np.minimum(nucleolus.distance(rows, columns), depth - 0.6 * scale)
                nucleoli[box][own] = np.maximum(nucleoli[box], inner)[own]
        room = np.where(own & (depth < -0.7 * scale), edge[box], _FAR_PX)
        centrosomes.append(_place_centrosome(generator, cell.nucleus[0], room, (box[0].start, box[1].start)))
    angles = np.array([cell.outline.angle for cell in cells], np.float32)
    return CellCompartments(
        pixel_size_um=pixel_size_um,
        cell_line=cell_line,
        labels=labels,
        edge_um=edge * pixel_size_um,
        contact_um=contact * pixel_size_um,
        nucleus_um=nucleus * pixel_size_um,
        nucleoli_um=nucleoli * pixel_size_um,
        centrosomes_px=np.array(centrosomes, np.float32).reshape(-1, 2),
        axes=np.stack([np.sin(angles), np.cos(angles)], axis=1),
        whole_nucleus_px=np.array([_largest_area(cell.nucleus) for cell in cells], np.float32),
        dna=np.array([cell.dna for cell in cells], np.float32),
    )


def _warp_grid(
    generator: np.random.Generator, size_px: int, waves: list[tuple[float, float]]
) -> tuple[FloatImage, FloatImage]:
    """Row and column of every pixel, each moved by smooth noise of the given (grain, amplitude) in pixels."""
    shape = size_px, size_px
    rows, columns = np.indices(shape, dtype=np.float32)
    for grain, amplitude in waves:
        rows += amplitude * smooth_noise(generator, shape, grain)
        columns += amplitude * smooth_noise(generator, shape, grain)
    return rows, columns


def _grow_cells(
    cells: list[CellShape], rows: FloatImage, columns: FloatImage, scale: float
) -> tuple[npt.NDArray[np.int32], FloatImage, FloatImage]:
    """Give every pixel to the cell it lies deepest in: labels, distance to the edge, distance to a neighbour."""
    deepest = np.full(rows.shape, _FAR_PX, np.float32)
    runner_up = deepest.copy()
    labels = np.zeros(rows.shape, np.int32)
    for label, cell in enumerate(cells, start=1):
        box = _bound(cell.outline, rows.shape)
        depth = cell.outline.distance(rows[box], columns[box])
        for lobe in cell.nucleus:
            # A cell makes room for its nucleus, also against a neighbour.
            radius = (lobe.half_length + lobe.half_width) / 2 + 1.6 * scale
            away = np.hypot(rows[box] - lobe.centre[0], columns[box] - lobe.centre[1])
            depth = np.maximum(depth, radius - away)
        best = deepest[box]
        wins = depth > best
        runner_up[box] = np.where(wins, best, np.maximum(runner_up[box], depth))
        labels[box] = np.where(wins & (depth > 0), label, labels[box])
        deepest[box] = np.where(wins, depth, best)
    halfway = (deepest - runner_up) / 2
    # Where even the second cell ends before this pixel, the neighbour is further away than halfway.
    return labels, np.minimum(deepest, halfway), halfway + np.maximum(-runner_up, 0)


def _bound(outline: Outline, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Box of pixels around an outline, cut to the image; empty where they do not meet."""
    reach = 1.5 * max(outline.half_length, outline.half_width)
    return tuple(
        slice(min(max(0, int(middle - reach)), length), min(max(0, int(middle + reach)), length))
        for middle, length in zip(outline.centre, shape, strict=True)
    )


def _keep_largest_pieces(labels: npt.NDArray[np.int32]) -> tuple[list[int], npt.NDArray[np.int32]]:
    """Keep each cell's largest piece: places of the cells that show, and labels that number these from 1."""
    kept: list[int] = []
    tidy = np.zeros_like(labels)
    for index, box in enumerate(ndimage.find_objects(labels)):
        if box is not None:
            kept.append(index)
            pieces, _ = ndimage.label(labels[box] == index + 1)
            largest = np.bincount(pieces.ravel())[1:].argmax() + 1
            tidy[box][pieces == largest] = len(kept)
    return kept, tidy


def _largest_area(nucleus: tuple[Outline, ...]) -> float:
    """Area of the largest lobe in pixels."""
    return max(np.pi * lobe.half_length * lobe.half_width for lobe in nucleus)


def _place_centrosome(
    generator: np.random.Generator, nucleus: Outline, room: FloatImage, corner: tuple[int, int]
) -> tuple[float, float]:
    """The roomiest of a few points beside the nucleus; over its centre where there is no room at all.

    `room` is positive where a centrosome may lie, `corner` the place of its first pixel in the field.
    """
    best, best_room = nucleus.centre, 0.0
    for angle in generator.uniform(0, 2 * np.pi, 8):
        for reach in np.arange(0.6, 2.0, 0.1) * nucleus.half_length:
            row, column = nucleus.centre[0] + reach * np.sin(angle), nucleus.centre[1] + reach * np.cos(angle)
            place = int(row) - corner[0], int(column) - corner[1]
            if not (0 <= place[0] < room.shape[0] and 0 <= place[1] < room.shape[1]):
                break
            if room[place] > 0:
                if room[place] > best_room:
                    best, best_room = (float(row), float(column)), float(room[place])
                break
    return best
