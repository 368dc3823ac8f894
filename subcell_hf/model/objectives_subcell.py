"""SubCell's training objectives, as pure functions of tensors.

Every loss is exact over the *global* batch. With several processes each computes the loss of its local cells against
the gathered features of all cells. The mean of the processes' losses is then the loss of the global batch, and the mean
of their gradients, as applied by data-parallel training, is its gradient. Cost and memory per process grow with local ×
global cells.

Source of the objectives: Gupta et al., bioRxiv 2024.12.06.627299.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce whose gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class _GatherFromProcesses(torch.autograd.Function):
    """All-gather along the first axis whose gradient reaches the process that the rows came from."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, tensor.contiguous())
        ctx.rows = len(tensor)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[dist.get_rank() * ctx.rows : (dist.get_rank() + 1) * ctx.rows]


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum of a tensor over all processes, with gradient; the tensor itself where there is one process."""
    return _SumOverProcesses.apply(tensor) if world_size() > 1 else tensor


def gather_from_processes(tensor: Tensor) -> Tensor:
    """Rows of all processes, in order of rank, with gradient.

    Args:
        tensor: `[rows, ...]`, the same shape on every process.

    Returns:
        `[world size · rows, ...]`.
    """
    return _GatherFromProcesses.apply(tensor) if world_size() > 1 else tensor


def _full_precision(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def patchify(pixel_values: Tensor, patch_size: int) -> Tensor:
    """Cut images into flat patches.

    Args:
        pixel_values: `[batch, channels, height, width]`.
        patch_size: Edge of a patch in pixels; divides height and width.

    Returns:
        `[batch, patches, patch_size² · channels]`, patches row by row, values ordered (row, column, channel).
    """
    batch, channels, height, width = pixel_values.shape
    rows, columns = height // patch_size, width // patch_size
    grid = pixel_values.reshape(batch, channels, rows, patch_size, columns, patch_size)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, patch_size**2 * channels)


def unpatchify(patches: Tensor, patch_size: int, height: int, width: int) -> Tensor:
    """Put flat patches together again; the inverse of `patchify`.

    Args:
        patches: `[batch, patches, patch_size² · channels]`.
        patch_size: Edge of a patch in pixels.
        height: Height of the images in pixels.
        width: Width of the images in pixels.

    Returns:
        `[batch, channels, height, width]`.
    """
    rows, columns = height // patch_size, width // patch_size
    grid = patches.reshape(len(patches), rows, columns, patch_size, patch_size, -1)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, height, width)


def reconstruction_loss(
    reconstruction: Tensor,
    pixel_values: Tensor,
    patch_mask: Tensor | None,
    patch_size: int,
    normalize_target: bool = True,
) -> Tensor:
    """Mean squared error of the reconstructed patches.

    Naive form, with a patch's target t normalised to (t − mean(t)) / sqrt(var(t) + 1e-6), var being unbiased::

        errors = [mean((reconstruction[b, p] - target[b, p]) ** 2) for b, p in hidden patches]
        loss = mean(errors)

    Args:
        reconstruction: `[batch, patches, patch_size² · channels]`.
        pixel_values: `[batch, channels, height, width]`, the unmasked input.
        patch_mask: `[batch, patches]`, 1 = hidden; None, or no patch hidden, takes the mean over all patches.
        patch_size: Edge of a patch in pixels.
        normalize_target: Whether every patch of the target is normalised.

    Returns:
        Scalar. Every process must hide the same number of patches, which a fixed ratio guarantees.
    """
    target = patchify(_full_precision(pixel_values), patch_size)
    if normalize_target:
        # In two passes, which on a CPU take 0.6 of the time of torch.var_mean.
        centred = target - target.mean(-1, keepdim=True)
        variance = centred.square().sum(-1, keepdim=True) / (target.shape[-1] - 1)
        target = centred / (variance + 1e-6).sqrt()
    errors = (_full_precision(reconstruction) - target).square().mean(-1)  # [batch, patches]
    if patch_mask is None:
        return errors.mean()
    hidden = patch_mask.to(errors.dtype)
    hidden = torch.where(hidden.sum() > 0, hidden, torch.ones_like(hidden))
    return (errors * hidden).sum() / hidden.sum()


def contrastive_loss(
    features: Tensor, labels: Tensor | None = None, temperature: float = 0.1, across_views: bool = False
) -> Tensor:
    """Normalised-temperature cross-entropy between views of the same cell, or of cells with the same label.

    Naive form over the V·N features z of the global batch, P(i) being the other features of i's cell (no labels) or of
    i's label::

        others[i] = [k for k != i if not across_views or view[k] != view[i]]
        log_p[i, j] = z[i]·z[j]/τ - log(sum(exp(z[i]·z[k]/τ) for k in others[i]))
        loss = mean(-mean(log_p[i, j] for j in P(i) and others[i]) for i)

    Source: Chen et al., ICML 2020 (no labels); Khosla et al., NeurIPS 2020 (labels), without the latter's extra
    temperature factor.

    Args:
        features: `[cells, views, size]`, L2-normalised; this process's cells. One view needs labels that each have two
            cells or more.
        labels: `[cells]` integer label of each cell, such as its antibody; None makes every cell its own class.
        temperature: τ.
        across_views: Whether a feature is compared with those of other views only.

    Returns:
        Scalar: the mean over this process's features; its mean over processes is the loss of the global batch.
    """
    cells, views, _ = features.shape
    everything = gather_from_processes(features)  # [global cells, views, size]
    first = (dist.get_rank() if world_size() > 1 else 0) * cells
    own_index = torch.arange(first, first + cells, device=features.device)
    if labels is None:
        own_labels, all_labels = own_index, torch.arange(len(everything), device=features.device)
    else:
        own_labels, all_labels = labels, gather_from_processes(labels)
    with torch.autocast(features.device.type, enabled=False):
        similarity = _full_precision(features).flatten(0, 1) @ _full_precision(everything).flatten(0, 1).T / temperature
    columns = torch.arange(similarity.shape[1], device=features.device)  # [global cells · views]
    own_columns = (own_index[:, None] * views + torch.arange(views, device=features.device)).flatten()
    left_out = own_columns[:, None] == columns
    if across_views:
        left_out = own_columns[:, None] % views == columns % views
    same = own_labels.repeat_interleave(views)[:, None] == all_labels.repeat_interleave(views)
    positive = same & ~left_out
    log_probability = similarity - similarity.masked_fill(left_out, -torch.inf).logsumexp(dim=1, keepdim=True)
    return -(log_probability.masked_fill(~positive, 0.0).sum(1) / positive.sum(1)).mean()


def protein_centroid_loss(
    predictions: Tensor, targets: Tensor, labels: Tensor, noise: Tensor | None = None, noise_weight: float = 0.0
) -> Tensor:
    """Distance of each cell to its antibody's mean as the teacher sees it in the other view.

    Naive form over the global batch::

        for a in antibodies:
            c = normalise(mean(targets[labels == a]))
            z = predictions[labels == a]
            losses += [mean(2 - 2 * z·c) + noise_weight * mean(z·noise[a])]
        loss = mean(losses)

    Args:
        predictions: `[cells, size]`, L2-normalised, of the student; this process's cells.
        targets: `[cells, size]`, of the teacher, not normalised, without gradient.
        labels: `[cells]` integer antibody of each cell.
        noise: `[antibodies, size]` unit vectors, one per antibody of the global batch in ascending order; needed where
            `noise_weight` is not 0, and the same on every process.
        noise_weight: Weight of the random-direction term.

    Returns:
        Scalar; its mean over processes is the loss of the global batch.

    Raises:
        ValueError: If `noise_weight` is not 0 and there is no noise.
    """
    predictions, all_targets = _full_precision(predictions), _full_precision(gather_from_processes(targets))
    all_labels = gather_from_processes(labels)
    same = (labels[:, None] == all_labels).to(all_targets.dtype)  # [cells, global cells]
    antibody_cells = same.sum(1)
    with torch.autocast(predictions.device.type, enabled=False):
        # Sums point the same way as means.
        centroids = F.normalize(same @ all_targets, dim=1)
    distances = 2 - 2 * (predictions * centroids).sum(1)
    if noise_weight:
        if noise is None:
            raise ValueError(
                f"protein_centroid_loss: noise_weight={noise_weight} needs noise, one unit vector per antibody."
            )
        index = torch.searchsorted(torch.unique(all_labels), labels)
        distances = distances + noise_weight * (predictions * noise.to(predictions)[index]).sum(1)
    # A cell's share of its antibody's mean; over all cells the shares add up to the number of antibodies.
    antibodies = sum_over_processes((1 / antibody_cells).sum())
    return world_size() * (distances / antibody_cells).sum() / antibodies


def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "mean"
) -> Tensor:
    """Binary cross-entropy that counts easy decisions less.

    Naive form, p being sigmoid(logit) of a target 1 and 1 − sigmoid(logit) of a target 0::

        loss = (alpha if target else 1 - alpha) * (1 - p) ** gamma * -log(p)

    Source: Lin et al., ICCV 2017.

    Args:
        logits: Any shape.
        targets: Same shape, 0 or 1 (or between).
        alpha: Weight of positives; negative switches the weighting off.
        gamma: Focusing exponent.
        reduction: `"none"`, `"mean"` or `"sum"`.

    Returns:
        Scalar, or the shape of `logits` with `"none"`.

    Raises:
        ValueError: If the reduction is unknown.
    """
    logits = _full_precision(logits)
    targets = targets.to(logits.dtype)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probability = logits.sigmoid()
    missed = probability + targets - 2 * probability * targets  # 1 - p, also for targets between 0 and 1
    losses = cross_entropy * missed**gamma
    if alpha >= 0:
        losses = losses * (alpha * targets + (1 - alpha) * (1 - targets))
    if reduction == "none":
        return losses
    if reduction in ("mean", "sum"):
        return losses.mean() if reduction == "mean" else losses.sum()
    raise ValueError(f"Unknown reduction {reduction!r}: choose 'none', 'mean' or 'sum'.")
