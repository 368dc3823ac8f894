"""A model's folder, checked before anything is computed with it: configuration, image processor and weights.

Every command that takes a model reads it through this file, so that a damaged, foreign or hostile folder gives one
sentence that names the file. Nothing of a folder is run, and no pickle is opened.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open

from subcell_hf.errors import InputError
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellForImageClassification, SubCellModel, SubCellPreTrainedModel
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining
from subcell_hf.storage.plain_files import explaining, read_json, refuse_lfs_pointer

CONFIG_FILE = "config.json"
PROCESSOR_FILE = "preprocessor_config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ADAPTER_FILE = "adapter_config.json"

MODEL_CLASSES: dict[str, type[SubCellPreTrainedModel]] = {
    kind.__name__: kind for kind in (SubCellModel, SubCellForImageClassification, SubCellForPreTraining)
}
"""What `architectures` of a configuration may name."""

_FLOATS = ("F16", "BF16", "F32", "F64")  # eight-bit kinds mean nothing without their scales
_MOST_PARAMETERS = 20_000_000_000
_MOST_LAYERS = 1000
_MOST_EDGE_PX = 16_384
_LEADING_ELSEWHERE = (
    "transformers_weights", "quantization_config", "attn_implementation", "_attn_implementation",
    "_attn_implementation_internal",
)  # fmt: skip
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]*\.safetensors")

Model = TypeVar("Model", bound=SubCellPreTrainedModel)


def check_model(folder: Path) -> SubCellConfig:
    """Check configuration and weights of a folder against each other, without loading a tensor.

    Args:
        folder: A trained, converted or downloaded model's folder.

    Returns:
        The configuration.

    Raises:
        InputError: If a file is missing, damaged or of another kind of model, or the weights are not those of the
            configuration: a tensor is missing, unknown, or of another shape.
    """
    config = read_config(folder)
    files = check_weights(folder)
    empty = build_empty(config, folder).state_dict()
    expected = {name: (value.is_floating_point(), list(value.shape)) for name, value in empty.items()}
    found: dict[str, tuple[bool, list[int]]] = {}
    for path in files:
        found |= _open_weights(path)
    where = f"The weights in {folder} do not match its {CONFIG_FILE}"
    remedy = "Fetch the folder again, or write it again."
    if missing := sorted(expected.keys() - found.keys()):
        raise InputError(f"{where}: {len(missing)} are missing, such as {missing[0]}. {remedy}")
    if unknown := sorted(found.keys() - expected.keys()):
        raise InputError(f"{where}: {len(unknown)} are not part of that model, such as {unknown[0]}. {remedy}")
    if other := [name for name in expected if found[name] != expected[name]]:
        raise InputError(
            f"{where}: {len(other)} have another shape or kind, such as {other[0]}: {_describe(found[other[0]])}, "
            f"expected {_describe(expected[other[0]])}. {remedy}"
        )
    return config


def load_model(folder: Path) -> SubCellPreTrainedModel:
    """Load the model that a folder holds, of the class that its configuration names.

    Args:
        folder: Folder with `config.json` and safetensors weights.

    Returns:
        The model in the precision in which it was saved, ready for inference.

    Raises:
        InputError: As `check_model` and `load_weights`.
    """
    config = check_model(folder)
    return load_weights(MODEL_CLASSES[_architecture(config, folder)], folder, config, dtype="auto")


def load_weights(
    kind: type[Model],
    folder: Path,
    config: SubCellConfig | None = None,
    dtype: torch.dtype | str = torch.float32,
) -> Model:
    """Load a folder's weights into a model; parts that the folder's class does not have are new.

    Args:
        kind: Class of the model.
        folder: Where `check_model` has found no fault, if a configuration is given.
        config: Of the model; None for the folder's own.
        dtype: Of the parameters; `"auto"` for that of the file.

    Raises:
        InputError: If the folder cannot be used, a weight has another shape than `config` says, or is not finite.
    """
    config = config or check_model(folder)
    with explaining(folder, "Fetch it again, or choose a model that matches its weights."):
        model: Model = kind.from_pretrained(folder, config=config, dtype=dtype)
    check_finite(model.state_dict(), str(folder))
    model.eval()
    return model


@contextmanager
def weights_from_seed(seed: int) -> Iterator[None]:
    """Draw the weights of models that are made inside from a seed; torch's default generator is left as it was.

    torch initializes layers from its default generator, on the CPU, and takes no other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def check_finite(weights: Mapping[str, torch.Tensor], where: str) -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        InputError: Naming the first of them.
    """
    broken = [name for name, value in weights.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise InputError(
            f"{where} holds NaN or infinite weights in {broken[0]}"
            f"{f' and {len(broken) - 1} more' if len(broken) > 1 else ''}: fetch it again, or use a checkpoint from "
            "before that."
        )


def read_config(folder: Path) -> SubCellConfig:
    """Read `config.json`.

    Raises:
        InputError: If it is missing, damaged, of another kind of model, or says what cannot be.
    """
    path = folder / CONFIG_FILE
    if not path.is_file() and (folder / "model" / CONFIG_FILE).is_file():
        raise InputError(f"{folder} has no {CONFIG_FILE}, but {folder / 'model'} has: give that folder.")
    values = _read_json(path)
    if values.get("model_type") != SubCellConfig.model_type:
        raise InputError(
            f"{path} is of a model of type {values.get('model_type')!r}, expected {SubCellConfig.model_type!r}: "
            "`subcell convert` and training make such folders."
        )
    if leading := _leads_elsewhere(values):
        raise InputError(
            f"{path} sets {leading}, by which transformers would take other weights or code than this folder's: remove "
            "it. Do not use a model from a source that you do not trust."
        )
    with explaining(path):
        config: SubCellConfig = SubCellConfig.from_dict(values)
        _architecture(config, folder)
        labels = config.id2label or {}
        if sorted(labels) != list(range(len(labels))) or not all(isinstance(name, str) for name in labels.values()):
            raise ValueError(f"id2label numbers {list(labels)[:5]} …, expected names by the numbers from 0 on")
        if len(set(labels.values())) != len(labels):
            raise ValueError("id2label has a name twice, expected every class once")
        layers = max(config.num_hidden_layers, config.decoder_num_hidden_layers)
        if layers > _MOST_LAYERS or max(config.image_height_width) > _MOST_EDGE_PX:
            raise ValueError(
                f"{layers} layers and images of {config.image_size} px, expected at most {_MOST_LAYERS} layers and "
                f"{_MOST_EDGE_PX} px"
            )
    return config


def build_empty(config: SubCellConfig, folder: Path) -> SubCellPreTrainedModel:
    """The model of a configuration without any memory for its weights.

    Raises:
        InputError: If it cannot be built, or has more parameters than any such model.
    """
    path = folder / CONFIG_FILE
    with explaining(path), torch.device("meta"):
        model = MODEL_CLASSES[_architecture(config, folder)](config)
        size = sum(value.numel() for value in model.state_dict().values())
        if size > _MOST_PARAMETERS:
            raise ValueError(f"it asks for {size:,} parameters, expected at most {_MOST_PARAMETERS:,}")
    return model


def read_processor(folder: Path, config: SubCellConfig) -> SubCellImageProcessor:
    """Read `preprocessor_config.json`.

    Args:
        folder: Of the model.
        config: The model's, whose channels the processor must make.

    Raises:
        InputError: If the file is missing, damaged, of another kind of model or makes other channels.
    """
    path = folder / PROCESSOR_FILE
    values = _read_json(path)
    kind = values.get("image_processor_type", SubCellImageProcessor.__name__)
    if kind != SubCellImageProcessor.__name__:
        raise InputError(f"{path} is of a {kind!r}, expected {SubCellImageProcessor.__name__}. Write it again.")
    with explaining(path):
        processor: SubCellImageProcessor = SubCellImageProcessor.from_dict(values)
        switches = ("do_resize", "do_center_crop", "do_pad", "do_normalize", "do_mask")
        wrong = [name for name in switches if not isinstance(getattr(processor, name), bool)]
        if wrong:
            raise ValueError(f"{wrong[0]} is {getattr(processor, wrong[0])!r}, expected true or false")
        if max(processor.size.values()) > _MOST_EDGE_PX:
            raise ValueError(f"size is {processor.size}, expected at most {_MOST_EDGE_PX} px")
    if processor.channel_tokens != config.channel_tokens:
        raise InputError(
            f"{path} is for channel_tokens={processor.channel_tokens!r}, the model has {config.channel_tokens!r}: "
            "write the processor again with SubCellImageProcessor(channels=…, channel_tokens=…)."
        )
    if list(processor.channels) != list(config.channels):
        raise InputError(
            f"{path} makes {', '.join(processor.channels)}, the model takes {', '.join(config.channels)}: write the "
            "processor again with SubCellImageProcessor(channels=…)."
        )
    return processor


def check_weights(folder: Path) -> tuple[Path, ...]:
    """Check the safetensors files of a folder without loading a tensor.

    Args:
        folder: With `model.safetensors`, or `model.safetensors.index.json` and the files that it names.

    Returns:
        The files.

    Raises:
        InputError: If there are none, one is damaged or truncated, or the index is damaged or names anything but plain
            files of the folder.
    """
    if not folder.is_dir():
        raise InputError(
            f"The folder {folder} does not exist: give the folder of a trained, converted or downloaded model."
        )
    if (folder / ADAPTER_FILE).exists():
        raise InputError(
            f"{folder} has an {ADAPTER_FILE}, so that transformers would load another model and adapt it: merge the "
            "adapter (merge_and_unload of peft) and save the whole model."
        )
    if (folder / WEIGHTS_FILE).is_file():
        _open_weights(folder / WEIGHTS_FILE)
        return (folder / WEIGHTS_FILE,)
    if not (folder / INDEX_FILE).is_file():
        pickles = ", ".join(sorted(path.name for path in folder.glob("*.bin")))
        instead = f" (it has {pickles}, a pickle, which is not opened)" if pickles else ""
        if (folder / WEIGHTS_FILE).is_symlink():
            instead = f" ({WEIGHTS_FILE} is a link to {(folder / WEIGHTS_FILE).readlink()}, which does not exist)"
        raise InputError(
            f"{folder} has no {WEIGHTS_FILE}{instead}: give a folder that save_pretrained, a training run or "
            "`subcell convert` wrote."
        )
    named = _read_index(folder / INDEX_FILE)
    for name, tensors in named.items():
        missing = sorted(tensors - _open_weights(folder / name).keys())
        if missing:
            raise InputError(f"{folder / name} lacks {missing[0]}, listed in {INDEX_FILE}: fetch it again.")
    return tuple(folder / name for name in sorted(named))


def _leads_elsewhere(values: Any) -> str | None:
    """The first key of a configuration, at any depth, that makes transformers load something else or run other code."""
    if isinstance(values, dict):
        found = next((name for name in _LEADING_ELSEWHERE if values.get(name) is not None), None)
        return found or next(filter(None, map(_leads_elsewhere, values.values())), None)
    return next(filter(None, map(_leads_elsewhere, values)), None) if isinstance(values, list) else None


def _architecture(config: SubCellConfig, folder: Path) -> str:
    """The class that a configuration names."""
    named = config.architectures
    name = named[0] if isinstance(named, list | tuple) and named else "no class"
    if not isinstance(name, str) or name not in MODEL_CLASSES:
        raise InputError(f"{folder} holds {name}: expected one of {', '.join(MODEL_CLASSES)}.")
    return name


def _read_json(path: Path) -> dict[str, Any]:
    """A mapping from a JSON file, with or without a byte order mark."""
    if not path.parent.is_dir():
        raise InputError(
            f"The folder {path.parent} does not exist: give the folder of a trained, converted or downloaded model."
        )
    if not path.exists() and not path.is_symlink():
        raise InputError(f"{path.parent} has no {path.name}: give a trained, converted or downloaded model's folder.")
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a {type(values).__name__}, expected a JSON object. Fetch it again.")
    endless = [name for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)]
    if endless:
        raise InputError(f"{path} says {endless[0]}: {values[endless[0]]}, expected a finite number. Fetch it again.")
    return values


def _read_index(path: Path) -> dict[str, set[str]]:
    """File name → names of its tensors."""
    content = read_json(path)
    tensors = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not tensors:
        raise InputError(f"{path} is not an index of weights: it has no weight_map of names. Fetch it again.")
    named: dict[str, set[str]] = {}
    for tensor, name in tensors.items():
        if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
            raise InputError(
                f"{path} names the file {name!r}: expected plain names such as model-00001-of-00002.safetensors, "
                "without folders. Do not use weights from a source that you do not trust."
            )
        named.setdefault(name, set()).add(tensor)
    if not isinstance(content.get("metadata"), dict):
        raise InputError(f"{path} is not an index of weights: it has no metadata. Fetch it again.")
    return named


def _describe(tensor: tuple[bool, list[int]]) -> str:
    return f"{tensor[1]} of {'floating-point' if tensor[0] else 'other'} numbers"


def _open_weights(path: Path) -> dict[str, tuple[bool, list[int]]]:
    """Name → whether it holds floats, and shape; opening compares the header with the size of the file."""
    if not path.is_file():
        raise InputError(f"{path} is missing, though the index names it: fetch it again.")
    with path.open("rb") as start:
        refuse_lfs_pointer(path, start.read(100))
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            slices = {name: file.get_slice(name) for name in names}
            return {name: (part.get_dtype() in _FLOATS, list(part.get_shape())) for name, part in slices.items()}
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{path} is damaged or truncated ({error}): fetch or write it again.") from error
