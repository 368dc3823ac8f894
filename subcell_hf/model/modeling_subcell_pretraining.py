"""SubCell's pretraining: patch masking, decoder, projection heads, online probe and EMA teacher."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils.generic import ModelOutput, can_return_tuple

from .channel_tokens_subcell import flat_channels, hide_protein
from .configuration_subcell import SubCellConfig
from .modeling_subcell import (
    SubCellLayer,
    SubCellModel,
    SubCellModelOutput,
    SubCellPreTrainedModel,
)
from .objectives_subcell import (
    contrastive_loss,
    gather_from_processes,
    protein_centroid_loss,
    reconstruction_loss,
    sigmoid_focal_loss,
    sum_over_processes,
    world_size,
)
from .positions_subcell import (
    PatchSelection,
    add_channels,
    gather_tokens,
    interpolate_position_embeddings,
    rows_of,
    select_patches,
    sincos_position_embeddings,
)


@dataclass
class SubCellForPreTrainingOutput(ModelOutput):
    """What `SubCellForPreTraining` returns.

    Attributes:
        loss: Scalar, the weighted sum of `losses`.
        losses: Name → unweighted scalar: `reconstruction`, `cell_contrast`, `protein_contrast`, `protein_centroid`,
            `probe`, as far as they are switched on and the batch has what they need.
        reconstruction: `[cells, patches, patch_size² · channels]` of the first view, on the scale of the target:
            normalised per patch if that is. With separate channel tokens `[cells, channels · patches, patch_size²]`,
            channel by channel.
        patch_mask: `[cells, views, patches]` float, 1 = hidden; `[cells, views, channels · patches]` likewise.
        pooler_output: `[cells, views, embedding_size]`; with `protein_views="first"` the second without the protein.
        pooler_attentions: `[cells, views, pooling heads, rows, columns]`; None with CLS pooling.
        probe_logits: `[cells, views, labels]`.
        hidden_states: As in `SubCellModelOutput`, each `[cells, views, 1 + patches, hidden_size]`, 0 where a patch was
            hidden from the encoder.
        attentions: As in `SubCellModelOutput`, each `[cells, views, heads, 1 + patches, 1 + patches]`, 0 likewise.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    reconstruction: Tensor | None = None
    patch_mask: Tensor | None = None
    pooler_output: Tensor | None = None
    pooler_attentions: Tensor | None = None
    probe_logits: Tensor | None = None
    hidden_states: tuple[Tensor | None, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class GlobalBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm whose training statistics are those of the global batch, on any device.

    torch's SyncBatchNorm refuses CPU tensors. In one process this is BatchNorm1d itself.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Normalise `[cells, width]` features."""
        if not self.training or world_size() == 1:
            return super().forward(features)
        with torch.autocast(features.device.type, enabled=False):
            values = features if features.dtype == torch.float64 else features.float()
            count = sum_over_processes(values.new_tensor(float(len(values))))
            mean = sum_over_processes(values.sum(0)) / count
            centred = values - mean
            variance = sum_over_processes(centred.square().sum(0)) / count
            self._track(mean.detach(), variance.detach() * count / (count - 1))
            normalised = centred * (variance + self.eps).rsqrt() * self.weight + self.bias
        return normalised.to(features.dtype)

    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        self.running_var.lerp_(unbiased_variance.to(self.running_var), momentum)


class ResidualBlock(nn.Module):
    """LayerNorm – Linear – GELU – Linear beside a shortcut."""

    def __init__(self, width: int, hidden_size: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden_size), nn.GELU(), nn.Linear(hidden_size, width)
        )

    def forward(self, features: Tensor) -> Tensor:
        """`[cells, width]` → `[cells, width]`."""
        return features + self.layers(features)  # type: ignore[no-any-return]


