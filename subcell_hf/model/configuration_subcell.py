"""Configuration of SubCell models."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from .channels_subcell import LARGEST_CHANNELS, find_rows
from .checks_subcell import (
    as_list,
    check_patch_embedding,
    check_pretraining,
    expect,
    expect_choice,
    expect_divisible,
    expect_fraction,
    expect_whole,
)
from .locations_subcell import REPORTED_LOCATIONS
from .tasks_subcell import CustomPipelines

if TYPE_CHECKING:
    # Never run, but read by transformers: it keeps a folder's code under a checksum of the files that these lines name,
    # and models under the class of their configuration. So folders whose code differs anywhere run their own models.
    from .channel_tokens_subcell import average_passes as average_passes
    from .image_files_subcell import read_file as read_file
    from .image_processing_subcell import SubCellImageProcessor as SubCellImageProcessor
    from .modeling_subcell import SubCellModel as SubCellModel
    from .modeling_subcell_pretraining import SubCellForPreTraining as SubCellForPreTraining
    from .objectives_subcell import sigmoid_focal_loss as sigmoid_focal_loss
    from .pipeline_subcell import SubCellPipeline as SubCellPipeline
    from .positions_subcell import add_channels as add_channels
    from .scaling_subcell import scale_min_max as scale_min_max

# Which class each Auto class finds in a saved folder, and which pipeline `pipeline(model=…)`.
AUTO_MAP = {
    "AutoConfig": "configuration_subcell.SubCellConfig",
    "AutoModel": "modeling_subcell.SubCellModel",
    "AutoModelForImageClassification": "modeling_subcell.SubCellForImageClassification",
    "AutoModelForPreTraining": "modeling_subcell_pretraining.SubCellForPreTraining",
    "AutoImageProcessor": "image_processing_subcell.SubCellImageProcessor",
}
TASK = "subcell-localization"
CUSTOM_PIPELINES: dict[str, dict[str, Any]] = {
    TASK: {"impl": "pipeline_subcell.SubCellPipeline", "pt": ["AutoModelForImageClassification"], "type": "image"}
}

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768},
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}

POSITION_EMBEDDING_TYPES = ("sincos", "learned")
POOLING_TYPES = ("gated", "attention", "mean", "cls")
PROJECTION_TYPES = ("mlp", "linear", "residual", "none")
CHANNEL_TOKENS = ("joint", "separate")
CHANNEL_MASKING = ("together", "apart")
PROBLEM_TYPES = ("multi_label_classification", "single_label_classification")


class SubCellConfig(PreTrainedConfig):
    """What defines a SubCell model; the defaults are the published ViT-B/16 trained with all three objectives.

    Example:
        ```python
        >>> SubCellConfig().embedding_size
        1536
        >>> SubCellConfig.from_size("tiny", channels=["blue", "green"]).num_channels
        2
        ```

    Args:
        channels: Name of every input channel, in order, the protein of interest last. SubCell's own are `red`
            (microtubules), `yellow` (endoplasmic reticulum), `blue` (nucleus) and `green` (protein); other names and
            counts are allowed for custom models.
        channel_tokens: `"joint"`: the channels of a place share a token, as in the published models; `"separate"`: each
            channel has separate tokens with a channel embedding by name, so that the model takes any 1–8 channels.
        channel_masking: With separate tokens, whether those of a place are hidden `"together"` or `"apart"`.
        channels_per_pass: With separate tokens, most channels whose tokens attend together in evaluation; further ones
            take further passes, and the embeddings are averaged: cost grows linearly. None: all attend together.
        pixel_size_um: Edge of an input pixel in micrometres. The default is that of 896 px Human Protein Atlas crops
            resized to 448 px.
        image_size: Edge (or `[height, width]`) in pixels of the images that the position embeddings are made for.
        patch_size: Edge of a patch in pixels.
        patch_embedding_type: `"linear"` (SubCell's), or `"convolutional"`: to it are added convolutions that halve the
            image until a patch is a pixel. They see small structures sooner, and beyond the edges of patches.
        hidden_size: Width of the encoder. With a `backbone_config` it is read from there.
        num_hidden_layers: Transformer layers of the encoder.
        num_attention_heads: Attention heads of the encoder.
        intermediate_size: Width of the encoder's feed-forward layers.
        hidden_act: Activation of the feed-forward layers.
        hidden_dropout_prob: Dropout on tokens and on the output of each sub-layer.
        attention_probs_dropout_prob: Dropout on attention probabilities.
        initializer_range: Standard deviation of the normal initialisation.
        layer_norm_eps: Epsilon of the layer normalisations.
        qkv_bias: Whether query, key and value have a bias.
        position_embedding_type: `"sincos"` (fixed 2-D sine–cosine, the published MAE models) or `"learned"` (the
            published ViT models).
        backbone_config: Configuration (or its dict with `model_type`) of any transformers backbone that yields feature
            maps, to be used instead of the ViT above; its first layer is built for the channels at hand.
        pooling_type: `"gated"` attention (SubCell's), `"attention"` without the gate, `"mean"` or `"cls"`.
        pooling_num_heads: Attention distributions of the pooler; each adds `hidden_size` numbers to the embedding.
        pooling_hidden_size: Inner width of the gated pooler.
        pooling_dropout: Dropout on the tokens before they are scored.
        pooling_projection_size: Width of an optional linear layer after pooling; None for none.
        problem_type: `"multi_label_classification"` or `"single_label_classification"`.
        classifier_hidden_sizes: Hidden widths of every member of the classifier ensemble.
        classifier_dropout: Dropout after each hidden layer of the classifiers.
        classifier_ensemble_size: Members of the ensemble.
        focal_alpha: Weight of positives in the sigmoid focal loss; negative switches the weighting off.
        focal_gamma: Focusing exponent of that loss.
        decoder_hidden_size: Width of the reconstruction decoder.
        decoder_num_hidden_layers: Layers of the decoder.
        decoder_num_attention_heads: Attention heads of the decoder.
        decoder_intermediate_size: Feed-forward width of the decoder.
        mask_ratio: Fraction of patches hidden in the first view; None means 0.25, or 0 with a backbone or convolutional
            patch embedding.
        context_mask_ratio: Fraction of patches hidden in the second view.
        object_mask_ratio: Fraction of the cell's patches hidden first where the cell mask is known; 0 ignores the mask.
        normalize_target: Whether reconstruction targets are normalised per patch.
        reconstruction_weight: Weight of the reconstruction loss; None means 1, or 0 where `mask_ratio` is.
        cell_contrast_weight: Weight of the cell-specific contrast.
        protein_contrast_weight: Weight of the protein-specific contrast.
        protein_centroid_weight: Weight of the centroid loss with an EMA teacher.
        probe_weight: Weight of the probe's focal loss.
        cell_contrast_temperature: Temperature of the cell-specific contrast.
        protein_contrast_temperature: Temperature of the protein-specific contrast.
        cell_contrast_positives: What cell contrast makes similar: views of the same `"cell"`, or all cells of a
            `"field_of_view"` or a `"cell_line"`.
        cell_pooling_heads: First pooling heads, which the cell contrast alone trains, while the others are trained by
            the protein-specific objectives and the probe; 0: each objective trains all heads.
        protein_views: Views that show the protein: `"both"`, or the `"first"`. Then cell contrast compares first with
            second views, so that the protein is of no use, and protein contrast and probe take the first.
        centroid_noise_weight: Weight of the random-direction term of the centroid loss.
        teacher_momentum: Momentum of the teacher's exponential moving average.
        projection_type: Head between embedding and contrast: `"mlp"` with BatchNorm (SubCell's), `"linear"`,
            `"residual"` with LayerNorm, or `"none"`.
        projection_hidden_sizes: Hidden widths of the contrastive heads.
        projection_size: Output width of all projection heads.
        centroid_hidden_sizes: Hidden widths of the centroid loss's projection and predictor.
        probe_hidden_sizes: Hidden widths of the online probe; None means half the embedding.
        probe_dropout: Dropout of the probe.
        probe_detached: Whether the probe leaves the encoder untouched; False is the supervised recipe.
        **kwargs: Whatever `PreTrainedConfig` takes: `id2label`, `label2id`, `num_labels`, …. Without any of these the
            labels are the 31 locations that the published classifiers report. `location_sets` and `novelty`
            are what `subcell calibrate` writes.

    Raises:
        ValueError: If a value is impossible, or values contradict each other; the message says what is expected.
    """

    model_type = "subcell"
    sub_configs: ClassVar[dict[str, Any]] = {"backbone_config": AutoConfig}
    # Trainer collects every other output as predictions: with these, the logits alone.
    keys_to_ignore_at_inference = [
        "member_logits", "pooler_output", "pooler_attentions", "channel_attentions", "hidden_states", "attentions"
    ]  # fmt: skip

    channels: list[str] | tuple[str, ...] = ("red", "yellow", "blue", "green")
    channel_tokens: str = "joint"
    channel_masking: str = "together"
    channels_per_pass: int | None = None
    pixel_size_um: float = 0.160177
    image_size: int | list[int] | tuple[int, int] = 448
    patch_size: int = 16
    patch_embedding_type: str = "linear"
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    qkv_bias: bool = True
    position_embedding_type: str = "sincos"
    backbone_config: Any = None
    pooling_type: str = "gated"
    pooling_num_heads: int = 2
    pooling_hidden_size: int = 512
    pooling_dropout: float = 0.2
    pooling_projection_size: int | None = None
    problem_type: str | None = "multi_label_classification"  # type: ignore[assignment]  # narrower than the parent's
    classifier_hidden_sizes: list[int] | tuple[int, ...] = (512, 256)
    classifier_dropout: float = 0.5
    classifier_ensemble_size: int = 1
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 2048
    mask_ratio: float | None = None
    context_mask_ratio: float = 0.0
    object_mask_ratio: float = 0.0
    normalize_target: bool = True
    reconstruction_weight: float | None = None
    cell_contrast_weight: float = 1.0
    protein_contrast_weight: float = 0.1
    protein_centroid_weight: float = 0.0
    probe_weight: float = 1.0
    cell_contrast_temperature: float = 0.1
    protein_contrast_temperature: float = 0.1
    cell_contrast_positives: str = "cell"
    cell_pooling_heads: int = 0
    protein_views: str = "both"
    centroid_noise_weight: float = 0.0
    teacher_momentum: float = 0.995
    projection_type: str = "mlp"
    projection_hidden_sizes: list[int] | tuple[int, ...] = (8192, 8192)
    projection_size: int = 512
    centroid_hidden_sizes: list[int] | tuple[int, ...] = (8192,)
    probe_hidden_sizes: list[int] | tuple[int, ...] | None = None
    probe_dropout: float = 0.5
    probe_detached: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        """Derive what depends on other fields, then refuse what cannot work."""
        self.channels = as_list(self.channels)
        self.image_size = as_list(self.image_size) if not isinstance(self.image_size, int) else self.image_size
        for name in ("classifier_hidden_sizes", "projection_hidden_sizes", "centroid_hidden_sizes"):
            setattr(self, name, as_list(getattr(self, name)))
        self._derive_backbone()
        if self.mask_ratio is None:
            self.mask_ratio = 0.25 if self.separate_patches else 0.0
        if self.reconstruction_weight is None:
            self.reconstruction_weight = 1.0 if self.separate_patches else 0.0
        if self.id2label is None and "num_labels" not in kwargs:
            names = sorted(self.label2id, key=self.label2id.__getitem__) if self.label2id else REPORTED_LOCATIONS
            self.id2label = dict(enumerate(names))
        if self.id2label is not None and self.label2id is None:
            self.label2id = {label: int(index) for index, label in self.id2label.items()}
        super().__post_init__(**kwargs)
        self._check_geometry()
        self._check_heads()
        check_pretraining(self)
        # Derived last: a width that is wrong deserves the message about that width.
        if self.probe_hidden_sizes is None:
            self.probe_hidden_sizes = [self.embedding_size // 2]
        self.probe_hidden_sizes = as_list(self.probe_hidden_sizes)

    def __setattr__(self, key: str, value: Any) -> None:
        if key == "problem_type":  # at once, as the model reads it much later
            choices = " or ".join(map(repr, PROBLEM_TYPES))
            expect(value in PROBLEM_TYPES, key, value, f"{choices}; for regression train a head on pooler_output")
        super().__setattr__(key, CustomPipelines(value) if key == "custom_pipelines" else value)

    @classmethod
    def from_size(cls, size: str, **overrides: Any) -> "SubCellConfig":
        """Configuration of a ViT of a standard size.

        Args:
            size: `"tiny"`, `"small"`, `"base"` or `"large"`.
            **overrides: Any field of the configuration.

        Raises:
            ValueError: If there is no such size.
        """
        if size not in SIZES:
            raise ValueError(f"Unknown size {size!r}: choose one of {', '.join(SIZES)}.")
        return cls(**{**SIZES[size], **overrides})

    @property
    def num_channels(self) -> int:
        """Number of input channels."""
        return len(self.channels)

    def channel_rows(self, names: Sequence[str] | None = None) -> list[int] | None:
        """Rows of the channel embeddings for the channels of an image; None where tokens are joint.

        Args:
            names: Of the image's channels in order; None: those that the model was trained on.

        Raises:
            ValueError: If the model does not take these channels.
        """
        if self.channel_tokens == "separate":
            return find_rows(self.channels if names is None else names, self.channels)
        if names is not None and list(names) != list(self.channels):
            raise ValueError(
                f"channels are {', '.join(names)}; the model takes {', '.join(self.channels)} in this order (others "
                "need channel_tokens='separate'). SubCellImageProcessor orders planes by name."
            )
        return None

    def shows_protein(self, names: Sequence[str] | None = None) -> bool:
        """Whether an image of these channels shows a protein, without which its antibody is not to be learned."""
        rows = self.channel_rows(names)
        return rows is None or self.num_channels - 1 in rows

    @property
    def image_height_width(self) -> tuple[int, int]:
        """`(height, width)` in pixels that the position embeddings are made for."""
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        height, width = self.image_size
        return height, width

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of patches of an image of `image_size`."""
        height, width = self.image_height_width
        return height // self.patch_size, width // self.patch_size

    @property
    def separate_patches(self) -> bool:
        """Whether tokens begin with the pixels of their patch alone, so that patches can be hidden."""
        return self.backbone_config is None and self.patch_embedding_type == "linear"

    @property
    def embedding_size(self) -> int:
        """Width of `pooler_output`."""
        if self.pooling_projection_size is not None:
            return self.pooling_projection_size
        return self.hidden_size * (self.pooling_num_heads if self.pooling_type in ("gated", "attention") else 1)

    @property
    def embedding_parts(self) -> tuple[range, range]:
        """Numbers of the embedding that cell contrast trains, and that the protein-specific objectives and probe do."""
        first = self.cell_pooling_heads * self.hidden_size
        return range(first or self.embedding_size), range(first, self.embedding_size)

    def _derive_backbone(self) -> None:
        if self.backbone_config is None:
            return
        if isinstance(self.backbone_config, dict):
            settings = dict(self.backbone_config)
            expect("model_type" in settings, "backbone_config", sorted(settings), "a key 'model_type'")
            self.backbone_config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        self.backbone_config.num_channels = self.num_channels
        widths = getattr(self.backbone_config, "hidden_sizes", None)
        self.hidden_size = widths[-1] if widths else self.backbone_config.hidden_size

    def _check_geometry(self) -> None:
        expect(
            bool(self.channels) and all(isinstance(name, str) and name for name in self.channels),
            "channels", self.channels, "at least one channel, each a name such as 'green'",
        )  # fmt: skip
        expect(len(set(self.channels)) == len(self.channels), "channels", self.channels, "every channel name only once")
        self._check_channel_tokens()
        expect(self.pixel_size_um > 0, "pixel_size_um", self.pixel_size_um, "micrometres above 0")
        for name in ("patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
            expect_whole(name, getattr(self, name))
        sizes = [self.image_size] if isinstance(self.image_size, int) else self.image_size
        expect(
            len(sizes) in (1, 2) and all(size > 0 and size % self.patch_size == 0 for size in sizes),
            "image_size", self.image_size, f"an edge, or height and width, divisible by patch_size={self.patch_size}",
        )  # fmt: skip
        check_patch_embedding(self)
        expect_choice("position_embedding_type", self.position_embedding_type, POSITION_EMBEDDING_TYPES)
        if self.backbone_config is None:
            expect_divisible("hidden_size", self.hidden_size, "num_attention_heads", self.num_attention_heads)
            if self.position_embedding_type == "sincos":
                expect_divisible("hidden_size", self.hidden_size, "sine and cosine of two axes", 4)
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "pooling_dropout", "classifier_dropout"):
            expect_fraction(name, getattr(self, name))

    def _check_channel_tokens(self) -> None:
        expect_choice("channel_tokens", self.channel_tokens, CHANNEL_TOKENS)
        expect_choice("channel_masking", self.channel_masking, CHANNEL_MASKING)
        if self.channel_tokens == "joint":
            joint = "with channel_tokens='joint', where the channels of a place share a token"
            expect(self.channel_masking == "together", "channel_masking", self.channel_masking, f"'together' {joint}")
            expect(self.channels_per_pass is None, "channels_per_pass", self.channels_per_pass, f"None {joint}")
            return
        separate = "with channel_tokens='separate'"
        expect(self.backbone_config is None, "backbone_config", self.backbone_config, f"None {separate}: the ViT")
        count, most = self.num_channels, LARGEST_CHANNELS
        expect(count <= most, "channels", self.channels, f"at most {most} {separate}")
        limit = self.channels_per_pass
        if limit is not None:
            expect_whole("channels_per_pass", limit)

    def _check_heads(self) -> None:
        expect_choice("pooling_type", self.pooling_type, POOLING_TYPES)
        expect(
            self.pooling_type != "cls" or self.backbone_config is None, "pooling_type", self.pooling_type,
            "'gated', 'attention' or 'mean' with a backbone, whose feature map has no CLS token",
        )  # fmt: skip
        for name in ("pooling_num_heads", "pooling_hidden_size", "classifier_ensemble_size", "projection_size"):
            expect_whole(name, getattr(self, name))
        if self.pooling_projection_size is not None:
            expect_whole("pooling_projection_size", self.pooling_projection_size)
        for name in ("classifier_hidden_sizes", "projection_hidden_sizes", "centroid_hidden_sizes"):
            for width in getattr(self, name):
                expect_whole(name, width)
        expect_choice("projection_type", self.projection_type, PROJECTION_TYPES)
        expect(bool(self.num_labels), "id2label", self.id2label, "at least one label")
        expect(self.focal_gamma >= 0, "focal_gamma", self.focal_gamma, "a number that is not negative")
        expect(self.focal_alpha <= 1, "focal_alpha", self.focal_alpha, "at most 1; negative switches it off")


SubCellConfig.register_for_auto_class()
