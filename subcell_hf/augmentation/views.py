"""From cells to the views that a model is trained on: mask, scale, move, change intensities; batched, on any device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subcell_hf.augmentation.batch_parts import run_blocks
from subcell_hf.augmentation.geometric import resize, sample
from subcell_hf.augmentation.presets import (
    AugmentationSettings,
    ViewSettings,
    load_preset,
    settings_from_dict,
)
from subcell_hf.augmentation.registry import (
    BatchShape,
    GeometricTransform,
    IntensityTransform,
    OneOf,
    Parameters,
    Transform,
)
from subcell_hf.errors import InputError
from subcell_hf.types import CropBatch, MultiViewBatch

_EPSILON = 1e-6
_PIXEL_DTYPES = (torch.uint8, torch.uint16, torch.float32)
_CPU_BLOCK_BYTES = 4 * 2**20
"""On the CPU a batch goes through the pipeline in blocks of about this size, which stay in its cache and reuse memory,
several at a time, see `run_blocks`. Parameters are drawn before, for all of it, so that blocks do not show."""


@dataclass(frozen=True)
class DrawnView:
    """Everything random about one view of a batch.

    Attributes:
        order: [cells] random order in which the cells of an antibody are asked to keep their surroundings.
        steps: The transforms with their parameters, in order; geometric ones carry their `matrix` [cells, 3, 3].
    """

    order: Tensor
    steps: tuple[tuple[Transform, Parameters], ...]

    def part(self, start: int, stop: int) -> tuple[tuple[Transform, Parameters], ...]:
        """The steps of some of the cells."""
        return tuple((step, {name: value[start:stop] for name, value in drawn.items()}) for step, drawn in self.steps)


class ViewMaker:
    """Makes the random views of a batch of cells.

    For each view on its own: some cells lose their surroundings, each crop is scaled to [0, 1], crop and cell mask are
    moved together, intensities are changed. The published code moves the image and leaves the mask behind, and hands on
    a mask full of ones for cells that keep their surroundings; here the cell's own mask always travels with its view.
    """

    def __init__(self, settings: AugmentationSettings | Mapping[str, Any] | str) -> None:
        """Prepare to make views.

        Args:
            settings: Settings, the same as plain data (see `settings_from_dict`), or the name of a preset:
                `reconstruction`, `multi_task`, `contrastive`, `gentle`, `moderate`, `orientations`, `half_affine`,
                `validation`.

        Raises:
            InputError: If the settings are refused.
        """
        if isinstance(settings, str):
            settings = load_preset(settings)
        elif not isinstance(settings, AugmentationSettings):
            settings = settings_from_dict(settings)
        self.settings = settings

    def __call__(
        self,
        crops: CropBatch,
        channels: Sequence[str],
        generator: torch.Generator,
        *,
        first_cell: int = 0,
        global_cells: int | None = None,
    ) -> MultiViewBatch:
        """Make the views of a batch; the batch itself is not changed.

        A process that holds whole antibodies of a global batch gets the views that one process would make of them, if
        all processes bring equal generators and say where their cells are in the global batch.

        Args:
            crops: Cells, on any device, of any size; those that are not square are stretched to a square.
            channels: Colour name of each channel, in any order.
            generator: The only source of randomness, on any device. From equal states the views are equal. A CPU
                generator gives equal views on every device, up to rounding, and never makes the host wait.
            first_cell: Position of the first of these cells in the global batch.
            global_cells: Cells of the global batch; None: there are no others.

        Returns:
            float32 views on the cells' device, computed in float32 also under autocast; no gradient is recorded.

        Raises:
            InputError: If shapes, dtypes or channel names do not agree.
        """
        shape = self._check(crops, channels)
        drawn_views = self.draw(shape, generator, first_cell=first_cell, global_cells=global_cells)
        made, made_masks = self._make(crops, drawn_views)
        views = MultiViewBatch(
            pixel_values=made.transpose(0, 1),
            cell_masks=made_masks.transpose(0, 1),
            antibodies=crops["antibodies"],
            locations=crops["locations"],
        )
        if "cell_groups" in crops:
            views["cell_groups"] = crops["cell_groups"]
        return views

    def draw(
        self, shape: BatchShape, generator: torch.Generator, *, first_cell: int = 0, global_cells: int | None = None
    ) -> tuple[DrawnView, ...]:
        """Draw all that is random about the views of a batch: small CPU tensors, whatever the generator's device.

        Raises:
            InputError: If the global batch does not hold these cells.
        """
        everything = shape.cells if global_cells is None else global_cells
        if not 0 <= first_cell <= everything - shape.cells:
            raise InputError(
                f"A global batch of {everything} cells has fewer than {shape.cells} cells from position {first_cell}."
            )
        # Draws are cheap and pixels are not: everything is drawn for all cells and the part at hand is kept.
        part = slice(first_cell, first_cell + shape.cells)
        generator = on_cpu(generator)
        return tuple(_draw_view(view, shape, generator, part, everything) for view in self.settings.views)

    def _make(self, crops: CropBatch, drawn_views: Sequence[DrawnView]) -> tuple[Tensor, Tensor]:
        """Views [views, cells, channels, size, size] and masks [views, cells, size, size], block by block.

        View-major, so that each view is one piece of memory; the caller swaps the axes without copying.
        """
        pixels, cell_masks, size = crops["pixels"], crops["cell_masks"], self.settings.size_px
        views, (cells, channels), device = len(drawn_views), pixels.shape[:2], pixels.device
        made = _empty((views, cells, channels, size, size), device)
        made_masks = torch.empty(views, cells, size, size, dtype=torch.bool, device=device)
        masked = [
            choose_masked(crops["antibodies"], view.mask_probability, drawn.order)
            for view, drawn in zip(self.settings.views, drawn_views, strict=True)
        ]

        @torch.no_grad()
        @torch.autocast(device.type, enabled=False)
        def make(start: int, stop: int) -> None:
            # Masks are numbers until the end: on the CPU arithmetic is several times faster than logic.
            block, block_masks = pixels[start:stop].to(torch.float32), cell_masks[start:stop].to(torch.float32)
            for index, drawn in enumerate(drawn_views):
                scaled = self._scale(block, block_masks, masked[index][start:stop])
                view, mask = self._run(scaled, block_masks, drawn.part(start, stop))
                made[index, start:stop], made_masks[index, start:stop] = view, mask

        run_blocks(make, _blocks(pixels))
        return made, made_masks

    def _scale(self, pixels: Tensor, cell_masks: Tensor, masked: Tensor) -> Tensor:
        """Remove the surroundings of masked cells, then bring each crop to [0, 1]; returns a new tensor."""
        visible = cell_masks.maximum((~masked).to(cell_masks.dtype)[:, None, None])
        pixels = pixels * visible[:, None]
        axes = (1, 2, 3) if self.settings.scaling == "image" else (2, 3)
        lowest, highest = pixels.amin(dim=axes, keepdim=True), pixels.amax(dim=axes, keepdim=True)
        return pixels.sub_(lowest).div_(highest - lowest + _EPSILON)

    def _run(
        self,
        pixels: Tensor,
        cell_masks: Tensor,
        steps: Sequence[tuple[Transform, Parameters]],
    ) -> tuple[Tensor, Tensor]:
        """Apply steps; geometry is held back and composed until pixels in their new place are needed."""
        size = self.settings.size_px
        matrices: Tensor | None = None
        for transform, parameters in steps:
            if isinstance(transform, IntensityTransform):
                if matrices is not None:
                    pixels, cell_masks = sample(pixels, cell_masks, matrices, size)
                    matrices = None
                pixels = transform.apply(pixels, parameters)
            else:
                matrix = parameters["matrix"]
                matrices = matrix if matrices is None else matrices @ matrix
        if matrices is not None:
            return sample(pixels, cell_masks, matrices, size)
        return resize(pixels, cell_masks, size)

    def _check(self, crops: CropBatch, channels: Sequence[str]) -> BatchShape:
        pixels, cell_masks = crops["pixels"], crops["cell_masks"]
        if pixels.ndim != 4 or pixels.dtype not in _PIXEL_DTYPES:
            raise InputError(
                f"crops['pixels'] is {pixels.dtype} of shape {tuple(pixels.shape)}: expected uint8, uint16 or float32 "
                "[cells, channels, height, width]."
            )
        cells, number_of_channels, height, width = pixels.shape
        if min(pixels.shape) == 0:
            raise InputError(f"crops['pixels'] is empty: its shape is {tuple(pixels.shape)}.")
        if len(set(channels)) != number_of_channels or len(channels) != number_of_channels:
            raise InputError(
                f"The crops have {number_of_channels} channels, but the names given are {tuple(channels)}."
            )
        if cell_masks.dtype != torch.bool or cell_masks.shape != (cells, height, width):
            raise InputError(
                f"crops['cell_masks'] is {cell_masks.dtype} of shape {tuple(cell_masks.shape)}: expected bool "
                f"{(cells, height, width)}, True inside the cell."
            )
        if crops["antibodies"].shape != (cells,):
            raise InputError(f"crops['antibodies'] has shape {tuple(crops['antibodies'].shape)}: expected {(cells,)}.")
        settings = self.settings
        return BatchShape(cells, tuple(channels), settings.protein_channel, height, width, settings.size_px)


def choose_masked(antibodies: Tensor, mask_probability: float, order: Tensor) -> Tensor:
    """Choose the cells that lose their surroundings.

    Of the N cells of an antibody, the first `int(N · (1 − p))` in the given order keep them.

    Args:
        antibodies: [cells] integer.
        mask_probability: p.
        order: [cells] different numbers, on the CPU.

    Returns:
        [cells] bool on the device of `antibodies`, True where the surroundings are removed.
    """
    order = order.to(antibodies.device, non_blocking=True)
    same = antibodies[:, None] == antibodies[None, :]
    rank = (same & (order[None, :] < order[:, None])).sum(dim=1)
    keepers = torch.tensor([int(cells * (1 - mask_probability)) for cells in range(len(order) + 1)])
    return rank >= keepers.to(antibodies.device, non_blocking=True)[same.sum(dim=1)]


def _empty(size: Sequence[int], device: torch.device) -> Tensor:
    """Uninitialised float32 memory; on the CPU NumPy's, which asks for large pages: first use costs a third."""
    return torch.from_numpy(np.empty(size, np.float32)) if device.type == "cpu" else torch.empty(size, device=device)