def projection_head(
    config: SubCellConfig, in_features: int, hidden_sizes: list[int] | tuple[int, ...], bias: bool = False
) -> nn.Sequential:
    """Head between embedding and contrast, by the configuration's `projection_type`.

    Args:
        config: Names the type and the output width.
        in_features: Width of the input.
        hidden_sizes: Hidden widths (`"mlp"`), or inner widths of the blocks (`"residual"`).
        bias: Whether the last layer of an `"mlp"` has a bias.
    """
    if config.projection_type == "none":
        return nn.Sequential()
    if config.projection_type == "linear":
        return nn.Sequential(nn.Linear(in_features, config.projection_size))
    if config.projection_type == "residual":
        blocks = [ResidualBlock(config.projection_size, hidden) for hidden in hidden_sizes]
        return nn.Sequential(nn.Linear(in_features, config.projection_size), *blocks)
    layers: list[nn.Module] = []
    for width, hidden in pairwise([in_features, *hidden_sizes]):
        layers += [nn.Linear(width, hidden), GlobalBatchNorm1d(hidden), nn.ReLU()]
    last_width = hidden_sizes[-1] if hidden_sizes else in_features
    return nn.Sequential(*layers, nn.Linear(last_width, config.projection_size, bias=bias))


def online_probe(config: SubCellConfig) -> nn.Sequential:
    """MLP from the embedding to the labels, trained beside the model to show what the embedding knows."""
    layers: list[nn.Module] = []
    sizes = [len(config.embedding_parts[1]), *(config.probe_hidden_sizes or [])]
    for width, hidden in pairwise(sizes):
        layers += [nn.Dropout(config.probe_dropout), nn.Linear(width, hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(config.probe_dropout), nn.Linear(sizes[-1], config.num_labels or 0))


class SubCellDecoder(nn.Module):
    """Kept tokens to the pixels of all patches.

    Source: He et al., CVPR 2022.
    """

    position_embeddings: Tensor

    def __init__(self, config: SubCellConfig):
        super().__init__()
        self.config = config
        width = config.decoder_hidden_size
        self.embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("position_embeddings", sincos_position_embeddings(width, *config.patch_grid))
        layer_widths = (width, config.decoder_num_attention_heads, config.decoder_intermediate_size)
        self.layers = nn.ModuleList(
            [SubCellLayer(config, *layer_widths) for _ in range(config.decoder_num_hidden_layers)]
        )
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.channel_embeddings: nn.Parameter | None = None
        planes = config.num_channels
        if config.channel_tokens == "separate":
            self.channel_embeddings = nn.Parameter(torch.zeros(config.num_channels + 1, width))
            planes = 1
        self.prediction = nn.Linear(width, config.patch_size**2 * planes)

    def forward(
        self, tokens: Tensor, restore: Tensor | None, grid: tuple[int, int], rows: list[int] | None = None
    ) -> Tensor:
        """Kept tokens `[cells, 1 + kept, hidden_size]` → `[cells, patches, patch_size² · channels]`.

        With separate channel tokens, of which `rows` are the channels', `[cells, channels · patches, patch_size²]`.
        """
        hidden_states = self.embed(tokens)
        cls_token, patches = hidden_states[:, :1], hidden_states[:, 1:]
        if restore is not None:
            hidden = self.mask_token.to(patches.dtype).expand(patches.shape[0], restore.shape[1] - patches.shape[1], -1)
            patches = gather_tokens(torch.cat([patches, hidden], dim=1), restore)
        positions = self.position_embeddings.to(self.mask_token.dtype)  # a buffer, as in SubCellEmbeddings
        positions = interpolate_position_embeddings(positions, self.config.patch_grid, grid)
        positions = add_channels(positions, rows_of(self.channel_embeddings, rows))
        hidden_states = torch.cat([cls_token, patches], dim=1) + positions.to(patches.dtype)
        for layer in self.layers:
            hidden_states, _ = layer(hidden_states)
        return self.prediction(self.layernorm(hidden_states))[:, 1:]  # type: ignore[no-any-return]


class SubCellTeacher(nn.Module):
    """Exponential moving average of encoder, pooler and centroid projection."""

    def __init__(self, config: SubCellConfig):
        super().__init__()
        self.subcell = SubCellModel(config)
        width = len(config.embedding_parts[1])
        self.projection = projection_head(config, width, config.centroid_hidden_sizes, bias=True)


class SubCellForPreTraining(SubCellPreTrainedModel):
    """SubCell's encoder with everything that trains it: the loss is the model's.

    The configuration's weights switch the objectives on and off; see `SubCellConfig`.
    """

    def __init__(self, config: SubCellConfig):
        super().__init__(config)
        self.subcell = SubCellModel(config)
        cell_width, width = map(len, config.embedding_parts)
        if config.reconstruction_weight:
            self.decoder = SubCellDecoder(config)
        if config.cell_contrast_weight:
            self.cell_projection = projection_head(config, cell_width, config.projection_hidden_sizes)
        if config.protein_contrast_weight:
            self.protein_projection = projection_head(config, width, config.projection_hidden_sizes)
        if config.protein_centroid_weight:
            self.centroid_projection = projection_head(config, width, config.centroid_hidden_sizes, bias=True)
            projected = width if config.projection_type == "none" else config.projection_size
            self.predictor = projection_head(config, projected, config.centroid_hidden_sizes)
            self.teacher = SubCellTeacher(config)
        self.probe = online_probe(config)
        self.post_init()
        self.freeze_untrained()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SubCellDecoder):
            init.normal_(module.mask_token, std=self.config.initializer_range)
            if module.channel_embeddings is not None:
                init.normal_(module.channel_embeddings, std=self.config.initializer_range)
            positions = sincos_position_embeddings(self.config.decoder_hidden_size, *self.config.patch_grid)
            init.copy_(module.position_embeddings, positions)

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Initialise what no checkpoint gave; a new teacher starts as a copy of the student."""
        super().initialize_weights()
        if not self.config.protein_centroid_weight:
            return
        for teacher, student in self._teacher_student_pairs():
            copies, originals = teacher.state_dict(keep_vars=True), student.state_dict(keep_vars=True)
            for name, copied in copies.items():
                init.copy_(copied, originals[name])

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model; see `transformers.PreTrainedModel.from_pretrained`."""
        loaded = super().from_pretrained(*args, **kwargs)
        # Loading makes every parameter trainable again.
        (loaded[0] if isinstance(loaded, tuple) else loaded).freeze_untrained()
        return loaded

    def freeze_untrained(self) -> None:
        """Freeze parameters that must not or do not receive a gradient."""
        if self.config.protein_centroid_weight:
            self.teacher.requires_grad_(False)
        if not self._uses_two_views and self.config.probe_detached:
            # Reconstruction alone sends no gradient through the pooler; data-parallel training must not wait for one.
            self.subcell.pooler.requires_grad_(False)

    def _teacher_student_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.teacher.subcell, self.subcell), (self.teacher.projection, self.centroid_projection)]

    @torch.no_grad()
    def update_teacher(self) -> None:
        """Move the teacher's parameters towards the student's; to be called after every optimizer step.

        Only parameters move: the teacher's BatchNorm statistics follow its own forward passes.
        """
        if not self.config.protein_centroid_weight:
            return
        for teacher, student in self._teacher_student_pairs():
            torch._foreach_lerp_(
                list(teacher.parameters()), list(student.parameters()), 1 - self.config.teacher_momentum
            )

    @property
    def _uses_two_views(self) -> bool:
        config = self.config
        return any((config.cell_contrast_weight, config.protein_contrast_weight, config.protein_centroid_weight))

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        cell_masks: Tensor | None = None,
        antibodies: Tensor | None = None,
        locations: Tensor | None = None,
        noise: Tensor | None = None,
        teacher_noise: Tensor | None = None,
        centroid_noise: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        channels: Sequence[str] | None = None,
        cell_groups: Tensor | None = None,
    ) -> SubCellForPreTrainingOutput:
        """Compute the losses of a batch of views.

        Patches are hidden in training, and in evaluation only where `noise` is given. Views without the protein's
        channel, which separate channel tokens allow, have no location and no antibody: the protein-specific objectives
        and the probe are off.

        Args:
            pixel_values: `[cells, views, channels, height, width]`, one or two views of every cell. Reconstruction
                takes the first; the other objectives need both.
            cell_masks: `[cells, views, height, width]` bool or 0/1, the cell in each view; used if
                `object_mask_ratio` > 0.
            antibodies: `[cells]` int64, the antibody of every cell; needed by the protein-specific objectives.
            locations: `[cells, labels]` multi-hot targets of the probe; without them there is no probe loss.
            noise: `[cells, views, patches]` uniform random numbers that decide which patches are hidden; drawn from
                torch's default generator if None and a ratio is above 0. `[cells, views, channels · patches]` where
                separate channel tokens are hidden apart.
            teacher_noise: Same, for the teacher, for which patches are chosen independently.
            centroid_noise: `[antibodies, projection_size]` unit vectors, if `centroid_noise_weight` > 0; drawn if None.
            output_attentions: Whether to return the encoder's attention probabilities.
            output_hidden_states: Whether to return the encoder's hidden states, or the indices of those to keep.
            channels: Names of the views' channels, as for `SubCellModel.forward`.
            cell_groups: `[cells]` int64, the field of view or cell line of every cell, whichever cell contrast makes
                similar; needed if `cell_contrast_positives` is not `"cell"`.

        Returns:
            Loss, its named components and what pictures and metrics need; a tuple with `return_dict=False`.

        Raises:
            ValueError: If an objective that is switched on lacks what it needs.
        """
        views = self._check_views(pixel_values, antibodies, channels, cell_groups)
        selections = self.hide_patches(pixel_values, cell_masks, noise)
        outputs = self.encode(pixel_values, selections, output_attentions, output_hidden_states, channels)
        embeddings = torch.stack([output.pooler_output for output in outputs], dim=1)  # [cells, views, embedding_size]
        losses: dict[str, Tensor] = {}
        reconstruction = None
        if self.config.reconstruction_weight:
            reconstruction, losses["reconstruction"] = self.reconstruct(views[0], outputs[0], selections[0], channels)
        taught = None
        has_antibodies = antibodies is not None and self.config.shows_protein(channels)
        if self.config.protein_centroid_weight and len(views) == 2 and has_antibodies:
            taught = self.teach(pixel_values, self.hide_from_teacher(pixel_values, teacher_noise), channels)
        scored, probe_logits = self.score_embeddings(
            embeddings, taught, antibodies, locations, centroid_noise, channels, cell_groups
        )
        losses |= scored
        maps = [output.pooler_attentions for output in outputs]
        return SubCellForPreTrainingOutput(
            loss=self.weigh(losses) if losses else None,
            losses=losses,
            reconstruction=reconstruction,
            patch_mask=self._patch_masks(selections, views[0]),
            pooler_output=embeddings,
            pooler_attentions=torch.stack(maps, dim=1) if maps[0] is not None else None,
            probe_logits=probe_logits,
            hidden_states=_join_views([output.hidden_states for output in outputs], selections, (1,)),
            attentions=_join_views([output.attentions for output in outputs], selections, (2, 3)),
        )

    def encode(
        self,
        pixel_values: Tensor,
        selections: list[PatchSelection | None],
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        channels: Sequence[str] | None = None,
    ) -> list[Any]:
        """Run the encoder over every view of `[cells, views, channels, height, width]`; a `SubCellModelOutput` each."""
        views = list(pixel_values.unbind(1))
        if self.config.protein_views == "first":
            views[1:] = [hide_protein(self.config, view, channels) for view in views[1:]]
        return [
            self.subcell(
                view,
                kept_patches=selection.kept if selection is not None else None,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                channels=channels,
                return_dict=True,
            )
            for view, selection in zip(views, selections, strict=True)
        ]

    def score_embeddings(
        self,
        embeddings: Tensor,
        taught: Tensor | None = None,
        antibodies: Tensor | None = None,
        locations: Tensor | None = None,
        centroid_noise: Tensor | None = None,
        channels: Sequence[str] | None = None,
        cell_groups: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Every loss that needs nothing but embeddings, which must be those of a whole batch.

        Args:
            embeddings: `[cells, views, embedding_size]`.
            taught: The same from the teacher; without them there is no centroid loss.
            antibodies: As for `forward`.
            locations: As for `forward`.
            centroid_noise: As for `forward`.
            channels: As for `forward`.
            cell_groups: As for `forward`.

        Returns:
            Name → unweighted scalar, and the probe's logits `[cells, views, labels]`.
        """
        losses: dict[str, Tensor] = {}
        if not self.config.shows_protein(channels):
            taught = antibodies = locations = None
        if embeddings.shape[1] == 2 and (self.training or antibodies is not None):
            losses |= self._contrast(embeddings, antibodies, cell_groups)
            if taught is not None and antibodies is not None:
                with torch.no_grad():
                    targets = [self.teacher.projection(self._protein_part(view)) for view in taught.unbind(1)]
                losses["protein_centroid"] = self._centroid_loss(embeddings, targets, antibodies, centroid_noise)
        probed = embeddings.detach() if self.config.probe_detached else embeddings
        probe_logits = torch.stack([self.predict_locations(view) for view in probed.unbind(1)], dim=1)
        if locations is not None:
            losses["probe"] = self._probe_loss(probe_logits, locations)
        return losses, probe_logits

    def predict_locations(self, embeddings: Tensor) -> Tensor:
        """The probe's logits, `[cells, embedding_size]` → `[cells, labels]`."""
        return self.probe(self._protein_part(embeddings))  # type: ignore[no-any-return]

    def _protein_part(self, embeddings: Tensor) -> Tensor:
        return embeddings[..., self.config.embedding_parts[1].start :]

    def weigh(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum of named losses."""
        weighted: list[Tensor] = [getattr(self.config, f"{name}_weight") * value for name, value in losses.items()]
        if self.training and self.config.channel_tokens == "separate" and torch.is_grad_enabled():
            # What a batch without the protein does not train has a gradient of 0: no process waits for it.
            weighted += [0.0 * parameter.sum() for parameter in self._protein_parameters()]
        return torch.stack(weighted).sum()

    def _protein_parameters(self) -> list[nn.Parameter]:
        parts = (
            getattr(self, name, None) for name in ("protein_projection", "centroid_projection", "predictor", "probe")
        )
        return [parameter for part in parts if part is not None for parameter in part.parameters()]

    def _check_views(
        self,
        pixel_values: Tensor,
        antibodies: Tensor | None,
        channels: Sequence[str] | None,
        cell_groups: Tensor | None,
    ) -> tuple[Tensor, ...]:
        if pixel_values.ndim != 5 or pixel_values.shape[1] not in (1, 2):
            raise ValueError(
                f"pixel_values have shape {list(pixel_values.shape)}; expected [cells, views, channels, height, "
                "width] with one or two views."
            )
        if self.training and self._uses_two_views:
            if pixel_values.shape[1] == 1:
                raise ValueError(
                    "pixel_values hold one view of each cell, but contrast is switched on: give two views, or set "
                    "cell_contrast_weight, protein_contrast_weight and protein_centroid_weight to 0."
                )
            needs_antibodies = self.config.protein_contrast_weight or self.config.protein_centroid_weight
            if antibodies is None and needs_antibodies and self.config.shows_protein(channels):
                raise ValueError(
                    "antibodies are missing: give [cells] int64, or set protein_contrast_weight and "
                    "protein_centroid_weight to 0."
                )
            together = self.config.cell_contrast_positives
            if cell_groups is None and self.config.cell_contrast_weight and together != "cell":
                raise ValueError(
                    f"cell_groups are missing: give the {together} of each cell, [cells] int64, or set "
                    "cell_contrast_positives to 'cell'."
                )
        return pixel_values.unbind(1)

    def _draw_noise(self, pixel_values: Tensor, noise: Tensor | None) -> Tensor | None:
        """Noise for every view, given or drawn; None where no patch is to be hidden."""
        if noise is None and not self.training:
            return None
        if not (self.config.mask_ratio or self.config.context_mask_ratio):
            return None
        cells, views, channels, height, width = pixel_values.shape
        patches = (height // self.config.patch_size) * (width // self.config.patch_size)
        patches *= channels if self.config.channel_masking == "apart" else 1
        if noise is None:
            # Not in a default dtype of 16 bits, of which many patches would draw the same number.
            return torch.rand(cells, views, patches, device=pixel_values.device, dtype=torch.float32)
        if list(noise.shape) != [cells, views, patches]:
            raise ValueError(f"noise has shape {list(noise.shape)}; expected {[cells, views, patches]}.")
        return noise

    def hide_patches(
        self, pixel_values: Tensor, cell_masks: Tensor | None, noise: Tensor | None
    ) -> list[PatchSelection | None]:
        """One selection per view; None for a view of which every patch is seen. Arguments as for `forward`."""
        noise = self._draw_noise(pixel_values, noise)
        ratios = (self.config.mask_ratio, self.config.context_mask_ratio)[: pixel_values.shape[1]]
        if noise is None:
            return [None] * len(ratios)
        object_patches = None
        if self.config.object_mask_ratio and cell_masks is not None:
            size = self.config.patch_size
            grid = (pixel_values.shape[-2] // size, pixel_values.shape[-1] // size)
            # Nearest neighbour, as the published models were trained.
            object_patches = F.interpolate(cell_masks.float(), size=grid, mode="nearest").flatten(2) > 0
            if self.config.channel_masking == "apart":
                object_patches = object_patches.repeat(1, 1, pixel_values.shape[2])
        selections = [
            select_patches(
                noise[:, view],
                ratio,
                # Only the view that is reconstructed is masked with an eye on the cell.
                object_patches[:, view] if object_patches is not None and view == 0 else None,
                self.config.object_mask_ratio,
            )
            if ratio
            else None
            for view, ratio in enumerate(ratios)
        ]
        if self.config.channel_tokens == "joint" or self.config.channel_masking == "apart":
            return selections
        return [chosen and chosen.of_every_channel(pixel_values.shape[2]) for chosen in selections]

    def reconstruct(
        self,
        view: Tensor,
        output: SubCellModelOutput,
        selection: PatchSelection | None,
        channels: Sequence[str] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predicted patches and the reconstruction loss of the view that `output` comes from.

        With separate channel tokens every patch of a channel is predicted, normalised and compared by itself; channels
        that the view lacks are not predicted. Source of separate tokens under masking: Kraus et al., CVPR 2024 (arXiv
        2404.10242).
        """
        size = self.config.patch_size
        grid = (view.shape[-2] // size, view.shape[-1] // size)
        rows = self.config.channel_rows(channels)
        reconstruction = self.decoder(output.last_hidden_state, selection.restore if selection else None, grid, rows)
        patch_mask, predicted = selection.patch_mask if selection else None, reconstruction
        if rows is not None:
            view, patches = flat_channels(view), grid[0] * grid[1]
            predicted = predicted.reshape(-1, patches, size**2)  # [cells · channels, patches, patch_size²]
            patch_mask = None if patch_mask is None else patch_mask.reshape(-1, patches)
        loss = reconstruction_loss(predicted, view, patch_mask, size, self.config.normalize_target)
        return reconstruction, loss

    def _contrast(self, embeddings: Tensor, antibodies: Tensor | None, cell_groups: Tensor | None) -> dict[str, Tensor]:
        config, losses = self.config, {}
        hidden = config.protein_views == "first"
        together = None if config.cell_contrast_positives == "cell" else cell_groups
        if config.cell_contrast_weight and (together is not None or config.cell_contrast_positives == "cell"):
            features = _project(self.cell_projection, embeddings[..., : config.embedding_parts[0].stop])
            losses["cell_contrast"] = contrastive_loss(features, together, config.cell_contrast_temperature, hidden)
        if config.protein_contrast_weight and antibodies is not None:
            shown = embeddings[:, :1] if hidden else embeddings
            features = _project(self.protein_projection, self._protein_part(shown))
            losses["protein_contrast"] = contrastive_loss(features, antibodies, config.protein_contrast_temperature)
        return losses

    def hide_from_teacher(self, pixel_values: Tensor, noise: Tensor | None) -> list[PatchSelection | None]:
        """The teacher's own choice of patches; it knows nothing of the cell mask, as in the published training."""
        return self.hide_patches(pixel_values, None, noise)

    @torch.no_grad()
    def teach(
        self, pixel_values: Tensor, selections: list[PatchSelection | None], channels: Sequence[str] | None = None
    ) -> Tensor:
        """The teacher's embeddings, `[cells, views, embedding_size]`."""
        outputs = [
            self.teacher.subcell(
                view,
                kept_patches=selection.kept if selection is not None else None,
                output_attentions=False,
                output_hidden_states=False,
                channels=channels,
                return_dict=True,
            )
            for view, selection in zip(pixel_values.unbind(1), selections, strict=True)
        ]
        return torch.stack([output.pooler_output for output in outputs], dim=1)

    def _centroid_loss(
        self, embeddings: Tensor, targets: list[Tensor], antibodies: Tensor, noise: Tensor | None
    ) -> Tensor:
        weight = self.config.centroid_noise_weight
        if weight and noise is None:
            noise = _draw_directions(antibodies, targets[0])
        losses = []
        for view, other in ((0, 1), (1, 0)):
            predictions = self.predictor(self.centroid_projection(self._protein_part(embeddings[:, view])))
            predictions = F.normalize(predictions.float(), dim=-1)
            losses.append(protein_centroid_loss(predictions, targets[other], antibodies, noise, weight))
        return torch.stack(losses).mean()

    def _probe_loss(self, probe_logits: Tensor, locations: Tensor) -> Tensor:
        cells, views, labels = probe_logits.shape
        if list(locations.shape) != [cells, labels]:
            raise ValueError(
                f"locations have shape {list(locations.shape)}; expected {[cells, labels]}, one column per entry "
                "of id2label."
            )
        shown = 1 if self.config.protein_views == "first" else views
        targets = locations[:, None].expand(-1, shown, -1)
        return sigmoid_focal_loss(probe_logits[:, :shown], targets, self.config.focal_alpha, self.config.focal_gamma)

    def _patch_masks(self, selections: list[PatchSelection | None], view: Tensor) -> Tensor | None:
        if self.config.backbone_config is not None:
            return None
        patches = (view.shape[-2] // self.config.patch_size) * (view.shape[-1] // self.config.patch_size)
        patches *= view.shape[1] if self.config.channel_tokens == "separate" else 1
        nothing = torch.zeros(view.shape[0], patches, device=view.device, dtype=torch.float32)
        return torch.stack([nothing if chosen is None else chosen.patch_mask for chosen in selections], dim=1)


def _project(head: nn.Module, embeddings: Tensor) -> Tensor:
    """Normalised features; every view goes through on its own, so that BatchNorm's statistics are the view's."""
    features = torch.stack([head(view) for view in embeddings.unbind(1)], dim=1)
    return F.normalize(features.float() if features.dtype != torch.float64 else features, dim=-1)


def _join_views(
    views: list[tuple[Tensor | None, ...] | None], selections: list[PatchSelection | None], token_axes: tuple[int, ...]
) -> tuple[Any, ...] | None:
    """One tensor per layer with all views, `[cells, views, ...]`, the tokens of kept patches back in their places."""
    layers = [view for view in views if view is not None]
    if not layers:
        return None
    return tuple(
        None
        if any(state is None for state in states)
        else torch.stack(
            [_put_back(state, selection, token_axes) for state, selection in zip(states, selections, strict=True)], 1
        )
        for states in zip(*layers, strict=True)
    )


def _put_back(state: Tensor, selection: PatchSelection | None, token_axes: tuple[int, ...]) -> Tensor:
    if selection is None:
        return state
    places = F.pad(selection.kept + 1, (1, 0))  # CLS comes first
    for axis in token_axes:
        shape = list(state.shape)
        shape[axis] = 1 + selection.restore.shape[1]
        index = places.view([size if at in (0, axis) else 1 for at, size in enumerate(state.shape)])
        state = state.new_zeros(shape).scatter(axis, index.expand_as(state), state)
    return state


def _draw_directions(antibodies: Tensor, like: Tensor) -> Tensor:
    """One random unit vector per antibody of the global batch, the same on every process."""
    count = len(torch.unique(gather_from_processes(antibodies)))
    directions = torch.randn(count, like.shape[-1], device=like.device, dtype=torch.float32)
    if world_size() > 1:
        torch.distributed.broadcast(directions, src=0)
    return F.normalize(directions, dim=-1)


SubCellForPreTraining.register_for_auto_class("AutoModelForPreTraining")
