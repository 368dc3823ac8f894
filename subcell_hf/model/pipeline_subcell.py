"""Files or arrays of single cells in, protein locations out."""

import copy
import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForImageClassification, Pipeline

from .configuration_subcell import CUSTOM_PIPELINES, TASK
from .image_processing_subcell import plan_passes

Pixels = NDArray[Any]

__all__ = ["TASK", "ImageFile", "SubCellPipeline", "read_file", "read_plane"]

COLOUR_PLANES = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}
RESULT_OPTIONS = {"top_k": 5, "threshold": 0.0, "return_embedding": False, "return_attention": False}
LARGEST_LEAK = 0.25  # JPEG lets up to 17 % of a colour's mean leak into the other planes of real HPA pictures
MICROMETRES = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3}  # two of them look alike: micro and mu


class ImageFile(NamedTuple):
    """What a file holds: planes `[height, width]`, `[planes, height, width]`, or `[height, width, 3]` of a picture."""

    pixels: Pixels
    channels: list[str] | None = None
    pixel_size_um: float | None = None
    is_picture: bool = False


class UnfitFileError(ValueError):
    """A file that is whole, but not of a kind that can be used."""


class SubCellPipeline(Pipeline):
    """Locates proteins in images of single cells.

    Example:
        ```python
        from transformers import pipeline

        locate = pipeline(model="folder-or-repository", trust_remote_code=True)
        locate({"red": "c_red.png", "yellow": "c_yellow.png", "blue": "c_blue.png", "green": "c_green.png"})
        # [{"label": "Nucleoplasm", "score": 0.93}, …]
        ```

    An input is a dict of planes `{colour: file or array}`, a file with all channels (TIFF, OME-TIFF or `.npy`), an
    array as the image processor takes it, or a dict `{"image": that file or array}`; or a list, dataset or generator
    of these. A dict may also hold `"cell_mask"` (file or array), `"pixel_size_um"` and, beside `"image"`, `"channels"`.

    Planes may also be PNG or JPEG: grey of 8 or 16 bits, or RGB in which only the channel's own colour carries signal.
    The planes of a file with all channels are in the model's order, unless `channels` says otherwise or an OME-TIFF
    names them as the model or the channel mapping does; its own pixel size counts where none is given. URLs are
    refused.

    Options, at construction or call, beside what the image processor takes (`channels`, `pixel_size_um`,
    `channel_mapping`, `size`, …):

    * `top_k`: how many locations, best first; 5 by default, None for all.
    * `threshold`: the least score of a location that is reported; 0 by default.
    * `return_embedding`, `return_attention`: add the embedding `[width]` and the pooler's map `[heads, rows, columns]`,
      float32 numpy arrays.
    * `batch_size`: cells per forward.

    A result is a list of `{"label", "score"}`, or with an embedding or a map a dict `{"locations", "embedding",
    "attention"}`. Where the channel mapping lists several proteins, locations are a dict by protein, embeddings stand
    one after the other, and maps have a leading axis of proteins.

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
        top_k, threshold = after.get("top_k"), after.get("threshold", 0.0)
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k={top_k!r}; expected a whole number above 0, or None for all locations.")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold!r}; expected a score from 0 to 1.")
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
        mapping = settings.get("channel_mapping")
        mapping = (self.image_processor.channel_mapping if mapping is None else mapping) or {}
        passes, several = plan_passes(self.image_processor.channels, mapping)
        wanted = {name for names in passes for name in names}
        item = dict(item) if isinstance(item, Mapping) else {"image": item}
        mask, own_pixel_size_um = item.pop("cell_mask", None), item.pop("pixel_size_um", None)
        if own_pixel_size_um is not None:
            settings["pixel_size_um"] = own_pixel_size_um
        if "image" in item and "image" not in wanted:
            image, own_channels = item.pop("image"), item.pop("channels", None)
            if item:
                raise ValueError(
                    f"Beside 'image' is {', '.join(item)}; expected 'cell_mask', 'pixel_size_um', 'channels'."
                )
            settings["channels"] = own_channels or settings.get("channels")
            if isinstance(image, str | os.PathLike):
                image = _read_all_planes(image, wanted, settings)
        else:
            stray = [name for name in item if name not in wanted and ("mask" in name or "pixel" in name)]
            if stray:
                raise ValueError(f"The input holds {', '.join(stray)}; expected planes, 'cell_mask', 'pixel_size_um'.")
            image = {name: read_plane(value, name) if name in wanted else value for name, value in item.items()}
        masks = None if mask is None else [_read_mask(mask)]
        pixel_values = self.image_processor.preprocess(image, masks, **settings)["pixel_values"]
        if len(pixel_values) != 1:
            raise ValueError(f"One input holds {len(pixel_values)} cells; give a list with one input per cell.")
        proteins = [list(names) for names in mapping.values() if not isinstance(names, str)]
        return {"pixel_values": pixel_values, "proteins": proteins[0] if several else None}

    def _forward(self, input_tensors: Any, **forward_parameters: Any) -> Any:
        pixel_values = input_tensors["pixel_values"]  # [cells, channels, height, width], or proteins as second axis
        outputs = self.model(pixel_values=pixel_values.flatten(0, -4))
        tensors = {
            "logits": outputs.logits,
            "embedding": outputs.pooler_output,
            "attention": outputs.pooler_attentions,
        }
        passes = pixel_values.shape[:-3]
        results = {name: None if t is None else t.float().unflatten(0, passes) for name, t in tensors.items()}
        return {**results, "proteins": input_tensors["proteins"]}

    def postprocess(self, model_outputs: Any, **postprocess_parameters: Any) -> Any:
        """Turn one cell's outputs into locations, best first; see the class."""
        options: dict[str, Any] = {**RESULT_OPTIONS, **postprocess_parameters}
        logits, proteins = model_outputs["logits"][0], model_outputs["proteins"]  # [labels] or [proteins, labels]
        multi_label = self.model.config.problem_type != "single_label_classification"
        scores = logits.sigmoid() if multi_label else logits.softmax(-1)
        ranked = [
            self._rank(row, options["top_k"], options["threshold"]) for row in scores.reshape(-1, scores.shape[-1])
        ]
        result: dict[str, Any] = {
            "locations": ranked[0] if proteins is None else dict(zip(proteins, ranked, strict=True))
        }
        if options["return_embedding"]:
            result["embedding"] = model_outputs["embedding"][0].flatten().numpy()
        if options["return_attention"]:
            if model_outputs["attention"] is None:
                raise ValueError("This model's pooling has no attention map; leave return_attention out.")
            result["attention"] = model_outputs["attention"][0].numpy()
        return result if len(result) > 1 else result["locations"]

    def _rank(self, scores: Tensor, top_k: int | None, threshold: float) -> list[dict[str, Any]]:
        values, indices = scores.sort(descending=True, stable=True)
        pairs = list(zip(values.tolist(), indices.tolist(), strict=True))[:top_k]
        names: Any = self.model.config.id2label
        return [{"label": names[index], "score": score} for score, index in pairs if score >= threshold]


