"""The protein of simulated cells: its locations, its expression and its unspecific background."""

from collections.abc import Callable

import numpy as np

from subcell_hf.errors import InputError
from subcell_hf.simulation import cytoplasmic_proteins as cytoplasmic
from subcell_hf.simulation import nuclear_proteins as nuclear
from subcell_hf.simulation.antibodies import ProteinStyle, SimulatedAntibody
from subcell_hf.simulation.drawing import FloatImage
from subcell_hf.simulation.landmarks import Landmarks, label_in_grains

Pattern = Callable[[Landmarks, ProteinStyle, np.random.Generator], FloatImage]


def draw_nothing(landmarks: Landmarks, style: ProteinStyle, generator: np.random.Generator) -> FloatImage:
    """Nothing: what shows is the unspecific background that every antibody has."""
    return np.zeros(landmarks.compartments.shape, np.float32)


PATTERNS: dict[str, Pattern] = {
    "Actin filaments": cytoplasmic.draw_actin,
    "Aggresome": cytoplasmic.draw_aggresome,
    "Cell Junctions": cytoplasmic.draw_cell_junctions,
    "Centrosome": cytoplasmic.draw_centrosome,
    "Cytosol": cytoplasmic.draw_cytosol,
    "Endoplasmic reticulum": cytoplasmic.draw_reticulum,
    "Golgi apparatus": cytoplasmic.draw_golgi,
    "Intermediate filaments": cytoplasmic.draw_intermediate_filaments,
    "Lipid droplets": cytoplasmic.draw_lipid_droplets,
    "Microtubules": cytoplasmic.draw_microtubules,
    "Mitochondria": cytoplasmic.draw_mitochondria,
    "Negative": draw_nothing,
    "Nuclear bodies": nuclear.draw_nuclear_bodies,
    "Nuclear membrane": nuclear.draw_nuclear_membrane,
    "Nuclear speckles": nuclear.draw_nuclear_speckles,
    "Nucleoli": nuclear.draw_nucleoli,
    "Nucleoli fibrillar center": nuclear.draw_fibrillar_centers,
    "Nucleoplasm": nuclear.draw_nucleoplasm,
    "Plasma membrane": cytoplasmic.draw_plasma_membrane,
    "Vesicles": cytoplasmic.draw_vesicles,
}
"""Location, as the ontology names it → how its protein is drawn."""


def simulate_protein(generator: np.random.Generator, landmarks: Landmarks, antibody: SimulatedAntibody) -> FloatImage:
    """Density of the protein that an antibody binds, times each cell's expression and the antibody's intensity.

    Args:
        generator: Source of randomness; every location draws from a separate stream.
        landmarks: The field.
        antibody: Locations and style.

    Returns:
        `[height, width]` float32, 1 is the camera's full range, before optics and camera.

    Raises:
        InputError: If a location cannot be simulated.
    """
    compartments, style = landmarks.compartments, antibody.style
    unknown = [name for name in antibody.locations if name not in PATTERNS]
    if unknown or not antibody.locations:
        raise InputError(
            f"Cannot simulate locations {unknown or 'none'} of antibody {antibody.antibody}: "
            f"expected one or more of {', '.join(PATTERNS)}."
        )
    expression_stream, pattern_stream, background_stream = generator.spawn(3)
    density = np.zeros(compartments.shape, np.float32)
    streams = pattern_stream.spawn(len(antibody.locations))
    for rank, (location, stream) in enumerate(zip(antibody.locations, streams, strict=True)):
        weight = 1.0 if rank == 0 else style.second_weight
        density += weight * PATTERNS[location](landmarks, style, stream)
    uneven = (1 + 0.3 * landmarks.noise(background_stream, 0.25)).clip(min=0)
    density += style.background * uneven * (landmarks.cytoplasm + 0.7 * compartments.in_nucleus)
    grains = label_in_grains(background_stream, compartments)
    expression = expression_stream.lognormal(0, style.variability, compartments.cells)
    return density * grains * compartments.spread(expression) * style.intensity
