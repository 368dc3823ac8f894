"""Batches of cells through their model, as large as memory allows, one batch begun before the last is fetched."""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from subcell_hf.inference.encoders.finding import Model
from subcell_hf.inference.encoders.found_encoder import FoundEncoder
from subcell_hf.inference.engine.batches import Batch, Place, ReadPart
from subcell_hf.inference.models.loading import ModelFolder
from subcell_hf.inference.models.precision import choose_batch_size

CUDA_BATCH = 256
"""First batch size on a GPU; halved each time memory runs out."""

_TURNS = 4
"""Orientations of an image that is not mirrored."""

_Forward = Callable[[Tensor, list[str] | None], tuple[Tensor, Tensor | None, Tensor | None]]
"""Images and the names of their channels → embeddings, probabilities, attention."""

_CPU_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "std::bad_alloc")


@dataclass(frozen=True)
class BatchResult:
    """What came of a batch; arrays are float32 and lack the cells that were refused.

    Attributes:
        places: `[cells]`.
        embeddings: `[cells, passes · width]`.
        probabilities: `[cells, passes, classes]`, or None.
        attentions: `[cells, heads, rows, columns]` of the first pass, or None.
        refused: Cells that the image processor did not take, and why.
        image_px: Height and width of what the model saw.
    """

    places: tuple[Place, ...]
    embeddings: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32] | None
    attentions: npt.NDArray[np.float32] | None
    refused: Mapping[Place, str]
    image_px: tuple[int, int] = (0, 0)


