"""Where tokens come from: places of patches and channels as embeddings, tokens by their place, which are hidden."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "PatchSelection", "add_channels", "gather_tokens", "interpolate_position_embeddings", "rows_of", "select_patches",
    "sincos_position_embeddings",
]  # fmt: skip


def sincos_position_embeddings(hidden_size: int, rows: int, columns: int) -> Tensor:
    """Fixed 2-D sine–cosine position embeddings with a zero row for CLS.

    The first half of the width encodes the column and the second half the row, as in the published MAE models.

    Args:
        hidden_size: Width, a multiple of 4.
        rows: Rows of the patch grid.
        columns: Columns of the patch grid.

    Returns:
        `[1, 1 + rows · columns, hidden_size]` in torch's default dtype, as parameters are made.
    """
    frequency = 10000.0 ** -(torch.arange(hidden_size // 4, dtype=torch.float64) / (hidden_size // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [axis.flatten()[:, None] * frequency for axis in (column, row)]
    positions = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    return F.pad(positions, (0, 0, 1, 0)).to(torch.get_default_dtype())[None]


def interpolate_position_embeddings(positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Position embeddings for another patch grid, bicubic, CLS untouched.

    Args:
        positions: `[1, 1 + rows · columns, hidden_size]`.
        grid: Rows and columns of `positions`.
        new_grid: Rows and columns wanted.

    Returns:
        `[1, 1 + new rows · new columns, hidden_size]`.
    """
    # A trace must not keep the size that it was made with; interpolation to the same size changes nothing.
    if grid == new_grid and not torch.jit.is_tracing():  # type: ignore[attr-defined]  # exported by another name
        return positions
    patches = positions[:, 1:].reshape(1, *grid, -1).permute(0, 3, 1, 2).float()
    patches = F.interpolate(patches, size=new_grid, mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], patches.flatten(2).transpose(1, 2).to(positions.dtype)], dim=1)


def gather_tokens(tokens: Tensor, indices: Tensor) -> Tensor:
    """Tokens at given positions.

    Args:
        tokens: `[batch, tokens, width]`.
        indices: `[batch, kept]` int64.

    Returns:
        `[batch, kept, width]`.
    """
    return tokens.gather(1, indices[:, :, None].expand(-1, -1, tokens.shape[-1]))


def add_channels(positions: Tensor, channels: Tensor | None) -> Tensor:
    """Embeddings of all tokens: every place once in each channel, channel by channel.

    Source of separate channel tokens: Bao et al., ChannelViT, ICLR 2024 (arXiv 2309.16108).

    Args:
        positions: `[1, 1 + patches, hidden_size]`, CLS first.
        channels: `[channels, hidden_size]`; None where the channels of a place share a token.

    Returns:
        `[1, 1 + channels · patches, hidden_size]`; `positions` without channels.
    """
    if channels is None:
        return positions
    places = (positions[:, 1:] + channels[:, None]).flatten(0, 1)[None]
    return torch.cat([positions[:, :1], places], dim=1)


def rows_of(table: Tensor | None, rows: list[int] | None) -> Tensor | None:
    """Rows of a table of channel embeddings, `[channels, hidden_size]`; None without rows.

    All rows take part in the gradient, with 0 if not chosen: data-parallel training waits for none of them.
    """
    return None if table is None or rows is None else torch.stack([table[row] for row in rows])


class PatchSelection(NamedTuple):
    """Which patches the encoder sees.

    Attributes:
        kept: `[batch, kept]` int64, positions of the kept patches in the order in which the encoder sees them.
        restore: `[batch, patches]` int64, rank of every patch in the shuffled order: kept ones first.
        patch_mask: `[batch, patches]` float, 1 = hidden.
    """

    kept: Tensor
    restore: Tensor
    patch_mask: Tensor

    def of_every_channel(self, channels: int) -> "PatchSelection":
        """The same patches in each of several channels, whose patches are numbered one channel after the other."""
        count, kept = self.restore.shape[1], self.kept.shape[1]
        number = torch.arange(channels, device=self.kept.device)[:, None]
        restore = self.restore[:, None]  # [batch, 1, patches]
        seen, hidden = number * kept + restore, channels * kept + number * (count - kept) + restore - kept
        return PatchSelection(
            (self.kept[:, None] + number * count).flatten(1),
            torch.where(restore < kept, seen, hidden).flatten(1),
            self.patch_mask.repeat(1, channels),
        )


def select_patches(
    noise: Tensor, mask_ratio: float, object_patches: Tensor | None = None, object_mask_ratio: float = 0.0
) -> PatchSelection:
    """Choose the patches to keep, at random or with the cell hidden first.

    int(patches · (1 − mask_ratio)) patches are kept. Object-aware, of a crop's n object patches the
    int(n · (1 − object_mask_ratio)) with the lowest noise come first, then the background, then the object's others.

    Args:
        noise: `[batch, patches]`, uniform random numbers in [0, 1); the lowest are kept.
        mask_ratio: Fraction of patches to hide.
        object_patches: `[batch, patches]` bool, True where the cell is; None for plain random masking.
        object_mask_ratio: Fraction of the cell's patches to hide first.

    Returns:
        The selection; no loop over the batch and no copy to the host.
    """
    patches = noise.shape[1]
    if object_patches is not None:
        object_rank = noise.masked_fill(~object_patches, torch.inf).argsort(1).argsort(1)
        # In float32, in which the published counts were rounded down.
        quota = (object_patches.sum(1, keepdim=True).float() * (1 - object_mask_ratio)).long()
        tier = torch.where(object_patches, torch.where(object_rank < quota, 0, 2), 1)
        noise = noise + tier
    order = noise.argsort(dim=1, stable=True)
    restore = order.argsort(1)
    kept = int(patches * (1 - mask_ratio))
    return PatchSelection(order[:, :kept], restore, (restore >= kept).to(torch.float32))
