"""One simulated field of view at a time, and the plan that says what each field of a data set shows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from subcell_hf.errors import InputError
from subcell_hf.ontology import CHANNEL_STAINS, PROTEIN_CHANNEL, PUBLISHED_PIXEL_SIZE_UM, channels_from_variant
from subcell_hf.settings import Setting
from subcell_hf.simulation.acquisition import Acquisition, draw_acquisition
from subcell_hf.simulation.antibodies import SimulatedAntibody, simulate_antibodies
from subcell_hf.simulation.drawing import FloatImage
from subcell_hf.simulation.landmarks import simulate_landmarks
from subcell_hf.simulation.optics import (
    PlateOptics,
    acquire_channel,
    digitise,
    mix_channels,
    simulate_defocus,
    simulate_plate_optics,
)
from subcell_hf.simulation.outlines import CELL_LINES
from subcell_hf.simulation.proteins import simulate_protein
from subcell_hf.simulation.shapes import simulate_cell_compartments
from subcell_hf.types import FieldOfView

_BLOCK = 4
"""Antibodies that share a run of fields, so that even a few fields show several locations."""
_FIELDS_PER_ANTIBODY = 3
_ANTIBODIES_PER_PLATE = 24
_REPLICATES = 2


@dataclass(frozen=True)
class SimulationSettings:
    """Everything that the pixels of a data set depend on but the number of fields.

    Attributes:
        seed: Random seed; the same seed gives identical output.
        antibodies: Number of antibodies; default: one per three fields, four at a time.
        size_px: Width and height of the fields in pixels.
        pixel_size_um: Pixel size in micrometres.
        channels: rybg, rbg, ybg, bg, or comma-separated colours. In Python, a tuple of colours.
        bit_depth: 8 or 16 bits per pixel.
        domain_randomization: Draw blur, noise, background, contrast, compression and crowding for every field, and list
            them in acquisition.csv.
    """

    seed: int = 0
    antibodies: int | None = None
    size_px: int = 1024
    pixel_size_um: float = PUBLISHED_PIXEL_SIZE_UM
    channels: Annotated[tuple[str, ...], Setting(parse=channels_from_variant, default="rybg")] = tuple(CHANNEL_STAINS)
    bit_depth: int = 8
    domain_randomization: bool = False

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}: expected 0 or more.")
        if self.antibodies is not None and self.antibodies < 1:
            raise InputError(f"antibodies is {self.antibodies}: expected at least 1.")
        _check_image(self.size_px, self.pixel_size_um, self.channels, self.bit_depth)


@dataclass(frozen=True)
class PlannedField:
    """What the n-th field of a data set shows.

    Attributes:
        number: Place in the data set, from 0.
        antibody: The antibody whose protein is green.
        cell_line: One of `CELL_LINES`.
        plate: Number of the plate; fields of a plate share its batch effect.
        well: `"A1"` … `"H12"`; fields of a well share antibody and cell line.
        sample: Place among the fields of the well, from 1.
    """

    number: int
    antibody: SimulatedAntibody
    cell_line: str
    plate: int
    well: str
    sample: int

    @property
    def name(self) -> str:
        """`"<plate>_<well>_<sample>"`."""
        return f"{self.plate}_{self.well}_{self.sample}"


def plan_fields(fields: int, seed: int = 0, antibodies: int | None = None) -> list[PlannedField]:
    """Decide what each field of a data set shows; the first n of a longer plan are the plan of n.

    By default every antibody gets three fields: four antibodies take turns for twelve fields, then come the next four.
    So 4 fields show 4 antibodies, 60 fields show 20, 200 fields show 68. With `antibodies` given, that many take turns
    for all fields. Either way an antibody's fields alternate between two wells, on two plates and in two cell lines.

    Args:
        fields: How many, at least 1.
        seed: Seed of the data set.
        antibodies: How many antibodies take turns.

    Returns:
        One entry per field, with distinct names.

    Raises:
        InputError: If `fields` or `antibodies` is below 1.
    """
    if fields < 1:
        raise InputError(f"Cannot simulate {fields} fields: expected at least 1.")
    run = _BLOCK * _FIELDS_PER_ANTIBODY
    pool = simulate_antibodies(_BLOCK * math.ceil(fields / run) if antibodies is None else antibodies, seed)
    planned = []
    for number in range(fields):
        if antibodies is None:
            index, turn = _BLOCK * (number // run) + number % _BLOCK, number % run // _BLOCK
        else:
            index, turn = number % antibodies, number // antibodies
        replicate, plate_group = turn % _REPLICATES, index // _ANTIBODIES_PER_PLATE
        lines = np.random.default_rng([seed, 3, index]).choice(sorted(CELL_LINES), _REPLICATES, replace=False)
        planned.append(
            PlannedField(
                number=number,
                antibody=pool[index],
                cell_line=str(lines[replicate]),
                plate=1 + _REPLICATES * plate_group + replicate,
                well=f"{'ABCDEFGH'[index // 12 % 8]}{1 + index % 12}",
                sample=1 + turn // _REPLICATES,
            )
        )
    return planned


def simulate_field(
    seed: int | Sequence[int] | np.random.Generator,
    antibody: SimulatedAntibody,
    cell_line: str = "SIM-A",
    *,
    plate: int = 1,
    well: str = "A1",
    sample: int = 1,
    optics: PlateOptics | None = None,
    crowding: float = 1.0,
    size_px: int = 1024,
    pixel_size_um: float = PUBLISHED_PIXEL_SIZE_UM,
    channels: Sequence[str] = tuple(CHANNEL_STAINS),
    bit_depth: int = 8,
) -> FieldOfView:
    """Simulate one field of view.

    Args:
        seed: Seed or generator; the same seed gives the same cells whatever the antibody.
        antibody: Whose protein is green.
        cell_line: One of `CELL_LINES`.
        plate: Number for the field's name and metadata.
        well: Well for the field's name and metadata.
        sample: Number for the field's name and metadata.
        optics: Batch effect of the plate; a typical microscope by default.
        crowding: Confluence of the cells, times that of their line.
        size_px: Edge of the field in pixels.
        pixel_size_um: Edge of a pixel in micrometres.
        channels: Colours wanted, in this order.
        bit_depth: 8 or 16.

    Returns:
        Field with pixels `[channels, size_px, size_px]` uint8 or uint16, a uint16 label mask of the cells that show a
        third of their nucleus or more, and metadata.

    Raises:
        InputError: If the cell line, a channel, a size or a location is unknown or out of range.
    """
    _check_image(size_px, pixel_size_um, channels, bit_depth)
    if cell_line not in CELL_LINES:
        raise InputError(f"Unknown simulated cell line {cell_line!r}: expected one of {', '.join(CELL_LINES)}.")
    optics = optics or PlateOptics()
    line = CELL_LINES[cell_line]
    line = replace(line, confluence=line.confluence * crowding)
    shapes, stains, protein, levels, camera = np.random.default_rng(seed).spawn(5)
    compartments = simulate_cell_compartments(shapes, line, size_px, pixel_size_um)
    landmarks = simulate_landmarks(stains, compartments)
    densities: dict[str, FloatImage] = {
        "red": landmarks.microtubules * compartments.spread(0.85 * levels.lognormal(0, 0.25, compartments.cells)),
        "yellow": landmarks.reticulum * compartments.spread(0.6 * levels.lognormal(0, 0.25, compartments.cells)),
        "blue": landmarks.chromatin
        * compartments.spread(0.65 * np.cbrt(compartments.dna) * levels.lognormal(0, 0.12, compartments.cells)),
    }
    if PROTEIN_CHANNEL in channels or any(source == PROTEIN_CHANNEL for source, _ in optics.bleed):
        densities[PROTEIN_CHANNEL] = simulate_protein(protein, landmarks, antibody)
    densities = mix_channels(densities, optics)
    defocus = simulate_defocus(camera, compartments.shape, pixel_size_um)
    streams = dict(zip(CHANNEL_STAINS, camera.spawn(len(CHANNEL_STAINS)), strict=True))
    images = [
        digitise(acquire_channel(streams[name], densities[name], name, optics, pixel_size_um, defocus), bit_depth)
        for name in channels
    ]
    metadata = {
        "antibody": antibody.antibody,
        "gene": antibody.gene,
        "locations": ";".join(antibody.locations),
        "cell_line": cell_line,
        "plate": str(plate),
        "well": well,
        "sample": str(sample),
    }
    return FieldOfView(
        name=f"{plate}_{well}_{sample}",
        pixels=np.stack(images),
        channels=tuple(channels),
        pixel_size_um=pixel_size_um,
        label_mask=compartments.label_mask(),
        metadata=metadata,
    )


def planned_acquisition(planned: PlannedField, settings: SimulationSettings) -> Acquisition:
    """How the n-th field of a data set is cultured and photographed: as all of its plate, or in its own way."""
    if settings.domain_randomization:
        return draw_acquisition(settings.seed, planned.number)
    return Acquisition(simulate_plate_optics(settings.seed, planned.plate))


def simulate_planned_field(planned: PlannedField, settings: SimulationSettings) -> FieldOfView:
    """Simulate the n-th field of a data set.

    Args:
        planned: The field; from `plan_fields`.
        settings: Settings of the data set.

    Returns:
        The field. It depends on the settings and on its number, not on the number of fields.
    """
    acquisition = planned_acquisition(planned, settings)
    return simulate_field(
        [settings.seed, 4, planned.number],
        planned.antibody,
        planned.cell_line,
        plate=planned.plate,
        well=planned.well,
        sample=planned.sample,
        optics=acquisition.optics,
        crowding=acquisition.crowding,
        size_px=settings.size_px,
        pixel_size_um=settings.pixel_size_um,
        channels=settings.channels,
        bit_depth=settings.bit_depth,
    )


def _check_image(size_px: int, pixel_size_um: float, channels: Sequence[str], bit_depth: int) -> None:
    """Refuse images that cannot be made."""
    if not 0.02 <= pixel_size_um <= 1:
        raise InputError(f"pixel_size_um is {pixel_size_um}: simulated structures need 0.02 to 1 µm.")
    if size_px < 64 or size_px * pixel_size_um < 20:
        raise InputError(
            f"A field of {size_px} px is {size_px * pixel_size_um:.1f} µm wide: a cell needs at least 64 px and 20 µm."
        )
    unknown = [name for name in channels if name not in CHANNEL_STAINS]
    if unknown or not channels or len(set(channels)) < len(channels):
        raise InputError(
            f"Cannot simulate channels {list(channels)}: choose from {', '.join(CHANNEL_STAINS)}, each once."
        )
    if bit_depth not in (8, 16):
        raise InputError(f"bit_depth is {bit_depth}: expected 8 or 16.")
