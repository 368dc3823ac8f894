"""Intensity transforms: distributions, and agreement with one channel at a time in float64."""

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor

from subcell_hf.augmentation.intensity import (
    BrightnessContrast,
    DropChannel,
    EraseRectangle,
    GaussianBlur,
    GaussianNoise,
    RescaleProtein,
    Sharpness,
)
from subcell_hf.augmentation.registry import BatchShape, ChannelTransform, IntensityTransform, Parameters
from subcell_hf.errors import InputError

CHANNELS = ("red", "green", "yellow", "blue")  # the protein is not the last one
PROTEIN = 1
LEAST_P = 1e-4  # seeds are fixed: a right distribution passes always
Plane = npt.NDArray[np.float64]


def shape_of(cells: int, channels: tuple[str, ...] = CHANNELS) -> BatchShape:
    return BatchShape(cells, channels, "green", 32, 40, 32)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crops(cells: int = 6, channels: int = 4) -> Tensor:
    return torch.rand(cells, channels, 32, 40, generator=seeded(9))


def share(active: Tensor) -> float:
    return float(active.double().mean())


def assert_uniform(values: Tensor, low: float, high: float) -> None:
    assert stats.kstest(values.flatten().numpy(), stats.uniform(low, high - low).cdf).pvalue > LEAST_P


def assert_log_uniform(values: Tensor, low: float, high: float) -> None:
    assert_uniform(values.log(), math.log(low), math.log(high))


def jitter_one(plane: Plane, drawn: dict[str, float]) -> Plane:
    steps = ["brightness", "contrast"] if drawn["brightness_first"] else ["contrast", "brightness"]
    for step in steps:
        base = 0.0 if step == "brightness" else plane.mean()
        plane = np.clip(drawn[step] * plane + (1 - drawn[step]) * base, 0, 1)
    return plane


def blur_one(plane: Plane, drawn: dict[str, float]) -> Plane:
    kernel = np.exp(-0.5 * (np.arange(-3, 4) / drawn["sigma_px"]) ** 2)
    return ndimage.correlate(plane, np.outer(kernel, kernel) / kernel.sum() ** 2, mode="mirror")


def sharpen_one(plane: Plane, drawn: dict[str, float]) -> Plane:
    smooth = ndimage.correlate(plane, np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13)
    smooth[[0, -1]], smooth[:, [0, -1]] = plane[[0, -1]], plane[:, [0, -1]]
    return np.clip(2 * plane - smooth, 0, 1)


def erase_one(plane: Plane, drawn: dict[str, float]) -> Plane:
    area = drawn["area"] * plane.size
    height, width = round(math.sqrt(area * drawn["aspect"])), round(math.sqrt(area / drawn["aspect"]))
    top = math.floor(drawn["top"] * (plane.shape[0] - height + 1))
    left = math.floor(drawn["left"] * (plane.shape[1] - width + 1))
    plane = plane.copy()
    plane[top : top + height, left : left + width] = 0
    return plane


@pytest.mark.parametrize(
    ("transform", "one"),
    [
        (BrightnessContrast(probability=0.7), jitter_one),
        (GaussianBlur(), blur_one),
        (Sharpness(), sharpen_one),
        (EraseRectangle(), erase_one),
    ],
)
def test_batched_result_equals_one_channel_at_a_time(transform: ChannelTransform, one) -> None:
    pixels = crops(16)
    drawn = transform.draw(shape_of(16), seeded(2))
    made = transform.apply(pixels.clone(), drawn)
    assert 0 < share(drawn["active"]) < 1
    for cell in range(16):
        for channel in range(4):
            plane = pixels[cell, channel].double().numpy()
            if drawn["active"][cell, channel]:
                plane = one(plane, {name: float(value[cell, channel]) for name, value in drawn.items()})
            assert np.allclose(made[cell, channel].numpy(), plane, atol=3e-6), (cell, channel)


def test_drop_channel_is_drawn_per_crop_and_spares_the_protein() -> None:
    active = DropChannel().draw(shape_of(20_000), seeded())["active"]
    assert abs(share(active.any(dim=1)) - 0.25) < 0.015
    assert active.sum(dim=1).max() == 1
    assert not active[:, PROTEIN].any()
    counts = active.sum(dim=0)[[0, 2, 3]]
    assert stats.chisquare(counts.numpy()).pvalue > LEAST_P


