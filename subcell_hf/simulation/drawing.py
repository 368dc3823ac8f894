"""Strokes that simulated cells are drawn with: noise fields, spots and filaments on a pixel grid."""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

FloatImage = npt.NDArray[np.floating]
"""`[height, width]`; float32 throughout, which numpy's annotations cannot follow through arithmetic."""

Points = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.floating]
Scalar = TypeVar("Scalar", bound=np.generic)

_COARSE_SIGMA_PX = 2.5
_STEP_PX = 2.0
_THINNEST_SIGMA_PX = 0.6


def blur(image: FloatImage, sigma_px: float) -> FloatImage:
    """Gaussian blur of a float32 image `[height, width]`; the border repeats its last pixel."""
    blurred: FloatImage = ndimage.gaussian_filter(image, sigma_px, mode="nearest", truncate=3.0)
    return blurred


def blur_widely(image: FloatImage, sigma_px: float) -> FloatImage:
    """Gaussian blur for large `sigma_px`, computed on a coarse grid: many times cheaper, equal to the eye."""
    step = max(1, int(sigma_px / _COARSE_SIGMA_PX))
    height, width = (length // step * step for length in image.shape)
    if step == 1 or height == 0 or width == 0:
        return blur(image, sigma_px)
    coarse = image[:height, :width].reshape(height // step, step, width // step, step).mean(axis=(1, 3))
    return enlarge(blur(coarse, sigma_px / step), image.shape)


def enlarge(image: FloatImage, shape: tuple[int, ...]) -> FloatImage:
    """Bilinear enlargement of `[height, width]` to `shape`, corners on corners."""
    # Columns first: they are few rows then, and whole rows are quick to copy.
    for axis in (1, 0):
        place = np.linspace(0, image.shape[axis] - 1, shape[axis], dtype=np.float32)
        before = np.minimum(place.astype(np.intp), max(image.shape[axis] - 2, 0))
        after = np.minimum(before + 1, image.shape[axis] - 1)
        share = (place - before).astype(np.float32)
        near, far = image.take(before, axis), image.take(after, axis)
        far -= near
        far *= share[:, None] if axis == 0 else share
        far += near
        image = far
    return image


def smooth_noise(generator: np.random.Generator, shape: tuple[int, int], sigma_px: float) -> FloatImage:
    """Gaussian noise of mean 0 and variance 1 whose grains are about `sigma_px` wide, float32 `[height, width]`."""
    step = max(1.0, sigma_px / _COARSE_SIGMA_PX)
    sigma = max(0.5, sigma_px / step)
    coarse_shape = tuple(math.ceil(length / step) for length in shape)
    white = generator.standard_normal(coarse_shape, dtype=np.float32)
    # Blurred white noise has standard deviation 1 / (2 σ √π).
    noise = blur(white, sigma) * (2 * sigma * math.sqrt(math.pi))
    return noise if noise.shape == shape else enlarge(noise, shape)


def choose_points(generator: np.random.Generator, weights: FloatImage, count: int) -> Points:
    """Draw `count` points with density proportional to `weights`.

    Args:
        generator: Source of randomness.
        weights: `[height, width]`, not negative.
        count: How many.

    Returns:
        `[points, 2]` rows and columns in pixels, jittered inside their pixel; none if all weights are zero.
    """
    cumulative = np.cumsum(weights, dtype=np.float64)
    if count <= 0 or cumulative[-1] <= 0:
        return np.zeros((0, 2), np.float32)
    index = np.searchsorted(cumulative, generator.random(count) * cumulative[-1], side="right")
    pixels = np.column_stack(np.divmod(index, weights.shape[1])).astype(np.float32)
    return pixels + generator.random((count, 2), dtype=np.float32) - 0.5


def look_up(image: npt.NDArray[Scalar], points: Points) -> npt.NDArray[Scalar]:
    """Values of an image `[height, width]` at points `[points, 2]`; outside the image, those at its border."""
    rows, columns = np.rint(points).astype(np.intp).T
    values: npt.NDArray[Scalar] = image[rows.clip(0, image.shape[0] - 1), columns.clip(0, image.shape[1] - 1)]
    return values


def accumulate_points(shape: tuple[int, int], points: Points, weights: Numbers) -> FloatImage:
    """Sum the weights of all points that fall into each pixel; points outside the image are left out."""
    rows, columns = np.rint(points).astype(np.intp).T
    inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    flat = rows[inside] * shape[1] + columns[inside]
    summed = np.bincount(flat, weights=weights[inside], minlength=shape[0] * shape[1])
    return summed.reshape(shape).astype(np.float32)


def draw_spots(shape: tuple[int, int], points: Points, peaks: Numbers, sigma_px: float) -> FloatImage:
    """Draw round spots; a spot that overlaps no other has its peak's height."""
    sigma_px = max(_THINNEST_SIGMA_PX, sigma_px)
    return blur(accumulate_points(shape, points, peaks), sigma_px) * (2 * math.pi * sigma_px**2)


def draw_lines(shape: tuple[int, int], points: Points, peaks: Numbers, sigma_px: float) -> FloatImage:
    """Draw filaments given as points one pixel apart; a filament that overlaps no other has its peak's height."""
    sigma_px = max(_THINNEST_SIGMA_PX, sigma_px)
    return blur(accumulate_points(shape, points, peaks), sigma_px) * (math.sqrt(2 * math.pi) * sigma_px)


@dataclass(frozen=True)
class Walls:
    """Where filaments may not go, on a grid of every second pixel.

    Attributes:
        distance_px: Distance to the nearest wall, negative behind it.
        normals: `[2, height, width]` unit vectors (row, column) that point away from the wall.
    """

    distance_px: FloatImage
    normals: FloatImage

    @classmethod
    def from_distance(cls, distance_px: FloatImage) -> "Walls":
        """Walls of a full-size distance image `[height, width]`."""
        coarse = blur(distance_px[::2, ::2], 1.0)
        normals = np.stack([np.gradient(coarse, axis=axis) for axis in (0, 1)])
        normals /= np.maximum(np.sqrt((normals**2).sum(axis=0)), 1e-6)
        return cls(coarse, normals.astype(np.float32))

    def look_up(self, points: Points) -> tuple[FloatImage, Points]:
        """Distance `[points]` and normal `[points, 2]` at the given places; outside the image, those at its border."""
        rows, columns = (points / 2).astype(np.intp).T
        rows = rows.clip(0, self.distance_px.shape[0] - 1)
        columns = columns.clip(0, self.distance_px.shape[1] - 1)
        return self.distance_px[rows, columns], self.normals[:, rows, columns].T


def walk_filaments(
    generator: np.random.Generator,
    walls: Walls,
    starts: Points,
    angles: Numbers,
    lengths_px: Numbers,
    bend: float,
    clearance_px: Numbers | float,
    sliding_cost: float = 0.0,
) -> tuple[Points, npt.NDArray[np.intp]]:
    """Grow filaments as persistent random walks that slide along walls.

    Args:
        generator: Source of randomness.
        walls: What filaments slide along.
        starts: `[filaments, 2]` first points in pixels.
        angles: `[filaments]` first directions in radians.
        lengths_px: `[filaments]` lengths.
        bend: Standard deviation of the curvature in radians per step of two pixels.
        clearance_px: Distance from a wall at which a filament turns along it, one for all or `[filaments]`.
        sliding_cost: Pixels of its length that a filament loses with each step along a wall.

    Returns:
        Points one pixel apart, `[points, 2]`, and the filament that each belongs to, `[points]`.
    """
    steps = max(1, int(np.ceil(lengths_px.max(initial=0.0) / _STEP_PX)))
    position = starts.astype(np.float32)
    direction = np.stack([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
    curvature = generator.normal(0, bend, len(starts)).astype(np.float32)
    path = np.empty((steps, len(starts), 2), np.float32)
    alive = np.empty((steps, len(starts)), np.bool_)
    remaining = lengths_px.astype(np.float32)
    for step in range(steps):
        path[step], alive[step] = position, remaining > 0
        # The curvature forgets its value within about ten steps: gentle arcs, not zigzag.
        curvature = 0.9 * curvature + generator.normal(0, 0.44 * bend, len(starts)).astype(np.float32)
        turned = direction + curvature[:, None] * direction[:, ::-1] * np.array([1, -1], np.float32)
        distance, normal = walls.look_up(position)
        inward = (turned * normal).sum(axis=1)
        blocked = (distance < clearance_px) & (inward < 0)
        turned -= np.where(blocked, inward * 1.05, 0)[:, None] * normal
        direction = turned / np.maximum(np.sqrt((turned**2).sum(axis=1, keepdims=True)), 1e-6)
        position = position + direction * _STEP_PX
        remaining -= _STEP_PX + sliding_cost * blocked
    halfway = path + (np.concatenate([path[1:], path[-1:]]) - path) / 2
    filament = np.broadcast_to(np.arange(len(starts)), alive.shape)[alive]
    return np.concatenate([path[alive], halfway[alive]]), np.concatenate([filament, filament])
