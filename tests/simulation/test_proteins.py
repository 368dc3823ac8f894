"""Simulated proteins lie where their names say: densities before the microscope blurs them, without background."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage
from skimage import measure

from subcell_hf.errors import InputError
from subcell_hf.ontology import PUBLISHED_PIXEL_SIZE_UM, training_locations
from subcell_hf.simulation.antibodies import ProteinStyle, SimulatedAntibody
from subcell_hf.simulation.landmarks import Landmarks, simulate_landmarks
from subcell_hf.simulation.outlines import CELL_LINES
from subcell_hf.simulation.proteins import PATTERNS, simulate_protein
from subcell_hf.simulation.shapes import CellCompartments, simulate_cell_compartments

SIZE_PX = 512


def antibody(*locations: str, **style: float) -> SimulatedAntibody:
    return SimulatedAntibody("SIM000001", "SIMG0001", locations, ProteinStyle(**style))


@pytest.fixture(scope="module")
def landmarks() -> Landmarks:
    shapes, stains = np.random.default_rng(24).spawn(2)
    compartments = simulate_cell_compartments(shapes, CELL_LINES["SIM-A"], SIZE_PX, PUBLISHED_PIXEL_SIZE_UM)
    return simulate_landmarks(stains, compartments)


@pytest.fixture(scope="module")
def density(landmarks: Landmarks) -> Callable[[str], np.ndarray]:
    drawn: dict[str, np.ndarray] = {}

    def draw(location: str) -> np.ndarray:
        if location not in drawn:
            drawn[location] = PATTERNS[location](landmarks, ProteinStyle(), np.random.default_rng(3))
        return drawn[location]

    return draw


def share_inside(image: np.ndarray, region: np.ndarray) -> float:
    return float(image[region].sum() / image.sum())


def correlation(one: np.ndarray, other: np.ndarray, region: np.ndarray) -> float:
    return float(np.corrcoef(one[region], other[region])[0, 1])


def to_centrosome_um(compartments: CellCompartments) -> np.ndarray:
    """Distance to the centrosome of the cell that a pixel belongs to; infinite between cells."""
    rows, columns = np.indices(compartments.shape)
    centres = np.concatenate([[[np.inf, np.inf]], compartments.centrosomes_px])[compartments.labels]
    return np.hypot(rows - centres[..., 0], columns - centres[..., 1]) * compartments.pixel_size_um


def test_all_are_locations_of_the_ontology() -> None:
    assert set(PATTERNS) <= set(training_locations())
    assert len(PATTERNS) >= 14


def test_densities_are_float32_and_not_negative(landmarks: Landmarks, density: Callable[[str], np.ndarray]) -> None:
    images = [landmarks.cytoplasm, landmarks.microtubules, landmarks.reticulum, landmarks.chromatin]
    for image in images + [density(location) for location in PATTERNS]:
        assert image.dtype == np.float32
        assert image.shape == (SIZE_PX, SIZE_PX)
        assert image.min() >= 0
        assert np.isfinite(image).all()


@pytest.mark.parametrize(
    "location",
    ["Nucleoplasm", "Nucleoli", "Nucleoli fibrillar center", "Nuclear bodies", "Nuclear speckles"],
)
def test_nuclear_proteins_lie_in_the_nucleus(
    landmarks: Landmarks, density: Callable[[str], np.ndarray], location: str
) -> None:
    assert share_inside(density(location), landmarks.compartments.nucleus_um > 0) > 0.93


@pytest.mark.parametrize(
    ("location", "share"),
    [
        ("Cytosol", 0.85),
        ("Endoplasmic reticulum", 0.85),
        ("Golgi apparatus", 0.85),
        ("Intermediate filaments", 0.95),
        ("Lipid droplets", 0.95),
        ("Microtubules", 0.85),
        ("Mitochondria", 0.95),
        ("Vesicles", 0.95),
    ],
)
def test_cytoplasmic_proteins_lie_in_the_cell_but_not_in_the_nucleus(
    landmarks: Landmarks, density: Callable[[str], np.ndarray], location: str, share: float
) -> None:
    where = landmarks.compartments
    assert share_inside(density(location), (where.labels > 0) & (where.nucleus_um < 0)) > share


def test_nucleoplasm_spares_nucleoli_and_nucleoli_fill_them(
    landmarks: Landmarks, density: Callable[[str], np.ndarray]
) -> None:
    where = landmarks.compartments
    nucleolus, rest = where.nucleoli_um > 0.3, (where.nucleus_um > 0.5) & (where.nucleoli_um < -0.5)
    assert density("Nucleoplasm")[nucleolus].mean() < 0.5 * density("Nucleoplasm")[rest].mean()
    assert share_inside(density("Nucleoli"), where.nucleoli_um > -0.3) > 0.9
    assert density("Nuclear speckles")[nucleolus].mean() < 0.05
    bright = density("Nucleoli fibrillar center") > 0.5
    assert (where.nucleoli_um[bright] > -0.3).all()
    assert bright.sum() < 0.5 * nucleolus.sum()


def test_spots_in_the_nucleus_are_few_and_speckles_many(
    landmarks: Landmarks, density: Callable[[str], np.ndarray]
) -> None:
    _, bodies = ndimage.label(density("Nuclear bodies") > 0.5)
    _, speckles = ndimage.label(density("Nuclear speckles") > 0.5)
    nuclei_um2 = landmarks.compartments.in_nucleus.sum() * PUBLISHED_PIXEL_SIZE_UM**2
    assert 2 <= bodies <= nuclei_um2 / 15
    assert speckles > 2.5 * bodies


def test_nuclear_membrane_is_a_rim(landmarks: Landmarks, density: Callable[[str], np.ndarray]) -> None:
    depth, image = landmarks.compartments.nucleus_um, density("Nuclear membrane")
    rim, inner, outer = np.abs(depth) < 0.15, depth > 1, (depth < -1) & (landmarks.compartments.labels > 0)
    assert image[rim].mean() > 2.5 * image[inner].mean()
    assert image[outer].mean() < 0.01


def test_plasma_membrane_is_the_outline(landmarks: Landmarks, density: Callable[[str], np.ndarray]) -> None:
    where, image = landmarks.compartments, density("Plasma membrane")
    outline = (where.edge_um > 0) & (where.edge_um < 0.4) & (where.labels > 0)
    assert image[outline].mean() > 4 * image[where.edge_um > 3].mean()


def test_junctions_are_where_cells_touch(landmarks: Landmarks, density: Callable[[str], np.ndarray]) -> None:
    where, bright = landmarks.compartments, density("Cell Junctions") > 0.5
    free_edge = (where.labels > 0) & (where.edge_um < 0.4) & (where.contact_um > 1.5)
    assert bright.sum() > 100
    assert (where.contact_um[bright] < 0.5).all()
    assert free_edge.sum() > 100
    assert not bright[free_edge].any()


@pytest.mark.parametrize(("location", "reach_um"), [("Centrosome", 2.2), ("Aggresome", 2.5), ("Golgi apparatus", 10.0)])
def test_proteins_beside_the_centrosome(
    landmarks: Landmarks, density: Callable[[str], np.ndarray], location: str, reach_um: float
) -> None:
    bright = density(location) > 0.4
    assert bright.any()
    assert np.quantile(to_centrosome_um(landmarks.compartments)[bright], 0.95) < reach_um


def test_microtubules_and_reticulum_follow_their_landmarks(
    landmarks: Landmarks, density: Callable[[str], np.ndarray]
) -> None:
    cells = landmarks.compartments.labels > 0
    assert correlation(density("Microtubules"), landmarks.microtubules, cells) > 0.85
    assert correlation(density("Endoplasmic reticulum"), landmarks.reticulum, cells) > 0.85
    assert correlation(density("Mitochondria"), landmarks.microtubules, cells) < 0.6


def test_actin_fibres_run_along_the_cell(landmarks: Landmarks, density: Callable[[str], np.ndarray]) -> None:
    where, image = landmarks.compartments, density("Actin filaments")
    label = np.bincount(where.labels.ravel())[1:].argmax() + 1
    inner = (where.labels == label) & (where.edge_um > 2.5)
    along = where.axes[label - 1]
    shifts = [np.rint(10 * axis).astype(int) for axis in (along, along[::-1] * [1, -1])]
    lengthwise, crosswise = (correlation(image, np.roll(image, shift, (0, 1)), inner) for shift in shifts)
    assert lengthwise > crosswise + 0.3


def test_vesicles_are_many_dots_and_droplets_are_rings(density: Callable[[str], np.ndarray]) -> None:
    _, dots = ndimage.label(density("Vesicles") > 0.4)
    assert dots > 40
    rings = density("Lipid droplets") > 0.3
    holes = ndimage.binary_fill_holes(rings) & ~rings
    assert ndimage.label(holes)[1] > 20


def test_threads_are_longer_than_wide(density: Callable[[str], np.ndarray]) -> None:
    pieces = measure.regionprops(measure.label(density("Mitochondria") > 0.35))
    long = [p.axis_major_length / max(p.axis_minor_length, 1) for p in pieces if 40 < p.area < 400]
    assert len(long) > 5
    assert np.median(long) > 2


def test_a_second_location_is_added_weaker(landmarks: Landmarks) -> None:
    def draw(*locations: str) -> np.ndarray:
        chosen = antibody(*locations, background=0.0, variability=0.0, second_weight=0.4)
        return simulate_protein(np.random.default_rng(1), landmarks, chosen)

    nucleus = landmarks.compartments.nucleus_um > 0.5
    alone, both = draw("Mitochondria"), draw("Mitochondria", "Nucleoplasm")
    gained = both[nucleus].mean() - alone[nucleus].mean()
    assert gained == pytest.approx(0.4 * draw("Nucleoplasm")[nucleus].mean(), rel=0.1)


def test_styles_of_one_location_differ(landmarks: Landmarks) -> None:
    def draw(**style: float) -> np.ndarray:
        chosen = antibody("Vesicles", background=0.0, variability=0.0, **style)
        return simulate_protein(np.random.default_rng(1), landmarks, chosen)

    plain = draw(intensity=0.4)
    np.testing.assert_allclose(draw(intensity=0.8), 2 * plain, rtol=1e-5)
    assert draw(intensity=0.4, count=2.0).sum() > 1.5 * plain.sum()
    near = landmarks.compartments.nucleus_um > -3
    assert share_inside(draw(perinuclear=1.0), near) > share_inside(draw(perinuclear=0.0), near) + 0.1


def test_unknown_location_is_refused(landmarks: Landmarks) -> None:
    with pytest.raises(InputError, match=r"Midbody.*SIM000001.*expected one or more of Actin"):
        simulate_protein(np.random.default_rng(0), landmarks, antibody("Midbody"))
