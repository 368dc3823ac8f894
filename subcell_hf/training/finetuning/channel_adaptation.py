"""An encoder for other channels and another image size than it was trained with; channels are matched by name.

The patch embedding has one set of weights per channel; where channels have separate tokens, they share the patch
embedding and have one embedding each. Channels of both models keep their weights. A new channel is
initialized with the mean over the trained channels, or with the trained channel that the user names, since a new stain
often looks like an old one. The result lists the origin of every channel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subcell_hf.errors import InputError
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.model.positions_subcell import interpolate_position_embeddings

MEAN = "mean"

_PATCHES = ("embeddings.patch_embeddings.projection.weight", "embeddings.patch_embeddings.convolutions.0.weight")
_CHANNELS = "embeddings.channel_embeddings"
_POSITIONS = "embeddings.position_embeddings"


@dataclass(frozen=True)
class ChannelOrigins:
    """Where the weights of every channel of a model come from.

    Attributes:
        origins: Channel → channel of the trained model, or `"mean"`.
        dropped: Channels of the trained model that the new one does not have.
    """

    origins: Mapping[str, str]
    dropped: tuple[str, ...]

    def describe(self) -> dict[str, str]:
        """In words, per channel."""
        words = {
            name: "kept" if origin == name else "mean of all" if origin == MEAN else f"copied from {origin}"
            for name, origin in self.origins.items()
        }
        return words | dict.fromkeys(self.dropped, "dropped")


def plan_channels(trained: Sequence[str], wanted: Sequence[str], given: Mapping[str, str]) -> ChannelOrigins:
    """Decide where every channel's weights come from.

    Args:
        trained: Channels of the trained model.
        wanted: Channels of the new one.
        given: New channel → channel of the trained model to copy, or `"mean"`; others take the mean.

    Raises:
        InputError: If a name is unknown, or a channel that both models know is to be taken from elsewhere.
    """
    for name, origin in given.items():
        if name not in wanted or name in trained:
            new = [channel for channel in wanted if channel not in trained]
            raise InputError(
                f"new_channels contains {name}={origin}, but {name} is not a new channel. New channels: "
                f"{', '.join(new) or 'none'}."
            )
        if origin not in (*trained, MEAN):
            raise InputError(
                f"new_channels contains {name}={origin}: expected one of {', '.join(trained)}, or {MEAN} for "
                f"the mean of "
                "them all."
            )
    origins = {name: name if name in trained else given.get(name, MEAN) for name in wanted}
    used = {*origins.values()}
    return ChannelOrigins(origins, tuple(name for name in trained if name not in used))


def adapt_encoder(trained: SubCellModel, config: SubCellConfig, origins: ChannelOrigins) -> dict[str, Tensor]:
    """Weights of an encoder with other channels and another image size.

    Args:
        trained: The encoder that is there.
        config: Of the new one; it may differ in `channels`, `image_size`, `pixel_size_um` and heads.
        origins: From `plan_channels`.

    Returns:
        The new encoder's state: the patch embedding by name of channel, positions interpolated (bicubic, as in the
        forward pass of another size) or made anew where they are sines and cosines, everything else as it was.

    Raises:
        InputError: If the model has a backbone and the channels differ.
    """
    state = dict(trained.state_dict())
    old = list(trained.config.channels)
    if old != list(config.channels):
        if trained.config.backbone_config is not None:
            raise InputError(
                f"channels are {list(config.channels)}, but the model with the backbone "
                f"{trained.config.backbone_config.model_type!r} was trained on {old}: only SubCell's own encoder can "
                "be given other channels."
            )
        separate = trained.config.channel_tokens == "separate"

        def pick(weights: Tensor) -> Tensor:
            """`[width, trained channels, …]` → `[width, channels, …]`."""
            names = origins.origins.values()
            return torch.stack([weights.mean(1) if name == MEAN else weights[:, old.index(name)] for name in names], 1)

        if separate:
            table = state[_CHANNELS]  # [channels, hidden_size], then that of other stains
            state[_CHANNELS] = torch.cat([pick(table[:-1].T).T, table[-1:]])
        else:
            state |= {name: pick(state[name]) for name in _PATCHES if name in state}
    if config.backbone_config is None and trained.config.patch_grid != config.patch_grid:
        if config.position_embedding_type == "learned":
            state[_POSITIONS] = interpolate_position_embeddings(
                state[_POSITIONS], trained.config.patch_grid, config.patch_grid
            )
        else:
            state[_POSITIONS] = SubCellModel(config).state_dict()[_POSITIONS]
    return state
