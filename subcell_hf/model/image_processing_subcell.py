"""From crops as acquired to `pixel_values`: choose channels, mask, bring to size, scale."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor, get_size_dict
from transformers.processing_utils import ImagesKwargs

from .channels_subcell import ChannelMapping, check_names, choose_channels, find_rows, plan_passes, require
from .image_files_subcell import ImageFile, is_picture, plane_of, read_channels, read_mask, read_picture
from .scaling_subcell import Settings, fit_crops, scale_min_max, stack_crops

LARGEST_RESCALING = 16.0  # beyond it a unit is wrong (nanometres, metres), not the microscope another
OVERRIDABLE = ("size", "do_resize", "do_center_crop", "do_pad", "do_normalize", "do_mask", "normalize")
SERVICE_KEYS = {"image_processor_type", "processor_class", "feature_extractor_type", "auto_map"}  # transformers' own


class SubCellImageProcessorKwargs(ImagesKwargs, total=False):
    """What `from_pretrained` may override, beside the switches that every image processor has."""

    channels: Any
    channel_tokens: str
    pixel_size_um: Any
    normalize: str
    do_mask: bool
    channel_mapping: Any


class SubCellImageProcessor(BaseImageProcessor):
    """Turns single-cell crops into the `pixel_values` of a SubCell model.

    The steps, all of them batched: choose the planes by name → multiply by the cell mask → rescale to the model's
    pixel size → centre crop and zero padding to `size` (or `do_resize`) → min–max scaling. Scaling comes last, so the
    zeros of mask and padding count in the minimum, as they did in training.

    Example:
        ```python
        >>> processor = SubCellImageProcessor(channels=["blue", "green"])
        >>> crop = {"blue": np.zeros((300, 500), np.uint16), "green": np.ones((300, 500), np.uint16)}
        >>> processor(crop)["pixel_values"].shape
        torch.Size([1, 2, 448, 448])
        ```

    Args:
        channels: Name of every channel of the model, in order, the protein last.
        size: `{"height": …, "width": …}` (or one edge) in pixels of what the model sees.
        pixel_size_um: Edge of the model's pixel in micrometres; None if unknown, then pixel sizes play no part.
        do_resize: Stretch every crop to `size`, whatever its pixel size, instead of rescaling, cropping and padding.
        do_center_crop: Cut what is larger than `size` around the centre.
        do_pad: Surround what is smaller than `size` with zeros.
        do_normalize: Scale to 0…1, see `scale_min_max`.
        do_mask: Multiply by the cell masks, where given.
        normalize: Minimum and maximum over the `"image"` (as the published models were trained) or each `"channel"`.
        channel_mapping: Our channel → its name in another assay, for example `{"green": "mito", "blue": "dna"}`. A
            list of names for one channel, `{"green": ["mito", "agp"]}`, makes one pass per name.
        channel_tokens: The model's: with `"separate"` any 1–8 channels are taken, by name. A stain that the model was
            not trained on must be mapped, for example `{"other": "actin"}`.
        **kwargs: Only what transformers itself stores; anything else is refused.

    Raises:
        ValueError: If a value is impossible; the message says which and what is expected.
    """

    _auto_class: str | None = "AutoImageProcessor"
    valid_kwargs = SubCellImageProcessorKwargs
    channel_tokens: str = "joint"  # saved with a processor only where it is not
    pixel_size_um: float | None = 0.160177  # not None, so that a None given is saved
    normalize: Any  # a setting here, as in `do_normalize`; the parent's legacy method of this name is of no use

    def __init__(
        self,
        channels: Sequence[str] = ("red", "yellow", "blue", "green"),
        size: Any = 448,
        pixel_size_um: float | None = 0.160177,
        do_resize: bool = False,
        do_center_crop: bool = True,
        do_pad: bool = True,
        do_normalize: bool = True,
        do_mask: bool = True,
        normalize: str = "image",
        channel_mapping: ChannelMapping | None = None,
        channel_tokens: str = "joint",
        **kwargs: Any,
    ) -> None:
        foreign = sorted(name for name in kwargs if name not in SERVICE_KEYS and not name.startswith("_"))
        require(not foreign, f"SubCellImageProcessor has no settings {', '.join(foreign)}; see its documentation.")
        super().__init__(**kwargs)
        self.channels = check_names(channels)
        self.pixel_size_um = _check_pixel_size(pixel_size_um, "The processor's pixel_size_um")
        self.do_resize, self.do_center_crop, self.do_pad = do_resize, do_center_crop, do_pad
        self.do_normalize, self.do_mask = do_normalize, do_mask
        self.size, self.normalize = size, normalize
        self.size = self._join_settings({})["size"]
        known = channel_tokens in ("joint", "separate")
        require(known, f"channel_tokens={channel_tokens!r}; expected 'joint' or 'separate'.")
        if channel_tokens == "separate":
            self.channel_tokens = channel_tokens
            find_rows(self.channels, self.channels)
            find_rows(list(channel_mapping or self.channels), self.channels)
        plan_passes(list(channel_mapping or ()) if self.is_separate else self.channels, channel_mapping)
        self.channel_mapping = channel_mapping

    def preprocess(
        self,
        images: Any,
        cell_masks: Any = None,
        channels: Sequence[str] | None = None,
        pixel_size_um: Any = None,
        channel_mapping: ChannelMapping | None = None,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare one crop or many.

        Args:
            images: A crop `[channels, height, width]` or `[height, width, channels]`, a stack of them, a dict of planes
                `{"red": [height, width], …}`, a list of one crop's planes, or a list of any of these, crop by crop;
                numpy, torch or Pillow, integers or floats of any depth, negative values too. Planes of a dict that the
                model does not use are ignored, see `channels`. An image of Pillow alone is a channel sheet or shows
                channels in their colours, see `split_picture`; as a plane of a dict, only the channel's own colour may
                carry signal.
            cell_masks: One mask `[height, width]` per crop, bool or 0/1 (0/255 in Pillow's images), 1 inside the cell;
                optional.
            channels: Names of the planes of arrays in their order, the model's own order by default. Named planes that
                the model does not use are ignored; with separate channel tokens each must be known or mapped.
            pixel_size_um: Edge of the crops' pixels in micrometres, a number or one per crop; None means the model's.
            channel_mapping: Instead of the processor's own.
            return_tensors: `"pt"` or `"np"`.
            **kwargs: `input_data_format` (`"channels_first"` or `"channels_last"`, for shapes that fit both), `device`
                to work on, `return_cell_masks=True` for the masks brought to the same geometry, and any of the
                processor's `size`, `normalize` and `do_…` for this call.

        Returns:
            `pixel_values` float32 `[crops, channels, height, width]`, or `[crops, passes, channels, height, width]`
            where the mapping lists several proteins; `cell_masks` bool `[crops, height, width]` on request. With
            separate channel tokens also `channels`, the model's names of the channels in their order.

        Raises:
            ValueError: If an image, mask or setting cannot work; the message names the image's place in the batch.
        """
        settings = self._join_settings(kwargs)
        require(return_tensors in (None, "pt", "np"), f"return_tensors={return_tensors!r}; expected 'pt' or 'np'.")
        mapping = self.channel_mapping if channel_mapping is None else channel_mapping
        made = self.choose_channels(_plane_names(images) if channels is None else check_names(channels), mapping)
        passes, several = plan_passes(made, mapping)
        wanted = list(dict.fromkeys(name for names in passes for name in names))
        # Planes without names stand in the model's order, unless several proteins would share a place there.
        order = check_names(channels) if channels is not None else [] if several else passes[0]
        crops = _read_crops(images, wanted, (order, channels), settings)
        masks = _read_masks(cell_masks, crops)
        factors = self._read_factors(pixel_size_um, len(crops))
        groups: dict[Any, list[int]] = {}  # crops of one kind are worked on together
        for index, crop in enumerate(crops):
            groups.setdefault((crop.shape, crop.dtype, crop.device, factors[index]), []).append(index)
        outputs = [
            fit_crops(*stack_crops(crops, masks, group, settings), factors[group[0]], settings)
            for group in groups.values()
        ]
        places = torch.tensor([index for group in groups.values() for index in group]).argsort()
        pixels = _unite([pixels for pixels, _ in outputs], places)  # [crops, planes, height, width]
        choice = [[wanted.index(name) for name in names] for names in passes]
        pixels = pixels[:, None] if passes == [wanted] else pixels[:, choice]
        if settings["do_normalize"]:
            pixels = scale_min_max(pixels, settings["normalize"])
        data = {"pixel_values": pixels if several else pixels[:, 0]}
        if settings["return_cell_masks"] and masks is not None:
            data["cell_masks"] = _unite([inside[:, 0] > 0 for _, inside in outputs if inside is not None], places)
        arrays: Settings = {name: data[name].cpu().numpy() for name in data} if return_tensors == "np" else dict(data)
        return BatchFeature(arrays | {"channels": made} if self.is_separate else arrays)

    @property
    def is_separate(self) -> bool:
        """Whether the model has separate channel tokens, so that any channels are taken."""
        return self.channel_tokens == "separate"

    def choose_channels(
        self, present: Sequence[str] | None = None, channel_mapping: ChannelMapping | None = None
    ) -> list[str]:
        """Which channels are made of an image.

        Args:
            present: Names of its planes; None where they have none and are in the model's order.
            channel_mapping: Instead of the processor's own.

        Returns:
            The model's channels in order; with separate channel tokens those that the image has.

        Raises:
            ValueError: If separate channel tokens cannot be made of these planes.
        """
        if not self.is_separate:
            return self.channels
        mapping = self.channel_mapping if channel_mapping is None else channel_mapping
        if present is None:
            own = {channel: name for channel, name in (mapping or {}).items() if isinstance(name, str)}
            present = [own.get(channel, channel) for channel in self.channels]
        return choose_channels(self.channels, present, mapping)

    def split_picture(
        self, picture: Any, where: str = "The picture", channels: Sequence[str] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """The planes of one picture of a whole cell, which every way to this model reads alike.

        Args:
            picture: A *channel sheet*, grey, the channels side by side in the model's order; or an RGB picture, where
                each channel of the model is red, green or blue. Of Pillow, or `[height, width]`, `[height, width, 3]`.
            where: What messages call it.
            channels: Channels of the sheet from left to right, or of the three colours, if not as above.

        Returns:
            Channel → `[height, width]`, in the picture's dtype.

        Raises:
            ValueError: If it is neither, or may be something else; the message says what to give instead.
        """
        passes, several = plan_passes(self.choose_channels(channels), self.channel_mapping)
        return read_channels(picture, [] if several else passes[0], where, channels)

    def read_plane(self, picture: Any, channel: str | None, where: str) -> np.ndarray[Any, Any]:
        """The one plane of a picture that shows a channel, grey or in the channel's colour, or the labels of a mask.

        Args:
            picture: Of Pillow, or an array `[height, width]` or `[height, width, 3]`.
            channel: Name of the channel; None for a mask.
            where: What messages call the picture.

        Returns:
            `[height, width]` in the picture's dtype; bool for a mask of 0 and 255.

        Raises:
            ValueError: If it cannot be read, shows other channels, or has another shape.
        """
        if channel is None:
            return np.asarray(read_mask(picture, where))
        file = read_picture(picture, where) if is_picture(picture) else ImageFile(picture, is_picture=picture.ndim == 3)
        return plane_of(file, channel, where)

    def _join_settings(self, overrides: Settings) -> Settings:
        settings: Settings = {name: getattr(self, name) for name in OVERRIDABLE}
        settings |= {"input_data_format": None, "device": None, "return_cell_masks": False}
        foreign = sorted(set(overrides) - set(settings))
        require(not foreign, f"Unknown settings {', '.join(foreign)}; known settings: {', '.join(settings)}.")
        settings |= {name: value for name, value in overrides.items() if value is not None}
        size, normalize = dict(get_size_dict(settings["size"])), settings["normalize"]
        sound = set(size) == {"height", "width"} and all(isinstance(edge, int) and edge > 0 for edge in size.values())
        require(sound, f"size={size!r}; expected {{'height': …, 'width': …}} in whole pixels above 0.")
        require(normalize in ("image", "channel"), f"normalize={normalize!r}; expected 'image' or 'channel'.")
        return settings | {"size": size}

    def _read_factors(self, pixel_size_um: Any, count: int) -> list[float]:
        """By how much every crop is enlarged to reach the model's pixel size."""
        given = pixel_size_um.tolist() if hasattr(pixel_size_um, "tolist") else pixel_size_um
        given = given if isinstance(given, list | tuple) else [given] * count
        require(len(given) == count, f"Got {len(given)} pixel sizes for {count} images; expected 1 or {count}.")
        sizes = [_check_pixel_size(value, f"pixel_size_um of image {index}") for index, value in enumerate(given)]
        own = self.pixel_size_um
        factors = [size / own if size is not None and own is not None else 1.0 for size in sizes]
        for index, factor in enumerate(factors):
            change = f"Image {index} has pixels of {sizes[index]} µm, the model's have {own} µm"
            sound = 1 / LARGEST_RESCALING <= factor <= LARGEST_RESCALING
            require(sound, f"{change}, more than {LARGEST_RESCALING:g}-fold. Is the size given in micrometres?")
        return factors


def _check_pixel_size(value: Any, where: str) -> float | None:
    sound = value is None or (isinstance(value, int | float) and value is not True and 0 < value < float("inf"))
    require(sound, f"{where} is {value!r}; expected micrometres above 0, or None if unknown.")
    return None if value is None else float(value)


def _plane_names(images: Any) -> list[str] | None:
    """Names of the planes of crops that are dicts; None for others."""
    crops = images if isinstance(images, list | tuple) else [images]
    named = [[str(name) for name in crop] for crop in crops if isinstance(crop, Mapping)]
    listed = "; ".join(sorted({", ".join(sorted(names)) for names in named}))
    require(";" not in listed, f"The images have different channels ({listed}); expected the same in one call.")
    return named[0] if named else None


def _as_tensor(array: Any, where: str) -> Tensor:
    if isinstance(array, np.ndarray) and array.dtype.kind in "buif" and array.dtype.itemsize <= 8:
        native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
        array = torch.from_numpy(native if native.flags.writeable else native.copy())
    got = f"{type(array).__name__} of {getattr(array, 'dtype', 'no dtype')} {tuple(getattr(array, 'shape', ()))}"
    if not isinstance(array, Tensor) or array.is_complex() or array.numel() == 0:
        raise ValueError(f"{where} is {got}; expected a numpy array or torch tensor of real numbers, not empty.")
    return array.detach()


def _read_crops(
    images: Any, wanted: list[str], orders: tuple[Sequence[str], Sequence[str] | None], settings: Settings
) -> list[Tensor]:
    """Every crop as `[planes, height, width]` in its own dtype, the planes being `wanted`.

    `orders` are the channels of planes without names, and what the caller names.
    """
    if not isinstance(images, list | tuple) and getattr(images, "ndim", 0) != 4:
        images = [images]
    require(len(images) > 0, "Got no images; expected at least one.")
    if len(wanted) > 1 and len(images) > 1 and all(map(_is_plane, images)):
        images = [images]  # a plane alone is no crop
    crops = []
    for index, image in enumerate(images):
        where = f"Image {index}"
        empty = isinstance(image, Mapping) and not image
        require(not empty, f"{where} has no planes; expected {', '.join(wanted)}.")
        names, image = _name_planes(image, orders, where)
        require(len(names) > 0, f"{where}: several proteins are mapped; name the planes by channels=[…].")
        if not isinstance(image, Mapping):
            image = _as_channels_first(_as_tensor(image, where), names, where, settings["input_data_format"])
        missing = not set(wanted) <= set(names)
        require(not missing, f"{where} has the channels {', '.join(names)}; expected {', '.join(wanted)}.")
        if isinstance(image, Mapping):
            image = _join_planes({name: _read_plane(image[name], name, where) for name in wanted}, where, settings)
        elif names != wanted:
            image = image[[names.index(name) for name in wanted]]
        require(image.dtype != torch.bool, f"{where} is bool; expected intensities (a mask belongs in cell_masks).")
        crops.append(image)
    return crops


def _is_plane(image: Any) -> bool:
    if is_picture(image):
        return len(image.getbands()) == 1 and image.mode != "P"
    return getattr(image, "ndim", 0) == 2


def _name_planes(image: Any, orders: tuple[Sequence[str], Sequence[str] | None], where: str) -> tuple[list[str], Any]:
    """The names of a crop's planes, and the crop as an array or a dict by these names."""
    names = list(orders[0])
    if is_picture(image):
        image = read_channels(image, names, where, orders[1])
    if isinstance(image, list | tuple):
        sound = len(image) == len(names) or not names
        require(sound, f"{where} has {len(image)} planes; expected {len(names)}: {', '.join(names)}.")
        image = dict(zip(names, image, strict=False))
    return list(image) if isinstance(image, Mapping) else names, image


def _read_plane(plane: Any, name: str, where: str) -> Tensor:
    where = f"{where}, {name},"
    return _as_tensor(plane_of(read_picture(plane, where), name, where) if is_picture(plane) else plane, where)


def _join_planes(planes: Mapping[str, Tensor], where: str, settings: Settings) -> Tensor:
    shapes = {name: tuple(plane.shape) for name, plane in planes.items()}
    sound = len(set(shapes.values())) == 1 and all(len(shape) == 2 for shape in shapes.values())
    require(sound, f"{where} has planes of shapes {shapes}; expected one [height, width] for all.")
    dtypes = {name: plane.dtype for name, plane in planes.items()}
    if len(set(dtypes.values())) == 1:
        return torch.stack(list(planes.values()))
    alone = settings["normalize"] == "channel" or not settings["do_normalize"]
    # One minimum and maximum for 8 and 16 bits would blacken the former.
    sound = alone or all(dtype.is_floating_point for dtype in dtypes.values())
    require(sound, f"{where} mixes {dtypes}; convert to one depth (8 to 16 bit: × 257) or use normalize='channel'.")
    return torch.stack([plane.float() for plane in planes.values()])


def _as_channels_first(image: Tensor, names: list[str], where: str, layout: str | None) -> Tensor:
    shape, count = list(image.shape), len(names)
    if image.ndim == 2 and count == 1:
        return image[None]
    first = image.ndim == 3 and shape[0] == count and layout in (None, "channels_first")
    last = image.ndim == 3 and shape[2] == count and layout in (None, "channels_last")
    expected = f"expected {count} planes ({', '.join(names)}) {layout or 'first or last'}"
    require(first or last, f"{where} has the shape {shape}; {expected}. Name other planes by channels=[…].")
    require(not (first and last), f"{where}: {shape} may have its channels first or last; set input_data_format.")
    return image if first else image.movedim(2, 0)


def _read_masks(cell_masks: Any, crops: list[Tensor]) -> list[Tensor] | None:
    if cell_masks is None:
        return None
    given = [cell_masks] if is_picture(cell_masks) or getattr(cell_masks, "ndim", 3) == 2 else cell_masks
    named = {f"Cell mask {index}": mask for index, mask in enumerate(given)}
    read = {where: read_mask(mask, where) if is_picture(mask) else mask for where, mask in named.items()}
    masks = [_as_tensor(mask, where) for where, mask in read.items()]
    got, expected = [list(mask.shape) for mask in masks], [list(crop.shape[1:]) for crop in crops]
    require(got == expected, f"Cell masks have the shapes {got}; expected those of the images, {expected}.")
    return masks


def _unite(groups: list[Tensor], places: Tensor) -> Tensor:
    """Join the groups' results in the order of the batch."""
    sizes = sorted({tuple(group.shape[-2:]) for group in groups})
    require(len(sizes) == 1, f"The images end up at sizes {sizes}; expected one: use do_center_crop and do_pad.")
    return groups[0] if len(groups) == 1 else torch.cat([group.to(groups[0].device) for group in groups])[places]
