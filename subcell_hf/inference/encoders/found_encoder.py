"""An encoder that was found for a run, and its run on batches of cells, with what it returns checked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from subcell_hf.errors import InputError, counted
from subcell_hf.inference.encoders.encoder import Encoder
from subcell_hf.inference.models.variants import Variant
from subcell_hf.storage.plain_files import one_line

_CHECKED_CELLS = 4
_REPEATED = 1e-3
"""Difference between two embeddings of one cell, relative to the largest number, that rounding on a GPU may cause."""

_ALONE = 0.05
"""The same between a cell alone and beside others, where an encoder that rounds to 16 bits may sum in another order."""


@dataclass(frozen=True)
class FoundEncoder:
    """An encoder of a run; what `ModelFolder` is for a SubCell model.

    Attributes:
        name: As the user called it.
        spec: What was typed for it.
        variant: What reading and cropping need to know.
        build: Makes the encoder; only the first call of a process takes long.
        description: Of the encoder, as JSON values.
        checksum: Identifies encoder and weights.
        batch_size: Images of a forward on a CPU.
    """

    name: str
    spec: str
    variant: Variant
    build: Callable[[], Encoder] = field(repr=False)
    description: dict[str, Any]
    checksum: str
    batch_size: int = 16

    @property
    def classes(self) -> tuple[str, ...]:
        """No classes: an encoder has no classifier."""
        return ()

    def facts(self) -> dict[str, Any]:
        """What is recorded in provenance; the same names as for a SubCell model."""
        return {
            "name": self.name,
            "encoder": self.spec,
            "revision": None,
            "weights_sha256": self.checksum,
            "channels": list(self.variant.channels),
            "proteins": [],
            "crop_px": self.variant.crop_px,
            "pixel_size_um": self.variant.pixel_size_um,
            "patch_px": self.variant.patch_px,
            "processor": self.variant.settings,
            "scaling": self.description["scaling"],
            "licence": self.description["licence"],
            "source": self.description["source"],
        }

    def record(self) -> dict[str, Any]:
        """What is recorded in `run.json`."""
        trained = {
            "pixel_size_um": self.description["pixel_size_um"],
            "crop_px": self.description["input_px"],
            "mask_cells": self.description["mask_cells"],
        }
        return {**self.facts(), "trained": trained}

    def open(self, device: torch.device, precision: str, openvino: str | None = None) -> "CheckedEncoder":
        """Put the encoder on a device.

        Args:
            device: Where to work.
            precision: Encoders are always computed in fp32.
            openvino: Encoders are always computed by torch.

        Raises:
            InputError: If it is no longer the encoder that was found.
        """
        encoder = self.build()
        if replace(encoder, channels=self.variant.channels).checksum() != self.checksum:
            raise InputError(f"The encoder {self.name} has changed since this run began. Run the command again.")
        return CheckedEncoder(encoder, self.name, device, self.variant.channels)


class CheckedEncoder:
    """Runs an encoder on batches, and refuses what is no embedding.

    Args:
        encoder: The encoder.
        name: How messages call it.
        device: Where to work.
        channels: Names of the channels of the images.
    """

    def __init__(self, encoder: Encoder, name: str, device: torch.device, channels: Sequence[str]) -> None:
        self._encoder, self._name, self._channels = encoder, name, tuple(channels)
        self._size = encoder.embedding_size
        self._checked = False
        if isinstance(encoder.encode, nn.Module):
            encoder.encode.to(device).eval()

    @torch.no_grad()
    def __call__(self, images: Tensor, channels: Sequence[str] | None = None) -> tuple[Tensor, None, None]:
        """Embed cells.

        Args:
            images: `[cells, channels, height, width]` float32; the last channel is the mask where masks are taken.
            channels: Not used by encoders.

        Returns:
            `[cells, embedding_size]` float32, and None for probabilities and for attention.

        Raises:
            InputError: If the encoder fails, changes its input, returns another shape than one row per cell or one that
                varies, only NaN, or other numbers for the same cells.
        """
        # cuDNN would round convolutions to TF32.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            # A copy, so that no memory that others use is handed out.
            embeddings = self._encode(images.clone())
            if not self._checked:
                self._check_first(images, embeddings)
                self._checked = True
        return embeddings, None, None

    def _check_first(self, images: Tensor, embeddings: Tensor) -> None:
        """Encode some cells of the first batch again, together and alone, to see whether the same comes of them."""
        if not embeddings.isfinite().any():
            raise self._error(f"returned NaN or infinite values for all of {counted(len(images), 'cell')}")
        given = images[:_CHECKED_CELLS].clone()
        # The same number of cells twice: another number may be rounded otherwise.
        first = self._encode(given)
        if not torch.equal(given, images[:_CHECKED_CELLS]):
            raise self._error("changed the images that it was given. Let it work on a copy (images.clone())")
        again = self._encode(images[:_CHECKED_CELLS].clone())
        largest = float(first.nan_to_num().abs().max()) + 1e-12
        if not torch.allclose(first, again, rtol=0, atol=_REPEATED * largest, equal_nan=True):
            raise self._error(
                "returned different embeddings for the same cells: it draws random numbers. Turn dropout and random "
                "transforms off, or draw from a torch.Generator with a seed"
            )
        alone = self._encode(images[:1].clone())
        if not torch.allclose(first[:1], alone, rtol=0, atol=_ALONE * largest, equal_nan=True):
            raise self._error(
                "returned another embedding for a cell alone than beside other cells: it must embed each cell by "
                "itself. Take means and normalize over channels or pixels, not over cells"
            )

    def _encode(self, images: Tensor) -> Tensor:
        count = len(images)
        parts = (images[:, :-1], images[:, -1] > 0, self._channels) if self._encoder.takes_masks else (images,)
        try:
            found = self._encoder.encode(*parts)
            found = torch.as_tensor(found)
        except torch.OutOfMemoryError:
            raise  # the batch is halved
        except (Exception, SystemExit) as error:
            if "memory" in str(error) and isinstance(error, RuntimeError | MemoryError):
                raise
            raise self._error(f"failed with {type(error).__name__}: {one_line(error)}") from error
        expected = f"[{count}, {self._size or 'embedding size'}]"
        if (
            found.ndim != 2
            or len(found) != count
            or not found.shape[1]
            or found.shape[1] != (self._size or found.shape[1])
        ):
            raise self._error(
                f"returned the shape {list(found.shape)} for {counted(count, 'cell')}, expected {expected}"
            )
        if found.is_complex():
            raise self._error("returned complex numbers, expected real ones")
        self._size = found.shape[1]
        return found.detach().float()

    def _error(self, reason: str) -> InputError:
        return InputError(f"The encoder {self._name} {reason}.")
