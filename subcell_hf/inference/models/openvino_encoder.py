"""SubCell's encoder on OpenVINO: converted in float, or in int8 as `subcell optimize` has written it."""

import math
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.utils import logging

from subcell_hf.errors import InputError
from subcell_hf.model.channel_tokens_subcell import check_images
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell import SubCellModelOutput
from subcell_hf.storage.plain_files import one_line
from subcell_hf.storage.records import find_damage, read_record

OPTIMIZATION_FILE = "optimization.json"
"""What `subcell optimize` records of an int8 model; lies beside `config.json`."""

INT8_FILE = "openvino/int8.xml"
"""The int8 encoder as OpenVINO reads it, with its weights in a `.bin` file beside it."""

AUTO_BACKEND = "auto"
BACKENDS = (AUTO_BACKEND, "torch", "openvino")
OPENVINO_PRECISIONS = ("fp32", "bf16", "int8")
_NAMES = {"fp32": "f32", "bf16": "bf16"}  # ours → OpenVINO's
_OUTPUT = "features"


def import_openvino() -> Any:
    """Import OpenVINO without openvino-telemetry, through which conversion and NNCF would report to Google Analytics.

    Returns:
        The module `openvino`.

    Raises:
        ModuleNotFoundError: If it is not installed.
    """
    cast(dict[str, Any], sys.modules).setdefault("openvino_telemetry", None)
    import openvino

    return openvino


@cache
def openvino_core() -> Any:
    """The one `openvino.Core` of this process, which is never destroyed.

    OpenVINO's CPU plugin gives the thread that loads it a stack for signal handlers, and frees that stack when the last
    core goes, in whichever thread: the next signal with a handler in Python, such as a child's end, would be fatal.
    """
    return import_openvino().Core()


def choose_openvino(backend: str, device: str, precision: str = "auto") -> str | None:
    """Decide whether a run uses OpenVINO, and on which of its devices.

    Args:
        backend: `"auto"`, `"torch"` or `"openvino"`.
        device: `"auto"`, a name of torch, or `"openvino:GPU"`, which needs no `backend`.
        precision: With `"int8"`, `"auto"` is OpenVINO.

    Returns:
        OpenVINO's name of the device, such as `"CPU"`; None for torch, and where it is to be measured what is faster.

    Raises:
        InputError: If the backend is unknown, or the device is not OpenVINO's or not present.
    """
    if backend not in BACKENDS:
        raise InputError(f"Unknown engine backend {backend!r}: choose one of {', '.join(BACKENDS)}.")
    kind, _, own = device.partition(":")
    if kind != "openvino":
        if backend == "torch" or (backend == AUTO_BACKEND and precision != "int8"):
            return None
        if device not in ("auto", "cpu"):
            raise InputError(
                f"The device {device!r} is torch's, and the engine backend is openvino. Leave the device out for the "
                "CPU, or give openvino:GPU."
            )
    own = own or "CPU"
    try:
        openvino_core().get_property(own, "FULL_DEVICE_NAME")
    except RuntimeError as error:
        there = ", ".join(openvino_core().available_devices)
        raise InputError(f"OpenVINO cannot use the device {own!r} on this machine; it has {there}.") from error
    return own


def choose_openvino_precision(asked: str, folders: Mapping[str, Path]) -> str:
    """Choose the precision of models on OpenVINO: by default int8 if all of them are optimized.

    Args:
        asked: `"auto"`, `"fp32"`, `"bf16"` or `"int8"`.
        folders: Name → folder of the models.

    Returns:
        `"fp32"`, `"bf16"` or `"int8"`.

    Raises:
        InputError: If the name is unknown, or a model is not optimized where int8 was asked for.
    """
    if asked not in ("auto", *OPENVINO_PRECISIONS):
        raise InputError(f"Unknown precision {asked!r}: choose one of {', '.join(('auto', *OPENVINO_PRECISIONS))}.")
    missing = [name for name, folder in folders.items() if not (folder / OPTIMIZATION_FILE).is_file()]
    if asked == "int8" and missing:
        raise InputError(
            f"{missing[0]} has no int8 model (no {OPTIMIZATION_FILE}): `subcell optimize` makes one, and int8 needs it."
        )
    if asked == "auto":
        return "fp32" if missing else "int8"
    return asked


