"""Simulated fields: same seed, same pixels; valid masks; a plan that does not change when it grows."""

import numpy as np
import pytest
from scipy import ndimage

from subcell_hf.errors import InputError
from subcell_hf.ontology import PUBLISHED_PIXEL_SIZE_UM
from subcell_hf.simulation.antibodies import ProteinStyle, SimulatedAntibody, simulate_antibodies
from subcell_hf.simulation.fields import plan_fields, simulate_field
from subcell_hf.simulation.optics import simulate_plate_optics
from subcell_hf.simulation.outlines import CELL_LINES

SIZE_PX = 512
SMALL_PX = 288


def antibody(*locations: str, **style: float) -> SimulatedAntibody:
    return SimulatedAntibody("SIM000001", "SIMG0001", locations, ProteinStyle(**style))


def test_same_seed_same_pixels_other_seed_other_pixels() -> None:
    first, again, other = (simulate_field(seed, antibody("Golgi apparatus"), size_px=SIZE_PX) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.label_mask, again.label_mask)
    assert (first.pixels != other.pixels).mean() > 0.2


def test_fields_are_typed_and_named() -> None:
    chosen = antibody("Nucleoli", "Nucleoplasm")
    field = simulate_field(1, chosen, "SIM-C", plate=12, well="B3", sample=2, size_px=SMALL_PX)
    assert field.name == "12_B3_2"
    assert field.channels == ("red", "yellow", "blue", "green")
    assert field.pixels.shape == (4, SMALL_PX, SMALL_PX)
    assert field.pixels.dtype == np.uint8
    assert field.pixel_size_um == PUBLISHED_PIXEL_SIZE_UM
    assert dict(field.metadata) == {
        "antibody": "SIM000001",
        "gene": "SIMG0001",
        "locations": "Nucleoli;Nucleoplasm",
        "cell_line": "SIM-C",
        "plate": "12",
        "well": "B3",
        "sample": "2",
    }


def test_another_antibody_stains_the_same_cells() -> None:
    one, other = (simulate_field(4, antibody(name), size_px=SIZE_PX) for name in ("Nucleoli", "Cytosol"))
    np.testing.assert_array_equal(one.pixels[:3], other.pixels[:3])
    np.testing.assert_array_equal(one.label_mask, other.label_mask)
    assert (one.pixels[3] != other.pixels[3]).mean() > 0.3


def test_channels_are_chosen_by_name() -> None:
    whole = simulate_field(4, antibody("Cytosol"), size_px=SMALL_PX)
    part = simulate_field(4, antibody("Cytosol"), size_px=SMALL_PX, channels=("blue", "green"))
    np.testing.assert_array_equal(part.pixels, whole.pixels[2:])
    landmarks_only = simulate_field(4, antibody("Cytosol"), size_px=SMALL_PX, channels=("yellow",))
    np.testing.assert_array_equal(landmarks_only.pixels[0], whole.pixels[1])


def test_16_bits_hold_more_levels() -> None:
    coarse, fine = (simulate_field(4, antibody("Cytosol"), size_px=SMALL_PX, bit_depth=bits) for bits in (8, 16))
    assert fine.pixels.dtype == np.uint16
    assert len(np.unique(fine.pixels)) > 1000
    np.testing.assert_allclose(fine.pixels / 257, coarse.pixels, atol=0.51)


@pytest.mark.parametrize("line", sorted(CELL_LINES))
def test_masks_hold_whole_numbered_cells_with_a_nucleus_each(line: str) -> None:
    field = simulate_field(9, antibody("Negative"), line, size_px=SIZE_PX)
    mask = field.label_mask
    assert mask is not None
    assert mask.dtype == np.uint16
    labels = np.unique(mask[mask > 0])
    assert labels.tolist() == list(range(1, len(labels) + 1))
    assert len(labels) >= 1
    blue = field.pixels[field.channels.index("blue")]
    for label in labels:
        assert ndimage.label(mask == label)[1] == 1
        assert np.quantile(blue[mask == label], 0.9) > 60


