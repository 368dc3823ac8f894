"""Geometric transforms: one homography per crop, one interpolation for all of them together."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from subcell_hf.augmentation.registry import (
    BatchShape,
    GeometricTransform,
    Parameters,
    Range,
    draw_log_uniform,
    draw_uniform,
    register_transform,
    to_pixels,
)

_CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
_CROP_ATTEMPTS = 10
_FINEST_ZOOM = 4 / 3
"""Crops much larger than the views are reduced before sampling, to this multiple of the view: as fine as the closest
zoom of the published pipelines (three quarters of an edge). Nothing that can be shown is lost and little is aliased."""


@register_transform("horizontal_flip")
@dataclass(frozen=True, kw_only=True)
class HorizontalFlip(GeometricTransform):
    """Mirror left and right."""

    probability: float = 0.5

    def matrices(self, parameters: Parameters, shape: BatchShape) -> Tensor:
        """See `GeometricTransform.matrices`."""
        return torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)).expand(shape.cells, 3, 3)


@register_transform("vertical_flip")
@dataclass(frozen=True, kw_only=True)
class VerticalFlip(GeometricTransform):
    """Mirror top and bottom."""

    probability: float = 0.5

    def matrices(self, parameters: Parameters, shape: BatchShape) -> Tensor:
        """See `GeometricTransform.matrices`."""
        return torch.diag(torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)).expand(shape.cells, 3, 3)


@register_transform("transpose")
@dataclass(frozen=True, kw_only=True)
class Transpose(GeometricTransform):
    """Swap the two axes; with both flips, all eight orientations of a crop, and no pixel interpolated."""

    probability: float = 0.5

    def matrices(self, parameters: Parameters, shape: BatchShape) -> Tensor:
        """See `GeometricTransform.matrices`."""
        aspect = shape.width_px / shape.height_px
        swapped = torch.tensor([[0.0, 1 / aspect, 0.0], [aspect, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
        return swapped.expand(shape.cells, 3, 3)


@register_transform("affine")
@dataclass(frozen=True, kw_only=True)
class Affine(GeometricTransform):
    """Rotate and scale about the centre, then shift; every draw uniform.

    Attributes:
        rotation_deg: Angle in degrees.
        shift: Shift as a fraction of the edge, drawn for each axis on its own.
        scale: Magnification.
    """

    rotation_deg: Range = (-90.0, 90.0)
    shift: Range = (-0.2, 0.2)
    scale: Range = (0.8, 1.2)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("rotation_deg")
        self.check_range("shift")
        self.check_range("scale", low=1e-3)

    def draw(self, shape: BatchShape, generator: torch.Generator) -> Parameters:
        """Draw `rotation_deg`, `shift_x`, `shift_y` and `scale`, each [cells]."""
        return super().draw(shape, generator) | {
            "rotation_deg": draw_uniform([shape.cells], self.rotation_deg, generator),
            "shift_x": draw_uniform([shape.cells], self.shift, generator),
            "shift_y": draw_uniform([shape.cells], self.shift, generator),
            "scale": draw_uniform([shape.cells], self.scale, generator),
        }

    def matrices(self, parameters: Parameters, shape: BatchShape) -> Tensor:
        """See `GeometricTransform.matrices`: undo the shift, then the rotation and the scale."""
        angle, scale = torch.deg2rad(parameters["rotation_deg"]), parameters["scale"]
        cosine, sine = angle.cos() / scale, angle.sin() / scale
        aspect = shape.width_px / shape.height_px  # a rotation is one in pixels, not in edges of an oblong image
        linear = torch.stack(
            [torch.stack([cosine, sine / aspect], dim=-1), torch.stack([-sine * aspect, cosine], dim=-1)], dim=-2
        )
        # A shift of one edge is 2 in coordinates from −1 to 1.
        shift = 2 * torch.stack([parameters["shift_x"], parameters["shift_y"]], dim=-1)
        matrices = torch.eye(3, dtype=torch.float64).repeat(shape.cells, 1, 1)
        matrices[:, :2, :2] = linear
        matrices[:, :2, 2:] = -linear @ shift[..., None]
        return matrices


@register_transform("perspective")
@dataclass(frozen=True, kw_only=True)
class Perspective(GeometricTransform):
    """Pull every corner inwards by its own draw.

    Attributes:
        distortion: Farthest that a corner moves along an axis, as a fraction of half the edge; drawn uniformly from 0.
    """

    probability: float = 0.5
    distortion: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("distortion", 0.0, 0.9)

    def draw(self, shape: BatchShape, generator: torch.Generator) -> Parameters:
        """Draw `inwards` [cells, corners, axes]: clockwise from the top left, x before y."""
        inwards = draw_uniform([shape.cells, 4, 2], (0.0, self.distortion), generator)
        return super().draw(shape, generator) | {"inwards": inwards}

    def matrices(self, parameters: Parameters, shape: BatchShape) -> Tensor:
        """See `GeometricTransform.matrices`: the homography that takes the moved corners back."""
        corners = torch.tensor(_CORNERS, dtype=torch.float64)
        moved = corners * (1 - parameters["inwards"])  # [cells, corners, axes]
        zeros, ones = torch.zeros_like(moved), torch.ones_like(moved[..., :1])
        point = torch.cat([moved, ones], dim=-1)
        # Two equations per corner: target · (g·x + h·y + 1) = (row of the matrix) · (x, y, 1), for the eight unknowns.
        x_equations = torch.cat([point, zeros, ones * 0, -moved * corners[:, :1]], dim=-1)
        y_equations = torch.cat([zeros, ones * 0, point, -moved * corners[:, 1:]], dim=-1)
        equations = torch.cat([x_equations, y_equations], dim=1)
        targets = torch.cat([corners[:, 0], corners[:, 1]]).expand(shape.cells, 8)
        unknowns = torch.linalg.solve(equations, targets)
        return torch.cat([unknowns, torch.ones_like(unknowns[:, :1])], dim=1).view(-1, 3, 3)


@register_transform("resized_crop")
@dataclass(frozen=True, kw_only=True)
class ResizedCrop(GeometricTransform):
    """Enlarge a random rectangle to the size of the view.

    A rectangle of uniform area and log-uniform aspect is drawn up to ten times until it fits; then its place is
    uniform. Where none fits, the whole crop is taken, cut about its centre to the nearest allowed aspect.

    Attributes:
        area: Area of the rectangle as a fraction of the crop's.
        aspect: Its width by its height.
        only_if_size_differs: Leave crops alone that already have the size of the view.
    """

    area: Range = (0.75, 1.0)
    aspect: Range = (3 / 4, 4 / 3)
    only_if_size_differs: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("area", low=1e-3, high=1.0)
        self.check_range("aspect", low=1e-3)

    def draw(self, shape: BatchShape, generator: torch.Generator) -> Parameters:
        """Draw `width`, `height`, `left` and `top`, each [cells], as fractions of the crop's edges."""
        area = draw_uniform([shape.cells, _CROP_ATTEMPTS], self.area, generator)
        # Aspect in units of the crop's own aspect, so that width and height come out as fractions of its edges.
        frame_aspect = shape.width_px / shape.height_px
        aspect = draw_log_uniform([shape.cells, _CROP_ATTEMPTS], self.aspect, generator) / frame_aspect
        nearest = min(max(1.0, self.aspect[0] / frame_aspect), self.aspect[1] / frame_aspect)
        whole = torch.tensor([min(1.0, nearest), min(1.0, 1 / nearest)], dtype=torch.float64)
        sizes = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=-1)  # [cells, attempts, axes]
        fits = (sizes <= 1).all(dim=-1)
        first = fits.to(torch.int8).argmax(dim=1)
        size = torch.where(fits.any(dim=1)[:, None], sizes[torch.arange(shape.cells), first], whole)
        place = draw_uniform([shape.cells, 2], (0.0, 1.0), generator)
        place = torch.where(fits.any(dim=1)[:, None], place, 0.5) * (1 - size)
        active = super().draw(shape, generator)["active"]
        if self.only_if_size_differs and shape.height_px == shape.width_px == shape.output_px:
            active = torch.zeros_like(active)
        return {"active": active, "width": size[:, 0], "height": size[:, 1], "left": place[:, 0], "top": place[:, 1]}

    def matrices(self, parameters: Parameters, shape: BatchShape) -> Tensor:
        """See `GeometricTransform.matrices`."""
        matrices = torch.eye(3, dtype=torch.float64).repeat(shape.cells, 1, 1)
        matrices[:, 0, 0], matrices[:, 1, 1] = parameters["width"], parameters["height"]
        matrices[:, 0, 2] = 2 * parameters["left"] + parameters["width"] - 1
        matrices[:, 1, 2] = 2 * parameters["top"] + parameters["height"] - 1
        return matrices

    def shape_after(self, shape: BatchShape) -> BatchShape:
        """The views' square."""
        return replace(shape, height_px=shape.output_px, width_px=shape.output_px)


