"""Pictures of a few cells during training: reconstruction, attention of the pooling, patch features.

Random numbers come from a separate generator, and the model is not changed: a run with pictures is bit-identical to one
without.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from subcell_hf.augmentation.view_pictures import compose_colours
from subcell_hf.model.channel_tokens_subcell import flat_channels
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from subcell_hf.model.objectives_subcell import patchify, unpatchify
from subcell_hf.shards.reader import ShardReader
from subcell_hf.training.monitoring.picture_sheet import TILE_PX, draw_sheet

Picture = npt.NDArray[np.uint8]

BRIGHTEST = 4
"""Weight in the pooling, in multiples of the mean patch's, that is drawn brightest."""

_SEED = 20241206
_HIDDEN_GREY = 0.45
_OUTSIDE_GREY = 0.12


@dataclass(frozen=True)
class PictureCells:
    """Cells to be drawn again and again while a model is trained.

    Attributes:
        pixel_values: `[cells, channels, height, width]` float32, as the model sees them in validation.
        cell_masks: `[cells, height, width]` bool, True inside the cell.
        captions: A line of text for each cell.
    """

    pixel_values: Tensor
    cell_masks: Tensor
    captions: tuple[str, ...]


def choose_rows(reader: ShardReader, split: str | None, count: int) -> npt.NDArray[np.int64]:
    """Rows of cells that show as many different locations as possible; the same ones every time.

    The most frequent sets of locations come first, one cell of each; then cells from all over the split fill up.

    Args:
        reader: The shards.
        split: Split to choose from; None for all cells.
        count: Cells wanted; fewer are given where there are fewer.
    """
    rows = reader.split_rows(split)
    sets = reader.cells.location_set[rows]
    kinds, first, frequency = np.unique(sets, return_index=True, return_counts=True)
    labelled = reader.cells.location_sets[kinds].any(axis=1)
    order = np.lexsort((kinds, -frequency, ~labelled))
    chosen = list(first[order][:count])
    spread = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    chosen += [position for position in spread if position not in chosen]
    return rows[chosen[:count]]


def caption_rows(reader: ShardReader, rows: npt.NDArray[np.int64]) -> tuple[str, ...]:
    """Gene or antibody and locations of each cell, as one line."""
    index, cells = reader.index, reader.cells
    captions = []
    for row in rows:
        antibody = int(cells.antibody[row])
        targets = cells.location_sets[cells.location_set[row]]
        locations = [name for name, present in zip(index.classes, targets, strict=True) if present]
        captions.append(
            f"{index.genes[antibody] or index.antibodies[antibody]}: {', '.join(locations) or 'no location'}"
        )
    return tuple(captions)


@torch.no_grad()
def draw_pictures(model: SubCellForPreTraining, cells: PictureCells) -> dict[str, Picture]:
    """Draw everything that a model can show.

    Args:
        model: Its mode is restored afterwards; on the device of the cells.
        cells: Cells to draw.

    Returns:
        Name → `[height, width, (red, green, blue)]`: `reconstruction` if the model reconstructs, `attention` if its
        pooling weighs patches, and `features`.
    """
    training = model.training
    model.eval()
    try:
        found = {}
        if model.config.reconstruction_weight:
            found["reconstruction"] = _draw_reconstruction(model, cells)
        outputs = model.subcell(cells.pixel_values)
        originals = [_composite(pixels, model.config.channels) for pixels in cells.pixel_values]
        if outputs.pooler_attentions is not None:
            found["attention"] = _draw_attention(outputs.pooler_attentions, originals, cells)
        patches = outputs.last_hidden_state
        if model.config.backbone_config is None:
            patches = patches[:, 1:]  # without CLS
        if model.config.channel_tokens == "separate":
            patches = patches.unflatten(1, (model.config.num_channels, -1)).mean(1)  # of the channels of a place
        found["features"] = _draw_features(patches, originals, cells)
    finally:
        model.train(training)
    return found


