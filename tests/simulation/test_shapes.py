"""Shapes of simulated cells: nested as in life, of real sizes, different from line to line."""

import numpy as np
import pytest
from skimage import measure

from subcell_hf.ontology import PUBLISHED_PIXEL_SIZE_UM
from subcell_hf.simulation.drawing import smooth_noise
from subcell_hf.simulation.outlines import CELL_LINES
from subcell_hf.simulation.shapes import simulate_cell_compartments


def test_nuclei_lie_in_cells_and_nucleoli_in_nuclei() -> None:
    where = simulate_cell_compartments(np.random.default_rng(1), CELL_LINES["SIM-C"], 640, PUBLISHED_PIXEL_SIZE_UM)
    nucleus, nucleolus = where.nucleus_um > 0, where.nucleoli_um > 0
    assert nucleus.any()
    assert nucleolus.any()
    assert (where.labels[nucleus] > 0).all()
    assert where.edge_um[nucleus].min() > 0.6
    assert where.nucleus_um[nucleolus].min() > 0.5


def test_sizes_are_those_of_real_cells() -> None:
    areas_um2, nuclei_um2 = [], []
    for seed, line in enumerate(CELL_LINES.values()):
        generator = np.random.default_rng(seed)
        where = simulate_cell_compartments(generator, line, 512, 2 * PUBLISHED_PIXEL_SIZE_UM)
        mask = where.label_mask()
        inner = np.zeros_like(mask)
        inner[4:-4, 4:-4] = mask[4:-4, 4:-4]
        cut = set(mask[inner == 0])
        for label in set(np.unique(mask)) - cut - {0}:
            areas_um2.append((mask == label).sum() * where.pixel_size_um**2)
            nuclei_um2.append(((mask == label) & (where.nucleus_um > 0)).sum() * where.pixel_size_um**2)
    # Human Protein Atlas fields of A-431 have nuclei of 150 to 600 µm²; one of U-251 MG, cells of 180 to 780 µm².
    assert 130 < np.median(nuclei_um2) < 350
    assert 350 < np.median(areas_um2) < 1000
    assert min(areas_um2) > 100


def test_cell_lines_differ_in_size_and_elongation() -> None:
    def shapes(line: str) -> tuple[float, float]:
        where = simulate_cell_compartments(np.random.default_rng(1), CELL_LINES[line], 512, 0.24)
        cells = measure.regionprops(where.label_mask())
        elongation = [cell.axis_major_length / cell.axis_minor_length for cell in cells]
        return float(np.median([cell.area for cell in cells])), float(np.median(elongation))

    assert shapes("SIM-D")[0] > 1.7 * shapes("SIM-C")[0]
    assert shapes("SIM-B")[1] > 1.2 * shapes("SIM-C")[1]


def test_pixel_size_changes_the_grid_not_the_cells() -> None:
    def nucleus_um2(pixel_size_um: float) -> float:
        size = round(80 / pixel_size_um)
        where = simulate_cell_compartments(np.random.default_rng(5), CELL_LINES["SIM-A"], size, pixel_size_um)
        return float((where.nucleus_um > 0).sum() * pixel_size_um**2)

    assert nucleus_um2(0.16) == pytest.approx(nucleus_um2(0.08), rel=0.3)


def test_smooth_noise_has_mean_0_and_variance_1() -> None:
    for sigma in (1.0, 2.5, 7.0, 20.0):
        noise = smooth_noise(np.random.default_rng(0), (1024, 1024), sigma)
        assert abs(noise.mean()) < 0.1
        assert noise.std() == pytest.approx(1, abs=0.15)