def on_cpu(generator: torch.Generator) -> torch.Generator:
    """The generator itself where it is on the CPU, else a new one seeded from it."""
    if generator.device.type == "cpu":
        return generator
    seed = torch.randint(2**63 - 1, (1,), generator=generator, device=generator.device)
    return torch.Generator().manual_seed(int(seed))


def _draw_view(
    view: ViewSettings, shape: BatchShape, generator: torch.Generator, part: slice, global_cells: int
) -> DrawnView:
    order = torch.randperm(global_cells, generator=generator)[part]
    steps: list[tuple[Transform, Parameters]] = []
    for item in view.transforms:
        choices = item.choices if isinstance(item, OneOf) else (item,)
        chosen = torch.randint(len(choices), [global_cells], generator=generator)[part]
        for index, transform in enumerate(choices):
            drawn = transform.draw(replace(shape, cells=global_cells), generator)
            parameters = {name: value[part] for name, value in drawn.items()}
            active = parameters["active"]
            parameters["active"] = active & (chosen == index).view(-1, *[1] * (active.ndim - 1))
            if isinstance(transform, GeometricTransform):
                moved = transform.matrices(parameters, shape)
                identity = torch.eye(3, dtype=torch.float64)
                parameters["matrix"] = torch.where(parameters["active"][:, None, None], moved, identity)
                shape = transform.shape_after(shape)
            steps.append((transform, parameters))
    return DrawnView(order, tuple(steps))


def _blocks(pixels: Tensor) -> list[tuple[int, int]]:
    """Bounds of the blocks in which a batch is worked through: the whole batch, but on the CPU."""
    cells = len(pixels)
    step = cells if pixels.device.type != "cpu" else max(1, _CPU_BLOCK_BYTES // (4 * pixels[0].numel()))
    return [(start, min(start + step, cells)) for start in range(0, cells, step)]
