"""What the published files hold: their keys beside ours, read without running any code of theirs."""

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from subcell_hf.errors import InputError

StateDict = dict[str, Tensor]


class ConversionError(InputError):
    """A file is not the checkpoint it should be. Nothing was written."""


def encoder_patterns(source: str, pool_source: str, target: str) -> list[tuple[str, str]]:
    """Published key → ours, for an encoder and its pooler."""
    layer, pooler = rf"{source}\.encoder\.layer\.(\d+)", f"{target}.pooler.attention"
    return [
        (rf"{source}\.embeddings\.(.+)", rf"{target}.embeddings.\1"),
        *layer_patterns(layer, f"{target}.layers"),
        (rf"{source}\.layernorm\.(\w+)", rf"{target}.layernorm.\1"),
        (rf"{pool_source}\.attention_v\.1\.(\w+)", rf"{pooler}.value.\1"),
        (rf"{pool_source}\.attention_u\.1\.(\w+)", rf"{pooler}.gate.\1"),
        (rf"{pool_source}\.attention\.(weight|bias)", rf"{pooler}.score.\1"),
        (rf"{pool_source}\.attention\.0\.(\w+)", rf"{pooler}.value.\1"),  # without the gate
        (rf"{pool_source}\.attention\.2\.(\w+)", rf"{pooler}.score.\1"),
        (rf"{pool_source}\.out_proj\.(\w+)", rf"{target}.pooler.projection.\1"),
    ]


def layer_patterns(source: str, target: str) -> list[tuple[str, str]]:
    """Published key → ours, for transformer layers; `source` captures the number of the layer."""
    parts = (
        (r"attention\.attention\.query", "attention.q_proj"),
        (r"attention\.attention\.key", "attention.k_proj"),
        (r"attention\.attention\.value", "attention.v_proj"),
        (r"attention\.output\.dense", "attention.o_proj"),
        (r"intermediate\.dense", "mlp.fc1"),
        (r"output\.dense", "mlp.fc2"),
        (r"layernorm_before", "layernorm_before"),
        (r"layernorm_after", "layernorm_after"),
    )
    return [(rf"{source}\.{old}\.(weight|bias)", rf"{target}.\1.{new}.\2") for old, new in parts]


ENCODER_PATTERNS = encoder_patterns("encoder", "pool_model", "subcell")
"""Published key → ours, for what the encoder files hold."""

PRETRAINING_PATTERNS = [
    (r"decoder\.mask_token", r"decoder.mask_token"),
    (r"decoder\.decoder_pos_embed", r"decoder.position_embeddings"),
    (r"decoder\.decoder_embed\.(\w+)", r"decoder.embed.\1"),
    *layer_patterns(r"decoder\.decoder_layers\.(\d+)", "decoder.layers"),
    (r"decoder\.decoder_norm\.(\w+)", r"decoder.layernorm.\1"),
    (r"decoder\.decoder_pred\.(\w+)", r"decoder.prediction.\1"),
    (r"online_finetuner\.(\d+)\.(\w+)", r"probe.\1.\2"),
    (r"ssl_model\.projector\.mlp\.(\d+)\.(\w+)", r"cell_projection.\1.\2"),
    (r"projection_head\.(\d+)\.(\w+)", r"centroid_projection.\1.\2"),
    *encoder_patterns("target_encoder", "target_pool_model", "teacher.subcell"),
    (r"target_projection_head\.(\d+)\.(\w+)", r"teacher.projection.\1.\2"),
]
"""Published key → ours, for what training checkpoints hold beside the encoder."""


def read_state_dict(path: Path) -> StateDict:
    """Tensors of a published file, without running any code that it may hold."""
    if not path.is_file():
        raise ConversionError(f"{path} does not exist.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on old formats is not for the user of a converter
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConversionError(
            f"{path} holds more than tensors, or is no torch file, and was not opened: a pickle can run code. "
            "If you trust it, open it yourself and save its state_dict alone with torch.save. "
            f"({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, OSError) as error:
        raise ConversionError(f"{path} is not a torch checkpoint, or is damaged: {error}") from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not loaded:
        raise ConversionError(f"{path} holds a {type(loaded).__name__}; expected a dictionary of tensors.")
    strangers = [str(key) for key, value in loaded.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if strangers:
        raise ConversionError(
            f"{path}: expected tensors only, but these entries are none: {', '.join(strangers[:10])}."
        )
    return dict(loaded)


def protein_pattern(published: StateDict) -> tuple[str, str]:
    """Published key → ours, for the head of the protein-specific objective."""
    # The same name holds the contrast's projection in one recipe and the centroid loss's predictor in the other.
    target = "predictor" if any(key.startswith("projection_head.") for key in published) else "protein_projection"
    return (r"supcon_model\.projector\.mlp\.(\d+)\.(\w+)", rf"{target}.\1.\2")


def rename(
    published: StateDict, patterns: list[tuple[str, str]], left_out: list[tuple[str, str]], path: Path
) -> StateDict:
    """Published names → ours; a key that no pattern knows is refused."""
    renamed: StateDict = {}
    unexpected = []
    for key, value in published.items():
        matches = (re.fullmatch(pattern, key) and re.sub(pattern, target, key) for pattern, target in patterns)
        name = next(filter(None, matches), None)
        if name is not None:
            renamed[name] = value
        elif not any(re.fullmatch(pattern, key) for pattern, _ in left_out):
            unexpected.append(key)
    if unexpected:
        raise ConversionError(
            f"{path} is not a SubCell checkpoint, or a newer one: {len(unexpected)} unexpected keys: "
            f"{name_some(unexpected)}."
        )
    return renamed


def read_yaml(path: Path) -> dict[str, Any]:
    """What a published model_config.yaml says and weights do not."""
    if not path.is_file():
        raise ConversionError(f"{path} does not exist.")
    try:
        vit = yaml.safe_load(path.read_text(encoding="utf-8"))["model_config"]["vit_model"]
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ConversionError(
            f"{path} has no section model_config.vit_model: is it the encoder's yaml? ({error})"
        ) from error
    wanted = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
        "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps", "image_size",
        "patch_size", "num_channels", "qkv_bias",
    )  # fmt: skip
    return {name: vit[name] for name in wanted if name in vit}


def name_some(names: Sequence[str], most: int = 20) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(names[:most]) or "none"
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
