"""Cell lines and states differ in what a biologist would look at: nuclei, chromatin and microtubules."""

import numpy as np
import pytest
from scipy import ndimage

from subcell_hf.simulation.landmarks import Landmarks, simulate_landmarks
from subcell_hf.simulation.outlines import CELL_LINES, CellShape, place_cells
from subcell_hf.simulation.shapes import simulate_cell_compartments

PIXEL_SIZE_UM = 0.16
Fields = dict[str, Landmarks]


@pytest.fixture(scope="module")
def fields() -> Fields:
    drawn = {}
    for name in ("SIM-A", "SIM-B", "SIM-C", "SIM-F"):
        shapes, stains = np.random.default_rng(3).spawn(2)
        where = simulate_cell_compartments(shapes, CELL_LINES[name], 448, PIXEL_SIZE_UM)
        drawn[name] = simulate_landmarks(stains, where)
    return drawn


def cells_of(line: str) -> list[CellShape]:
    fields = range(12)
    return [c for seed in fields for c in place_cells(np.random.default_rng(seed), CELL_LINES[line], 82, 0.2)]


def agreement(landmarks: Landmarks, wanted: np.ndarray) -> float:
    """Mean squared cosine between the filaments' direction and the wanted one, `[2, height, width]`; chance is 0.5."""
    image = ndimage.gaussian_filter(landmarks.microtubules, 1.0)
    slopes = np.stack(np.gradient(image))
    across = (slopes * wanted).sum(0) / np.maximum(np.hypot(*slopes) * np.hypot(*wanted), 1e-6)
    weight = np.hypot(*slopes) * (landmarks.compartments.edge_um > 2) * (landmarks.compartments.nucleus_um < -1)
    return 1 - float((across**2 * weight).sum() / weight.sum())


def from_centrosomes(landmarks: Landmarks) -> np.ndarray:
    where = landmarks.compartments
    centres: np.ndarray = np.concatenate([[[0, 0]], where.centrosomes_px])[where.labels]
    away: np.ndarray = np.indices(where.shape) - np.moveaxis(centres, -1, 0)
    return away


def along_cells(landmarks: Landmarks) -> np.ndarray:
    where = landmarks.compartments
    axes: np.ndarray = np.concatenate([[[1, 0]], where.axes])[where.labels]
    return np.moveaxis(axes, -1, 0)


def test_microtubules_are_organised_as_the_line_says(fields: Fields) -> None:
    radial = {name: agreement(field, from_centrosomes(field)) for name, field in fields.items()}
    parallel = {name: agreement(field, along_cells(field)) for name, field in fields.items()}
    assert radial["SIM-A"] > radial["SIM-C"] + 0.1
    assert parallel["SIM-B"] > parallel["SIM-A"] + 0.1

    def at_edge(landmarks: Landmarks) -> float:
        where = landmarks.compartments
        rim = (where.edge_um > 0.3) & (where.edge_um < 1.7) & (where.nucleus_um < -0.5)
        inner = (where.edge_um > 2.5) & (where.nucleus_um < -0.5)
        return float(landmarks.microtubules[rim].mean() / landmarks.microtubules[inner].mean())

    assert at_edge(fields["SIM-C"]) > 1.5 * at_edge(fields["SIM-A"])


def test_condensed_chromatin_stands_out_in_the_mouse_line(fields: Fields) -> None:
    def contrast(landmarks: Landmarks) -> float:
        dna = landmarks.chromatin[landmarks.compartments.nucleus_um > 1]
        return float(dna.std() / dna.mean())

    assert contrast(fields["SIM-F"]) > 1.6 * max(contrast(fields[name]) for name in ("SIM-A", "SIM-B", "SIM-C"))


def test_nuclei_grow_as_dna_is_replicated() -> None:
    cells = cells_of("SIM-B")
    area = np.array([np.pi * cell.nucleus[0].half_length * cell.nucleus[0].half_width for cell in cells])
    dna = np.array([cell.dna for cell in cells])
    assert dna.min() == 1
    assert dna.max() == 2
    assert 0.4 < (dna == 1).mean() < 0.65
    assert 0.1 < (dna == 2).mean() < 0.3
    # Twice the volume of a nucleus has 1.59 times the area of a section.
    assert area[dna == 2].mean() / area[dna == 1].mean() == pytest.approx(2 ** (2 / 3), rel=0.1)


def test_half_of_the_large_flat_cells_have_two_nuclei() -> None:
    cells = cells_of("SIM-D")
    pairs = [cell.nucleus for cell in cells if len(cell.nucleus) == 2]
    apart = [one for one in pairs if np.hypot(*np.subtract(one[0].centre, one[1].centre)) > 2 * one[0].half_width]
    assert 0.4 < len(apart) / len(cells) < 0.6
