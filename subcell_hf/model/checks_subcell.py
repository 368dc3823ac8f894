"""Checks of a configuration's values, with messages that say what is expected."""

from typing import Any

__all__ = [
    "as_list", "check_patch_embedding", "check_pretraining", "expect", "expect_choice", "expect_divisible",
    "expect_fraction", "expect_whole",
]  # fmt: skip

PATCH_EMBEDDING_TYPES = ("linear", "convolutional")
PROTEIN_VIEWS = ("both", "first")
CELL_CONTRAST_POSITIVES = ("cell", "field_of_view", "cell_line")


def as_list(values: Any) -> list[Any]:
    return [values] if isinstance(values, str | int) else list(values)


def expect(condition: bool, name: str, got: Any, expected: str) -> None:
    if not condition:
        raise ValueError(f"SubCellConfig: {name}={got!r} cannot work; expected {expected}.")


def expect_choice(name: str, got: Any, choices: tuple[str, ...]) -> None:
    expect(got in choices, name, got, f"one of {', '.join(map(repr, choices))}")


def expect_whole(name: str, got: Any) -> None:
    expect(isinstance(got, int) and not isinstance(got, bool) and got > 0, name, got, "a whole number above 0")


def expect_fraction(name: str, got: Any) -> None:
    expect(0 <= got < 1, name, got, "a fraction from 0 up to, but not including, 1")


def expect_divisible(name: str, got: int, divisor_name: str, divisor: int) -> None:
    expect(got % divisor == 0, name, got, f"a multiple of {divisor} ({divisor_name})")


def check_patch_embedding(config: Any) -> None:
    """Of a `SubCellConfig`: whether convolutions of stride 2 make one pixel of a patch."""
    name, value = "patch_embedding_type", config.patch_embedding_type
    expect_choice(name, value, PATCH_EMBEDDING_TYPES)
    if value == "linear":
        return
    expect(config.backbone_config is None, name, value, "'linear' with a backbone, which embeds images itself")
    size = config.patch_size
    expect(size > 1 and size & (size - 1) == 0, "patch_size", size, "a power of two with convolutions of stride 2")
    width = config.hidden_size
    expect(2 * width >= size, "hidden_size", width, f"at least {size // 2}, so that the first layer has a channel")


def check_pretraining(config: Any) -> None:
    """Of a `SubCellConfig`: objectives, their heads, decoder."""
    for name in ("mask_ratio", "context_mask_ratio", "object_mask_ratio", "probe_dropout"):
        expect_fraction(name, getattr(config, name))
    for name in ("reconstruction", "cell_contrast", "protein_contrast", "protein_centroid", "probe"):
        value = getattr(config, f"{name}_weight")
        expect(value >= 0, f"{name}_weight", value, "0 (off) or a positive weight")
    for name in ("cell_contrast_temperature", "protein_contrast_temperature"):
        expect(getattr(config, name) > 0, name, getattr(config, name), "a temperature above 0")
    expect_choice("cell_contrast_positives", config.cell_contrast_positives, CELL_CONTRAST_POSITIVES)
    expect_choice("protein_views", config.protein_views, PROTEIN_VIEWS)
    both = config.protein_views == "both" or not config.protein_centroid_weight
    expect(both, "protein_views", config.protein_views, "'both' with the centroid loss, which compares the views")
    _check_parts(config)
    expect(0 <= config.teacher_momentum <= 1, "teacher_momentum", config.teacher_momentum, "a number from 0 to 1")
    for name in ("decoder_hidden_size", "decoder_num_hidden_layers", "decoder_intermediate_size"):
        expect_whole(name, getattr(config, name))
    if config.backbone_config is None:
        expect_divisible(
            "decoder_hidden_size", config.decoder_hidden_size,
            "decoder_num_attention_heads", config.decoder_num_attention_heads,
        )  # fmt: skip
        expect_divisible("decoder_hidden_size", config.decoder_hidden_size, "sine and cosine of two axes", 4)
    if config.separate_patches:
        return
    why = "0 with a backbone_config: patches are hidden and reconstructed by the ViT only"
    if config.backbone_config is None:
        why = "0 with patch_embedding_type='convolutional': convolutions see hidden patches from their neighbours"
    for name in ("reconstruction_weight", "mask_ratio", "context_mask_ratio"):
        expect(getattr(config, name) == 0, name, getattr(config, name), why)


def _check_parts(config: Any) -> None:
    """Whether the pooling heads can be shared out."""
    heads, most = config.cell_pooling_heads, config.pooling_num_heads - 1
    if heads == 0:
        return
    pooled = config.pooling_type in ("gated", "attention") and config.pooling_projection_size is None
    expect(pooled, "cell_pooling_heads", heads, "0 without pooling heads, or with a layer that mixes them")
    expect(bool(config.cell_contrast_weight), "cell_pooling_heads", heads, "0 without cell contrast")
    expect(isinstance(heads, int) and 0 < heads <= most, "cell_pooling_heads", heads, f"0 to {most} of the heads")