def test_drop_channel_blackens_what_it_drew() -> None:
    pixels = crops()
    drawn = DropChannel(probability=1.0).draw(shape_of(6), seeded(1))
    made = DropChannel().apply(pixels.clone(), drawn)
    assert made[drawn["active"]].abs().max() == 0
    assert torch.equal(made[~drawn["active"]], pixels[~drawn["active"]])


def test_drop_channel_needs_three_channels() -> None:
    drawn = DropChannel(probability=1.0).draw(shape_of(50, ("blue", "green")), seeded())
    assert not drawn["active"].any()
    drawn = DropChannel(probability=1.0).draw(shape_of(50, ("blue", "green", "red")), seeded())
    assert drawn["active"].any(dim=1).all()


def test_rescale_protein_draws_follow_the_specification() -> None:
    drawn = RescaleProtein().draw(shape_of(20_000), seeded())
    assert abs(share(drawn["active"][:, PROTEIN]) - 0.25) < 0.015
    assert drawn["active"].sum() == drawn["active"][:, PROTEIN].sum()
    assert_uniform(drawn["factor"], 0, 2)


def test_rescale_protein_divides_by_the_maximum_of_the_crop() -> None:
    pixels = crops() * torch.tensor([1.0, 0.3, 0.5, 0.2])[:, None, None]
    drawn = RescaleProtein(probability=0.5).draw(shape_of(6), seeded(3))
    made = RescaleProtein().apply(pixels.clone(), drawn)
    assert 0 < drawn["active"].sum() < 6
    for cell in range(6):
        expected = pixels[cell].double()
        if drawn["active"][cell, PROTEIN]:
            expected[PROTEIN] *= drawn["factor"][cell] / (expected.max() + 1e-6)
        assert torch.allclose(made[cell].double(), expected, atol=1e-6)


def test_brightness_and_contrast_draws_follow_the_specification() -> None:
    drawn = BrightnessContrast().draw(shape_of(3_000), seeded())
    assert drawn["active"].all()
    assert_uniform(drawn["brightness"], 0.5, 1.5)
    assert_uniform(drawn["contrast"], 0.5, 1.5)
    assert abs(share(drawn["brightness_first"]) - 0.5) < 0.03
    assert_channels_differ(drawn["brightness"])


def test_blur_draws_follow_the_specification() -> None:
    drawn = GaussianBlur().draw(shape_of(5_000), seeded())
    assert abs(share(drawn["active"]) - 0.5) < 0.02
    assert_uniform(drawn["sigma_px"], 0.1, 2)
    assert_channels_differ(drawn["sigma_px"])
    assert_channels_differ(drawn["active"].double())


def test_sharpness_draws_follow_the_specification() -> None:
    drawn = Sharpness().draw(shape_of(5_000), seeded())
    assert abs(share(drawn["active"]) - 0.25) < 0.02
    assert_channels_differ(drawn["active"].double())


def test_noise_draws_follow_the_specification() -> None:
    drawn = GaussianNoise().draw(shape_of(5_000), seeded())
    active = drawn["active"]
    assert abs(share(active[:, 0]) - 0.5) < 0.03
    assert (active == active[:, :1]).all()
    assert_uniform(drawn["sigma"], 0.01, 0.05)
    assert_channels_differ(drawn["sigma"])


def test_noise_has_the_drawn_strength_and_is_not_clamped() -> None:
    transform = GaussianNoise(probability=1.0)
    drawn = transform.draw(shape_of(3), seeded(1))
    noise = transform.apply(torch.zeros(3, 4, 200, 200), drawn)
    assert torch.allclose(noise.std(dim=(2, 3)).double(), drawn["sigma"], rtol=0.02)
    assert noise.mean(dim=(2, 3)).abs().max() < 1e-3
    assert noise.min() < 0
    standard = (noise / drawn["sigma"][:, :, None, None])[:, :, ::10, ::10].flatten()
    assert stats.kstest(standard.numpy(), "norm").pvalue > LEAST_P
    assert abs(np.corrcoef(noise[0, 0].flatten(), noise[0, 1].flatten())[0, 1]) < 0.02


