"""SubCell encoders and their localization classifier."""

import copy
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoBackbone, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import ModelOutput, can_return_tuple

from .channel_tokens_subcell import average_passes, check_images, flat_channels
from .channels_subcell import channel_passes
from .configuration_subcell import AUTO_MAP, CUSTOM_PIPELINES, SubCellConfig
from .objectives_subcell import sigmoid_focal_loss
from .positions_subcell import (
    add_channels,
    gather_tokens,
    interpolate_position_embeddings,
    rows_of,
    sincos_position_embeddings,
)

_EAGER_TOKENS = 320
"""Most tokens of which plain attention trains faster than the fused kernel in bfloat16 on CPUs."""

PRETRAINING_PARTS = "decoder|teacher|probe|cell_projection|protein_projection|centroid_projection|predictor"


@dataclass
class SubCellModelOutput(ModelOutput):
    """What `SubCellModel` returns.

    Attributes:
        last_hidden_state: `[batch, tokens, hidden_size]`: CLS and patches of a ViT (channel by channel where channels
            have separate tokens), the positions of another backbone.
        pooler_output: `[batch, embedding_size]`, the embedding; attention heads one after the other.
        pooler_attentions: `[batch, pooling heads, rows, columns]`, weight of every patch in the pooling. They do
            not add up to 1 where CLS takes a share; hidden patches have weight 0; None with CLS pooling.
        channel_attentions: With separate channel tokens `[batch, pooling heads, channels, rows, columns]`, the shares
            of the channels in `pooler_attentions`.
        hidden_states: With `output_hidden_states=True` the input of the first layer and the output of every layer, each
            `[batch, tokens, hidden_size]`; feature maps of the stages with another backbone. With indices instead of
            True, None takes the place of those not asked for.
        attentions: With `output_attentions=True` one `[batch, heads, tokens, tokens]` per layer.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    pooler_attentions: Tensor | None = None
    channel_attentions: Tensor | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class SubCellImageClassifierOutput(ModelOutput):
    """What `SubCellForImageClassification` returns.

    Attributes:
        loss: Scalar, if labels were given.
        logits: `[batch, labels]`; their sigmoid (softmax with single labels) is the mean of the members' probabilities.
        member_logits: `[batch, members, labels]`, of every member of the ensemble.
        pooler_output: `[batch, embedding_size]`, the embedding.
        pooler_attentions: `[batch, pooling heads, rows, columns]`.
        channel_attentions: As in `SubCellModelOutput`.
        hidden_states: As in `SubCellModelOutput`.
        attentions: As in `SubCellModelOutput`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    member_logits: Tensor | None = None
    pooler_output: Tensor | None = None
    pooler_attentions: Tensor | None = None
    channel_attentions: Tensor | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class SubCellPatchConvolution(nn.Conv2d):
    """A layer of the convolutional patch embedding; a class by itself so that `_init_weights` finds it."""


