"""Which parameters decay by how much, and how the learning rate moves."""

from typing import Any

from torch import nn

from subcell_hf.errors import InputError

_ENCODER_AND_DECODER = ("subcell.embeddings.", "subcell.backbone.", "subcell.layers.", "subcell.layernorm.", "decoder.")
_NEVER_DECAYED = ("cls_token", "mask_token", "position_embeddings", "channel_embeddings")


def parameter_groups(model: nn.Module, weight_decay: float, head_weight_decay: float) -> list[dict[str, Any]]:
    """Sort the trainable parameters of a `SubCellForPreTraining` by their weight decay.

    Matrices of encoder and decoder decay by `weight_decay`, those of pooler, projections, predictor and probe by
    `head_weight_decay`; biases, norms, tokens, positions and channels do not decay. (The published training let the
    biases and norms of the heads decay too.)

    Args:
        model: Its parameters' names decide.
        weight_decay: For encoder and decoder.
        head_weight_decay: For everything else.

    Returns:
        Optimizer groups with `name`, `params` and `weight_decay`; empty ones are left out.
    """
    decays = {"body": weight_decay, "body without decay": 0.0, "heads": head_weight_decay, "heads without decay": 0.0}
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in decays}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "body" if name.startswith(_ENCODER_AND_DECODER) else "heads"
        decayed = parameter.ndim >= 2 and not name.endswith(_NEVER_DECAYED)
        groups[part if decayed else f"{part} without decay"].append(parameter)
    return [
        {"name": name, "params": parameters, "weight_decay": decays[name]}
        for name, parameters in groups.items()
        if parameters
    ]


def peak_learning_rate(base_learning_rate: float, cells_per_step: int) -> float:
    """Learning rate after the warm-up: proportional to the cells of an optimizer step.

    Args:
        base_learning_rate: For 256 cells.
        cells_per_step: Cells of all processes and accumulated batches together.
    """
    return base_learning_rate * cells_per_step / 256


def straight_line(peak: float, final_ratio: float) -> dict[str, float]:
    """Settings of Trainer's `polynomial` schedule that make it SubCell's: linear to `final_ratio` of the peak.

    With `warmup_steps` from 0 before it, step s (from 0) runs at the rate of s. The published training sets the rate
    after the step, so that its first step runs at the full rate and every other one at the rate of the step before.

    Raises:
        InputError: If the line would not fall.
    """
    if not 0 <= final_ratio < 1:
        raise InputError(
            f"final_learning_rate_ratio is {final_ratio}: expected a share of the peak, from 0 to below 1."
        )
    return {"power": 1.0, "lr_end": peak * final_ratio}
