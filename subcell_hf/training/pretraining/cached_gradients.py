"""Batches larger than memory: the gradient of the whole batch from the activations of a part of it at a time.

Contrastive losses compare every cell with every other, so a batch cannot be cut up and its losses added. But they need
only the embeddings, which are small. So every part of the batch is embedded without keeping activations; heads and
losses see the embeddings of the whole batch (BatchNorm's statistics are those of the whole batch too) and give the
gradient by every embedding; then each part is embedded once more, with the same random numbers, and its embeddings'
gradients are sent back through the encoder. The result is the gradient of the undivided batch, for one more forward
pass of the encoder.

Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021
(arXiv 2101.06983).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.distributed
from torch import Tensor, nn

from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from subcell_hf.model.objectives_subcell import world_size
from subcell_hf.model.positions_subcell import PatchSelection
from subcell_hf.training.pretraining.model_noise import ModelNoise
from subcell_hf.types import MultiViewBatch

Selections = list[PatchSelection | None]


@dataclass(frozen=True)
class CachedGradientStep:
    """How a batch is worked through in parts.

    Attributes:
        model: In training mode, not wrapped.
        chunks: Parts of the batch, at most one per cell.
        autocast: Makes the context of every forward pass.
        scale: Applied to a loss before its backward pass: the loss scaler of fp16, the share of an accumulated batch.
    """

    model: SubCellForPreTraining
    chunks: int
    autocast: Callable[[], AbstractContextManager[object]]
    scale: Callable[[Tensor], Tensor]

    def __call__(
        self, views: MultiViewBatch, noise: ModelNoise | None = None, channels: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Add this process's gradients of a batch to those of the parameters.

        Args:
            views: `pixel_values` of this process's cells and what the model's `forward` takes beside them.
            noise: What is hidden; drawn by the model if None.
            channels: Names of the views' channels, as for the model's `forward`.

        Returns:
            Name → unweighted loss of the whole batch, without gradient, as `forward` names them.
        """
        model, pixels = self.model, views["pixel_values"]
        noise = ModelNoise() if noise is None else noise
        selections = model.hide_patches(pixels, views["cell_masks"], noise.get("noise"))
        parts = _bounds(len(pixels), self.chunks)
        embeddings, states = self._embed(pixels, selections, parts, channels)
        taught = None
        if model.config.protein_centroid_weight and pixels.shape[1] == 2 and model.config.shows_protein(channels):
            hidden = model.hide_from_teacher(pixels, noise.get("teacher_noise"))
            taught = self._teach(pixels, hidden, parts, channels)
        leaf = embeddings.requires_grad_()
        with self.autocast():
            losses, _ = model.score_embeddings(
                leaf,
                taught,
                views["antibodies"],
                views["locations"],
                noise.get("centroid_noise"),
                channels,
                views.get("cell_groups"),
            )
        if losses:
            self.scale(model.weigh(losses)).backward()
        reconstructed = self._send_back(pixels, selections, parts, states, leaf.grad, channels)
        found = {"reconstruction": reconstructed} if reconstructed is not None else {}
        return found | {name: value.detach() for name, value in losses.items()}

    def _embed(
        self, pixels: Tensor, selections: Selections, parts: list[slice], channels: Sequence[str] | None
    ) -> tuple[Tensor, list["_RandomState"]]:
        """Embeddings of all cells without a graph, and the state of the random numbers before each part."""
        states, found = [], []
        for part in parts:
            states.append(_RandomState.take(pixels.device))
            with torch.no_grad(), self.autocast():
                outputs = self.model.encode(pixels[part], _select(selections, part), channels=channels)
            found.append(torch.stack([output.pooler_output for output in outputs], dim=1))
        return torch.cat(found), states

    def _teach(self, pixels: Tensor, hidden: Selections, parts: list[slice], channels: Sequence[str] | None) -> Tensor:
        with self.autocast():
            return torch.cat([self.model.teach(pixels[part], _select(hidden, part), channels) for part in parts])

    def _send_back(
        self,
        pixels: Tensor,
        selections: Selections,
        parts: list[slice],
        states: list["_RandomState"],
        gradients: Tensor | None,
        channels: Sequence[str] | None,
    ) -> Tensor | None:
        """Backward pass of every part; returns the reconstruction loss, if there is one."""
        weight, total = float(self.model.config.reconstruction_weight or 0), None
        if gradients is None and not weight:
            return None
        for part, state in zip(parts, states, strict=True):
            roots: list[Tensor] = []
            with state.replay(), self.autocast():
                chosen = _select(selections, part)
                outputs = self.model.encode(pixels[part], chosen, channels=channels)
                if weight:
                    _, loss = self.model.reconstruct(pixels[part, 0], outputs[0], chosen[0], channels)
                    loss = loss * (len(pixels[part]) / len(pixels))
                    total = loss.detach() if total is None else total + loss.detach()
                    roots.append(self.scale(weight * loss))
            given: list[Tensor | None] = [None] * len(roots)
            if gradients is not None:
                roots.append(torch.stack([output.pooler_output for output in outputs], dim=1))
                given.append(gradients[part])  # scaled already
            torch.autograd.backward(roots, given)
        return total


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the mean of all processes' gradients, as data-parallel training does."""
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    waiting = [torch.distributed.all_reduce(gradient, async_op=True) for gradient in gradients]
    for work in waiting:
        work.wait()
    torch._foreach_div_(gradients, float(world_size()))


@dataclass(frozen=True)
class _RandomState:
    """State of torch's default generators, of the CPU and of a device: dropout draws from these.

    Replaying a state is what torch's activation checkpointing does, too; it seeds nothing.
    """

    device: torch.device
    cpu: Tensor
    accelerator: Tensor | None

    @classmethod
    def take(cls, device: torch.device) -> "_RandomState":
        on_gpu = device.type == "cuda"
        return cls(device, torch.get_rng_state(), torch.cuda.get_rng_state(device) if on_gpu else None)

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Draw the same numbers again; afterwards restore the generator's state."""
        devices = [self.device] if self.accelerator is not None else []
        with torch.random.fork_rng(devices=devices):
            torch.set_rng_state(self.cpu)
            if self.accelerator is not None:
                torch.cuda.set_rng_state(self.accelerator, self.device)
            yield


def _bounds(cells: int, chunks: int) -> list[slice]:
    """Parts of nearly equal size; none is empty."""
    edges = [round(cells * number / chunks) for number in range(chunks + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges) if stop > start]


def _select(selections: Selections, part: slice) -> Selections:
    return [None if chosen is None else PatchSelection(*(tensor[part] for tensor in chosen)) for chosen in selections]
