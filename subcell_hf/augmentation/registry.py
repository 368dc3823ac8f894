"""What a transform is, and the names under which a pipeline finds it.

A transform draws its parameters for a whole batch at once, then applies them to any part of it. Parameters are drawn on
the CPU, where they cost nothing and where reading them never makes the host wait for an accelerator; pixels stay where
they are.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from subcell_hf.errors import InputError

Parameters = dict[str, Tensor]
"""What a transform has drawn: name → CPU tensor whose first axis is the cells (and whose second is the channels, in a
channel transform). `"active"` (bool) is always there and says where the transform is applied."""

Range = tuple[float, float]
"""Lowest and highest value of a uniform draw."""


@dataclass(frozen=True)
class BatchShape:
    """What a transform may know of a batch when it draws its parameters.

    Attributes:
        cells: Number of crops.
        channels: Colour name of each channel.
        protein_channel: Name of the channel of the protein of interest.
        height_px: Height of the crops at this point of the pipeline.
        width_px: Width of the crops at this point of the pipeline.
        output_px: Edge of the square views to be made.
    """

    cells: int
    channels: tuple[str, ...]
    protein_channel: str
    height_px: int
    width_px: int
    output_px: int

    @property
    def protein_index(self) -> int:
        """Index of the protein channel.

        Raises:
            InputError: If the batch has no such channel.
        """
        if self.protein_channel not in self.channels:
            raise InputError(
                f"The pipeline treats the protein channel {self.protein_channel!r} apart, but the batch has the "
                f"channels {', '.join(self.channels)}: name one with `protein_channel` in the view settings."
            )
        return self.channels.index(self.protein_channel)


def draw_uniform(size: Sequence[int], bounds: Range, generator: torch.Generator) -> Tensor:
    """Draw uniform numbers from `[bounds[0], bounds[1])`.

    Args:
        size: Shape of the result.
        bounds: Lowest and highest value.
        generator: Generator on the CPU.

    Returns:
        float64 of shape `size`, on the CPU.
    """
    low, high = bounds
    return low + (high - low) * torch.rand(tuple(size), generator=generator, dtype=torch.float64)


def draw_log_uniform(size: Sequence[int], bounds: Range, generator: torch.Generator) -> Tensor:
    """Draw numbers whose logarithm is uniform.

    Args:
        size: Shape of the result.
        bounds: Lowest and highest value, both positive.
        generator: Generator on the CPU.

    Returns:
        float64 of shape `size`, on the CPU.
    """
    return draw_uniform(size, (math.log(bounds[0]), math.log(bounds[1])), generator).exp()


def draw_seeds(size: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw whole numbers that seed other draws.

    Args:
        size: Shape of the result.
        generator: Generator on the CPU.

    Returns:
        int64 of shape `size`, from 0 to below 2**63 - 1, on the CPU.
    """
    return torch.randint(2**63 - 1, tuple(size), generator=generator)


def draw_true(size: Sequence[int], probability: float, generator: torch.Generator) -> Tensor:
    """Draw booleans that are True with a given probability.

    Args:
        size: Shape of the result.
        probability: Probability of True, 0 to 1.
        generator: Generator on the CPU.

    Returns:
        bool of shape `size`, on the CPU.
    """
    return torch.rand(tuple(size), generator=generator, dtype=torch.float64) < probability


@dataclass(frozen=True, kw_only=True)
class Transform(ABC):
    """One step of a pipeline. Its dataclass fields are the keys that a pipeline's configuration may set.

    Attributes:
        probability: How often the transform is applied, to each crop or each channel on its own.
    """

    probability: float = 1.0

    def __post_init__(self) -> None:
        self.check_number("probability", 0.0, 1.0)

    @abstractmethod
    def draw(self, shape: BatchShape, generator: torch.Generator) -> Parameters:
        """Draw the parameters of a whole batch from a CPU generator."""

    def check_number(self, name: str, low: float, high: float = math.inf) -> None:
        """Refuse a field that is no number within `[low, high]`."""
        value = getattr(self, name)
        if not _is_number(value) or not low <= value <= high:
            raise InputError(f"{type(self).__name__}.{name} is {value!r}: expected a number from {low:g} to {high:g}.")

    def check_range(self, name: str, low: float = -math.inf, high: float = math.inf) -> None:
        """Refuse a field that is no pair [lowest, highest] within `[low, high]`."""
        value = getattr(self, name)
        is_pair = isinstance(value, tuple) and len(value) == 2 and all(_is_number(bound) for bound in value)
        if not is_pair or not low <= value[0] <= value[1] <= high:
            raise InputError(
                f"{type(self).__name__}.{name} is {value!r}: expected two numbers [lowest, highest] "
                f"from {low:g} to {high:g}."
            )


