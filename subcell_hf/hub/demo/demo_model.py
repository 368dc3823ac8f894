"""A loaded model and the reference cells that new ones are shown among; lies beside `app.py` on the Hub."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from subcell_hf.hub.demo.demo_images import Picture
from subcell_hf.hub.endpoint.endpoint_images import RequestError

Floats = npt.NDArray[np.float32]

NEIGHBOURS = 10
"""Number of nearest reference cells that determine the position of a new cell on the map."""


@dataclass(frozen=True)
class CellReading:
    """What the model says of one cell.

    Attributes:
        locations: Name and probability, best first; empty where the model has no classifier.
        embedding: `[width]`.
        attention: `[rows, columns]`, mean over heads; None where the pooling has no map.
        pixel_values: `[channels, height, width]` from 0 to 1: what the model saw.
        cell_mask: `[height, width]`, True inside the cell, in the same place; None where the cell is unknown.
    """

    locations: list[tuple[str, float]]
    embedding: Floats
    attention: Floats | None
    pixel_values: Floats
    cell_mask: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class ReferenceCells:
    """Cells of known location with their places on a map, which was laid out once; new cells are placed among them.

    Attributes:
        directions: `[cells, width]`, embeddings of length 1.
        positions: `[cells, 2]` from 0 to 1, y upwards.
        labels: `[cells]` location of each.
        method: How the map was laid out, for the caption.
        cell_ids: `[cells]` name of each.
        pictures: `[cells]` WebP of each, empty where there is none.
    """

    directions: Floats
    positions: Floats
    labels: list[str]
    method: str
    cell_ids: Sequence[str]
    pictures: Sequence[bytes]

    def find_similar(self, embedding: Floats) -> tuple[npt.NDArray[np.intp], Floats]:
        """The reference cells most like another cell by the cosine of their embeddings, as `subcell_hf.search` does.

        Args:
            embedding: `[width]`.

        Returns:
            Rows, nearest first, and cosines.
        """
        cosines = self.directions @ _directions(embedding[None])[0]
        rows = np.argsort(-cosines, kind="stable")[:NEIGHBOURS]
        return rows, np.asarray(cosines[rows], np.float32)

    def find_nearest(self, embedding: Floats) -> tuple[npt.NDArray[np.intp], Floats]:
        """The reference cells by which another cell is placed.

        Args:
            embedding: `[width]`.

        Returns:
            Rows, nearest first, and weights that sum to 1: exp(-d/m) for a cell that is d farther than the nearest
            one, where m is the mean of those d; as in UMAP, what counts is not how far they are but how much farther.
        """
        rows, cosines = self.find_similar(embedding)
        farther = cosines[0] - cosines
        weights = np.exp(-farther / max(float(farther.mean()), 1e-12))
        return rows, np.asarray(weights / weights.sum(), np.float32)

    def place(self, embedding: Floats) -> tuple[float, float]:
        """Position of another cell: the weighted mean of the positions of the reference cells nearest to it."""
        rows, weights = self.find_nearest(embedding)
        x, y = (weights @ self.positions[rows]).tolist()
        return x, y

    def save(self, path: Path) -> None:
        """Write a compressed `.npz` without pickles; directions in half precision, which moves no neighbour by much."""
        np.savez_compressed(
            path,
            directions=self.directions.astype(np.float16),
            positions=self.positions,
            labels=np.array(self.labels),
            method=np.array(self.method),
            cell_ids=np.array(self.cell_ids, dtype=np.str_),
            pictures=np.frombuffer(b"".join(self.pictures), np.uint8),
            picture_bytes=np.array([len(picture) for picture in self.pictures], np.int64),
        )

    @classmethod
    def load(cls, path: Path) -> "ReferenceCells":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            directions = _directions(file["directions"].astype(np.float32))
            parts = np.split(file["pictures"], np.cumsum(file["picture_bytes"]))[:-1]
            pictures, names = [part.tobytes() for part in parts], file["cell_ids"].tolist()
            return cls(directions, file["positions"], file["labels"].tolist(), str(file["method"]), names, pictures)

    @classmethod
    def from_map(
        cls,
        embeddings: Floats,
        positions: Floats,
        labels: list[str],
        method: str,
        cell_ids: Sequence[str],
        pictures: Mapping[str, bytes],
    ) -> "ReferenceCells":
        """Take `[cells, width]` embeddings of any length, what the map says of them, and pictures by `cell_id`."""
        shown = [pictures.get(name, b"") for name in cell_ids]
        return cls(_directions(embeddings), positions, labels, method, cell_ids, shown)


def _directions(embeddings: Floats) -> Floats:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.where(lengths > 0, lengths, 1), np.float32)


class DemoModel:
    """Loads a model folder or repository and reads cells.

    Args:
        path: Folder, or `owner/name` on the Hub.
        revision: Branch or commit of a repository.
        trust_remote_code: Whether the code beside the weights is run; needed where `subcell_hf` is not installed.
    """

    def __init__(self, path: str, revision: str | None = None, trust_remote_code: bool = True) -> None:
        loading: dict[str, Any] = {"trust_remote_code": trust_remote_code, "revision": revision}
        self.config = AutoConfig.from_pretrained(path, **loading)
        self.classifies = "SubCellForImageClassification" in (self.config.architectures or [])
        auto_class: Any = AutoModelForImageClassification if self.classifies else AutoModel
        self.model = auto_class.from_pretrained(path, use_safetensors=True, **loading).eval()
        self.processor = AutoImageProcessor.from_pretrained(path, **loading)
        self.channels: tuple[str, ...] = tuple(self.config.channels)

    @torch.inference_mode()
    def read(self, picture: Picture, cell: int | None, hide_neighbours: bool) -> CellReading:
        """Embed and classify one cell.

        Args:
            picture: What was uploaded.
            cell: Its label; None takes the picture as it is, centred.
            hide_neighbours: Blot out what is outside of the cell.

        Raises:
            RequestError: If the image cannot be used; the message says why.
        """
        planes, mask = self._cut(picture, cell)
        options: dict[str, Any] = {"pixel_size_um": picture.pixel_size_um, "do_mask": hide_neighbours}
        masks = None if mask is None else [mask]
        try:
            inputs = self.processor([planes], cell_masks=masks, return_cell_masks=mask is not None, **options)
            outputs = self.model(inputs["pixel_values"], return_dict=True)
        except ValueError as error:
            raise RequestError(str(error), 422) from error
        attention = getattr(outputs, "pooler_attentions", None)
        return CellReading(
            locations=self._rank(outputs.logits[0]) if self.classifies else [],
            embedding=outputs.pooler_output[0].float().numpy(),
            attention=None if attention is None else attention[0].float().mean(dim=0).numpy(),
            pixel_values=inputs["pixel_values"][0].float().numpy(),
            cell_mask=inputs["cell_masks"][0].numpy() if mask is not None else None,
        )

    def _rank(self, logits: torch.Tensor) -> list[tuple[str, float]]:
        multi_label = self.config.problem_type != "single_label_classification"
        scores = (logits.sigmoid() if multi_label else logits.softmax(-1)).tolist()
        return sorted(((self.config.id2label[index], score) for index, score in enumerate(scores)), key=lambda x: -x[1])

    def _cut(
        self, picture: Picture, cell: int | None
    ) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.bool_] | None]:
        """A window about a cell, filled up with zeros, of the size that the processor will look at."""
        if cell is None or picture.cells is None:
            return dict(picture.planes), None
        inside = picture.cells == cell
        rows, columns = np.nonzero(inside.any(axis=1))[0], np.nonzero(inside.any(axis=0))[0]
        own, given = self.processor.pixel_size_um, picture.pixel_size_um
        scale = own / given if own and given else 1.0
        edges = [int(np.ceil(self.processor.size[side] * scale)) for side in ("height", "width")]
        if self.processor.do_resize:  # stretches what it gets: give it the cell
            edges = [max(len(rows), len(columns))] * 2
        starts = [int(found[0] + found[-1] + 1 - edge) // 2 for found, edge in zip((rows, columns), edges, strict=True)]
        window = tuple(zip(starts, edges, strict=True))
        planes = {channel: _window(plane, window) for channel, plane in picture.planes.items()}
        return planes, _window(inside, window)


def _window(plane: npt.NDArray[Any], window: tuple[tuple[int, int], ...]) -> npt.NDArray[Any]:
    made = np.zeros([edge for _, edge in window], plane.dtype)
    source, target = [], []
    for (start, edge), length in zip(window, plane.shape, strict=True):
        first, last = max(start, 0), min(start + edge, length)
        source.append(slice(first, last))
        target.append(slice(first - start, last - start))
    made[tuple(target)] = plane[tuple(source)]
    return made