class _Numbered(NamedTuple):
    """An input and its place in the list, for messages."""

    number: int
    item: Any


# `save_pretrained` of a pipeline writes its code and `custom_pipelines` from this.
SubCellPipeline._registered_impl = {
    TASK: {"impl": SubCellPipeline, "pt": (AutoModelForImageClassification,), "type": "image"}
}


def read_plane(source: Any, channel: str) -> Any:
    """Read the one plane of a channel.

    Args:
        source: A file (`.npy`, TIFF, PNG, JPEG), or an array, which is handed back as it is.
        channel: Name of the channel; a picture's colours other than this must carry no signal.

    Returns:
        `[height, width]` in the file's own dtype.

    Raises:
        ValueError: If the file cannot be read, holds several planes, or is a composite of several colours.
    """
    if not isinstance(source, str | os.PathLike):
        return source
    file = read_file(source)
    pixels = _reduce_picture(file.pixels, channel, source) if file.is_picture else file.pixels
    if pixels.ndim != 2:
        raise ValueError(f"{source} has the shape {pixels.shape}; expected one plane [height, width] of {channel}.")
    return pixels


def read_file(path: str | os.PathLike[str]) -> ImageFile:
    """Read an image file as it is, 16 bits included.

    Args:
        path: A local `.npy`, TIFF or OME-TIFF, PNG or JPEG file.

    Raises:
        ValueError: If the path is a URL or of another kind, or the file is damaged or would lose bits.
        FileNotFoundError: If there is no such file.
        ImportError: If the library for this kind of file is missing.
    """
    name = os.fspath(path)
    if "://" in name:
        raise ValueError(f"{name} is a URL; expected a local file. Download it first.")
    reader = READERS.get(Path(name).suffix.lower())
    if reader is None:
        raise ValueError(f"{name} is of no known kind; expected one of {', '.join(READERS)}.")
    if not Path(name).is_file():
        raise FileNotFoundError(f"There is no file {name}.")
    try:
        return reader(name)
    except (ImportError, MemoryError):
        raise
    except UnfitFileError as error:
        raise UnfitFileError(f"{name} {error}") from error
    except Exception as error:  # decoders raise whatever they please; the file's name must not get lost
        raise ValueError(f"{name} cannot be read ({error}); it may be damaged, fetch it again.") from error


def _import(module: str, package: str) -> Any:
    # Not an import statement: transformers would demand the package of everybody who loads the pipeline.
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"Reading this file needs {package}: pip install {package}, or give arrays.") from error


def _read_npy(path: str) -> ImageFile:
    return ImageFile(np.load(path, allow_pickle=False))


