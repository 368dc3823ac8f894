"""Published SubCell weights → a folder that transformers loads.

The published files are pickles. They are read with `weights_only=True`, which refuses everything but tensors and plain
containers; every key is accounted for before anything is written.
"""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subcell_hf import ontology
from subcell_hf.errors import counted
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import (
    SubCellForImageClassification,
    SubCellModel,
    SubCellPreTrainedModel,
)
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from subcell_hf.model.positions_subcell import sincos_position_embeddings
from subcell_hf.storage.folders import write_folder_atomically
from subcell_hf.storage.model_folders import check_finite
from subcell_hf.storage.plain_files import explaining
from subcell_hf.weights.published_files import (
    ENCODER_PATTERNS,
    PRETRAINING_PATTERNS,
    ConversionError,
    StateDict,
    describe_tensor,
    name_some,
    protein_pattern,
    read_model_yaml,
    read_state_dict,
    rename,
)

PUBLISHED_CROP_SIZE_PX = 640


def convert(
    encoder: str | Path,
    output: str | Path,
    channels: str | Sequence[str],
    classifiers: Iterable[str | Path] = (),
    config: str | Path | None = None,
    num_attention_heads: int | None = None,
    labels: Sequence[str] | None = None,
    crop_size_px: int | None = None,
    pixel_size_um: float = ontology.PUBLISHED_PIXEL_SIZE_UM,
    keep_pretraining: bool = False,
) -> Path:
    """Convert a published encoder, alone or with its classifiers, or a training checkpoint.

    Args:
        encoder: Published encoder (`.pth`) or Lightning training checkpoint (`.ckpt`).
        output: Folder to write; must not exist, or be empty. It appears whole or not at all.
        channels: `"rybg"`, `"rbg"`, `"ybg"`, `"bg"` or the names of the channels, the protein last.
        classifiers: Published classifiers; several become one ensemble.
        config: The `model_config.yaml` beside the encoder, for what weights do not contain: attention heads, epsilon,
            activation.
        num_attention_heads: Attention heads of the encoder; default: the yaml's, else width / 64.
        labels: Names of the classes; default: the 31 reported, 35 training or 19 challenge locations by their number.
        crop_size_px: Edge in pixels to which the image processor crops and pads. By default images keep their size, as
            with the published code, whose documentation asks for 640 px; position embeddings are interpolated.
        pixel_size_um: Pixel size of the model's input in micrometres.
        keep_pretraining: Keep decoder, heads and teacher of a training checkpoint (`SubCellForPreTraining`).

    Returns:
        The folder.

    Raises:
        InputError: If a file is missing, damaged, no such checkpoint, would run code, or holds missing, unexpected or
            wrongly shaped keys or weights that are not finite; or if the output folder is in use.
    """
    output, members = Path(output), [Path(path) for path in classifiers]
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConversionError(f"{output} exists and is not an empty folder. Choose another output.")
    if keep_pretraining and members:
        raise ConversionError("keep_pretraining and classifiers cannot be combined: convert twice, into two folders.")
    names = ontology.channels_from_variant(channels) if isinstance(channels, str) else tuple(channels)
    published = read_state_dict(Path(encoder))
    if keep_pretraining:
        patterns = [*ENCODER_PATTERNS, *PRETRAINING_PATTERNS, protein_pattern(published)]
        left_out: list[tuple[str, str]] = []
    else:
        patterns, left_out = ENCODER_PATTERNS, [*PRETRAINING_PATTERNS, protein_pattern(published)]
    weights = rename(published, patterns, left_out, Path(encoder))
    check_finite(weights, f"{encoder} (our names)")
    options = read_model_yaml(Path(config)) if config is not None else {}
    if num_attention_heads is not None:
        options["num_attention_heads"] = num_attention_heads
    settings = _geometry(weights, names, options, Path(encoder)) | {"pixel_size_um": pixel_size_um}
    model_class: type[SubCellPreTrainedModel] = SubCellModel
    if keep_pretraining:
        model_class = SubCellForPreTraining
        with explaining(encoder, "Download it again, or convert it without --keep-pretraining."):
            settings |= _pretraining_settings(weights)
            settings |= _label_settings(_last_bias(weights, "probe").shape[0], labels)
    elif members:
        model_class = SubCellForImageClassification
        heads = _stack_classifiers(members)
        settings |= {
            "classifier_hidden_sizes": [
                heads[f"classifier.layers.{i}.weight"].shape[1] for i in range(len(heads) // 2 - 1)
            ],
            "classifier_ensemble_size": len(members),
        }
        settings |= _label_settings(heads[f"classifier.layers.{len(heads) // 2 - 1}.bias"].shape[1], labels)
        weights |= heads
    else:
        weights = {key.removeprefix("subcell."): value for key, value in weights.items()}
    with explaining(config or encoder, "Download it again."):
        model = model_class(SubCellConfig(**settings))
    _load_strictly(model, weights, Path(encoder))
    fits = crop_size_px is not None
    processor = SubCellImageProcessor(
        names, crop_size_px or PUBLISHED_CROP_SIZE_PX, pixel_size_um, do_center_crop=fits, do_pad=fits
    )
    return _write_whole(model, processor, output)


def _geometry(weights: StateDict, names: tuple[str, ...], options: dict[str, Any], path: Path) -> dict[str, Any]:
    """Configuration derived from the weights and completed by the options; contradictions are refused."""
    required = {
        "embeddings.cls_token": 3, "embeddings.position_embeddings": 3,
        "embeddings.patch_embeddings.projection.weight": 4, "layers.0.mlp.fc1.weight": 2,
        "pooler.attention.value.weight": 2, "pooler.attention.score.weight": 2,
    }  # fmt: skip
    missing = [name for name in required if f"subcell.{name}" not in weights]
    if missing:
        raise ConversionError(f"{path} is not a SubCell encoder; missing weights (our names): {name_some(missing)}.")
    for name, axes in required.items():
        if weights[f"subcell.{name}"].ndim != axes:
            raise ConversionError(
                f"{path} is not a SubCell encoder; {name} (our name) is {describe_tensor(weights[f'subcell.{name}'])}, "
                f"expected {axes} axes."
            )
    kernel = weights["subcell.embeddings.patch_embeddings.projection.weight"]  # [hidden_size, channels, patch, patch]
    if kernel.shape[1] != len(names):
        raise ConversionError(
            f"{path} has {counted(kernel.shape[1], 'input channel')}, but channels has {len(names)}: "
            f"{', '.join(names)}. "
            f"Published variants: {', '.join(ontology.CHANNEL_VARIANTS)}."
        )
    positions = weights["subcell.embeddings.position_embeddings"]
    hidden_size, patch_size = kernel.shape[0], kernel.shape[-1]
    if positions.shape[0] != 1 or positions.shape[1] < 2 or positions.shape[2] != hidden_size:
        raise ConversionError(
            f"{path} is not a SubCell encoder; its position embeddings are {describe_tensor(positions)}, expected "
            f"[1, patches + 1, {hidden_size}]."
        )
    gated = "subcell.pooler.attention.gate.weight" in weights
    projection = weights.get("subcell.pooler.projection.weight")
    derived = {
        "hidden_size": hidden_size,
        "num_hidden_layers": len({key.split(".")[2] for key in weights if key.startswith("subcell.layers.")}),
        "intermediate_size": weights["subcell.layers.0.mlp.fc1.weight"].shape[0],
        "patch_size": patch_size,
        "num_channels": len(names),
        "qkv_bias": "subcell.layers.0.attention.q_proj.bias" in weights,
    }
    wrong = [
        f"{name}: {options[name]}, but {derived[name]} in the weights"
        for name in derived
        if options.get(name, derived[name]) != derived[name]
    ]
    if wrong:
        raise ConversionError(f"The yaml does not belong to {path}: {'; '.join(wrong)}.")
    image_size = _image_size(positions.shape[1] - 1, patch_size, options.get("image_size"), path)
    grid = [edge // patch_size for edge in image_size]
    fixed = hidden_size % 4 == 0 and torch.allclose(
        positions.float(), sincos_position_embeddings(hidden_size, *grid), atol=1e-5
    )
    if "num_attention_heads" not in options and hidden_size % 64:
        raise ConversionError(
            f"{path} has the width {hidden_size}, which is not a multiple of 64: give --attention-heads, or its yaml "
            "with --config."
        )
    derived.pop("num_channels")
    options = {name: value for name, value in options.items() if name not in ("num_channels", "image_size")}
    return {"num_attention_heads": hidden_size // 64} | options | derived | {
        "channels": list(names),
        "image_size": image_size[0] if image_size[0] == image_size[1] else image_size,
        "position_embedding_type": "sincos" if fixed else "learned",
        "pooling_type": "gated" if gated else "attention",
        "pooling_num_heads": weights["subcell.pooler.attention.score.weight"].shape[0],
        "pooling_hidden_size": weights["subcell.pooler.attention.value.weight"].shape[0],
        "pooling_projection_size": None if projection is None else projection.shape[0],
    }  # fmt: skip


def _image_size(patches: int, patch_size: int, given: Any, path: Path) -> list[int]:
    if given is None:
        edge = math.isqrt(patches)
        if edge**2 != patches:
            raise ConversionError(
                f"{path} has positions for {patches} patches, not a square number: give its yaml with --config, "
                "containing image_size: [height, width]."
            )
        return [edge * patch_size] * 2
    size = [given, given] if isinstance(given, int) else list(given)
    if (size[0] // patch_size) * (size[1] // patch_size) != patches:
        raise ConversionError(
            f"The yaml does not belong to {path}: image_size {given}, but positions for {patches} patches."
        )
    return size


def _stack_classifiers(paths: Sequence[Path]) -> StateDict:
    """All members' linear layers, stacked to the ensemble's."""
    twice = [path for number, path in enumerate(paths) if path.resolve() in [p.resolve() for p in paths[:number]]]
    if twice:
        raise ConversionError(
            f"The classifier {twice[0]} is given twice and would count twice. Give every member once."
        )
    members = []
    for path in paths:
        state = read_state_dict(path)
        unexpected = [key for key in state if not re.fullmatch(r"\d{1,4}\.(weight|bias)", key)]
        order = sorted({int(key.split(".")[0]) for key in state if key not in unexpected})
        missing = [f"{i}.{kind}" for i in order for kind in ("weight", "bias") if f"{i}.{kind}" not in state]
        if unexpected or missing:
            raise ConversionError(
                f"{path} is not a SubCell classifier; unexpected keys: {name_some(unexpected)}; missing keys: "
                f"{name_some(missing)}."
            )
        flat = [key for key, value in state.items() if value.ndim != (2 if key.endswith("weight") else 1)]
        if flat:
            raise ConversionError(
                f"{path} is not a SubCell classifier; {flat[0]} is {describe_tensor(state[flat[0]])}."
            )
        check_finite(state, str(path))
        members.append(
            {
                f"classifier.layers.{n}.{kind}": state[f"{i}.{kind}"]
                for n, i in enumerate(order)
                for kind in ("weight", "bias")
            }
        )
    shapes = [{key: list(value.shape) for key, value in member.items()} for member in members]
    for path, shape in zip(paths, shapes, strict=True):
        if shape != shapes[0]:
            raise ConversionError(
                f"{path} has layers {shape}, but {paths[0]} has {shapes[0]}: members of an ensemble must agree."
            )
    return {key: torch.stack([member[key] for member in members]) for key in members[0]}


def _last_bias(weights: StateDict, head: str) -> Tensor:
    """Bias of a head's last linear layer."""
    indices = [int(key.split(".")[1]) for key in weights if re.fullmatch(rf"{head}\.\d+\.bias", key)]
    if not indices:
        raise ConversionError(f"The checkpoint contains no {head}: convert it without keep_pretraining.")
    return weights[f"{head}.{max(indices)}.bias"]


def _hidden_sizes(weights: StateDict, head: str) -> list[int]:
    """Output widths of all but the last linear layer of a head."""
    linear = [(int(key.split(".")[1]), value.shape[0]) for key, value in weights.items()
              if re.fullmatch(rf"{head}\.\d+\.weight", key) and value.ndim == 2]  # fmt: skip
    return [width for _, width in sorted(linear)][:-1]


def _pretraining_settings(weights: StateDict) -> dict[str, Any]:
    """Configuration of what is trained beside the encoder; an objective without weights is switched off."""
    has = {name: any(key.startswith(f"{name}.") for key in weights)
           for name in ("decoder", "cell_projection", "protein_projection", "predictor")}  # fmt: skip
    defaults = SubCellConfig()
    settings: dict[str, Any] = {
        "reconstruction_weight": defaults.reconstruction_weight if has["decoder"] else 0.0,
        "cell_contrast_weight": defaults.cell_contrast_weight if has["cell_projection"] else 0.0,
        "protein_contrast_weight": defaults.protein_contrast_weight if has["protein_projection"] else 0.0,
        "protein_centroid_weight": 1.0 if has["predictor"] else 0.0,
        "probe_hidden_sizes": _hidden_sizes(weights, "probe"),
    }
    if has["decoder"]:
        width = weights["decoder.embed.weight"].shape[0]
        layers = {key.split(".")[2] for key in weights if key.startswith("decoder.layers.")}
        settings |= {
            "decoder_hidden_size": width,
            "decoder_num_hidden_layers": len(layers),
            # The published decoder has heads of 32; the weights do not determine it.
            "decoder_num_attention_heads": max(width // 32, 1),
            "decoder_intermediate_size": weights["decoder.layers.0.mlp.fc1.weight"].shape[0],
        }
    for head in ("cell_projection", "protein_projection"):
        if has[head]:
            settings["projection_hidden_sizes"] = _hidden_sizes(weights, head)
    if has["predictor"]:
        settings["centroid_hidden_sizes"] = _hidden_sizes(weights, "predictor")
    for head in ("cell_projection", "protein_projection", "predictor"):
        if has[head]:
            last = max(int(key.split(".")[1]) for key in weights if re.fullmatch(rf"{head}\.\d+\.weight", key))
            settings["projection_size"] = weights[f"{head}.{last}.weight"].shape[0]
    return settings


def _label_settings(count: int, labels: Sequence[str] | None) -> dict[str, Any]:
    known = (ontology.reported_locations(), ontology.training_locations(), ontology.challenge_locations())
    names = labels or next((locations for locations in known if len(locations) == count), None)
    if names is None:
        return {"num_labels": count}
    if len(names) != count:
        raise ConversionError(f"Got {counted(len(names), 'label')}, expected {count}, the outputs of the weights.")
    return {"id2label": dict(enumerate(names))}


def _load_strictly(model: SubCellPreTrainedModel, weights: StateDict, path: Path) -> None:
    expected = model.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    unexpected = sorted(weights.keys() - expected.keys())
    shapes = [
        f"{key}: {list(weights[key].shape)}, expected {list(expected[key].shape)}"
        for key in sorted(expected.keys() & weights.keys())
        if weights[key].shape != expected[key].shape
    ]
    if missing or unexpected or shapes:
        raise ConversionError(
            f"{path} does not match the model (our names).\n  missing: {name_some(missing)}\n"
            f"  unexpected: {name_some(unexpected)}\n"
            f"  wrong shape: {name_some(shapes)}"
        )
    model.load_state_dict(weights)


def _write_whole(model: SubCellPreTrainedModel, processor: SubCellImageProcessor, output: Path) -> Path:
    """Write beside the output and rename, so that the folder is complete whenever it is there."""
    with write_folder_atomically(output) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return output
