"""Normal noise as a pure function of a seed per plane: the same on every device and however a batch is divided."""

import math

import torch
from torch import Tensor

_SPREAD = -1640531527  # 2³² / golden ratio, as a signed number: neighbouring pixels start far apart
# Shifts and odd factors of lowbias32 (Wellons, https://nullprogram.com/blog/2018/07/31), found by search for an integer
# hash of which every output bit depends evenly on every input bit.
_ROUNDS = ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32))
_LEAST_UNIFORM = 2.0**-26
"""Below the finest step of the uniform numbers, so that their logarithm is finite: noise ends at 6 sigma."""


def normal_planes(seeds: Tensor, sigma: Tensor, height_px: int, width_px: int) -> Tensor:
    """Independent normal numbers of mean 0 for every pixel.

    The number of a pixel and a seed are hashed to 32 random bits; two of them give two normal numbers by the formula of
    Box and Muller. A generator gives its numbers one after another, this all of them at once, which is three times as
    fast on one core of a CPU and needs no state.

    Args:
        seeds: [planes] int64, all 64 bits of which count.
        sigma: [planes] float32, standard deviation, on the seeds' device.
        height_px: Height of the planes.
        width_px: Width of the planes.

    Returns:
        [planes, height_px, width_px] float32.
    """
    pixels = height_px * width_px
    pairs = (pixels + 1) // 2
    bits = _random_bits(seeds, 2 * pairs)
    uniform = bits[:, :pairs].to(torch.float32).mul_(2.0**-32).add_(0.5).clamp_min_(_LEAST_UNIFORM)
    radius = uniform.log_().mul_((-2 * sigma.square())[:, None]).clamp_min_(0.0).sqrt_()
    angle = bits[:, pairs:].to(torch.float32).mul_(math.pi / 2**31)
    noise = radius.new_empty(len(seeds), 2 * pairs)
    torch.cos(angle, out=noise[:, :pairs]).mul_(radius)
    torch.sin(angle, out=noise[:, pairs:]).mul_(radius)
    return noise[:, :pixels].view(-1, height_px, width_px)


def _random_bits(seeds: Tensor, count: int) -> Tensor:
    """[planes, count] int32, any of them as likely; the high bits are the best. Integers wrap around on purpose."""
    keys = seeds.contiguous().view(torch.int32).view(-1, 2, 1)  # the halves of the seeds
    numbers = torch.arange(count, dtype=torch.int32, device=seeds.device) * _SPREAD
    bits = numbers + keys[:, 0]
    shifted = torch.empty_like(bits)
    for index, (shift, factor) in enumerate(_ROUNDS):
        # `>>` repeats the sign: the mask makes it a shift of 32 plain bits.
        torch.bitwise_right_shift(bits, shift, out=shifted).bitwise_and_(2 ** (32 - shift) - 1)
        bits.bitwise_xor_(shifted).mul_(factor)
        if index == 0:
            bits.add_(keys[:, 1])
    return bits
