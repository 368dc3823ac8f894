"""Intensity transforms, with separate parameters for every channel of every crop.

Pixels come in scaled to [0, 1]. Brightness, contrast and sharpness clamp their result to [0, 1], as image libraries do
for floating-point images; noise, rescaling and blur do not clamp.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from subcell_hf.augmentation.noise import normal_planes
from subcell_hf.augmentation.registry import (
    BatchShape,
    ChannelTransform,
    IntensityTransform,
    Parameters,
    Range,
    draw_log_uniform,
    draw_seeds,
    draw_true,
    draw_uniform,
    register_transform,
    to_pixels,
)
from subcell_hf.errors import InputError

_EPSILON = 1e-6


def _channels_of(shape: BatchShape) -> tuple[int, int]:
    return shape.cells, len(shape.channels)


@register_transform("drop_channel")
@dataclass(frozen=True, kw_only=True)
class DropChannel(IntensityTransform):
    """Blacken one channel other than the protein's, each as likely as the others; of two channels none is dropped.

    `probability` is that of a crop losing a channel.
    """

    probability: float = 0.25

    def draw(self, shape: BatchShape, generator: torch.Generator) -> Parameters:
        """Draw `active` [cells, channels], at most one per crop."""
        cells, channels = _channels_of(shape)
        others = torch.tensor([index for index in range(channels) if index != shape.protein_index])
        if channels <= 2:
            return {"active": torch.zeros(cells, channels, dtype=torch.bool)}
        dropped = others[torch.randint(len(others), [cells], generator=generator)]
        applied = draw_true([cells], self.probability, generator)
        return {"active": applied[:, None] & (dropped[:, None] == torch.arange(channels))}

    def apply(self, pixels: Tensor, parameters: Parameters) -> Tensor:
        """See `IntensityTransform.apply`."""
        dropped = parameters["active"].flatten().nonzero().squeeze(1)
        pixels.flatten(0, 1).index_fill_(0, dropped.to(pixels.device), 0.0)
        return pixels


@register_transform("rescale_protein")
@dataclass(frozen=True, kw_only=True)
class RescaleProtein(IntensityTransform):
    """Multiply the protein channel by a random factor over the crop's maximum, all channels counted.

    Attributes:
        factor: Range of the uniform numerator.
    """

    probability: float = 0.25
    factor: Range = (0.0, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("factor", low=0.0)

    def draw(self, shape: BatchShape, generator: torch.Generator) -> Parameters:
        """Draw `active` [cells, channels], True at most for the protein, and `factor` [cells]."""
        is_protein = torch.arange(len(shape.channels)) == shape.protein_index
        applied = draw_true([shape.cells], self.probability, generator)
        factor = draw_uniform([shape.cells], self.factor, generator)
        return {"active": applied[:, None] & is_protein, "factor": factor}

    def apply(self, pixels: Tensor, parameters: Parameters) -> Tensor:
        """See `IntensityTransform.apply`."""
        cells, channels = parameters["active"].nonzero(as_tuple=True)
        if len(cells) == 0:
            return pixels
        gain = to_pixels(parameters["factor"][cells], pixels)
        cells, channels = cells.to(pixels.device), channels.to(pixels.device)
        gain /= pixels.amax(dim=(1, 2, 3))[cells] + _EPSILON
        pixels[cells, channels] *= gain[:, None, None]
        return pixels


@register_transform("brightness_contrast")
@dataclass(frozen=True, kw_only=True)
class BrightnessContrast(ChannelTransform):
    """Brightness (multiply) and contrast (blend with the channel's mean) in random order, clamped to [0, 1] after each.

    Attributes:
        brightness: Range of the uniform brightness factor.
        contrast: Range of the uniform contrast factor: 0 gives the mean, 1 the channel itself.
    """

    brightness: Range = (0.5, 1.5)
    contrast: Range = (0.5, 1.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("brightness", low=0.0)
        self.check_range("contrast", low=0.0)

    def draw(self, shape: BatchShape, generator: torch.Generator) -> Parameters:
        """Draw `brightness`, `contrast` and the boolean `brightness_first`, each [cells, channels]."""
        size = _channels_of(shape)
        return super().draw(shape, generator) | {
            "brightness": draw_uniform(size, self.brightness, generator),
            "contrast": draw_uniform(size, self.contrast, generator),
            "brightness_first": draw_true(size, 0.5, generator),
        }

    def change(self, planes: Tensor, parameters: Parameters) -> Tensor:
        """See `ChannelTransform.change`."""
        brightness, contrast = parameters["brightness"], parameters["contrast"]
        brightness_now = parameters["brightness_first"]
        for _ in range(2):  # each time brightness for some channels and contrast for the others: x ↦ gain · x + offset
            gain = torch.where(brightness_now, brightness, contrast)
            offset = torch.where(brightness_now, 0.0, (1 - contrast) * planes.mean(dim=(1, 2)))
            planes.mul_(gain[:, None, None]).add_(offset[:, None, None]).clamp_(0.0, 1.0)
            brightness_now = ~brightness_now
        return planes


@register_transform("gaussian_blur")
@dataclass(frozen=True, kw_only=True)
class GaussianBlur(ChannelTransform):
    """Gaussian blur, mirrored at the border.

    Attributes:
        kernel_px: Odd edge of the kernel.
        sigma_px: Range of the uniform standard deviation.
    """

    probability: float = 0.5
    kernel_px: int = 7
    sigma_px: Range = (0.1, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.kernel_px, int) or self.kernel_px < 1 or self.kernel_px % 2 == 0:
            raise InputError(f"GaussianBlur.kernel_px is {self.kernel_px!r}: expected an odd whole number of pixels.")
        self.check_range("sigma_px", low=1e-3)

    def draw(self, shape: BatchShape, generator: torch.Generator) -> Parameters:
        """Draw `sigma_px` [cells, channels]."""
        sigma = draw_uniform(_channels_of(shape), self.sigma_px, generator)
        return super().draw(shape, generator) | {"sigma_px": sigma}

    def change(self, planes: Tensor, parameters: Parameters) -> Tensor:
        """See `ChannelTransform.change`.

        Raises:
            InputError: If the views are too small for the kernel.
        """
        half = self.kernel_px // 2
        height, width = planes.shape[-2:]
        if min(height, width) <= half:
            raise InputError(
                f"Views of {height}×{width} px are too small for a blur of {self.kernel_px} px: lower `kernel_px`."
            )
        offsets = torch.arange(-half, half + 1, device=planes.device, dtype=planes.dtype)
        kernels = (-0.5 * (offsets / parameters["sigma_px"][:, None]) ** 2).softmax(dim=1)  # exp, then normalised
        padded = F.pad(planes[None], (half, half, half, half), mode="reflect")[0]
        # Separable, and as sums of shifted planes: faster on the CPU than a convolution with one kernel per plane.
        rows = _correlate(padded, kernels[:, half:], height, dim=1)
        return _correlate(rows, kernels[:, half:], width, dim=2)


def _correlate(planes: Tensor, weights: Tensor, length: int, dim: int) -> Tensor:
    """Correlate along one axis with a symmetric kernel, given from its centre on."""
    half = weights.shape[1] - 1
    weights = weights[:, :, None, None]  # [planes, taps, 1, 1]
    result = planes.narrow(dim, half, length) * weights[:, 0]
    pair = torch.empty_like(result)
    for shift in range(1, half + 1):
        ends = planes.narrow(dim, half - shift, length), planes.narrow(dim, half + shift, length)
        result.add_(torch.add(*ends, out=pair).mul_(weights[:, shift]))
    return result


@register_transform("sharpness")
@dataclass(frozen=True, kw_only=True)
class Sharpness(ChannelTransform):
    """Step away from a smoothed copy and clamp to [0, 1].

    The smoothing kernel is 3×3: centre 5, neighbours 1, over 13. The outermost pixels are only clamped.

    Attributes:
        factor: 0 gives the smoothed channel, 1 the channel itself, 2 twice its detail.
    """

    probability: float = 0.25
    factor: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("factor", 0.0)

    def change(self, planes: Tensor, parameters: Parameters) -> Tensor:
        """See `ChannelTransform.change`."""
        if min(planes.shape[-2:]) < 3:
            return planes
        columns = planes[:, :-2] + planes[:, 1:-1] + planes[:, 2:]
        neighbourhood = columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:]
        inner = planes[:, 1:-1, 1:-1]
        # x + (factor − 1)(x − (neighbourhood + 4x) / 13), the centre being one of the nine already
        gain = (self.factor - 1) / 13
        inner.mul_(1 + 9 * gain).sub_(neighbourhood, alpha=gain)
        return planes.clamp_(0.0, 1.0)


@register_transform("gaussian_noise")
@dataclass(frozen=True, kw_only=True)
class GaussianNoise(ChannelTransform):
    """Add normal noise of an own strength to every channel; `probability` is that of a crop. Not clamped.

    Attributes:
        sigma: Range of the uniform standard deviation, in units of the scaled crop.
    """

    probability: float = 0.5
    sigma: Range = (0.01, 0.05)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("sigma", low=0.0)

    def draw(self, shape: BatchShape, generator: torch.Generator) -> Parameters:
        """Draw `active`, equal for all channels of a crop, `sigma` and `seed`, each [cells, channels]."""
        size = _channels_of(shape)
        applied = draw_true([shape.cells, 1], self.probability, generator).expand(size)
        sigma = draw_uniform(size, self.sigma, generator)
        return {"active": applied, "sigma": sigma, "seed": draw_seeds(size, generator)}

    def change(self, planes: Tensor, parameters: Parameters) -> Tensor:
        """See `ChannelTransform.change`."""
        return planes.add_(normal_planes(parameters["seed"], parameters["sigma"], *planes.shape[-2:]))


@register_transform("erase_rectangle")
@dataclass(frozen=True, kw_only=True)
class EraseRectangle(ChannelTransform):
    """Set a random rectangle to 0, anywhere that it fits.

    Attributes:
        area: Range of its uniform area, as a fraction of the view.
        aspect: Range of its log-uniform aspect, height by width.
    """

    probability: float = 0.25
    area: Range = (0.02, 0.1)
    aspect: Range = (0.3, 3.3)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_range("area", low=0.0, high=1.0)
        self.check_range("aspect", low=1e-3)

    def draw(self, shape: BatchShape, generator: torch.Generator) -> Parameters:
        """Draw `area` and `aspect`, and `top` and `left` as fractions of the room that the rectangle leaves."""
        size = _channels_of(shape)
        return super().draw(shape, generator) | {
            "area": draw_uniform(size, self.area, generator),
            "aspect": draw_log_uniform(size, self.aspect, generator),
            "top": draw_uniform(size, (0.0, 1.0), generator),
            "left": draw_uniform(size, (0.0, 1.0), generator),
        }

    def change(self, planes: Tensor, parameters: Parameters) -> Tensor:
        """See `ChannelTransform.change`."""
        height, width = planes.shape[-2:]
        edge = parameters["area"].sqrt() * math.sqrt(height * width)
        rows = _inside(height, edge * parameters["aspect"].sqrt(), parameters["top"])
        columns = _inside(width, edge / parameters["aspect"].sqrt(), parameters["left"])
        return planes.mul_(1 - rows[:, :, None] * columns[:, None, :])


def _inside(length: int, extent: Tensor, place: Tensor) -> Tensor:
    """Pixels of an axis that a rectangle covers: 1 there and 0 elsewhere, [planes, length]."""
    extent = extent.round().clamp(max=length)
    start = (place * (length - extent + 1)).floor()
    positions = torch.arange(length, device=extent.device)
    inside = (positions >= start[:, None]) & (positions < (start + extent)[:, None])
    return inside.to(extent.dtype)
