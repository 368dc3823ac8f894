"""What the published files hold: their keys beside ours, read without running any code of theirs."""

import math
import pickle
import re
import reprlib
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from subcell_hf.errors import InputError
from subcell_hf.storage.plain_files import one_line, read_yaml, refuse_lfs_pointer

StateDict = dict[str, Tensor]

logger = logging.get_logger(__name__)


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
    """Tensors of a published file, without running any code that it may hold.

    Files that are zip archives, as torch writes them since its version 1.6, are compared with their checksums; older
    ones have none, and a warning says so.

    Args:
        path: A `.pth` or `.ckpt` file.

    Raises:
        ConversionError: If it is damaged, no checkpoint, would run code, or holds anything but arrays of numbers.
    """
    if not path.is_file():
        raise ConversionError(f"{path} does not exist, or is not a file.")
    with path.open("rb") as file:
        beginning = file.read(200)
    refuse_lfs_pointer(path, beginning)
    if beginning[8:10] == b'{"':
        raise ConversionError(
            f"{path} is a safetensors file, expected a .pth or .ckpt file of torch. A folder with a converted model "
            "needs no conversion."
        )
    if beginning.startswith(b"PK"):
        _check_archive(path)
    else:
        logger.warning(f"{path} has torch's old format without checksums; single wrong bits cannot be detected.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on old formats is not for the user of a converter
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConversionError(
            f"{path} contains more than tensors, or is not a torch file. It was not opened, because a pickle can run "
            "code. If you trust it, load it yourself and save only its state_dict with torch.save. "
            f"({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:  # on damaged bytes, torch's unpickler raises nearly anything that Python can
        raise ConversionError(
            f"{path} is not a torch checkpoint, or is damaged ({one_line(error)}). Download it again."
        ) from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not loaded:
        raise ConversionError(f"{path} contains a {type(loaded).__name__}; expected a dictionary of tensors.")
    strangers = [str(key) for key, value in loaded.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if strangers:
        raise ConversionError(f"{path}: expected tensors only, but these entries are not: {', '.join(strangers[:10])}.")
    odd = [key for key, value in loaded.items() if not _holds_numbers(key, value)]
    if odd:
        raise ConversionError(
            f"{path}: {odd[0]} is {describe_tensor(loaded[odd[0]])}, expected floating-point numbers that are "
            "completely stored in the file. Download it again."
        )
    return dict(loaded)


def describe_tensor(value: Tensor) -> str:
    """Shape and dtype of a tensor, in words."""
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)} on {value.device}"


def _check_archive(path: Path) -> None:
    """Compare every member of a zip archive with its CRC-32, which torch does not."""
    remedy = "Download it again."
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            # Torch stores its members as they are; a compressed one could unpack to any size.
            packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
            if packed or len({member.filename for member in members}) < len(members):
                raise ConversionError(
                    f"{path} has {'compressed members' if packed else 'members with equal names'}, unlike files of "
                    f"torch. {remedy}"
                )
            damaged = archive.testzip()
    except ConversionError:
        raise
    except Exception as error:  # on damaged bytes, zipfile raises nearly anything that Python can
        raise ConversionError(f"{path} is truncated or damaged ({one_line(error)}). {remedy}") from error
    if damaged is not None:
        raise ConversionError(f"{path} is damaged: the checksum of its member {damaged} differs. {remedy}")


def _holds_numbers(name: str, value: Tensor) -> bool:
    """Whether a tensor is a plain array of floats whose memory is not larger than what the file stores."""
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    if not plain or not value.numel():
        return False
    if not value.is_floating_point():
        return name.endswith("num_batches_tracked") and not value.is_complex()
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


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
            f"{path} is not a SubCell checkpoint, or a newer one. Unexpected keys ({len(unexpected)}): "
            f"{name_some(unexpected)}."
        )
    return renamed


def read_model_yaml(path: Path) -> dict[str, Any]:
    """Values of a published model_config.yaml that the weights do not contain.

    Raises:
        InputError: If it is damaged, has no such section, or a value of the wrong type.
    """
    content = read_yaml(path, "Download it again.")
    vit = content
    for section in ("model_config", "vit_model"):
        vit = vit.get(section) if isinstance(vit, dict) else None
    if not isinstance(vit, dict):
        raise ConversionError(f"{path} has no section model_config.vit_model: is it the encoder's yaml?")
    wanted = {name: vit[name] for name in (*_YAML_FIELDS, "image_size") if name in vit}
    for name, value in wanted.items():
        size = value if isinstance(value, list) else [value]
        sound = (
            len(size) in (1, 2) and isinstance(value, list) == (len(size) == 2) and all(map(_is_whole, size))
            if name == "image_size"
            else _fits(value, _YAML_FIELDS[name])
        )
        if not sound:
            kind = "a whole number or two" if name == "image_size" else _YAML_FIELDS[name].__name__
            raise ConversionError(f"{path} contains {name}: {reprlib.repr(value)}, expected {kind}. Download it again.")
    return wanted


_YAML_FIELDS: dict[str, type] = {
    "hidden_size": int, "num_hidden_layers": int, "num_attention_heads": int, "intermediate_size": int,
    "hidden_act": str, "hidden_dropout_prob": float, "attention_probs_dropout_prob": float,
    "initializer_range": float, "layer_norm_eps": float, "patch_size": int, "num_channels": int, "qkv_bias": bool,
}  # fmt: skip
"""Fields of the yaml beside `image_size`, and their kinds."""


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _fits(value: object, kind: type) -> bool:
    if kind is int:
        return _is_whole(value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind)


def name_some(names: Sequence[str], most: int = 20) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(names[:most]) or "none"
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