class BatchEmbedder:
    """Embeds batches; loads each model when its first cell comes.

    Args:
        models: The models of the run.
        device: Where to work.
        precision: `"fp32"` or `"bf16"`; on OpenVINO also `"int8"`.
        batch_size: Images of a forward; None: chosen here, on a CPU as measured, and halved when memory runs out.
        openvino: OpenVINO's name of the device that runs the models; None for torch.
        orientations: `EmbedSettings.orientations`.

    Attributes:
        batch_size: Current number of images per forward pass.
    """

    def __init__(
        self,
        models: Iterable[Model],
        device: torch.device,
        precision: str,
        batch_size: int | None = None,
        openvino: str | None = None,
        orientations: int = 1,
    ) -> None:
        models = tuple(models)
        self.models = {model.variant.name: model for model in models}
        self.device, self.precision, self.openvino = device, precision, openvino
        self.orientations = orientations
        usual = CUDA_BATCH if device.type == "cuda" else 0
        self.batch_size = batch_size or usual or _cpu_batch_size(models, device)
        self._encoders: dict[str, _Forward] = {}
        self._processors: dict[tuple[str, tuple[str, ...]], Any] = {}  # by model and channels
        # Images are copied and scaled beside the forward of the batch before.
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None

    def run(self, items: Iterator[Batch | ReadPart]) -> Iterator[BatchResult | ReadPart]:
        """Embed batches in order; the device is given one batch more than has been fetched from it."""
        pipeline = Pipeline(self)
        for item in items:
            yield from pipeline.push(item)
        yield from pipeline.drain()

    def embed(self, batch: Batch) -> BatchResult:
        """Embed one batch."""
        return self.begin(batch).fetch()

    def begin(self, batch: Batch) -> "_Begun":
        """Give the device a batch; what comes of it is fetched later."""
        if batch.variant.name not in self._encoders:
            model = self.models[batch.variant.name]
            self._encoders[batch.variant.name] = model.open(self.device, self.precision, self.openvino)
        refused: dict[Place, str] = {}
        images, kept = self.prepare(batch, refused)
        if images is None:
            return _Begun((), None, None, None, refused)
        passes = max(1, len(batch.variant.proteins))
        named = list(batch.variant.channels) if batch.variant.takes_any_channels else None
        outputs = self._forward(self._encoders[batch.variant.name], images, named)
        embeddings, probabilities, attentions = (
            None if tensor is None else tensor.unflatten(0, (-1, passes)) for tensor in outputs
        )
        attentions = None if attentions is None else attentions[:, 0]
        height, width = images.shape[-2:]
        return _Begun(kept, embeddings, probabilities, attentions, refused, (height, width))

    def prepare(self, batch: Batch, refused: dict[Place, str]) -> tuple[Tensor | None, tuple[Place, ...]]:
        """Scale and mask cells as their model requires, on a separate stream if the device has streams.

        Args:
            batch: The cells.
            refused: Receives the cells that cannot be used, with the reason.

        Returns:
            `[cells · passes, channels, height, width]`, None if no cell can be used; and the places of the cells.
        """
        if self._copying is None:
            return self._images(batch, refused)
        with torch.cuda.stream(self._copying):
            images, kept = self._images(batch, refused)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._copying)
        if images is not None:
            images.record_stream(computing)
        return images, kept

    def _images(self, batch: Batch, refused: dict[Place, str]) -> tuple[Tensor | None, tuple[Place, ...]]:
        """`[cells · passes, channels, height, width]` on the device, without the cells that cannot be used."""
        try:
            return self._process(batch, slice(None)), batch.places
        except ValueError:
            images, kept = [], []
            for number, place in enumerate(batch.places):
                try:
                    images.append(self._process(batch, slice(number, number + 1)))
                    kept.append(place)
                except ValueError as error:
                    refused[place] = str(error)
            return (torch.cat(images) if images else None), tuple(kept)

    def _process(self, batch: Batch, cells: slice) -> Tensor:
        """Scale and mask on the device: raw pixels are a quarter to a half of what would be copied otherwise."""
        key = (batch.variant.name, batch.variant.channels)
        if key not in self._processors:
            self._processors[key] = batch.variant.preparation()
        masks = None if batch.cell_masks is None else batch.cell_masks[cells].to(self.device, non_blocking=True)
        images: Tensor = self._processors[key](
            batch.pixels[cells].to(self.device, non_blocking=True),
            cell_masks=masks,
            channels=list(batch.channels),
            pixel_size_um=batch.pixel_size_um,
            channel_mapping=batch.variant.channel_mapping,
        )["pixel_values"]
        height, width = images.shape[-2:]
        patch_px = batch.variant.patch_px
        if height % patch_px or width % patch_px:
            raise ValueError(
                f"The crop is {height} x {width} px at the model's pixel size, expected multiples of {patch_px}. "
                "Choose a window with --crop-size-px."
            )
        return images.flatten(0, -4)

    def _forward(self, encoder: _Forward, images: Tensor, channels: list[str] | None) -> list[Tensor | None]:
        outputs: list[tuple[Tensor | None, ...]] = []
        start = 0
        while start < len(images):
            try:
                chunk = images[start : start + self.batch_size]
                outputs.append(_average_orientations(encoder, chunk, channels, self.orientations))
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error) or self.batch_size == 1:
                    raise
                self.batch_size = max(1, min(self.batch_size, len(images) - start) // 2)
                warnings.warn(
                    f"Out of memory: continuing with {self.batch_size} images per batch. --batch-size "
                    f"{self.batch_size} begins with that.",
                    stacklevel=2,
                )
                continue
            start += self.batch_size
        columns = zip(*outputs, strict=True)
        return [None if column[0] is None else torch.cat([t for t in column if t is not None]) for column in columns]


def _average_orientations(
    encoder: _Forward, images: Tensor, channels: list[str] | None, orientations: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Means of embeddings and probabilities over orientations, one after the other; attention of the images as given.

    The naive loop is `torch.stack([encoder(turned)[0] for turned in every orientation]).mean(0)`.
    """
    embeddings, probabilities, attentions = encoder(images, channels)
    if orientations == 1:
        return embeddings, probabilities, attentions
    embeddings = embeddings / orientations
    probabilities = None if probabilities is None else probabilities / orientations
    for turned in _other_orientations(images, orientations):
        more, more_probabilities, _ = encoder(turned, channels)
        embeddings = embeddings + more / orientations
        if probabilities is not None and more_probabilities is not None:
            probabilities = probabilities + more_probabilities / orientations
    return embeddings, probabilities, attentions


def _other_orientations(images: Tensor, orientations: int) -> Iterator[Tensor]:
    """The images turned by 90°, 180° and 270°; of 8 orientations, then their mirror images, turned by 0° to 270°."""
    for number in range(1, orientations):
        seen = images if number < _TURNS else images.flip(-1)
        yield seen.rot90(number % _TURNS, (-2, -1)).contiguous()


def _cpu_batch_size(models: Sequence[Model], device: torch.device) -> int:
    """Images of a forward on a CPU: as measured for SubCell models."""
    subcell = [model for model in models if isinstance(model, ModelFolder)]
    others = [model.batch_size for model in models if isinstance(model, FoundEncoder)]
    sizes = [*others, *([choose_batch_size(subcell, device)] if subcell else [])]
    return min(sizes)


def _is_out_of_memory(error: BaseException) -> bool:
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    out = known or any(text in str(error) for text in _CPU_OUT_OF_MEMORY)
    if out and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return out


@dataclass(frozen=True)
class _Begun:
    """A batch that the device may still be working on."""

    places: tuple[Place, ...]
    embeddings: Tensor | None
    probabilities: Tensor | None
    attentions: Tensor | None
    refused: Mapping[Place, str]
    image_px: tuple[int, int] = (0, 0)

    def fetch(self) -> BatchResult:
        """Wait for the device."""
        embeddings = np.zeros((0, 0), np.float32)
        if self.embeddings is not None:
            embeddings = self.embeddings.flatten(1).cpu().numpy()
        probabilities = None if self.probabilities is None else self.probabilities.cpu().numpy()
        attentions = None if self.attentions is None else self.attentions.cpu().numpy()
        return BatchResult(self.places, embeddings, probabilities, attentions, self.refused, self.image_px)


class Pipeline:
    """Gives the device one batch more than has been fetched from it.

    Args:
        embedder: What embeds the batches.
    """

    def __init__(self, embedder: BatchEmbedder) -> None:
        self._embedder = embedder
        self._begun: deque[_Begun | ReadPart] = deque()

    def push(self, item: Batch | ReadPart) -> Iterator[BatchResult | ReadPart]:
        """Begin a batch, and hand out what was begun before it."""
        self._begun.append(self._embedder.begin(item) if isinstance(item, Batch) else item)
        while len(self._begun) > 1:
            yield _fetch(self._begun.popleft())

    def drain(self) -> Iterator[BatchResult | ReadPart]:
        """Hand out the rest."""
        while self._begun:
            yield _fetch(self._begun.popleft())


def _fetch(item: _Begun | ReadPart) -> BatchResult | ReadPart:
    return item.fetch() if isinstance(item, _Begun) else item