def read_optimization(folder: Path) -> dict[str, Any]:
    """Read what is recorded of the int8 model of a folder, and check that its files are as they were written.

    Args:
        folder: Output folder of `subcell optimize`.

    Returns:
        Content of `optimization.json`.

    Raises:
        InputError: If the record is missing or damaged, or a file is not as it was judged.
    """
    record = read_record(folder / OPTIMIZATION_FILE)
    if record is None:
        raise InputError(
            f"{folder / OPTIMIZATION_FILE} is missing or damaged: copy the folder again, or run `subcell optimize` "
            "again."
        )
    if damage := find_damage(folder, record["files"]):
        raise InputError(
            f"{folder} is not as it was judged: {'; '.join(damage)}. Copy the folder again, or run `subcell optimize` "
            "again."
        )
    return record


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return find_spec("openvino") is not None


def compile_graph(graph: Any, device: str, precision: str) -> Any:
    """Compile a model of OpenVINO for one request at a time.

    Args:
        graph: Model of OpenVINO, or path of one.
        device: OpenVINO's name of the device.
        precision: `"fp32"` or `"bf16"`, of whatever is not in int8.

    Returns:
        `openvino.CompiledModel`.

    Raises:
        InputError: If the model cannot be read, or the device cannot run it.
    """
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _NAMES[precision], "PERFORMANCE_HINT": "LATENCY"}
    if device == "CPU":
        # Threads that are bound to cores would wait for other processes there.
        settings |= {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "ENABLE_CPU_PINNING": False}
    try:
        return openvino_core().compile_model(graph, device, settings)
    except RuntimeError as error:
        raise InputError(f"OpenVINO cannot run the model on {device}: {one_line(error)}") from error


