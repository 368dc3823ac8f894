"""Simulated antibodies: which gene each recognises, where it binds, and how its stain looks."""

from dataclasses import dataclass

import numpy as np

from subcell_hf.errors import InputError

MAIN_LOCATIONS = (
    "Nucleoplasm",
    "Mitochondria",
    "Plasma membrane",
    "Nucleoli",
    "Cytosol",
    "Microtubules",
    "Golgi apparatus",
    "Nuclear membrane",
    "Vesicles",
    "Endoplasmic reticulum",
    "Nuclear speckles",
    "Actin filaments",
    "Centrosome",
    "Nuclear bodies",
    "Intermediate filaments",
    "Nucleoli fibrillar center",
    "Negative",
)
"""The locations that genes are dealt to in turn; neighbours in the list are easy to distinguish."""

RARE_LOCATIONS = ("Lipid droplets", "Cell Junctions", "Aggresome")
"""Locations that are dealt in every second round only."""

SECOND_LOCATIONS = {
    "Nucleoplasm": ("Cytosol", "Nuclear bodies", "Nucleoli", "Vesicles"),
    "Mitochondria": ("Nucleoplasm", "Cytosol"),
    "Plasma membrane": ("Cytosol", "Vesicles", "Cell Junctions"),
    "Nucleoli": ("Nucleoplasm", "Cytosol"),
    "Cytosol": ("Nucleoplasm", "Plasma membrane", "Centrosome"),
    "Microtubules": ("Cytosol", "Centrosome"),
    "Golgi apparatus": ("Vesicles", "Nucleoplasm"),
    "Nuclear membrane": ("Endoplasmic reticulum", "Nucleoplasm"),
    "Vesicles": ("Nucleoplasm", "Cytosol", "Plasma membrane"),
    "Endoplasmic reticulum": ("Nuclear membrane", "Cytosol"),
    "Nuclear speckles": ("Nucleoplasm", "Cytosol"),
    "Actin filaments": ("Plasma membrane", "Cytosol"),
    "Centrosome": ("Cytosol", "Nucleoplasm"),
    "Nuclear bodies": ("Nucleoplasm", "Cytosol"),
    "Intermediate filaments": ("Cytosol", "Nucleoplasm"),
    "Nucleoli fibrillar center": ("Nucleoplasm", "Nucleoli"),
    "Lipid droplets": ("Endoplasmic reticulum", "Cytosol"),
    "Cell Junctions": ("Plasma membrane", "Cytosol"),
    "Aggresome": ("Cytosol",),
}
"""Main location → locations that a protein may have beside it."""


@dataclass(frozen=True)
class ProteinStyle:
    """How an antibody's stain looks; every number is relative to the location's usual look but where said.

    Attributes:
        intensity: Brightness of the main location as a share of the camera's range.
        second_weight: Brightness of the second location as a share of the first's.
        background: Unspecific staining of the whole cell as a share of `intensity`.
        count: Number of spots, threads or fibres, times.
        size: Diameter of spots or width of threads, times.
        contrast: Depth of the texture, 0 smooth to 1 grainy.
        perinuclear: 0 spread evenly over the cytoplasm, 1 gathered around the nucleus.
        variability: Standard deviation of the logarithm of a cell's expression.
    """

    intensity: float = 0.6
    second_weight: float = 0.4
    background: float = 0.06
    count: float = 1.0
    size: float = 1.0
    contrast: float = 0.5
    perinuclear: float = 0.5
    variability: float = 0.25


@dataclass(frozen=True)
class SimulatedAntibody:
    """One antibody.

    Attributes:
        antibody: For example `"SIM000001"`.
        gene: For example `"SIMG0001"`; two antibodies may share it.
        locations: Main location and, for some, a second one; `("Negative",)` for an antibody that binds nothing.
        style: How its stain looks.
    """

    antibody: str
    gene: str
    locations: tuple[str, ...]
    style: ProteinStyle = ProteinStyle()


def simulate_antibodies(count: int, seed: int) -> list[SimulatedAntibody]:
    """Make antibodies; the first n of a longer list are the list of n.

    Genes are dealt the main locations in turn, so that 17 genes already cover all of `MAIN_LOCATIONS`. One gene in
    seven has two antibodies, hence a quarter of the antibodies share their gene. About a third of the genes have a
    second location. Antibodies of a gene share its locations but not their style.

    Args:
        count: How many, at least 1.
        seed: Seed of the data set.

    Returns:
        Antibodies `SIM000001`, `SIM000002`, …

    Raises:
        InputError: If `count` is below 1.
    """
    if count < 1:
        raise InputError(f"Cannot simulate {count} antibodies: expected at least 1.")
    antibodies: list[SimulatedAntibody] = []
    gene = 0
    while len(antibodies) < count:
        generator = np.random.default_rng([seed, 1, gene])
        locations = _deal_locations(generator, gene)
        for _ in range(2 if gene % 7 == 5 else 1):
            number = len(antibodies) + 1
            style = _draw_style(generator, locations)
            antibodies.append(SimulatedAntibody(f"SIM{number:06d}", f"SIMG{gene + 1:04d}", locations, style))
        gene += 1
    return antibodies[:count]


def _deal_locations(generator: np.random.Generator, gene: int) -> tuple[str, ...]:
    """The locations of the n-th gene."""
    double_round = MAIN_LOCATIONS + MAIN_LOCATIONS + RARE_LOCATIONS
    main = double_round[gene % len(double_round)]
    wants_second = generator.random() < 0.35
    if wants_second and main in SECOND_LOCATIONS:
        return main, str(generator.choice(SECOND_LOCATIONS[main]))
    return (main,)


def _draw_style(generator: np.random.Generator, locations: tuple[str, ...]) -> ProteinStyle:
    """The individual appearance of one antibody."""
    negative = locations[0] == "Negative"
    return ProteinStyle(
        intensity=generator.uniform(0.03, 0.07) if negative else generator.uniform(0.35, 0.8),
        second_weight=generator.uniform(0.3, 0.6),
        background=1.0 if negative else generator.uniform(0.02, 0.12),
        count=generator.lognormal(0, 0.35),
        size=generator.lognormal(0, 0.16),
        contrast=generator.uniform(0.2, 0.9),
        perinuclear=generator.uniform(0.0, 1.0),
        variability=generator.uniform(0.12, 0.4),
    )