@dataclass(frozen=True, kw_only=True)
class GeometricTransform(Transform):
    """Moves crop and cell mask together.

    Neighbouring geometric transforms become one homography per crop, so that pixels are interpolated once.
    """

    def draw(self, shape: BatchShape, generator: torch.Generator) -> Parameters:
        """Draw `active` [cells]; subclasses add what they need."""
        return {"active": draw_true([shape.cells], self.probability, generator)}

    @abstractmethod
    def matrices(self, parameters: Parameters, shape: BatchShape) -> Tensor:
        """Homography of every crop as if the transform were active on all of them.

        Returns:
            float64 [cells, 3, 3]: maps a point (x, y, 1) of the result to the point of the source that is shown there,
            both in coordinates that run from −1 to 1 between the image's outer edges, x to the right and y down.
        """

    def shape_after(self, shape: BatchShape) -> BatchShape:
        """Shape of the batch behind this transform: unchanged, unless a subclass says otherwise."""
        return shape


@dataclass(frozen=True, kw_only=True)
class IntensityTransform(Transform):
    """Changes pixel values and leaves the cell mask alone."""

    @abstractmethod
    def apply(self, pixels: Tensor, parameters: Parameters) -> Tensor:
        """Apply drawn parameters.

        Args:
            pixels: [cells, channels, height, width] float32, the pipeline's own copy: may be changed in place.
            parameters: What `draw` returned, for these cells, `active` perhaps narrowed down by `one_of`. What is
                random about every pixel is drawn as a seed, see `noise.normal_planes`.

        Returns:
            The result, of the shape of `pixels`.
        """


@dataclass(frozen=True, kw_only=True)
class ChannelTransform(IntensityTransform):
    """Changes single channels, each with separate parameters; only active channels are changed.

    A custom transform needs little more than a draw and a formula:

        @register_transform("gamma")
        @dataclass(frozen=True, kw_only=True)
        class Gamma(ChannelTransform):
            gamma: Range = (0.5, 2.0)

            def draw(self, shape, generator):
                gamma = draw_uniform([shape.cells, len(shape.channels)], self.gamma, generator)
                return super().draw(shape, generator) | {"gamma": gamma}

            def change(self, planes, parameters):
                return planes.clamp_min(0.0) ** parameters["gamma"][:, None, None]
    """

    def draw(self, shape: BatchShape, generator: torch.Generator) -> Parameters:
        """Draw `active` [cells, channels]; subclasses add what they need."""
        return {"active": draw_true([shape.cells, len(shape.channels)], self.probability, generator)}

    @abstractmethod
    def change(self, planes: Tensor, parameters: Parameters) -> Tensor:
        """Change channels, each a separate plane.

        Args:
            planes: [planes, height, width] float32, may be changed in place.
            parameters: Each [planes], on the planes' device, floats as float32.

        Returns:
            The result, of the shape of `planes`.
        """

    def apply(self, pixels: Tensor, parameters: Parameters) -> Tensor:
        """Collect the active channels, change them, put them back."""
        rows = parameters["active"].flatten().nonzero().squeeze(1)
        if len(rows) == 0:
            return pixels
        selected = {name: to_pixels(value.flatten(0, 1)[rows], pixels) for name, value in parameters.items()}
        planes = pixels.flatten(0, 1)
        if len(rows) == len(planes):
            return self.change(planes, selected).view_as(pixels)
        rows = rows.to(pixels.device)
        planes.index_copy_(0, rows, self.change(planes.index_select(0, rows), selected))
        return pixels