class OpenVINOEncoder(nn.Module):
    """Takes the place of a `SubCellModel`: OpenVINO computes the tokens, torch pools them in float32.

    Args:
        encoder: The model, of which configuration and pooling are used.
        graph: Model of OpenVINO, or path of one, as `convert_encoder` makes it.
        device: OpenVINO's name of the device.
        precision: `"fp32"` or `"bf16"`, of whatever is not in int8.

    Raises:
        InputError: If the model cannot be read, or the device cannot run it.
    """

    def __init__(self, encoder: nn.Module, graph: Any, device: str = "CPU", precision: str = "fp32") -> None:
        super().__init__()
        own: Any = encoder
        self.config: SubCellConfig = own.config
        self.pooler: nn.Module = own.pooler
        self._compiled = compile_graph(graph, device, precision)
        self._free = threading.Lock()

    def forward(
        self,
        pixel_values: Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: Any = None,
        interpolate_pos_encoding: bool = True,
        channels: Sequence[str] | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Embed images; see `SubCellModel.forward`.

        Args:
            pixel_values: `[batch, channels, height, width]`.
            output_attentions: Must be false: attentions of the layers are not computed.
            output_hidden_states: Must be false, likewise.
            interpolate_pos_encoding: Must be true: images may have any size that patches divide.
            channels: Must be those of the configuration in their order, for which the model was converted.
            return_dict: False returns a tuple.

        Raises:
            ValueError: If the images have the wrong shape, or something is asked for that is not computed.
        """
        if output_attentions or output_hidden_states not in (None, False) or not interpolate_pos_encoding:
            raise ValueError(
                "The model runs on OpenVINO, which computes embeddings, pooler_attentions and last_hidden_state only, "
                "for images of any size: load the model without it for attentions, hidden states, or "
                "interpolate_pos_encoding=False."
            )
        if channels is not None and list(channels) != list(self.config.channels):
            raise ValueError(
                f"channels are {', '.join(channels)}; the model was converted to OpenVINO for "
                f"{', '.join(self.config.channels)}. Load it without OpenVINO for other channels."
            )
        check_images(self.config, pixel_values)
        self._check_size(pixel_values)
        with self._free:
            found = self._compiled({"pixel_values": pixel_values.detach().float().cpu().numpy()})
            tokens = torch.from_numpy(found[_OUTPUT])
        size = self.config.patch_size
        grid = (pixel_values.shape[-2] // size, pixel_values.shape[-1] // size)
        if self.config.backbone_config is not None:  # [batch, width, rows, columns]
            grid = (tokens.shape[-2], tokens.shape[-1])
            tokens = tokens.flatten(2).transpose(1, 2)
        pooled, weights = self.pooler(tokens)
        patches = None if weights is None else torch.unflatten(weights[:, :, -math.prod(grid) :], -1, grid)
        outputs = SubCellModelOutput(last_hidden_state=tokens, pooler_output=pooled, pooler_attentions=patches)
        return outputs.to_tuple() if return_dict is False else outputs

    def _check_size(self, pixel_values: Tensor) -> None:
        """Refuse images of one row or column of patches, for which OpenVINO interpolates positions otherwise."""
        config, size = self.config, self.config.patch_size
        pairs = zip(pixel_values.shape[-2:], config.image_height_width, strict=True)
        if config.backbone_config is None and any(edge == size != own for edge, own in pairs):
            raise ValueError(
                f"pixel_values are {pixel_values.shape[-2]}×{pixel_values.shape[-1]} px; on OpenVINO both edges must "
                f"be at least {2 * size} px, two patches. Pad the images, or load the model without OpenVINO."
            )


def convert_encoder(encoder: nn.Module) -> Any:
    """Convert an encoder without its pooling to OpenVINO, for any number and size of images.

    Args:
        encoder: `SubCellModel` in float32, on the CPU.

    Returns:
        `openvino.Model` with the input `pixel_values` and the output `features`: `[batch, tokens, width]`, or
        `[batch, width, rows, columns]` of a backbone.

    Raises:
        InputError: If the model takes any channels by name.
    """
    config: Any = encoder.config
    if config.channel_tokens == "separate":
        raise InputError("A model with separate channel tokens does not run on OpenVINO: --engine-backend torch.")
    # A small image is enough for a trace of any size, and takes no time.
    size = (
        (2 * config.patch_size, 3 * config.patch_size) if config.backbone_config is None else config.image_height_width
    )
    graph = trace_to_openvino(_Features(encoder), {"pixel_values": torch.zeros(1, config.num_channels, *size)})
    graph.reshape({graph.input(0): [-1, config.num_channels, -1, -1]})
    return graph


def trace_to_openvino(module: nn.Module, example: Mapping[str, Tensor], *, check: bool = True) -> Any:
    """Trace a module to a model of OpenVINO.

    Args:
        module: Returns a tensor or a dict of tensors.
        example: Name → input.
        check: Whether torch traces a second time and compares, which is most of the work for a small module.

    Returns:
        `openvino.Model`, whose constants may be the module's own weights.
    """
    with _quiet():
        traced: Any = module.eval()
        if not check:
            traced = torch.jit.trace(traced, example_kwarg_inputs=dict(example), check_trace=False)
        return import_openvino().convert_model(traced, example_input=dict(example))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's and transformers' warnings that a trace reads every attribute and fixes checks of shapes."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.set_verbosity(verbosity)


class _Features(nn.Module):
    """What is converted: a trace can neither have options nor return a dataclass."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder: Any = encoder

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        if self.encoder.config.backbone_config is not None:
            return {_OUTPUT: self.encoder.backbone(pixel_values, return_dict=True).feature_maps[-1]}
        found = self.encoder(pixel_values, output_attentions=False, output_hidden_states=False, return_dict=True)
        return {_OUTPUT: found.last_hidden_state}


def open_encoder(encoder: nn.Module, folder: Path, precision: str, device: str = "CPU") -> OpenVINOEncoder:
    """Put an encoder on OpenVINO.

    Args:
        encoder: `SubCellModel` with the weights of the folder, in float32, on the CPU.
        folder: Folder of the model.
        precision: `"fp32"`, `"bf16"` or `"int8"`.
        device: OpenVINO's name of the device.

    Raises:
        InputError: If the int8 model is missing or damaged, or the device cannot run it.
    """
    if precision != "int8":
        return OpenVINOEncoder(encoder, convert_encoder(encoder), device, precision)
    return OpenVINOEncoder(encoder, folder / INT8_FILE, device, read_optimization(folder)["float_precision"])


def run_on_openvino(
    model: nn.Module, folder: str | Path, precision: str = "auto", device: str = "openvino:CPU"
) -> nn.Module:
    """Let the encoder of a loaded model run on OpenVINO, for a pipeline or your own code.

    Example:
        ```python
        from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
        from subcell_hf.inference import run_on_openvino

        model = AutoModelForImageClassification.from_pretrained("optimized")
        processor = AutoImageProcessor.from_pretrained("optimized")
        model = run_on_openvino(model, "optimized")
        locate = pipeline("subcell-localization", model=model, image_processor=processor)
        ```

    Args:
        model: `SubCellModel` or `SubCellForImageClassification` in float32, on the CPU, loaded from the folder. A
            classifier is changed.
        folder: Folder of the model.
        precision: `"fp32"`, `"bf16"`, `"int8"`, or `"auto"`: int8 if `subcell optimize` wrote the folder.
        device: `"openvino:CPU"` or `"openvino:GPU"`.

    Returns:
        The classifier, whose encoder runs on OpenVINO; or a module in the place of the encoder.

    Raises:
        InputError: If the device is not present, or the folder has no sound int8 model where it was asked for.
    """
    own, folder = choose_openvino("openvino", device), Path(folder)
    precision = choose_openvino_precision(precision, {str(folder): folder})
    whole: Any = model
    encoder = open_encoder(getattr(whole, "subcell", whole), folder, precision, own or "CPU")
    if not hasattr(whole, "subcell"):
        return encoder
    whole.subcell = encoder
    return model
