"""Ten classifiers of protein locations on frozen embeddings, trained at once.

The published recipe: an MLP (512, 256, ReLU, dropout 0.5), sigmoid focal loss, AdamW at 1e-3, 8192 cells in a batch, at
most 200 epochs; the learning rate halves after 4 epochs without gain in macro mean average precision on the validation
cells, and training stops after 20; ten seeds, whose probabilities are averaged. The members are stacked: one batched
product does for all of them what would be ten small ones, and each keeps its own draws, learning rate and end, so that
it ends with the weights that it would have had alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from subcell_hf.errors import InputError, counted
from subcell_hf.model.objectives_subcell import sigmoid_focal_loss
from subcell_hf.progress import progress_bar
from subcell_hf.training.localization.average_precision import mean_average_precision

BETAS, EPSILON = (0.9, 0.999), 1e-8

_DROPOUT_STREAM = 2**32  # added to a seed, so that dropout's draws are not those of the order

_CPU_CHUNK = 1024
"""Cells of a batch that a CPU processes at a time, so that intermediate results stay in its caches."""

Layers = list[tuple[Tensor, Tensor]]  # per layer weight [members, out, in] and bias [members, out]


@dataclass(frozen=True)
class LocalizationSettings:
    """The recipe; the defaults are the published one.

    Attributes:
        hidden_sizes: Widths of the hidden layers.
        dropout: After every hidden layer.
        learning_rate: At the beginning.
        weight_decay: AdamW's, on weights and biases.
        cells_per_batch: Cells in a batch; the last one of an epoch has what is left.
        max_epochs: Epochs at most.
        plateau_epochs: The rate halves when so many epochs in a row brought no gain.
        patience_epochs: A member stops when so many epochs in a row brought no gain.
        seeds: One per member.
        focal_alpha: Weight of positives in the focal loss.
        focal_gamma: Its focusing exponent.
        precision: `"fp32"`, or `"bf16"` for the products.
    """

    hidden_sizes: tuple[int, ...] = (512, 256)
    dropout: float = 0.5
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    cells_per_batch: int = 8192
    max_epochs: int = 200
    plateau_epochs: int = 4
    patience_epochs: int = 20
    seeds: tuple[int, ...] = tuple(range(10))
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        """Refuse what cannot train.

        Raises:
            InputError: Naming the setting.
        """
        for name in ("learning_rate", "cells_per_batch", "max_epochs", "plateau_epochs", "patience_epochs"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}, expected a value above 0.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds are {self.seeds}, expected at least one, without repetition.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}, expected at least 0 and less than 1.")
        if self.precision not in ("fp32", "bf16"):
            raise InputError(f"precision is {self.precision!r}, expected fp32 or bf16.")


@dataclass(frozen=True)
class LabelledEmbeddings:
    """What members learn from, or are measured on.

    Attributes:
        embeddings: `[cells, width]` float32.
        targets: `[cells, classes]` float32, 0 or 1.
    """

    embeddings: npt.NDArray[np.float32]
    targets: npt.NDArray[np.float32]

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Both as tensors on a device."""
        return tuple(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (self.embeddings, self.targets))  # type: ignore[return-value]


@dataclass
class TrainedEnsemble:
    """What training gives.

    Attributes:
        layers: Per layer weight `[members, out, in]` and bias `[members, out]`, of each member's best epoch.
        seeds: Of the members.
        history: Macro mean average precision on the validation cells, for each member one value per epoch it ran.
        best_epochs: Epoch, from 0, that each member's weights are of.
    """

    layers: Layers
    seeds: tuple[int, ...]
    history: list[list[float]] = field(default_factory=list)
    best_epochs: list[int] = field(default_factory=list)


