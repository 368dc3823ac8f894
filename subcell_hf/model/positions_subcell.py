"""Where tokens come from: places of patches and channels as embeddings, and tokens by their place."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "add_channels", "gather_tokens", "interpolate_position_embeddings", "rows_of", "sincos_position_embeddings"
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
