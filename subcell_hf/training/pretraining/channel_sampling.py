"""Which channels a model with separate channel tokens sees in a step.

Source: hierarchical channel sampling, Bao et al., ChannelViT, ICLR 2024 (arXiv 2309.16108): first how many channels,
then which. Here the protein has a separate probability, and stains are shown without their name now and then, so that
the model learns what to make of a stain that it does not know.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from subcell_hf.model.channels_subcell import OTHER

_CHANNEL_STREAM = 0x2545F4914F6CDD1D
"""Keeps these numbers apart from those of views and hidden patches, which have the same seed."""


class ShownChannels(NamedTuple):
    """What the model is shown in a step.

    Attributes:
        channels: Names of the chosen channels, in the model's order.
        names: What they are called for the model: their names, or `other`, `other_2`, ….
    """

    channels: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class ChannelSampling:
    """How channels are sampled.

    Attributes:
        protein_probability: That the protein is among them.
        other_probability: That a chosen stain is called `other`.
    """

    protein_probability: float = 1.0
    other_probability: float = 0.1

    def draw(self, channels: Sequence[str], seed: int) -> ShownChannels:
        """Draw the channels of a step.

        All processes draw the same for a global batch, so the numbers depend on the batch alone.

        Args:
            channels: The model's, the protein last.
            seed: Of the global batch.
        """
        generator = torch.Generator().manual_seed((seed ^ _CHANNEL_STREAM) & (2**63 - 1))
        stains, protein = list(channels[:-1]), channels[-1]
        drawn = torch.rand(2 + len(stains), generator=generator, dtype=torch.float64).tolist()
        with_protein = not stains or drawn[0] < self.protein_probability
        counts = range(0 if with_protein else 1, 1 + len(stains))  # of stains, each as likely
        order = torch.randperm(len(stains), generator=generator).tolist()
        chosen = sorted(order[: counts[int(drawn[1] * len(counts))]])
        names: list[str] = []
        unnamed = 0
        for stain in chosen:
            is_other = drawn[2 + stain] < self.other_probability
            unnamed += is_other
            other = OTHER if unnamed == 1 else f"{OTHER}_{unnamed}"
            names.append(other if is_other else stains[stain])
        shown = [stains[stain] for stain in chosen]
        return ShownChannels((*shown, *[protein] * with_protein), (*names, *[protein] * with_protein))

    def counts(self, channels: int) -> dict[int, float]:
        """Number of channels of a step → its probability, for a model of so many channels."""
        shares = dict.fromkeys(range(1, channels + 1), 0.0)
        without = 1 - self.protein_probability if channels > 1 else 0.0
        for count in shares:
            shares[count] = (1 - without) / channels + (without / (channels - 1) if count < channels else 0.0)
        return shares