def test_channels_are_bright_in_cells_and_dark_between() -> None:
    field = simulate_field(3, antibody("Cytosol"), "SIM-B", size_px=SIZE_PX)
    cells = ndimage.binary_dilation(field.label_mask, iterations=25)
    for name, plane in zip(field.channels, field.pixels, strict=True):
        assert np.quantile(plane[field.label_mask > 0], 0.95) > 80, name
        assert np.median(plane[~cells]) < 12, name


def test_negative_is_dim() -> None:
    negative = next(a for a in simulate_antibodies(60, 0) if a.locations == ("Negative",))
    dim, bright = (simulate_field(3, chosen, size_px=SIZE_PX) for chosen in (negative, antibody("Cytosol")))
    assert np.quantile(dim.pixels[3], 0.99) < 30
    assert dim.pixels[3].mean() < 0.15 * bright.pixels[3].mean()


def test_plates_have_a_batch_effect_of_their_own() -> None:
    assert simulate_plate_optics(1, 2) == simulate_plate_optics(1, 2)
    assert simulate_plate_optics(1, 2) != simulate_plate_optics(1, 3)
    bright, dim = (
        simulate_field(1, antibody("Cytosol"), size_px=SMALL_PX, optics=simulate_plate_optics(0, plate))
        for plate in sorted(range(1, 9), key=lambda plate: -simulate_plate_optics(0, plate).gains["blue"])[::7]
    )
    assert bright.pixels[2].mean() > 1.2 * dim.pixels[2].mean()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"cell_line": "HeLa"}, "Unknown simulated cell line 'HeLa': expected one of SIM-A"),
        ({"size_px": 100}, "8.0 µm wide"),
        ({"pixel_size_um": 3.0}, "pixel_size_um is 3.0"),
        ({"channels": ("red", "mito")}, r"\['red', 'mito'\]"),
        ({"channels": ("red", "red")}, "each once"),
        ({"channels": ()}, "Cannot simulate channels"),
        ({"bit_depth": 12}, "bit_depth is 12"),
    ],
)
def test_impossible_fields_are_refused(argument: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulate_field(0, antibody("Cytosol"), **argument)


def test_plans_are_prefixes_of_longer_plans() -> None:
    assert plan_fields(30, 2) == plan_fields(200, 2)[:30]
    assert plan_fields(7, 2, antibodies=3) == plan_fields(20, 2, antibodies=3)[:7]


@pytest.mark.parametrize("antibodies", [None, 5, 130])
def test_names_are_distinct_and_wells_hold_one_antibody_and_cell_line(antibodies: int | None) -> None:
    planned = plan_fields(300, 0, antibodies)
    assert len({field.name for field in planned}) == 300
    wells: dict[tuple[int, str], set[tuple[str, str]]] = {}
    for field in planned:
        wells.setdefault((field.plate, field.well), set()).add((field.antibody.antibody, field.cell_line))
    assert all(len(content) == 1 for content in wells.values())


def test_every_antibody_has_three_fields_in_two_cell_lines() -> None:
    planned = plan_fields(204, 0)
    by_antibody: dict[str, list[str]] = {}
    for field in planned:
        by_antibody.setdefault(field.antibody.antibody, []).append(field.cell_line)
    assert len(by_antibody) == 68
    assert {len(lines) for lines in by_antibody.values()} == {3}
    assert {len(set(lines)) for lines in by_antibody.values()} == {2}
    assert {line for lines in by_antibody.values() for line in lines} == set(CELL_LINES)


def test_few_fields_show_several_locations_and_many_show_many_antibodies() -> None:
    assert len({field.antibody.locations[0] for field in plan_fields(4, 0)}) == 4
    assert len({field.antibody.antibody for field in plan_fields(200, 0)}) >= 60
    assert len({field.antibody.antibody for field in plan_fields(50, 0, antibodies=9)}) == 9