def _draw_reconstruction(model: SubCellForPreTraining, cells: PictureCells) -> Picture:
    config, pixels = model.config, cells.pixel_values
    size, (height, width) = config.patch_size, pixels.shape[-2:]
    patches, separate = (height // size) * (width // size), config.channel_tokens == "separate"
    tokens = patches * (config.num_channels if config.channel_masking == "apart" else 1)
    noise = torch.rand(len(pixels), 1, tokens, generator=torch.Generator().manual_seed(_SEED)).to(pixels.device)
    outputs = model(pixels[:, None], cell_masks=cells.cell_masks[:, None], noise=noise)
    # Separate channels are pictures of one channel each.
    planes = flat_channels(pixels) if separate else pixels
    truth, hidden = patchify(planes, size), outputs.patch_mask[:, 0].reshape(len(planes), patches, 1) > 0
    predicted = outputs.reconstruction.float().reshape(truth.shape)
    if config.normalize_target:
        # The model predicts each patch less its mean and over its deviation: these two are taken from the truth.
        variance, mean = torch.var_mean(truth, dim=-1, keepdim=True)
        predicted = predicted * (variance + 1e-6).sqrt() + mean
    filled = unpatchify(torch.where(hidden, predicted, truth), size, height, width).reshape(pixels.shape)
    grid = hidden.float().view(len(pixels), -1, height // size, width // size)  # of each channel if separate
    visible = pixels * (1 - F.interpolate(grid, size=(height, width), mode="nearest"))
    covered = F.interpolate(grid.amin(1, keepdim=True), size=(TILE_PX, TILE_PX), mode="nearest")[:, 0] > 0
    rows = []
    for image, rest, guess, cover in zip(pixels, visible, filled, covered.cpu(), strict=True):
        original = _composite(image, config.channels)
        seen = _composite(rest, config.channels, scale_like=image) if separate else original.clone()
        seen[cover] = _HIDDEN_GREY
        rows.append([original, seen, _composite(guess, config.channels, scale_like=image)])
    return draw_sheet(rows, ["input", "seen by the model", "hidden part predicted"], cells.captions)


def _draw_attention(weights: Tensor, originals: Sequence[Tensor], cells: PictureCells) -> Picture:
    """Weights [cells, heads, rows, columns] as heat over a grey picture, on one scale for all cells and all times."""
    from matplotlib import colormaps

    heat_of, size = colormaps["inferno"], originals[0].shape[:2]
    relative = weights.float().cpu() / weights.float().cpu().mean((2, 3), keepdim=True).clamp_min(1e-12)
    large = F.interpolate(relative / BRIGHTEST, size=size, mode="bilinear", align_corners=False).clamp(0, 1)
    rows = []
    for original, maps in zip(originals, large, strict=True):
        grey = original.mean(-1, keepdim=True).expand(-1, -1, 3)
        row = [original]
        for head in maps:
            heat = torch.from_numpy(heat_of(head.numpy())[..., :3]).float()
            row.append(0.35 * grey + 0.65 * heat)
        rows.append(row)
    titles = ["input", *(f"pooling head {number + 1}" for number in range(weights.shape[1]))]
    return draw_sheet(rows, titles, cells.captions)


def _draw_features(patches: Tensor, originals: Sequence[Tensor], cells: PictureCells) -> Picture:
    """The three main directions of patch features [cells, patches, width] within cells as red, green and blue."""
    edge = round(patches.shape[1] ** 0.5)
    inside = F.interpolate(cells.cell_masks[:, None].float(), size=(edge, edge), mode="area").flatten(1) >= 0.5
    inside = inside.cpu() if inside.any() else torch.ones_like(inside).cpu()
    colours = _principal_colours(patches.double().cpu(), inside)
    colours[~inside] = _OUTSIDE_GREY
    maps = colours.unflatten(1, (edge, edge)).permute(0, 3, 1, 2)
    large = F.interpolate(maps, size=originals[0].shape[:2], mode="nearest").permute(0, 2, 3, 1)
    rows = []
    for original, picture in zip(originals, large, strict=True):
        brightness = original.amax(-1, keepdim=True).sqrt()
        rows.append([original, picture, picture * brightness])
    return draw_sheet(rows, ["input", "features (PCA)", "on the input"], cells.captions)


def _principal_colours(patches: Tensor, inside: Tensor) -> Tensor:
    """Features [cells, patches, width] in three directions, scaled to [0, 1]: [cells, patches, 3]."""
    chosen = patches[inside]
    mean = chosen.mean(0)
    _, directions = torch.linalg.eigh((chosen - mean).T @ (chosen - mean))  # ascending
    directions = directions[:, -3:].flip(1)
    # The sign of a direction means nothing; without a rule colours would flip from picture to picture.
    directions = directions * directions.sum(0).sign()
    projected = (patches - mean) @ directions
    low, high = (torch.quantile(projected[inside], share, dim=0) for share in (0.02, 0.98))
    colours: Tensor = (projected - low) / (high - low).clamp_min(1e-12)
    return colours.clamp(0, 1).float()


def _composite(pixels: Tensor, channels: Sequence[str], scale_like: Tensor | None = None) -> Tensor:
    """Pixels [channels, height, width] in colour, [tile, tile, 3]; each channel is scaled to its maximum."""
    reference = pixels if scale_like is None else scale_like
    bright = pixels / reference.amax(dim=(1, 2), keepdim=True).clamp_min(1e-6)
    size = (TILE_PX, TILE_PX)
    shown = F.interpolate(bright[None].float(), size=size, mode="bilinear", antialias=True, align_corners=False)
    return compose_colours(shown[0].cpu(), channels)
