"""The description of an encoder: what turns images of cells into embeddings, and which images it expects."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn

from subcell_hf.errors import InputError

SCALINGS = ("channel", "image", "standard", "intensity")
"""How pixels are scaled: see `Encoder.scaling`."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_LARGEST_EDGE_PX = 4096


@dataclass(frozen=True)
class Encoder:
    """An encoder of cells, and the images that it expects.

    Example:
        ```python
        import torch

        from subcell_hf.inference import Encoder


        def mean_and_spread(images):  # [cells, channels, height, width]
            return torch.cat([images.mean((2, 3)), images.std((2, 3))], dim=1)


        def build():
            return Encoder("moments", mean_and_spread, pixel_size_um=0.16, input_px=256, scaling="intensity")
        ```

    Attributes:
        name: Name of the encoder, which names its folder and the rows of its table.
        encode: Turns images `[cells, channels, height, width]`, float32 on the device of the run, into embeddings
            `[cells, embedding_size]`. A `torch.nn.Module` is moved to that device and set to evaluation mode. With
            `takes_masks` two more arguments follow: the cell masks `[cells, height, width]` bool, and the names of the
            channels.
        embedding_size: Numbers per cell; None: those of the first cells.
        channels: Names of the channels, in the order in which it takes them; empty: all channels of the first image.
        pixel_size_um: Edge of a pixel in micrometres at which it was trained. None: any, then the window around a cell
            is resized to `input_px`.
        input_px: Edge of the images that it takes; None: 448.
        scaling: `"channel"` and `"image"`: minimum 0 and maximum 1 of each channel, or of all channels together;
            `"standard"`: mean 0 and standard deviation 1 of each channel; `"intensity"`: fraction of the range of the
            integer type, floats as they are.
        mask_cells: Whether the surroundings of the cell are set to 0 before scaling.
        takes_masks: Whether `encode` also takes masks and names of channels.
        licence: Licence of the weights, as SPDX names it.
        needs: What has to be installed or accepted, in words; empty: nothing.
        source: Where it comes from: folder, id on the Hub with its commit, or file.
        version: Identifies a version of the weights or the code, where they are not the parameters of `encode`.
    """

    name: str
    encode: Callable[..., Any] = field(repr=False)
    embedding_size: int | None = None
    channels: tuple[str, ...] = ()
    pixel_size_um: float | None = None
    input_px: int | None = None
    scaling: str = "channel"
    mask_cells: bool = True
    takes_masks: bool = False
    licence: str = ""
    needs: str = ""
    source: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        """Refuse a description that no encoder can have.

        Raises:
            InputError: Naming the encoder and the value.
        """
        object.__setattr__(self, "channels", tuple(self.channels))
        wrong = self._find_fault()
        if wrong:
            raise InputError(f"The encoder {self.name!r} is described wrongly: {wrong}.")

    def _find_fault(self) -> str:
        if not _NAME.fullmatch(self.name):
            return "its name must begin with a letter or digit and consist of letters, digits, '.', '_' and '-'"
        encode: Any = self.encode  # whatever a file of the user gives
        if not callable(encode):
            return f"encode is a {type(encode).__name__}, expected a function or a torch.nn.Module"
        if self.scaling not in SCALINGS:
            return f"scaling is {self.scaling!r}, expected one of {', '.join(SCALINGS)}"
        if len(set(self.channels)) < len(self.channels) or not all(isinstance(name, str) for name in self.channels):
            return f"channels are {self.channels}, expected different names"
        if self.input_px is not None and not 1 <= self.input_px <= _LARGEST_EDGE_PX:
            return f"input_px is {self.input_px}, expected 1 to {_LARGEST_EDGE_PX}"
        if self.embedding_size is not None and self.embedding_size < 1:
            return f"embedding_size is {self.embedding_size}, expected at least 1"
        if self.pixel_size_um is not None and not 0.001 <= self.pixel_size_um <= 100:
            return f"pixel_size_um is {self.pixel_size_um}, expected micrometres, 0.001 to 100"
        return ""

    def describe(self) -> dict[str, Any]:
        """The description as JSON values, by the names of the attributes."""
        kept = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "encode"}
        return {**kept, "channels": list(self.channels)}

    def checksum(self) -> str:
        """SHA-256 of the description and, if `encode` is a `torch.nn.Module`, of its parameters and buffers."""
        total = hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode())
        if isinstance(self.encode, nn.Module):
            for name, value in sorted(self.encode.state_dict().items()):
                total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return total.hexdigest()