def test_erase_draws_follow_the_specification() -> None:
    drawn = EraseRectangle().draw(shape_of(5_000), seeded())
    assert abs(share(drawn["active"]) - 0.25) < 0.02
    assert_uniform(drawn["area"], 0.02, 0.1)
    assert_log_uniform(drawn["aspect"], 0.3, 3.3)
    assert_uniform(drawn["top"], 0, 1)
    assert_uniform(drawn["left"], 0, 1)
    assert_channels_differ(drawn["area"])


def assert_channels_differ(values: Tensor) -> None:
    """Channels of a crop are drawn on their own."""
    assert abs(np.corrcoef(values[:, 0], values[:, 1])[0, 1]) < 0.06
    assert not torch.equal(values[:, 0], values[:, 1])


ALL = [DropChannel, RescaleProtein, BrightnessContrast, GaussianBlur, Sharpness, GaussianNoise, EraseRectangle]


@pytest.mark.parametrize("transform", ALL)
@pytest.mark.parametrize("channels", [2, 3, 5])
def test_any_number_of_channels(transform: type[IntensityTransform], channels: int) -> None:
    names = ("green", "blue", "mito", "actin", "er")[:channels]
    shape = shape_of(5, names)
    drawn = transform(probability=1.0).draw(shape, seeded())
    made = transform().apply(crops(5, channels), drawn)
    assert made.shape == (5, channels, 32, 40)
    assert made.isfinite().all()
    unchanged = ~drawn["active"]
    assert torch.equal(made[unchanged], crops(5, channels)[unchanged])


@pytest.mark.parametrize("transform", ALL)
def test_nothing_changes_where_nothing_is_active(transform: type[IntensityTransform]) -> None:
    drawn = transform(probability=0.0).draw(shape_of(6), seeded())
    assert torch.equal(transform().apply(crops(), drawn), crops())


@pytest.mark.parametrize("transform", ALL)
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_constant_crops_stay_finite(transform: type[IntensityTransform], level: float) -> None:
    drawn = transform(probability=1.0).draw(shape_of(4), seeded())
    made = transform().apply(torch.full((4, 4, 32, 40), level), drawn)
    assert made.isfinite().all()


@pytest.mark.parametrize("transform", ALL)
def test_a_part_of_the_batch_comes_out_as_in_the_whole(transform: type[IntensityTransform]) -> None:
    drawn = transform(probability=0.6).draw(shape_of(6), seeded(1))
    part: Parameters = {name: value[2:5] for name, value in drawn.items()}
    whole = transform().apply(crops(), drawn)
    assert torch.allclose(transform().apply(crops()[2:5], part), whole[2:5], atol=1e-6)


def test_transforms_of_the_protein_name_the_channels_they_got() -> None:
    shape = replace(shape_of(3), channels=("nuc", "mito"))
    for transform in (DropChannel(), RescaleProtein()):
        with pytest.raises(InputError, match=r"'green'.*nuc, mito"):
            transform.draw(shape, seeded())


def test_views_too_small_for_the_kernel_are_refused() -> None:
    drawn = GaussianBlur(probability=1.0).draw(shape_of(1), seeded())
    with pytest.raises(InputError, match="kernel_px"):
        GaussianBlur().apply(torch.zeros(1, 4, 3, 3), drawn)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianBlur(kernel_px=6), "kernel_px"),
        (lambda: GaussianBlur(sigma_px=(0.0, 1.0)), "sigma_px"),
        (lambda: BrightnessContrast(contrast=(-1.0, 1.0)), "contrast"),
        (lambda: EraseRectangle(area=(0.5, 2.0)), "area"),
        (lambda: GaussianNoise(sigma=(0.1,)), "sigma"),
        (lambda: Sharpness(factor=float("nan")), "factor"),
        (lambda: RescaleProtein(probability="often"), "probability"),
    ],
)
def test_wrong_parameters_are_refused(make, message) -> None:
    with pytest.raises(InputError, match=message):
        make()