def to_pixels(parameter: Tensor, pixels: Tensor) -> Tensor:
    """Bring a drawn parameter to the pixels' device, floats in the pixels' dtype."""
    dtype = pixels.dtype if parameter.is_floating_point() else parameter.dtype
    return parameter.to(device=pixels.device, dtype=dtype, non_blocking=True)


@dataclass(frozen=True)
class OneOf:
    """For every crop one of several transforms, each as likely as the others; `name: one_of` in a pipeline.

    Attributes:
        choices: The transforms to choose from.
    """

    choices: tuple[Transform, ...]


_REGISTRY: dict[str, type[Transform]] = {}

TransformClass = TypeVar("TransformClass", bound=type[Transform])


def register_transform(name: str) -> Callable[[TransformClass], TransformClass]:
    """Class decorator that makes a transform known to pipelines under a name.

    Args:
        name: Name of the transform in pipelines.

    Returns:
        A decorator, which returns the class as it is.

    Raises:
        InputError: If another class has the name already, or the class is no transform.
    """

    def register(transform: TransformClass) -> TransformClass:
        if not isinstance(transform, type) or not issubclass(transform, GeometricTransform | IntensityTransform):
            raise InputError(
                f"{transform!r} cannot be a transform: derive it from GeometricTransform, IntensityTransform or "
                "ChannelTransform."
            )
        known = _REGISTRY.get(name)
        if name == "one_of" or (known is not None and known.__qualname__ != transform.__qualname__):
            raise InputError(
                f"The name {name!r} is taken ({known or 'built in'}): register the transform under another one."
            )
        _REGISTRY[name] = transform
        return transform

    return register


def known_transforms() -> tuple[str, ...]:
    """Names that a pipeline may use, `one_of` among them."""
    return tuple(sorted([*_REGISTRY, "one_of"]))


def build_transform(entry: Any, where: str) -> Transform | OneOf:
    """Make a transform from its entry in a pipeline.

    Args:
        entry: `{"name": …, "probability": …, …}`; `{"name": "one_of", "choices": [entry, …]}`.
        where: Place of the entry in the configuration, for messages.

    Raises:
        InputError: If the name or a key is unknown, or a value is refused.
    """
    if not isinstance(entry, Mapping) or "name" not in entry:
        raise InputError(f"{where} is {entry!r}: expected a mapping with a `name`, such as {{name: affine}}.")
    name = entry["name"]
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items() if key != "name"
    }
    if name == "one_of":
        return _build_one_of(values, where)
    if name not in _REGISTRY:
        raise InputError(f"Unknown transform {name!r} in {where}: known are {', '.join(known_transforms())}.")
    refuse_unknown_keys(values, [field.name for field in fields(_REGISTRY[name])], f"{where} ({name})")
    try:
        return _REGISTRY[name](**values)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where} ({name}): {error}") from error


def refuse_unknown_keys(given: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    """Raise InputError if a configuration has keys that nothing reads."""
    unknown = [str(key) for key in given if key not in known]
    if unknown:
        raise InputError(f"Unknown key(s) {', '.join(unknown)} in {where}: known are {', '.join(known)}.")


def _build_one_of(values: Mapping[str, Any], where: str) -> OneOf:
    refuse_unknown_keys(values, ["choices"], f"{where} (one_of)")
    entries = values.get("choices")
    if not isinstance(entries, tuple) or len(entries) < 2:
        raise InputError(f"{where} (one_of): `choices` is {entries!r}: expected a list of at least two transforms.")
    choices = [build_transform(entry, f"{where}.choices[{index}]") for index, entry in enumerate(entries)]
    transforms = tuple(choice for choice in choices if isinstance(choice, Transform))
    if len(transforms) < len(choices):
        raise InputError(f"{where} (one_of): one_of within one_of is not supported: list all choices side by side.")
    return OneOf(transforms)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