def _read_picture(path: str) -> ImageFile:
    with Path(path).open("rb") as file:
        header = file.read(26)
    # Bytes 24 and 25 of a PNG are its bit depth and colour type; Pillow cuts 16-bit colours to 8 without a word.
    if header.startswith(b"\x89PNG") and header[24] == 16 and header[25] != 0:
        raise UnfitFileError("has 16-bit colours, of which only 8 bits could be read; save grey PNG files or a TIFF.")
    with _import("PIL.Image", "pillow").open(path) as picture:
        pixels = np.asarray(picture)
        if picture.mode not in ("1", "L", "I", "I;16", "I;16B", "RGB"):
            raise UnfitFileError(f"has the mode {picture.mode}; expected a grey or RGB picture.")
        return ImageFile(pixels.astype(np.uint16) if picture.mode[0] == "I" else pixels, is_picture=pixels.ndim == 3)


def _read_tiff(path: str) -> ImageFile:
    with _import("tifffile", "tifffile").TiffFile(path) as file:
        if len(file.series) != 1:
            raise UnfitFileError(f"holds {len(file.series)} images; expected one.")
        series, page = file.series[0], file.series[0].keyframe
        pixels, axes = series.asarray(), series.axes
        channels, pixel_size_um = _read_ome(file.ome_metadata) if file.ome_metadata else (None, None)
        # Three samples beside each other are a colour picture, planes after each other a stack that is only tagged so.
        is_picture = page.photometric.name == "RGB" and axes.endswith("S") and page.samplesperpixel == 3
    long_axes = [axis for axis, length in zip(axes, pixels.shape, strict=True) if length > 1 or axis in "YX"]
    pixels = pixels.reshape([n for axis, n in zip(axes, pixels.shape, strict=True) if n > 1 or axis in "YX"])
    planes = [axis for axis in long_axes if axis not in "YX"]
    if len(planes) > 1 or any(axis in "ZT" for axis in planes):
        raise UnfitFileError(f"has the axes {axes}; expected channels, height and width: project or choose planes.")
    if planes and not is_picture:
        pixels = np.moveaxis(pixels, long_axes.index(planes[0]), 0)
    return ImageFile(pixels, channels, pixel_size_um, is_picture)


def _read_ome(metadata: str) -> tuple[list[str] | None, float | None]:
    """Channel names and pixel size of an OME-TIFF, each None where it is not given."""
    pixels = ElementTree.fromstring(metadata).find(".//{*}Pixels")
    if pixels is None:
        return None, None
    names = [channel.get("Name") or "" for channel in pixels.findall("{*}Channel")]
    units = [MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"), 0.0) for axis in "XY"]
    sizes_um = [float(pixels.get(f"PhysicalSize{axis}", 0)) * unit for axis, unit in zip("XY", units, strict=True)]
    if min(sizes_um) > 0 and max(sizes_um) > 1.01 * min(sizes_um):
        raise UnfitFileError(f"has pixels of {sizes_um} µm; expected square ones: resample it.")
    return names if names and all(names) else None, max(sizes_um) or None  # 0 where the size is not given


READERS: dict[str, Callable[[str], ImageFile]] = {
    ".npy": _read_npy,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
    ".png": _read_picture,
    ".jpg": _read_picture,
    ".jpeg": _read_picture,
}


def _read_all_planes(path: str | os.PathLike[str], wanted: set[str], settings: dict[str, Any]) -> Pixels:
    """Read a file with all channels; what it says of itself settles what the user left open."""
    file = read_file(path)
    if settings["channels"] is None and file.is_picture:
        raise ValueError(f"{path} is an RGB picture; expected planes. Give a dict {{channel: file}} or channels=[…].")
    if settings["channels"] is None and file.channels is not None:
        own = {name.casefold(): name for name in wanted}
        names = [own.get(name.casefold(), name) for name in file.channels]
        if not wanted <= set(names):
            raise ValueError(
                f"{path} names its channels {', '.join(file.channels)}; expected {', '.join(sorted(wanted))}. Give the "
                "order as channels=[…], or channel_mapping={our channel: name in the file}."
            )
        settings["channels"] = names
    if settings.get("pixel_size_um") is None:
        settings["pixel_size_um"] = file.pixel_size_um
    return file.pixels


def _read_mask(source: Any) -> Any:
    if not isinstance(source, str | os.PathLike):
        return source
    mask = read_file(source).pixels
    return mask > 0 if np.isin(mask, (0, 255)).all() else mask  # 255 is how pictures say 1


def _reduce_picture(pixels: Pixels, channel: str, path: Any) -> Pixels:
    """The plane of an RGB picture that carries a channel, if no other carries signal."""
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return red
    means = pixels.reshape(-1, 3).mean(axis=0)
    own = COLOUR_PLANES.get(channel, (int(means.argmax()),))
    leak = max(mean for plane, mean in enumerate(means) if plane not in own)
    # Yellow is red and green alike; what differs between them is another signal.
    unlike = np.abs(red.astype(np.float32) - green).mean() if len(own) == 2 else 0.0
    signal = means[list(own)].mean()
    if max(leak, unlike) > LARGEST_LEAK * signal + 1:
        raise ValueError(
            f"{path} is a composite: its red, green and blue have the means {means.round(1).tolist()}; expected signal "
            f"in {channel} alone. Give each channel's own picture."
        )
    return pixels[..., own[0]]