class _Members:
    """The members that are still learning: their weights, moments, rates and streams of randomness."""

    def __init__(self, sizes: Sequence[int], settings: LocalizationSettings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.places = list(range(len(settings.seeds)))
        self.orders = [torch.Generator().manual_seed(seed) for seed in settings.seeds]
        self.dropouts = [torch.Generator(device).manual_seed(seed + _DROPOUT_STREAM) for seed in settings.seeds]
        self.weights: list[Tensor] = []
        for inputs, outputs in pairwise(sizes):
            bound = 1 / math.sqrt(inputs)  # as torch.nn.Linear begins
            for shape in ((outputs, inputs), (outputs,)):
                drawn = [torch.empty(shape).uniform_(-bound, bound, generator=order) for order in self.orders]
                self.weights.append(torch.stack(drawn).to(device).requires_grad_())
        self.moments = [(torch.zeros_like(weight), torch.zeros_like(weight)) for weight in self.weights]
        self.rates = torch.full((len(self.places),), settings.learning_rate, device=device)
        self.steps = 0

    def logits(self, features: Tensor, *, train: bool) -> Tensor:
        """`[members, cells, width]` → `[members, cells, classes]`."""
        layers = list(zip(self.weights[::2], self.weights[1::2], strict=True))
        for number, (weight, bias) in enumerate(layers):
            features = torch.baddbmm(bias[:, None], features, weight.transpose(1, 2))
            if number < len(layers) - 1:
                features = F.relu(features)
                features = features * self._kept(features) if train and self.settings.dropout else features
        return features

    def _kept(self, features: Tensor) -> Tensor:
        """Dropout's factors, each member's from its own stream: 16 random bits decide, four times as fast as floats."""
        members, *rest = features.shape
        drawn = torch.empty((members, -(-math.prod(rest) // 4)), dtype=torch.int64, device=self.device)
        for bits, generator in zip(drawn, self.dropouts, strict=True):
            bits.random_(-(2**63), 2**63 - 1, generator=generator)
        numbers = drawn.view(torch.int16)[:, : math.prod(rest)].view(features.shape)
        dropped = round(self.settings.dropout * 2**16)
        return (numbers >= dropped - 2**15).to(features.dtype).mul_(2**16 / (2**16 - dropped))

    def permutations(self, cells: int) -> Tensor:
        """`[members, cells]`: the order in which each member sees the cells of an epoch."""
        return torch.stack([torch.randperm(cells, generator=order) for order in self.orders]).to(self.device)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """One AdamW step, each member at its own rate (Loshchilov & Hutter, ICLR 2019)."""
        self.steps += 1
        corrections = [1 - beta**self.steps for beta in BETAS]
        for weight, gradient, (first, second) in zip(self.weights, gradients, self.moments, strict=True):
            rates = self.rates.view(-1, *[1] * (weight.ndim - 1))
            first.lerp_(gradient, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            weight.mul_(1 - rates * self.settings.weight_decay)
            weight.sub_(rates / corrections[0] * first / ((second / corrections[1]).sqrt_() + EPSILON))

    def keep(self, members: Sequence[int]) -> None:
        """Continue with some of the members only."""
        if len(members) == len(self.places):
            return
        chosen = list(members)
        self.places = [self.places[member] for member in chosen]
        self.orders = [self.orders[member] for member in chosen]
        self.dropouts = [self.dropouts[member] for member in chosen]
        self.weights = [weight.detach()[chosen].requires_grad_() for weight in self.weights]
        self.moments = [(first[chosen], second[chosen]) for first, second in self.moments]
        self.rates = self.rates[chosen]


def train_ensemble(
    train: LabelledEmbeddings,
    validation: LabelledEmbeddings,
    settings: LocalizationSettings | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> TrainedEnsemble:
    """Train all members of an ensemble at once.

    Args:
        train: Cells to learn from.
        validation: Cells, of other antibodies, that decide on rates and ends.
        settings: The recipe.
        device: Where to work; the training cells are put there whole.
        progress: Whether to show how far it has come.

    Returns:
        Every member with the weights of its best epoch.

    Raises:
        InputError: If there are no cells, shapes disagree, or no class has both positives and negatives.
        FloatingPointError: If a member's loss is not finite.
    """
    settings, device = settings or LocalizationSettings(), torch.device(device)
    _check(train, validation)
    features, targets = train.on(device)
    if settings.precision == "bf16":
        features = features.bfloat16()  # as the products would round them anyway, batch after batch
    held_out = validation.on(device)
    members = _Members((features.shape[1], *settings.hidden_sizes, targets.shape[1]), settings, device)
    count = len(settings.seeds)
    best_weights = [weight.detach().clone() for weight in members.weights]
    history: list[list[float]] = [[] for _ in range(count)]
    best, best_epochs, waited = [-math.inf] * count, [0] * count, [0] * count
    with progress_bar(settings.max_epochs, "epochs", "localization", shown=progress) as bar:
        for epoch in range(settings.max_epochs):
            _train_epoch(members, features, targets)
            going_on = []
            for member, (place, score) in enumerate(zip(members.places, _validate(members, *held_out), strict=True)):
                history[place].append(score)
                if score > best[place]:
                    best[place], best_epochs[place], waited[place] = score, epoch, 0
                    for kept, weight in zip(best_weights, members.weights, strict=True):
                        kept[place] = weight[member].detach()
                else:
                    waited[place] += 1
                    if waited[place] % settings.plateau_epochs == 0:
                        members.rates[member] *= 0.5
                if waited[place] < settings.patience_epochs:
                    going_on.append(member)
            bar.set_postfix_str(f"macro mAP {sum(best) / count:.4f}, {len(going_on)} learning", refresh=False)
            bar.update()
            if not going_on:
                break
            members.keep(going_on)
    layers = list(zip(best_weights[::2], best_weights[1::2], strict=True))
    return TrainedEnsemble(layers, settings.seeds, history, best_epochs)


def _train_epoch(members: _Members, features: Tensor, targets: Tensor) -> None:
    """Every cell once, for each member in its own order."""
    settings = members.settings
    chunk = _CPU_CHUNK if members.device.type == "cpu" else settings.cells_per_batch
    # Memory that is asked for anew costs a CPU more than filling it.
    room = features.new_empty(len(members.places) * min(chunk, len(features)) * features.shape[1])
    for batch in members.permutations(len(features)).split(settings.cells_per_batch, dim=1):
        gradients = [torch.zeros_like(weight) for weight in members.weights]
        losses = torch.zeros(len(members.places), device=members.device)
        for cells in batch.split(chunk, dim=1):
            chosen = room[: cells.numel() * features.shape[1]].view(-1, features.shape[1])
            torch.index_select(features, 0, cells.flatten(), out=chosen)
            with torch.autocast(members.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                logits = members.logits(chosen.view(*cells.shape, -1), train=True)
            share = sigmoid_focal_loss(
                logits.float(), targets[cells], settings.focal_alpha, settings.focal_gamma, reduction="none"
            ).sum(dim=(1, 2)) / (batch.shape[1] * targets.shape[1])
            # No member's gradient reaches another.
            torch._foreach_add_(gradients, torch.autograd.grad(share.sum(), members.weights))
            losses += share.detach()
        if not bool(torch.isfinite(losses).all()):
            raise FloatingPointError(f"The loss is {losses.tolist()} after {members.steps} steps; lower learning_rate.")
        members.step(gradients)


@torch.no_grad()
def _validate(members: _Members, features: Tensor, targets: Tensor) -> list[float]:
    """Macro mean average precision of every member."""
    logits = [
        members.logits(cells.expand(len(members.places), -1, -1), train=False)
        for cells in features.split(members.settings.cells_per_batch)
    ]
    return [mean_average_precision(scores, targets) for scores in torch.cat(logits, dim=1)]


def _check(train: LabelledEmbeddings, validation: LabelledEmbeddings) -> None:
    for name, part in (("train", train), ("validation", validation)):
        cells, classes = part.targets.shape
        if part.embeddings.shape[0] != cells or cells == 0:
            raise InputError(f"The {name} cells have {part.embeddings.shape[0]} embeddings and {cells} targets.")
        if part.embeddings.shape[1] != train.embeddings.shape[1] or classes != train.targets.shape[1]:
            raise InputError(
                f"The {name} cells have width {part.embeddings.shape[1]} and "
                f"{counted(classes, 'class', 'classes')}, expected "
                f"{train.embeddings.shape[1]} and {train.targets.shape[1]}."
            )
    positives = validation.targets.sum(axis=0)
    if not ((positives > 0) & (positives < len(validation.targets))).any():
        raise InputError("No class has both positives and negatives among the validation cells. Choose other splits.")
