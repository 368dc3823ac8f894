"""Simulated antibodies: stable lists, shared genes, several per location."""

import numpy as np
import pytest

from subcell_hf.errors import InputError
from subcell_hf.simulation.antibodies import RARE_LOCATIONS, simulate_antibodies
from subcell_hf.simulation.simulate import SIMULATED_LOCATIONS


def test_lists_are_prefixes_of_longer_lists() -> None:
    assert simulate_antibodies(10, 5) == simulate_antibodies(50, 5)[:10]
    assert simulate_antibodies(10, 5) != simulate_antibodies(10, 6)
    assert [a.antibody for a in simulate_antibodies(3, 0)] == ["SIM000001", "SIM000002", "SIM000003"]


def test_a_quarter_share_a_gene_with_its_locations_but_not_its_style() -> None:
    antibodies = simulate_antibodies(400, 0)
    genes = [a.gene for a in antibodies]
    shared = [a for a in antibodies if genes.count(a.gene) == 2]
    assert 0.2 < len(shared) / len(antibodies) < 0.3
    for one, other in zip(shared[::2], shared[1::2], strict=True):
        assert one.gene == other.gene
        assert one.locations == other.locations
        assert one.style != other.style


def test_every_location_has_several_antibodies_and_some_have_two_locations() -> None:
    antibodies = simulate_antibodies(68, 0)
    mains = [a.locations[0] for a in antibodies]
    counts = {name: mains.count(name) for name in mains}
    assert len(counts) >= 14
    assert min(counts[name] for name in counts if name not in RARE_LOCATIONS) >= 3
    assert 0.15 < np.mean([len(a.locations) == 2 for a in antibodies]) < 0.55
    assert all(len(set(a.locations)) == len(a.locations) for a in antibodies)
    assert {name for a in antibodies for name in a.locations} <= set(SIMULATED_LOCATIONS)


def test_at_least_one_is_wanted() -> None:
    with pytest.raises(InputError, match="at least 1"):
        simulate_antibodies(0, 0)
