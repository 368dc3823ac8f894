"""What a step of pretraining costs: floating-point operations and memory, from the shapes alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell import patch_convolutions

_BYTES = {"no": 4, "fp16": 2, "bf16": 2}
_VALUES_PER_TOKEN = 8
"""Activations of the token width that a layer keeps for the backward pass; the feed-forward layer keeps two more of
the feed-forward width. Attention is computed without keeping its matrix."""


@dataclass(frozen=True)
class StepCost:
    """What one step needs.

    Attributes:
        training_flops_per_cell: Forward and backward of all views of a cell, a multiplication and an addition each one.
        weight_bytes: Weights, gradients and AdamW's two moments, in float32.
        activation_bytes_per_cell: What the backward pass needs, about.
        parameters: All parameters.
        trainable_parameters: Those that the optimizer moves.
    """

    training_flops_per_cell: float
    weight_bytes: int
    activation_bytes_per_cell: int
    parameters: int
    trainable_parameters: int

    def memory_bytes(self, cells: int) -> int:
        """Approximate memory of a process with this number of cells per step."""
        return self.weight_bytes + cells * self.activation_bytes_per_cell


def estimate_step_cost(
    config: SubCellConfig,
    model: nn.Module,
    views: int,
    precision: str = "no",
    checkpointing: bool = False,
    shown: Mapping[int, float] | None = None,
) -> StepCost:
    """Estimate the cost of a step.

    Args:
        config: Of the model; with a `backbone_config` its encoder counts nothing, for its shapes are its own.
        model: `SubCellForPreTraining`, also on the meta device.
        views: Views of each cell.
        precision: `"no"`, `"fp16"` or `"bf16"`: that of the activations.
        checkpointing: Whether activations of a layer are computed again in the backward pass.
        shown: With separate channel tokens, number of channels that a step shows → its probability; None: all are
            shown. Operations are the mean over steps, memory that of a step with all channels.
    """
    separate = config.channel_tokens == "separate"
    shares = {1: 1.0} if not separate else shown or {config.num_channels: 1.0}
    flops = sum(share * _training_flops(config, views, checkpointing, count) for count, share in shares.items())
    tokens, patches = _count_tokens(config, views, config.num_channels if separate else 1)
    kept = sum(_layer_values(config.hidden_size, config.intermediate_size, checkpointing) * count for count in tokens)
    values = kept * config.num_hidden_layers
    if config.reconstruction_weight:
        width, inner = config.decoder_hidden_size, config.decoder_intermediate_size
        values += _layer_values(width, inner, checkpointing) * (1 + patches) * config.decoder_num_hidden_layers
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return StepCost(flops, 4 * parameters + 12 * trainable, values * _BYTES[precision], parameters, trainable)


def _count_tokens(config: SubCellConfig, views: int, channels: int) -> tuple[list[int], int]:
    """Tokens that the encoder sees of each view, and patches; `channels` are those that have separate tokens."""
    rows, columns = config.patch_grid
    patches = rows * columns
    ratios = (float(config.mask_ratio or 0), config.context_mask_ratio)[:views]
    if config.channel_masking == "apart":
        return [1 + int(channels * patches * (1 - ratio)) for ratio in ratios], channels * patches
    return [1 + channels * int(patches * (1 - ratio)) for ratio in ratios], channels * patches


def _training_flops(config: SubCellConfig, views: int, checkpointing: bool, channels: int) -> float:
    tokens, patches = _count_tokens(config, views, channels)
    encoder = sum(_encoder_flops(config, count, patches) for count in tokens)
    forward = encoder + views * _head_flops(config)
    if config.reconstruction_weight:
        forward += _decoder_flops(config, 1 + patches)
    flops = (4.0 if checkpointing else 3.0) * forward
    if config.protein_centroid_weight:
        flops += encoder + views * _mlp_flops(_centroid_widths(config))
    return flops


def _layer_values(width: int, inner: int, checkpointing: bool) -> int:
    return width if checkpointing else _VALUES_PER_TOKEN * width + 2 * inner


def _transformer_flops(tokens: int, width: int, inner: int, layers: int) -> float:
    return layers * (8.0 * tokens * width**2 + 4.0 * tokens * width * inner + 4.0 * tokens**2 * width)


def _patch_values(config: SubCellConfig) -> int:
    """Pixels of a token."""
    return config.patch_size**2 * (1 if config.channel_tokens == "separate" else config.num_channels)


def _encoder_flops(config: SubCellConfig, tokens: int, patches: int) -> float:
    if config.backbone_config is not None:
        return 0.0
    embedding = 2.0 * patches * _patch_values(config) * config.hidden_size
    if config.patch_embedding_type == "convolutional":
        embedding += patches * _convolution_flops(config)
    scored = 2 if config.pooling_type == "gated" else int(config.pooling_type == "attention")
    pooling = 2.0 * tokens * config.hidden_size * config.pooling_hidden_size * scored
    layers = config.num_hidden_layers
    return embedding + pooling + _transformer_flops(tokens, config.hidden_size, config.intermediate_size, layers)


def _convolution_flops(config: SubCellConfig) -> float:
    """Of the convolutions behind a token."""
    planes = 1 if config.channel_tokens == "separate" else config.num_channels
    with torch.device("meta"):  # draws no weights
        layers = patch_convolutions(planes, config)
    weights = [layer.weight for layer in layers if isinstance(layer, nn.Conv2d)]
    return sum(2.0 * weight.numel() * 4.0**left for left, weight in enumerate(reversed(weights)))


def _decoder_flops(config: SubCellConfig, tokens: int) -> float:
    width = config.decoder_hidden_size
    ends = 2.0 * tokens * width * (config.hidden_size + _patch_values(config))
    return ends + _transformer_flops(tokens, width, config.decoder_intermediate_size, config.decoder_num_hidden_layers)


def _mlp_flops(widths: list[int]) -> float:
    return sum(2.0 * first * second for first, second in pairwise(widths))


def _centroid_widths(config: SubCellConfig) -> list[int]:
    return [len(config.embedding_parts[1]), *config.centroid_hidden_sizes, config.projection_size]


def _head_flops(config: SubCellConfig) -> float:
    """Projections and predictor of one view; the probe is too small to count."""
    weights = config.cell_contrast_weight, config.protein_contrast_weight
    widths = [len(part) for part, weight in zip(config.embedding_parts, weights, strict=True) if weight]
    flops = sum(_mlp_flops([width, *config.projection_hidden_sizes, config.projection_size]) for width in widths)
    if config.protein_centroid_weight:
        predictor = [config.projection_size, *config.centroid_hidden_sizes, config.projection_size]
        flops += _mlp_flops(_centroid_widths(config)) + _mlp_flops(predictor)
    return flops
