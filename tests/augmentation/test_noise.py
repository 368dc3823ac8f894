"""Noise from seeds: normal, independent, and the same wherever and however it is made."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from subcell_hf.augmentation.noise import normal_planes

PLANES, SIZE = 40, 128
LEAST_P = 1e-4  # seeds are fixed: a right distribution passes always


def seeds(count: int = PLANES) -> Tensor:
    return torch.randint(2**63 - 1, (count,), generator=torch.Generator().manual_seed(3))


def standard(count: int = PLANES, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return normal_planes(seeds(count), torch.ones(count), height, width).double().numpy()


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """In standard errors of independent numbers."""
    return float((first * second).mean() * np.sqrt(first.size))


def test_it_is_normal_in_body_and_tails() -> None:
    noise = standard()
    assert stats.kstest(noise.ravel()[::7], "norm").pvalue > LEAST_P
    count = noise.size
    assert abs(noise.mean()) * count**0.5 < 4
    assert abs((noise**2).mean() - 1) * (count / 2) ** 0.5 < 4
    assert abs((noise**3).mean()) * (count / 15) ** 0.5 < 4
    assert abs((noise**4).mean() - 3) * (count / 96) ** 0.5 < 4
    for edge in (3.0, 4.0):
        expected = count * 2 * stats.norm.sf(edge)
        assert abs((abs(noise) > edge).sum() - expected) < 4 * expected**0.5
    assert np.isfinite(noise).all()


@pytest.mark.parametrize(("down", "right"), [(0, 1), (1, 0), (1, 1), (0, 16), (16, 0), (SIZE // 2, 0), (3, 7)])
def test_pixels_do_not_depend_on_each_other(down: int, right: int) -> None:
    noise = standard()
    first, second = noise[:, down:, right:], noise[:, : SIZE - down, : SIZE - right]
    assert abs(correlation(first, second)) < 4
    assert abs(correlation(first**2 - 1, second**2 - 1)) / 2 < 4


def test_every_frequency_is_as_strong() -> None:
    power = (abs(np.fft.fft2(standard(200, 32, 32))) ** 2 / 32**2).mean(axis=0).ravel()
    chi_squared = stats.chi2(2 * 200).cdf(power * 2 * 200)  # but for the few real ones
    assert stats.kstest(chi_squared, "uniform").pvalue > LEAST_P


def test_planes_do_not_depend_on_each_other() -> None:
    noise = standard()
    assert abs(correlation(noise[1:], noise[:-1])) < 4
    neighbours = normal_planes(torch.arange(PLANES), torch.ones(PLANES), SIZE, SIZE).double().numpy()
    assert abs(correlation(neighbours[1:], neighbours[:-1])) < 4


def test_both_halves_of_a_seed_count() -> None:
    base = 123_456_789
    low, high = torch.tensor([base, base + 1]), torch.tensor([base, base + 2**40])
    for pair in (low, high):
        first, second = normal_planes(pair, torch.ones(2), 16, 16)
        assert (first - second).abs().max() > 0.5


def test_a_plane_depends_on_its_seed_alone() -> None:
    whole = normal_planes(seeds(6), torch.arange(6.0), 15, 9)
    assert whole.shape == (6, 15, 9)
    assert torch.equal(normal_planes(seeds(6)[2:4], torch.arange(6.0)[2:4], 15, 9), whole[2:4])


def test_sigma_scales_it() -> None:
    plain = normal_planes(seeds(3), torch.ones(3), 16, 16)
    scaled = normal_planes(seeds(3), torch.tensor([0.0, 0.5, 3.0]), 16, 16)
    assert torch.allclose(scaled, plain * torch.tensor([0.0, 0.5, 3.0])[:, None, None], atol=1e-6)