def sample(pixels: Tensor, cell_masks: Tensor, matrices: Tensor, size_px: int) -> tuple[Tensor, Tensor]:
    """Move crops and their masks by one homography each.

    Args:
        pixels: [cells, channels, height, width] float32.
        cell_masks: [cells, height, width] float32, 1 inside and 0 outside.
        matrices: [cells, 3, 3] float64 on the CPU, see `GeometricTransform.matrices`.
        size_px: Edge of the result.

    Returns:
        Pixels [cells, channels, size_px, size_px], bilinear, and masks [cells, size_px, size_px], nearest-neighbour;
        both 0 outside the source.
    """
    turned = _keeps_pixels(matrices) & (pixels.shape[-2:] == (size_px, size_px))
    # Exact and much cheaper: a quarter of the crops of the published pipelines are mirrored and no more.
    still, moving = (which.nonzero().squeeze(1) for which in (turned, ~turned))
    if len(still) == 0:
        return _interpolate(pixels, cell_masks, matrices, size_px)
    if len(moving) == 0:
        return _turn(pixels, matrices), _turn(cell_masks, matrices)
    here = moving.to(pixels.device)
    moved, moved_masks = _interpolate(pixels[here], cell_masks[here], matrices[moving], size_px)
    turns = torch.where(turned[:, None, None], matrices, torch.eye(3, dtype=torch.float64))
    made, made_masks = _turn(pixels, turns), _turn(cell_masks, turns)
    return made.index_copy(0, here, moved), made_masks.index_copy(0, here, moved_masks)


