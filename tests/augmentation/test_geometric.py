"""Geometry: distributions, agreement with independent implementations, masks that follow their image."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from skimage.transform import ProjectiveTransform
from torch import Tensor

from subcell_hf.augmentation.geometric import (
    Affine,
    HorizontalFlip,
    Perspective,
    ResizedCrop,
    Transpose,
    VerticalFlip,
    resize,
    sample,
)
from subcell_hf.augmentation.registry import BatchShape, GeometricTransform
from subcell_hf.errors import InputError

SIZE = 48
LEAST_P = 1e-4  # seeds are fixed: a right distribution passes always


def shape_of(cells: int, height: int = SIZE, width: int = SIZE, output: int = SIZE) -> BatchShape:
    return BatchShape(cells, ("blue", "green"), "green", height, width, output)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_uniform(values: Tensor, low: float, high: float) -> None:
    assert stats.kstest(values.flatten().numpy(), stats.uniform(low, high - low).cdf).pvalue > LEAST_P


def smooth_crops(cells: int, height: int = SIZE, width: int = SIZE) -> Tensor:
    noise = np.random.default_rng(0).random((cells, 2, height, width))
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, 0, 2, 2)))


def masks_of(pixels: Tensor) -> Tensor:
    return (pixels[:, 0] > pixels[:, 0].median()).to(pixels.dtype)


def run(
    transform: GeometricTransform, pixels: Tensor, seed: int = 1, output: int = SIZE
) -> tuple[Tensor, Tensor, dict]:
    shape = shape_of(len(pixels), *pixels.shape[-2:], output)
    parameters = transform.draw(shape, seeded(seed))
    moved, masks = sample(pixels, masks_of(pixels), transform.matrices(parameters, shape), output)
    return moved, masks, parameters


@pytest.mark.parametrize("flip", [HorizontalFlip(), VerticalFlip(), Transpose()])
def test_flips_are_drawn_half_of_the_time(flip: GeometricTransform) -> None:
    active = flip.draw(shape_of(10_000), seeded())["active"]
    assert abs(active.double().mean() - 0.5) < 0.02


def test_flips_and_transposes_make_all_orientations_without_interpolating() -> None:
    pixels = smooth_crops(200)
    shape = shape_of(200)
    steps = [HorizontalFlip(), VerticalFlip(), Transpose()]
    drawn = [step.draw(shape, seeded(seed)) for seed, step in enumerate(steps)]
    matrices = torch.eye(3, dtype=torch.float64).repeat(200, 1, 1)
    for step, parameters in zip(steps, drawn, strict=True):
        active = parameters["active"][:, None, None]
        matrices = matrices @ torch.where(active, step.matrices(parameters, shape), torch.eye(3, dtype=torch.float64))
    moved, masks = sample(pixels, masks_of(pixels), matrices, SIZE)
    changes = (lambda image: image.flip(-1), lambda image: image.flip(-2), lambda image: image.mT)
    for found, images in ((moved, pixels), (masks, masks_of(pixels))):
        for cell, image in enumerate(images):
            for parameters, change in zip(drawn, changes, strict=True):
                image = change(image) if parameters["active"][cell] else image
            assert torch.equal(found[cell], image)
    assert len({tuple(matrix.flatten().tolist()) for matrix in matrices}) == 8
    oblong = smooth_crops(2, 40)  # interpolated, since the size changes
    moved, _, _ = run(Transpose(probability=1.0), oblong, output=SIZE)
    assert moved.shape[-2:] == (SIZE, SIZE)


@pytest.mark.parametrize(("flip", "axis"), [(HorizontalFlip(), -1), (VerticalFlip(), -2)])
@pytest.mark.parametrize("height", [SIZE, 40])  # 40: interpolated, since the size changes
def test_flips_mirror_one_axis(flip: GeometricTransform, axis: int, height: int) -> None:
    pixels = smooth_crops(3, height)
    moved, masks, _ = run(flip, pixels)
    expected, expected_masks = resize(pixels.flip(axis), masks_of(pixels).flip(axis), SIZE)
    if height == SIZE:
        assert torch.equal(moved, expected)
        assert torch.equal(masks, expected_masks)
    else:
        inner = (
            ...,
            slice(2, -2),
            slice(2, -2),
        )  # at the border one side mixes in the fill, the other repeats the edge
        assert torch.allclose(moved[inner], expected[inner], atol=1e-9)


def test_affine_draws_follow_the_specification() -> None:
    drawn = Affine().draw(shape_of(5_000), seeded())
    assert_uniform(drawn["rotation_deg"], -90, 90)
    assert_uniform(drawn["shift_x"], -0.2, 0.2)
    assert_uniform(drawn["shift_y"], -0.2, 0.2)
    assert_uniform(drawn["scale"], 0.8, 1.2)
    assert abs(np.corrcoef(drawn["shift_x"], drawn["shift_y"])[0, 1]) < 0.05
    assert drawn["active"].all()


@pytest.mark.parametrize(("height", "width"), [(SIZE, SIZE), (40, 60)])
def test_affine_agrees_with_scipy(height: int, width: int) -> None:
    pixels = smooth_crops(4, height, width)
    shape = BatchShape(4, ("blue", "green"), "green", height, width, SIZE)
    drawn = Affine().draw(shape, seeded(1))
    matrices = Affine().matrices(drawn, shape)
    for cell in range(4):
        angle, scale = math.radians(float(drawn["rotation_deg"][cell])), float(drawn["scale"][cell])
        # rows before columns, y down: scale · [[cos, sin], [−sin, cos]] about the centre, then the shift
        forward = scale * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        backward = np.linalg.inv(forward)
        centre = np.array([(height - 1) / 2, (width - 1) / 2])
        shift = np.array([float(drawn["shift_y"][cell]) * height, float(drawn["shift_x"][cell]) * width])
        row, column = 0.31 * height, 0.64 * width  # any point of the result
        source = backward @ (np.array([row, column]) - centre - shift) + centre
        point = torch.tensor([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1, 1.0], dtype=torch.float64)
        found = matrices[cell] @ point
        assert found[0] == pytest.approx((2 * source[1] + 1) / width - 1, abs=1e-9)
        assert found[1] == pytest.approx((2 * source[0] + 1) / height - 1, abs=1e-9)
        if height == width:
            moved, _ = sample(
                pixels[cell : cell + 1], masks_of(pixels)[cell : cell + 1], matrices[cell : cell + 1], SIZE
            )
            offset = centre - backward @ (centre + shift)
            for channel in range(2):
                expected = ndimage.affine_transform(
                    pixels[cell, channel].numpy(), backward, offset, order=1, mode="grid-constant"
                )
                assert np.allclose(moved[0, channel], expected, atol=1e-9)


def test_perspective_draws_follow_the_specification() -> None:
    drawn = Perspective().draw(shape_of(5_000), seeded())
    assert abs(drawn["active"].double().mean() - 0.5) < 0.03
    for corner in range(4):
        for axis in range(2):
            assert_uniform(drawn["inwards"][:, corner, axis], 0, 0.25)


def test_perspective_agrees_with_scikit_image() -> None:
    pixels = smooth_crops(4)
    moved, _, drawn = run(Perspective(), pixels)
    corners = np.array([[-0.5, -0.5], [SIZE - 0.5, -0.5], [SIZE - 0.5, SIZE - 0.5], [-0.5, SIZE - 0.5]])  # x, y
    inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for cell in range(4):
        ends = corners + inwards * drawn["inwards"][cell].numpy() * SIZE / 2
        back = ProjectiveTransform.from_estimate(ends, corners)
        source = back(np.stack([columns.ravel(), rows.ravel()], axis=1))
        expected = ndimage.map_coordinates(
            pixels[cell, 1].numpy(), [source[:, 1], source[:, 0]], order=1, mode="grid-constant"
        )
        assert np.allclose(moved[cell, 1].flatten(), expected, atol=1e-6)


def test_behind_the_horizon_nothing_is_shown() -> None:
    matrix = torch.eye(3, dtype=torch.float64)[None].clone()
    matrix[
        0, 2, 0
    ] = -3.0  # depth 1 − 3x: the horizon stands at x = ⅓, and points far behind it would fall into the image
    moved, masks = sample(torch.ones(1, 1, SIZE, SIZE), torch.ones(1, SIZE, SIZE), matrix, SIZE)
    assert moved[..., SIZE * 2 // 3 :].abs().sum() == 0
    assert masks[..., SIZE * 2 // 3 :].sum() == 0
    assert moved[..., SIZE // 2, SIZE // 2] == 1


def test_homographies_need_no_scale() -> None:
    pixels = smooth_crops(2)
    matrices = Affine().matrices(Affine().draw(shape_of(2), seeded()), shape_of(2))
    once, twice = (sample(pixels, masks_of(pixels), factor * matrices, SIZE)[0] for factor in (1.0, 2.0))
    assert torch.allclose(once, twice)


def test_resized_crop_draws_follow_the_specification() -> None:
    drawn = ResizedCrop().draw(shape_of(20_000, 64, 64), seeded())
    width, height = drawn["width"], drawn["height"]
    area, aspect = width * height, width / height
    assert drawn["active"].all()
    assert area.min() >= 0.75
    assert area.max() <= 1
    assert aspect.min() >= 3 / 4 - 1e-9
    assert aspect.max() <= 4 / 3 + 1e-9
    # A rectangle fits where area ≤ min(aspect, 1/aspect): the same by rejection, one draw at a time.
    rng = np.random.default_rng(0)
    areas, aspects = rng.uniform(0.75, 1, 60_000), np.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3), 60_000))
    fits = areas <= np.minimum(aspects, 1 / aspects)
    chosen = (width < 1) | (height < 1)  # but for the few that never fitted
    assert stats.ks_2samp(area[chosen].numpy(), areas[fits]).pvalue > LEAST_P
    assert stats.ks_2samp(aspect[chosen].numpy(), aspects[fits]).pvalue > LEAST_P
    assert abs((~chosen).double().mean() - (1 - fits.mean()) ** 10) < 0.01
    assert_uniform((drawn["left"] / (1 - width))[chosen], 0, 1)
    assert_uniform((drawn["top"] / (1 - height))[chosen], 0, 1)


def test_resized_crop_that_cannot_fit_takes_the_whole_crop_at_the_nearest_aspect() -> None:
    drawn = ResizedCrop(area=(1.0, 1.0)).draw(shape_of(5, height=50, width=100), seeded())
    assert torch.allclose(drawn["width"] * 100 / (drawn["height"] * 50), torch.tensor(4 / 3, dtype=torch.float64))
    assert (drawn["height"] == 1).all()
    assert torch.allclose(drawn["left"], (1 - drawn["width"]) / 2)


def test_resized_crop_only_where_the_size_differs() -> None:
    assert not ResizedCrop().draw(shape_of(8), seeded())["active"].any()
    assert ResizedCrop(only_if_size_differs=False).draw(shape_of(8), seeded())["active"].all()
    assert ResizedCrop().draw(shape_of(8, output=SIZE + 1), seeded())["active"].all()


def test_resized_crop_shows_its_rectangle() -> None:
    pixels = smooth_crops(3)
    moved, _, drawn = run(ResizedCrop(), pixels, output=56)
    for cell in range(3):
        edges = [(drawn[place][cell], drawn[edge][cell]) for place, edge in (("top", "height"), ("left", "width"))]
        rows, columns = (
            ((np.arange(56) + 0.5) / 56 * float(length) + float(start)) * SIZE - 0.5 for start, length in edges
        )
        grid = np.meshgrid(rows, columns, indexing="ij")
        expected = ndimage.map_coordinates(pixels[cell, 0].numpy(), grid, order=1, mode="grid-constant")
        assert np.allclose(moved[cell, 0], expected, atol=1e-6)


@pytest.mark.parametrize("transform", [Affine(), Perspective(), ResizedCrop(only_if_size_differs=False)])
def test_masks_go_where_their_image_goes(transform: GeometricTransform) -> None:
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    disc = ((rows - 20) ** 2 + (columns - 28) ** 2 < 150).double()
    pixels = disc.expand(20, 1, SIZE, SIZE).contiguous()
    shape = shape_of(20)
    matrices = transform.matrices(transform.draw(shape, seeded(3)), shape)
    moved, masks = sample(pixels, pixels[:, 0], matrices, SIZE)
    decided = (moved[:, 0] < 0.02) | (moved[:, 0] > 0.98)  # the rest is the interpolated edge
    assert torch.equal(masks[decided], (moved[:, 0] > 0.5).double()[decided])
    assert decided.double().mean() > 0.9
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(masks, pixels[:, 0])


def test_outside_is_black() -> None:
    shape = shape_of(1)
    shifted = Affine(rotation_deg=(0, 0), shift=(0.25, 0.25), scale=(1, 1))
    matrices = shifted.matrices(shifted.draw(shape, seeded()), shape)
    moved, masks = sample(torch.ones(1, 2, SIZE, SIZE), torch.ones(1, SIZE, SIZE), matrices, SIZE)
    quarter = SIZE // 4
    expected = torch.zeros(SIZE, SIZE)
    expected[quarter:, quarter:] = 1
    assert torch.allclose(moved[0, 1], expected, atol=1e-5)
    assert torch.equal(masks[0], expected)


def test_mirrored_crops_among_moved_ones_come_out_in_their_places() -> None:
    pixels = smooth_crops(4)
    flip = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    shape = shape_of(4)
    matrices = Affine().matrices(Affine().draw(shape, seeded(2)), shape)
    alone = [sample(pixels[i : i + 1], masks_of(pixels)[i : i + 1], matrices[i : i + 1], SIZE) for i in range(4)]
    matrices[1] = flip
    moved, masks = sample(pixels, masks_of(pixels), matrices, SIZE)
    assert torch.equal(moved[1], pixels[1].flip(-1, -2))
    assert torch.equal(masks[1], masks_of(pixels)[1].flip(-1, -2))
    for cell in (0, 2, 3):
        assert torch.allclose(moved[cell], alone[cell][0][0])
        assert torch.equal(masks[cell], alone[cell][1][0])


def test_large_crops_are_reduced_without_aliasing() -> None:
    stripes = (torch.arange(512) % 2).float().expand(1, 1, 512, 512).contiguous()  # finer than the result can show
    inner = (..., slice(4, -4), slice(4, -4))
    identity = torch.eye(3, dtype=torch.float64)[None]
    for made in (sample(stripes, stripes[:, 0], identity, 64)[0], resize(stripes, stripes[:, 0], 64)[0]):
        assert (made[inner] - 0.5).abs().max() < 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Affine(scale=(0.0, 1.0)), "Affine.scale"),
        (lambda: Affine(shift=(0.2, -0.2)), "Affine.shift"),
        (lambda: Affine(rotation_deg="90"), "Affine.rotation_deg"),  # type: ignore[arg-type]
        (lambda: Perspective(distortion=1.5), "Perspective.distortion"),
        (lambda: ResizedCrop(area=(0.5, 1.5)), "ResizedCrop.area"),
        (lambda: HorizontalFlip(probability=1.1), "HorizontalFlip.probability"),
    ],
)
def test_wrong_parameters_are_refused(make, message) -> None:
    with pytest.raises(InputError, match=message):
        make()