def patch_convolutions(planes: int, config: SubCellConfig) -> nn.Sequential:
    """Layers that halve an image of so many planes until a patch is a pixel; the last one is as wide as a token.

    Source: Xiao et al., Early Convolutions Help Transformers See Better, NeurIPS 2021; without batch normalisation.
    """
    count = config.patch_size.bit_length() - 1
    widths = [planes, *(config.hidden_size >> (count - number) for number in range(1, count + 1))]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [SubCellPatchConvolution(before, after, kernel_size=3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class SubCellPatchEmbeddings(nn.Module):
    """Pixels to patch tokens."""

    def __init__(self, config: SubCellConfig):
        super().__init__()
        self.separate = config.channel_tokens == "separate"
        planes = 1 if self.separate else config.num_channels
        self.projection = nn.Conv2d(planes, config.hidden_size, config.patch_size, config.patch_size)
        convolutional = config.patch_embedding_type == "convolutional"
        self.convolutions = patch_convolutions(planes, config) if convolutional else None

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`[batch, channels, height, width]` → `[batch, patches, hidden_size]`, of each channel if separate."""
        channels = pixel_values.shape[1]
        if self.separate:
            pixel_values = flat_channels(pixel_values)
        patches: Tensor = self.projection(pixel_values)  # [batch, hidden_size, rows, columns]
        if self.convolutions is not None:
            patches = patches + self.convolutions(pixel_values)
        patches = patches.flatten(2).transpose(1, 2)
        return patches.unflatten(0, (-1, channels)).flatten(1, 2) if self.separate else patches


class SubCellEmbeddings(nn.Module):
    """CLS and patch tokens with their positions."""

    def __init__(self, config: SubCellConfig):
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.patch_embeddings: nn.Module = SubCellPatchEmbeddings(config)
        rows, columns = config.patch_grid
        if config.position_embedding_type == "learned":
            self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + rows * columns, config.hidden_size))
        else:
            # Saved with the weights, like the published ones, but never trained.
            self.register_buffer("position_embeddings", sincos_position_embeddings(config.hidden_size, rows, columns))
        self.channel_embeddings: nn.Parameter | None = None
        if config.channel_tokens == "separate":
            # One per channel, and one for any other stain.
            self.channel_embeddings = nn.Parameter(torch.zeros(config.num_channels + 1, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, pixel_values: Tensor, kept_patches: Tensor | None, interpolate_pos_encoding: bool, rows: list[int] | None
    ) -> Tensor:
        """`[batch, channels, height, width]` → `[batch, 1 + kept patches, hidden_size]`; `rows` of the channels."""
        size, grid = self.config.patch_size, self.config.patch_grid
        new_grid = (pixel_values.shape[-2] // size, pixel_values.shape[-1] // size)
        if grid != new_grid and not interpolate_pos_encoding:
            raise ValueError(
                f"pixel_values are {pixel_values.shape[-2]}×{pixel_values.shape[-1]} px, but the position embeddings "
                f"are for {grid[0] * size}×{grid[1] * size} px: resize the images or set interpolate_pos_encoding."
            )
        # A buffer may have another precision than the parameters, by loading or by a policy of mixed precision.
        positions = self.position_embeddings.to(self.cls_token.dtype)
        positions = interpolate_position_embeddings(positions, grid, new_grid)
        positions = add_channels(positions, rows_of(self.channel_embeddings, rows))
        patches = self.patch_embeddings(pixel_values) + positions[:, 1:]
        if kept_patches is not None:
            patches = gather_tokens(patches, kept_patches)
        # Not len(patches): a trace or an exported graph takes any batch.
        cls_token = (self.cls_token + positions[:, :1]).expand(patches.shape[0], -1, -1)
        return self.dropout(torch.cat([cls_token, patches], dim=1))  # type: ignore[no-any-return]


def eager_attention_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float = 1.0, dropout: float = 0.0, **kwargs: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attention that also returns its probabilities, in the signature that transformers gives attention functions."""
    probabilities = (query @ key.transpose(2, 3) * scaling).softmax(-1, dtype=torch.float32).to(query.dtype)
    probabilities = F.dropout(probabilities, dropout, module.training)
    return (probabilities @ value).transpose(1, 2), probabilities


def _trains_faster_eagerly(query: Tensor) -> bool:
    """Whether torch's fused attention would be slower than plain matrix products: `[batch, heads, tokens, head size]`.

    On CPUs in bfloat16 it is: forward and backward pass at 197 tokens (224 px) take 19 ms against 8. The probabilities
    of many more tokens would need too much memory.
    """
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] <= _EAGER_TOKENS


class SubCellAttention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: SubCellConfig, hidden_size: int, num_heads: int):
        super().__init__()
        self.config = config
        self.head_size = hidden_size // num_heads
        self.scaling = self.head_size**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: Tensor, output_attentions: bool) -> tuple[Tensor, Tensor | None]:
        """`[batch, tokens, width]` → the same and, if asked for, `[batch, heads, tokens, tokens]` probabilities."""
        heads = (*hidden_states.shape[:-1], -1, self.head_size)
        query, key, value = (
            projection(hidden_states).view(heads).transpose(1, 2)  # [batch, heads, tokens, head size]
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        # Fused kernels never hold the probabilities: whoever asks for them gets the eager form, and nobody else does.
        implementation = "eager" if output_attentions else self.config._attn_implementation
        if implementation == "sdpa" and self.training and _trains_faster_eagerly(query):
            implementation = "eager"
        attend: Callable[..., tuple[Tensor, Tensor | None]] = ALL_ATTENTION_FUNCTIONS.get_interface(
            implementation, eager_attention_forward
        )
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        context, probabilities = attend(self, query, key, value, None, scaling=self.scaling, dropout=dropout)
        return self.o_proj(context.flatten(2)), probabilities if output_attentions else None


class SubCellMLP(nn.Module):
    """Feed-forward sub-layer."""

    def __init__(self, config: SubCellConfig, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.activation = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(hidden_size, intermediate_size)
        self.fc2 = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[batch, tokens, width]` → `[batch, tokens, width]`."""
        return self.fc2(self.activation(self.fc1(hidden_states)))  # type: ignore[no-any-return]


class SubCellLayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer."""

    def __init__(self, config: SubCellConfig, hidden_size: int, num_heads: int, intermediate_size: int):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attention = SubCellAttention(config, hidden_size, num_heads)
        self.layernorm_after = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mlp = SubCellMLP(config, hidden_size, intermediate_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor, Tensor | None]:
        """`[batch, tokens, width]` → the same and, if asked for, the attention probabilities."""
        attended, probabilities = self.attention(self.layernorm_before(hidden_states), output_attentions)
        hidden_states = hidden_states + self.dropout(attended)
        del attended  # not held while the feed-forward layer makes the widest tensors
        return hidden_states + self.dropout(self.mlp(self.layernorm_after(hidden_states))), probabilities


class SubCellAttentionPooler(nn.Module):
    """Attention pooling over all tokens, CLS included, with or without a gate.

    Source: Ilse et al., ICML 2018, with one distribution per head; the gate is a GELU as in the published models.
    """

    def __init__(self, config: SubCellConfig):
        super().__init__()
        inner = config.pooling_hidden_size if config.pooling_type == "gated" else config.hidden_size
        self.value = nn.Linear(config.hidden_size, inner)
        self.gate = nn.Linear(config.hidden_size, inner) if config.pooling_type == "gated" else None
        self.score = nn.Linear(inner, config.pooling_num_heads)
        # Dropout changes what is scored, not what is summed.
        self.dropout = nn.Dropout(config.pooling_dropout)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`[batch, tokens, width]` → `[batch, heads · width]` and weights `[batch, heads, tokens]`."""
        scored = torch.tanh(self.value(self.dropout(tokens)))
        if self.gate is not None:
            scored = scored * F.gelu(self.gate(self.dropout(tokens)))
        weights = self.score(scored).transpose(1, 2).softmax(-1, dtype=torch.float32)  # [batch, heads, tokens]
        return (weights.to(tokens.dtype) @ tokens).flatten(1), weights


class SubCellPooler(nn.Module):
    """Tokens to one embedding, by the configuration's `pooling_type`."""

    def __init__(self, config: SubCellConfig):
        super().__init__()
        self.pooling_type = config.pooling_type
        pooled_size = config.hidden_size
        if config.pooling_type in ("gated", "attention"):
            self.attention = SubCellAttentionPooler(config)
            pooled_size *= config.pooling_num_heads
        size = config.pooling_projection_size
        self.projection = nn.Linear(pooled_size, size) if size is not None else None

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """`[batch, tokens, width]` → `[batch, embedding_size]` and weights `[batch, heads, tokens]` or None."""
        weights: Tensor | None = None
        if self.pooling_type == "cls":
            pooled = tokens[:, 0]
        elif self.pooling_type == "mean":
            weights = torch.ones_like(tokens[:, None, :, 0]) / tokens.shape[1]
            pooled = tokens.mean(1)
        else:
            pooled, weights = self.attention(tokens)
        return (self.projection(pooled) if self.projection is not None else pooled), weights


def _check_indices(folder: Path) -> None:
    for index in folder.glob("*.safetensors.index*.json"):
        content = json.loads(index.read_bytes())
        names = content.get("weight_map") if isinstance(content, dict) and "metadata" in content else None
        if not isinstance(names, dict) or not names:
            raise ValueError(f"{index} is no index of weights: expected metadata and weight_map. Fetch it again.")
        for name in names.values():
            if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
                raise ValueError(
                    f"{index} names the weights {name!r}: expected safetensors files, without folders. Do not use "
                    "weights from a source that you do not trust."
                )


class SubCellPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation of every SubCell model."""

    config: SubCellConfig
    config_class = SubCellConfig
    base_model_prefix = "subcell"
    main_input_name = "pixel_values"
    input_modalities = "image"
    supports_gradient_checkpointing = True
    _no_split_modules = ["SubCellEmbeddings", "SubCellLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Load a model; see `PreTrainedModel.from_pretrained`.

        Unless `use_safetensors=False` is given, pickles are not opened.

        Raises:
            ValueError: If an index of the folder names anything but safetensors files beside it, which transformers
                would read wherever they are.
        """
        kwargs.setdefault("use_safetensors", True)
        if pretrained_model_name_or_path is not None:
            _check_indices(Path(pretrained_model_name_or_path, kwargs.get("subfolder") or ""))
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """Save weights, configuration and the code that loads them; see `PreTrainedModel.save_pretrained`.

        Every Auto class finds its class in the folder, whichever class was saved.
        """
        own_folder = Path(__file__).parent
        present = {auto: path for auto, path in AUTO_MAP.items() if (own_folder / f"{path.split('.')[0]}.py").exists()}
        self.config.auto_map = present
        if "AutoImageProcessor" in present and isinstance(self, SubCellForImageClassification):
            self.config.custom_pipelines = copy.deepcopy(CUSTOM_PIPELINES)
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        if is_main_process:
            for file in own_folder.glob("*_subcell*.py"):
                shutil.copyfile(file, Path(save_directory) / file.name)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SubCellEmbeddings):
            init.trunc_normal_(module.cls_token, std=self.config.initializer_range)
            if module.channel_embeddings is not None:
                init.trunc_normal_(module.channel_embeddings, std=self.config.initializer_range)
            if self.config.position_embedding_type == "learned":
                init.trunc_normal_(module.position_embeddings, std=self.config.initializer_range)
            else:
                positions = sincos_position_embeddings(self.config.hidden_size, *self.config.patch_grid)
                init.copy_(module.position_embeddings, positions)
        elif isinstance(module, SubCellPatchConvolution):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, EnsembleLinear):
            bound = module.weight.shape[-1] ** -0.5
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)


class SubCellModel(SubCellPreTrainedModel):
    """SubCell's encoder and pooling: images of single cells in, embeddings and attention maps out."""

    # A pretraining checkpoint and a classifier hold more than the encoder does.
    _keys_to_ignore_on_load_unexpected = [rf"^(classifier|{PRETRAINING_PARTS})\."]

    def __init__(self, config: SubCellConfig):
        super().__init__(config)
        if config.backbone_config is not None:
            self.backbone = AutoBackbone.from_config(config.backbone_config)
        else:
            self.embeddings = SubCellEmbeddings(config)
            width = (config.hidden_size, config.num_attention_heads, config.intermediate_size)
            self.layers = nn.ModuleList([SubCellLayer(config, *width) for _ in range(config.num_hidden_layers)])
            self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = SubCellPooler(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The module that turns pixels into tokens."""
        if self.config.backbone_config is not None:
            return self.backbone.get_input_embeddings()  # type: ignore[no-any-return]
        return self.embeddings.patch_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the module that turns pixels into tokens; see `get_input_embeddings`."""
        if self.config.backbone_config is not None:
            self.backbone.set_input_embeddings(value)
        else:
            self.embeddings.patch_embeddings = value

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        kept_patches: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        interpolate_pos_encoding: bool = True,
        channels: Sequence[str] | None = None,
    ) -> SubCellModelOutput:
        """Embed images.

        Args:
            pixel_values: `[batch, channels, height, width]`, scaled as the image processor does.
            kept_patches: `[batch, kept]` int64, the patches that the encoder sees; None for all. ViT only, with linear
                patch embedding. With separate channel tokens, patch p of channel c has the number c · patches + p.
            output_attentions: Whether to return the attention probabilities, which costs the fused kernel.
            output_hidden_states: Whether to return the hidden states, or the indices of those to keep: 0 is the input
                of the first layer, -1 the output of the last.
            interpolate_pos_encoding: Whether images of another size than the configuration's are allowed.
            channels: Names of the images' channels in their order: with separate channel tokens any 1–8 that the model
                knows, also `protein`, `other`, `other_2`, …; None for the configuration's.

        Returns:
            Embedding, attention map and tokens; a tuple with `return_dict=False`.

        Raises:
            ValueError: If the images have the wrong shape, number of channels, or a size that patches do not divide,
                the model does not take these channels, or there is no hidden state of an index.
        """
        rows = check_images(self.config, pixel_values, channels, kept_patches)
        attend = self.config.output_attentions if output_attentions is None else output_attentions
        keep = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        if self.config.backbone_config is not None:
            return self._forward_backbone(pixel_values, bool(attend), keep)
        kept_states = _wanted_states(keep, 1 + len(self.layers))
        if rows is not None and not self.training and kept_patches is None:
            names, protein = self.config.channels if channels is None else channels, self.config.num_channels - 1
            passes = channel_passes(names, rows, protein, self.config.channels_per_pass)
            if len(passes) > 1:
                _refuse_states(attend, kept_states)
                outputs = [
                    self(pixel_values[:, at], channels=[names[place] for place in at], return_dict=True)
                    for at in passes
                ]
                return SubCellModelOutput(**average_passes(outputs, passes))
        hidden_states = self.embeddings(
            pixel_values.to(self.embeddings.cls_token.dtype), kept_patches, interpolate_pos_encoding, rows
        )
        all_hidden_states, all_attentions = [hidden_states if 0 in kept_states else None], []
        for index, layer in enumerate(self.layers, start=1):
            hidden_states, probabilities = layer(hidden_states, attend)
            all_hidden_states.append(hidden_states if index in kept_states else None)
            all_attentions.append(probabilities)
        tokens = self.layernorm(hidden_states)
        pooled, weights = self.pooler(tokens)
        height, width = pixel_values.shape[-2:]
        grid = (height // self.config.patch_size, width // self.config.patch_size)
        maps = _attention_maps(weights, kept_patches, (1 if rows is None else len(rows), *grid))
        return SubCellModelOutput(
            last_hidden_state=tokens,
            pooler_output=pooled,
            pooler_attentions=None if maps is None else maps[:, :, 0] if rows is None else maps.sum(2),
            channel_attentions=None if rows is None else maps,
            hidden_states=tuple(all_hidden_states) if kept_states else None,
            attentions=tuple(all_attentions) if attend else None,
        )

    def _forward_backbone(
        self, pixel_values: Tensor, attend: bool, keep: bool | int | Sequence[int] | None
    ) -> SubCellModelOutput:
        outputs = self.backbone(
            pixel_values.to(self.dtype),
            output_attentions=attend,
            output_hidden_states=keep is not None and keep is not False,
            return_dict=True,
        )
        states = outputs.hidden_states or ()
        kept_states = _wanted_states(keep, len(states))
        features = outputs.feature_maps[-1]  # [batch, hidden_size, rows, columns]
        tokens = features.flatten(2).transpose(1, 2)
        pooled, weights = self.pooler(tokens)
        if attend and not outputs.attentions:
            raise ValueError(
                f"output_attentions=True: the backbone {self.config.backbone_config.model_type!r} gives no attentions. "
                'Attention models do after model.set_attn_implementation("eager"); pooler_attentions always exist.'
            )
        return SubCellModelOutput(
            last_hidden_state=tokens,
            pooler_output=pooled,
            pooler_attentions=weights.unflatten(-1, features.shape[-2:]),
            hidden_states=tuple(state if index in kept_states else None for index, state in enumerate(states))
            if kept_states
            else None,
            attentions=outputs.attentions if attend else None,
        )

    @torch.no_grad()
    def embed_panel(self, pixel_values: Tensor, channels: Sequence[str] | None = None) -> Tensor:
        """Embed cells of which several proteins were imaged, one pass per protein.

        Args:
            pixel_values: `[batch, passes, channels, height, width]`, as the image processor makes them from a channel
                mapping with several proteins.
            channels: As for `forward`.

        Returns:
            `[batch, passes · embedding_size]`, the passes' embeddings one after the other.

        Raises:
            ValueError: If the shape is another.
        """
        if pixel_values.ndim != 5:
            raise ValueError(
                f"embed_panel: pixel_values have shape {list(pixel_values.shape)}; expected [batch, passes, channels, "
                "height, width]. For one protein per cell call the model itself."
            )
        embeddings = self(pixel_values.flatten(0, 1), channels=channels, return_dict=True).pooler_output
        return embeddings.unflatten(0, pixel_values.shape[:2]).flatten(1)  # type: ignore[no-any-return]


def _wanted_states(selection: bool | int | Sequence[int] | None, count: int) -> set[int]:
    """Which of `count` hidden states are asked for; the same in every version of transformers."""
    if selection is None or isinstance(selection, bool):
        return set(range(count)) if selection else set()
    indices = list(selection) if isinstance(selection, Iterable) else [selection]
    if not all(isinstance(index, int) and -count <= index < count for index in indices):
        raise ValueError(
            f"output_hidden_states={selection!r}; expected True, False or whole numbers from {-count} to {count - 1}: "
            "0 is the input of the first layer, -1 the output of the last."
        )
    return {index % count for index in indices}


def _refuse_states(attend: bool, kept_states: set[int]) -> None:
    """Refuse what an image in several passes does not have."""
    if attend or kept_states:
        raise ValueError(
            "output_attentions and output_hidden_states need all channels in one pass: set "
            "model.config.channels_per_pass = None."
        )


def _attention_maps(weights: Tensor | None, kept: Tensor | None, grid: tuple[int, int, int]) -> Tensor | None:
    """Pooling weights of the tokens → `[batch, heads, channels, rows, columns]`, without CLS and not renormalised."""
    if weights is None:
        return None
    weights = weights[:, :, 1:]
    if kept is not None:
        blank = weights.new_zeros(*weights.shape[:2], grid[0] * grid[1] * grid[2])
        weights = blank.scatter(2, kept[:, None].expand(-1, weights.shape[1], -1), weights)
    return torch.unflatten(weights, -1, grid)


class EnsembleLinear(nn.Module):
    """One linear layer per member of an ensemble, all in one batched product."""

    def __init__(self, members: int, in_features: int, out_features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(members, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(members, out_features))

    def forward(self, features: Tensor) -> Tensor:
        """`[members, batch, in_features]` → `[members, batch, out_features]`."""
        return torch.baddbmm(
            self.bias[:, None], features, self.weight.transpose(1, 2)
        )  # [members, batch, out_features]


class SubCellClassifierEnsemble(nn.Module):
    """MLPs on the embedding, every member on its own weights."""

    def __init__(self, config: SubCellConfig):
        super().__init__()
        sizes = [config.embedding_size, *config.classifier_hidden_sizes, config.num_labels]
        self.members = config.classifier_ensemble_size
        self.layers = nn.ModuleList([EnsembleLinear(self.members, *pair) for pair in pairwise(sizes)])
        self.dropout = nn.Dropout(config.classifier_dropout)

    def forward(self, embeddings: Tensor) -> Tensor:
        """`[batch, embedding_size]` → `[batch, members, labels]`."""
        features = embeddings.expand(self.members, -1, -1)
        for layer in self.layers[:-1]:
            features = self.dropout(F.relu(layer(features)))
        return self.layers[-1](features).transpose(0, 1)  # type: ignore[no-any-return]  # [batch, members, labels]


class SubCellForImageClassification(SubCellPreTrainedModel):
    """Protein locations (or custom labels) from images of single cells."""

    _keys_to_ignore_on_load_unexpected = [rf"^({PRETRAINING_PARTS})\."]

    def __init__(self, config: SubCellConfig):
        super().__init__(config)
        self.subcell = SubCellModel(config)
        self.classifier = SubCellClassifierEnsemble(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        interpolate_pos_encoding: bool = True,
        channels: Sequence[str] | None = None,
    ) -> SubCellImageClassifierOutput:
        """Classify images; embedding and attention map come with the same forward.

        Args:
            pixel_values: `[batch, channels, height, width]`, scaled as the image processor does.
            labels: `[batch, labels]` multi-hot (multi-label: sigmoid focal loss of `logits`), or `[batch]` int64
                (single-label: cross-entropy).
            output_attentions: Whether to return the attention probabilities.
            output_hidden_states: Whether to return the hidden states, or the indices of those to keep.
            interpolate_pos_encoding: Whether images of another size than the configuration's are allowed.
            channels: Names of the images' channels, as for `SubCellModel.forward`.

        Returns:
            Logits, embedding, attention map and, with labels, the loss; a tuple with `return_dict=False`.

        Raises:
            ValueError: If images or labels have the wrong shape.
        """
        outputs = self.subcell(
            pixel_values,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            interpolate_pos_encoding=interpolate_pos_encoding,
            channels=channels,
            return_dict=True,
        )
        member_logits = self.classifier(outputs.pooler_output)
        multi_label = self.config.problem_type == "multi_label_classification"
        logits = _ensemble_logits(member_logits, multi_label)
        return SubCellImageClassifierOutput(
            loss=self._loss(logits, labels) if labels is not None else None,
            logits=logits,
            member_logits=member_logits,
            pooler_output=outputs.pooler_output,
            pooler_attentions=outputs.pooler_attentions,
            channel_attentions=outputs.channel_attentions,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        multi_label = self.config.problem_type == "multi_label_classification"
        expected = list(logits.shape if multi_label else logits.shape[:1])
        if list(labels.shape) != expected:
            raise ValueError(
                f"labels have shape {list(labels.shape)}; problem_type={self.config.problem_type!r} expects {expected} "
                f"({'0 or 1 for each label' if multi_label else 'the index of the label'})."
            )
        if multi_label:
            return sigmoid_focal_loss(logits, labels, self.config.focal_alpha, self.config.focal_gamma)
        return F.cross_entropy(logits.float(), labels)


def _ensemble_logits(member_logits: Tensor, multi_label: bool) -> Tensor:
    """Logits of the mean of the members' probabilities: `[batch, members, labels]` → `[batch, labels]`."""
    if member_logits.shape[1] == 1:
        return member_logits[:, 0]
    if not multi_label:
        return member_logits.log_softmax(-1).logsumexp(1) - math.log(member_logits.shape[1])
    # logit(mean(p)) = log(sum(p)) - log(sum(1 - p)), in logarithms so that p near 0 or 1 keeps its digits.
    return F.logsigmoid(member_logits).logsumexp(1) - F.logsigmoid(-member_logits).logsumexp(1)


SubCellModel.register_for_auto_class("AutoModel")
SubCellForImageClassification.register_for_auto_class("AutoModelForImageClassification")
