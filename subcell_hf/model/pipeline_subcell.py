"""Files or arrays of single cells in, protein locations out."""

import copy
import os
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForImageClassification, Pipeline

from .channels_subcell import plan_passes
from .configuration_subcell import CUSTOM_PIPELINES, TASK
from .image_files_subcell import (
    LARGEST_ANISOTROPY,
    ImageFile,
    UnfitFileError,
    plane_of,
    read_bytes,
    read_channels,
    read_file,
    read_mask,
    read_plane,
    refuse_palette,
)
from .locations_subcell import novelty_p_values

Pixels = NDArray[Any]

__all__ = ["TASK", "ImageFile", "SubCellPipeline", "read_file", "read_plane"]

RESULT_OPTIONS = {
    "top_k": 5, "threshold": None, "function_to_apply": None, "return_embedding": False, "return_attention": False,
    "return_location_set": False, "return_novelty": False,
}  # fmt: skip
_CALIBRATE = "run `subcell calibrate`"
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda logits: logits.softmax(-1),
    "none": lambda logits: logits,
}


class SubCellPipeline(Pipeline):
    """Locates proteins in images of single cells.

    Example:
        ```python
        from transformers import pipeline

        locate = pipeline(model="folder-or-repository", trust_remote_code=True)
        locate({"red": "c_red.png", "yellow": "c_yellow.png", "blue": "c_blue.png", "green": "c_green.png"})
        # [{"label": "Nucleoplasm", "score": 0.93}, …]
        ```

    An input is a dict of planes `{colour: file or array}`, a file with all channels, an array or an image of Pillow as
    the image processor takes it, or a dict `{"image": that file or array}`; or a list, dataset or generator of these. A
    dict may also hold `"cell_mask"` (file or array), `"pixel_size_um"` and, beside `"image"`, `"channels"`.

    A file with all channels, given by its path or as bytes, is a TIFF, OME-TIFF or `.npy` with one plane for each, a
    channel sheet, or an RGB picture where each channel of the model is red, green or blue; for both see
    `SubCellImageProcessor.split_picture`. Planes may also be PNG or JPEG: grey of 8 or 16 bits, or RGB in which only
    the channel's own colour carries signal. The planes of a file with all channels are in the model's order, unless
    `channels` says otherwise or an OME-TIFF names them as the model or the channel mapping does. An OME-TIFF's own
    pixel size counts where none is given. URLs are refused.

    Options, at construction or call, beside what the image processor takes (`channels`, `pixel_size_um`,
    `channel_mapping`, `size`, …):

    * `top_k`: how many locations, best first; 5 by default, None for all.
    * `threshold`: the least score of a location that is reported; by default all are.
    * `function_to_apply`: what makes scores of logits, `"sigmoid"`, `"softmax"` or `"none"`; by default as trained.
    * `return_embedding`, `return_attention`: add the embedding `[width]` and the pooler's map `[heads, rows, columns]`,
      float32 numpy arrays.
    * `return_location_set`: add `"location_set"`, the names of the locations that a calibrated model guarantees.
    * `return_novelty`: add `"novelty_p_value"`; small if few cells of the model's calibration are as unusual.
    * `batch_size`: cells per forward.

    A model with separate channel tokens takes the channels that an input has, which must be the same for all cells of a
    batch; with `return_attention` a result then also has `"channel_attention"`, a map for each channel by name.

    A result is a list of `{"label", "score"}`, or with an embedding or a map a dict `{"locations", "embedding",
    "attention"}`. Where the channel mapping lists several proteins, locations are a dict by protein, embeddings are
    concatenated, and maps have a leading axis of proteins.

    Raises:
        ValueError: If an input cannot be read or does not fit the model; the message names it and the remedy.
    """

    image_processor: Any
    _load_image_processor: Any = True
    _load_feature_extractor: Any = False
    _load_processor: Any = False
    _load_tokenizer: Any = False
    _load_video_processor: Any = False
    _registered_impl: ClassVar[dict[str, Any]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = self.model.config
        if getattr(config, "custom_pipelines", None):
            # Loading turned the names of classes in it into classes, with which the configuration cannot be saved.
            config.custom_pipelines = copy.deepcopy(CUSTOM_PIPELINES)
        made = list(getattr(self.image_processor, "channels", []))
        self._separate = getattr(config, "channel_tokens", "joint") == "separate"
        if self._separate is not getattr(self.image_processor, "is_separate", False):
            raise ValueError(
                f"The image processor is not made for the model's channel_tokens={config.channel_tokens!r}; pass "
                "image_processor=SubCellImageProcessor(channels=…, channel_tokens=…) that fits."
            )
        if made != list(config.channels):
            raise ValueError(
                f"The image processor makes the channels {', '.join(made)}, the model wants "
                f"{', '.join(config.channels)}; pass image_processor=SubCellImageProcessor(channels=…) that fits."
            )

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Locate the proteins; see the class for inputs, options and results."""
        call: Callable[..., Any] = super().__call__
        if isinstance(inputs, list | tuple) or getattr(inputs, "ndim", 0) == 4:
            numbered = [_Numbered(number, item) for number, item in enumerate(inputs)]
            return call(numbered, *args, **kwargs) if numbered else []
        return call(inputs, *args, **kwargs)

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        after = {name: parameters.pop(name) for name in RESULT_OPTIONS if name in parameters}
        top_k, threshold, function = after.get("top_k"), after.get("threshold"), after.get("function_to_apply")
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k={top_k!r}; expected a whole number above 0, or None for all locations.")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold!r}; expected a score from 0 to 1.")
        if function is not None and function not in FUNCTIONS:
            raise ValueError(f"function_to_apply={function!r}; expected one of {', '.join(FUNCTIONS)}.")
        return parameters, {}, after

    def preprocess(self, input_: Any, **settings: Any) -> dict[str, Any]:
        """Read one cell: `pixel_values` `[1, channels, height, width]`, or `[1, proteins, channels, height, width]`."""
        number, item = input_ if isinstance(input_, _Numbered) else (None, input_)
        try:
            return self._read(item, dict(settings))
        except Exception as error:
            if number is not None:
                error.add_note(f"This was input {number} of the list.")
            raise

    def _read(self, item: Any, settings: dict[str, Any]) -> dict[str, Any]:
        known = self._known_planes(settings)
        item = dict(item) if isinstance(item, Mapping) else {"image": item}
        mask, own_pixel_size_um = item.pop("cell_mask", None), item.pop("pixel_size_um", None)
        if own_pixel_size_um is not None:
            settings["pixel_size_um"] = own_pixel_size_um
        if "image" in item and "image" not in known:
            image, own_channels = item.pop("image"), item.pop("channels", None)
            if item:
                raise ValueError(
                    f"Beside 'image' is {', '.join(item)}; expected 'cell_mask', 'pixel_size_um', 'channels'."
                )
            settings["channels"] = own_channels or settings.get("channels")
            if isinstance(image, str | os.PathLike | bytes | bytearray):
                image = _read_all_planes(image, known, lambda present: self._plan(present, settings), settings)
        else:
            stray = [name for name in item if name not in known and ("mask" in name or "pixel" in name)]
            if stray:
                raise ValueError(f"The input holds {', '.join(stray)}; expected planes, 'cell_mask', 'pixel_size_um'.")
            image = _read_planes(item, self._plan(list(item), settings)[1], settings)
        masks = None if mask is None else [read_mask(mask, "cell_mask")]
        prepared = self.image_processor.preprocess(image, masks, **settings)
        pixel_values = prepared["pixel_values"]
        if len(pixel_values) != 1:
            raise ValueError(f"One input holds {len(pixel_values)} cells; give a list with one input per cell.")
        proteins = [list(names) for names in self._mapping(settings).values() if not isinstance(names, str)]
        found = {"pixel_values": pixel_values, "proteins": proteins[0] if proteins else None}
        return found | {"channels": prepared["channels"]} if self._separate else found

    def _mapping(self, settings: dict[str, Any]) -> Mapping[str, Any]:
        given = settings.get("channel_mapping")
        return (self.image_processor.channel_mapping if given is None else given) or {}

    def _known_planes(self, settings: dict[str, Any]) -> set[str]:
        """Names of planes that an input may have; all of them where channels are joint."""
        if not self._separate:
            return self._plan(None, settings)[1]
        listed = [[names] if isinstance(names, str) else names for names in self._mapping(settings).values()]
        return {*self.image_processor.channels, *(name for names in listed for name in names)}

    def _plan(self, present: list[str] | None, settings: dict[str, Any]) -> tuple[list[str], set[str]]:
        """Names of an input's planes in the model's order (none if proteins share a place), and of all to be read."""
        processor, mapping = self.image_processor, self._mapping(settings)
        made = processor.choose_channels(present, mapping) if self._separate else processor.channels
        passes, several = plan_passes(made, mapping)
        return [] if several else passes[0], {name for names in passes for name in names}

    def _forward(self, input_tensors: Any, **forward_parameters: Any) -> Any:
        pixel_values = input_tensors["pixel_values"]  # [cells, channels, height, width], or proteins as second axis
        named: dict[str, Any] = {"channels": _one_set(input_tensors["channels"])} if self._separate else {}
        outputs = self.model(pixel_values=pixel_values.flatten(0, -4), return_dict=True, **named)
        tensors = {
            "logits": outputs.logits,
            "embedding": outputs.pooler_output,
            "attention": outputs.pooler_attentions,
            "channel_attention": outputs.channel_attentions if self._separate else None,
        }
        passes = pixel_values.shape[:-3]
        results = {name: None if t is None else t.float().unflatten(0, passes) for name, t in tensors.items()}
        return {**results, **{name: input_tensors[name] for name in ("proteins", "channels") if name in input_tensors}}

    def postprocess(self, model_outputs: Any, **postprocess_parameters: Any) -> Any:
        """Turn one cell's outputs into locations, best first; see the class."""
        options: dict[str, Any] = {**RESULT_OPTIONS, **postprocess_parameters}
        logits, proteins = model_outputs["logits"][0], model_outputs["proteins"]  # [labels] or [proteins, labels]
        multi_label = self.model.config.problem_type != "single_label_classification"
        scores = FUNCTIONS[options["function_to_apply"] or ("sigmoid" if multi_label else "softmax")](logits)
        ranked = [
            self._rank(row, options["top_k"], options["threshold"]) for row in scores.reshape(-1, scores.shape[-1])
        ]
        result: dict[str, Any] = {
            "locations": ranked[0] if proteins is None else dict(zip(proteins, ranked, strict=True))
        }
        if options["return_embedding"]:
            result["embedding"] = model_outputs["embedding"][0].flatten().numpy()
        if options["return_location_set"]:
            result["location_set"] = self._location_set(scores.reshape(-1, scores.shape[-1]), options)
        if options["return_novelty"]:
            novelty: Any = getattr(self.model.config, "novelty", None)
            if novelty is None:
                raise ValueError(f"The model's novelty is not calibrated; leave return_novelty out, or {_CALIBRATE}.")
            embedding = model_outputs["embedding"][0].reshape(1, -1).numpy()
            result["novelty_p_value"] = float(novelty_p_values(embedding, novelty)[0])
        if options["return_attention"]:
            if model_outputs["attention"] is None:
                raise ValueError("This model's pooling has no attention map; leave return_attention out.")
            result["attention"] = model_outputs["attention"][0].numpy()
            if self._separate:
                maps = model_outputs["channel_attention"][0].unbind(-3)
                result["channel_attention"] = {
                    name: one.numpy() for name, one in zip(model_outputs["channels"], maps, strict=True)
                }
        return result if len(result) > 1 else result["locations"]

    def _location_set(self, scores: Tensor, options: dict[str, Any]) -> list[str]:
        """Locations whose probability, of several passes the mean, reaches the calibrated threshold."""
        sets: Any = getattr(self.model.config, "location_sets", None)
        if sets is None:
            raise ValueError(f"The model is not calibrated; leave return_location_set out, or {_CALIBRATE}.")
        if options["function_to_apply"] is not None:
            raise ValueError("Sets of locations are calibrated for probabilities; leave function_to_apply out.")
        names: Any = self.model.config.id2label
        return [names[n] for n, score in enumerate(scores.mean(0).tolist()) if score >= sets["threshold"]]

    def _rank(self, scores: Tensor, top_k: int | None, threshold: float | None) -> list[dict[str, Any]]:
        values, indices = scores.sort(descending=True, stable=True)
        pairs = list(zip(values.tolist(), indices.tolist(), strict=True))[:top_k]
        names: Any = self.model.config.id2label
        return [
            {"label": names[index], "score": score} for score, index in pairs if threshold is None or score >= threshold
        ]


class _Numbered(NamedTuple):
    """An input and its place in the list, for messages."""

    number: int
    item: Any


# `save_pretrained` of a pipeline writes its code and `custom_pipelines` from this.
SubCellPipeline._registered_impl = {
    TASK: {"impl": SubCellPipeline, "pt": (AutoModelForImageClassification,), "type": "image"}
}


def _one_set(listed: list[Any]) -> list[str]:
    """The channels of a batch, which lists them for each cell, or of one cell."""
    sets: list[list[str]] = listed if isinstance(listed[0], list) else [listed]
    if any(names != sets[0] for names in sets):
        raise ValueError("Cells of one batch have different channels; sort them, or set batch_size=1.")
    return sets[0]


def _read_planes(planes: Mapping[str, Any], wanted: set[str], settings: dict[str, Any]) -> dict[str, Any]:
    """Read a file per channel; the pixel size on which they agree settles what the user left open."""
    read = {}
    sizes_um: dict[float, Any] = {}
    channels: dict[str, str] = {}
    for channel, source in planes.items():
        read[channel] = source
        if channel in wanted and isinstance(source, str | os.PathLike):
            other = channels.setdefault(os.path.realpath(source), channel)
            if other != channel:
                raise ValueError(f"{source} is given for both {other} and {channel}; expected a file for each.")
            file = read_file(source)
            read[channel] = plane_of(file, channel, source)
            size_um = None if settings.get("pixel_size_um") is not None else _pixel_size_of(file, source)
            if size_um is not None:
                sizes_um[size_um] = source
    if sizes_um:
        if max(sizes_um) > LARGEST_ANISOTROPY * min(sizes_um):
            listed = ", ".join(f"{source} {size_um} µm" for size_um, source in sizes_um.items())
            raise ValueError(f"The channels differ in pixel size ({listed}); give pixel_size_um.")
        settings["pixel_size_um"] = next(iter(sizes_um))
    return read


def _pixel_size_of(file: ImageFile, source: Any) -> float | None:
    if file.pixel_size_problem is not None:
        raise UnfitFileError(f"{source} {file.pixel_size_problem}")
    return file.pixel_size_um


def _read_all_planes(
    source: Any,
    known: set[str],
    plan: Callable[[list[str] | None], tuple[list[str], set[str]]],
    settings: dict[str, Any],
) -> Any:
    """Read a file with all channels, or its bytes; what it says of itself settles what the user left open."""
    is_path = isinstance(source, str | os.PathLike)
    where = os.fspath(source) if is_path else f"The image of {len(source):,} bytes"
    named = settings["channels"]
    file = read_file(source, len(named or ())) if is_path else read_bytes(source, where, len(named or ()))
    refuse_palette(file, where)
    noted = named is None and file.channels is not None
    if noted:
        own = {name.casefold(): name for name in known}
        named = [own.get(name.casefold(), name) for name in file.channels or ()]
    order, wanted = plan(named)
    if noted and not wanted <= set(named or ()):
        raise ValueError(
            f"{where} names its channels {', '.join(file.channels or ())}; expected {', '.join(sorted(wanted))}. Give "
            "the order as channels=[…], or channel_mapping={our channel: name in the file}."
        )
    settings["channels"] = named
    if settings.get("pixel_size_um") is None:
        settings["pixel_size_um"] = _pixel_size_of(file, where)
    if file.is_picture or file.pixels.ndim == 2:
        return read_channels(file, order, where, named)
    return file.pixels