def resize(pixels: Tensor, cell_masks: Tensor, size_px: int) -> tuple[Tensor, Tensor]:
    """Bring crops and masks to `size_px` without moving anything; shapes, dtypes and interpolation as in `sample`."""
    if pixels.shape[-2:] == (size_px, size_px):
        return pixels, cell_masks
    size = (size_px, size_px)
    masks = F.interpolate(cell_masks[:, None], size=size, mode="nearest-exact")
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True), masks[:, 0]


def _keeps_pixels(matrices: Tensor) -> Tensor:
    """Which matrices [cells, 3, 3] mirror, transpose or turn a square by a right angle, and no more: [cells] bool."""
    still = torch.eye(3, dtype=torch.float64)
    sizes = matrices.abs()
    return (sizes == still).all(dim=(1, 2)) | (sizes == still[[1, 0, 2]]).all(dim=(1, 2))


def _turn(images: Tensor, matrices: Tensor) -> Tensor:
    """`sample` of square images [cells, …, edge, edge] for matrices that keep pixels."""
    signs = matrices[:, :2, :2].sum(2)  # of the source's x and y
    images = _change_some(images, signs[:, 0] < 0, lambda part: part.flip(-1))
    images = _change_some(images, signs[:, 1] < 0, lambda part: part.flip(-2))
    return _change_some(images, matrices[:, 0, 0] == 0, lambda part: part.transpose(-1, -2))


def _change_some(images: Tensor, chosen: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Images [cells, …] with those changed that are `chosen`, [cells] bool."""
    if chosen.all():
        return change(images)
    rows = chosen.nonzero().squeeze(1).to(images.device)
    return images.index_copy(0, rows, change(images[rows])) if len(rows) else images


def _interpolate(pixels: Tensor, cell_masks: Tensor, matrices: Tensor, size_px: int) -> tuple[Tensor, Tensor]:
    """`sample` for any matrices."""
    grid = _grid(matrices, pixels, size_px)
    finest = math.ceil(size_px * _FINEST_ZOOM)
    height, width = pixels.shape[-2:]
    if max(height, width) > finest:
        reduced = (min(height, finest), min(width, finest))
        pixels = F.interpolate(pixels, size=reduced, mode="bilinear", antialias=True)
    moved = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    masks = F.grid_sample(cell_masks[:, None], grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return moved, masks[:, 0]


def _grid(matrices: Tensor, pixels: Tensor, size_px: int) -> Tensor:
    """Where every pixel of the result looks in the source: [cells, size_px, size_px, (x, y)] beside `pixels`."""
    edges = torch.tensor(_CORNERS, dtype=torch.float64)
    corner_depths = matrices[:, 2, :2] @ edges.T + matrices[:, 2, 2:]
    has_perspective = bool((matrices[:, 2] != torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)).any())
    sees_horizon = bool((corner_depths <= 0).any())
    local = to_pixels(matrices, pixels)
    centres = (torch.arange(size_px, device=local.device, dtype=local.dtype) * 2 + 1) / size_px - 1
    # Each homogeneous coordinate is a sum of a row and a column: one pass over the grid, no product of matrices.
    rows = local[:, :, 0, None] * centres  # [cells, coordinate, width]
    columns = local[:, :, 1, None] * centres + local[:, :, 2, None]  # [cells, coordinate, height]
    depth = rows[:, 2, None, :] + columns[:, 2, :, None] if has_perspective else None
    grid = local.new_empty(len(local), size_px, size_px, 2)
    for axis in range(2):
        coordinate = torch.add(rows[:, axis, None, :], columns[:, axis, :, None], out=grid[..., axis])
        if depth is not None:
            coordinate.div_(depth)
            if sees_horizon:  # beyond it nothing is shown: 2 lies outside the image
                coordinate.masked_fill_(depth <= 0, 2.0)
    return grid
