"""The same run on Ray Data: tasks read and crop, actors hold the model, lost work is done again.

What runs is what runs locally: `read_block` in tasks, `BatchEmbedder` in actors, parts written by the driver. A batch
does not span the blocks of two tasks, so embeddings differ from a local run's by rounding alone (1e-5). Ray does again
what a worker that died has lost.
"""

import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from subcell_hf.inference.encoders.finding import Model
from subcell_hf.inference.engine.batches import BatchReader, BlockNotes, Place, ReadPart
from subcell_hf.inference.engine.embed_settings import EmbedSettings
from subcell_hf.inference.engine.forward import BatchEmbedder, BatchResult
from subcell_hf.inference.engine.parts import PartResults
from subcell_hf.inference.engine.runs import EmbedRun, write_part
from subcell_hf.inference.models.loading import choose_device
from subcell_hf.inference.models.variants import Variant
from subcell_hf.inference.sources.blocks import CellBlock, CellSource, read_block
from subcell_hf.parallel.ray_tasks import LARGEST_BLOCKS, start_ray
from subcell_hf.progress import progress_bar
from subcell_hf.tables.cell_pictures import PictureBudget


def embed_on_ray(run: EmbedRun, pending: Sequence[int]) -> None:
    """Embed the parts that are pending, and write each as its last block comes back.

    Args:
        run: The run.
        pending: Numbers of its parts.

    Raises:
        InputError: In strict mode, if something was skipped.
    """
    if not pending:
        return
    ray = start_ray()
    rows = _rows(run, pending)
    source, budget = run.source, run.budget
    on_gpu = not run.openvino and run.settings.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
    data = ray.data.from_items(rows, override_num_blocks=min(len(rows), LARGEST_BLOCKS))
    data = data.map(lambda row: _read(source, budget, row)).map(
        _Embedding,
        fn_constructor_args=(run.models, run.settings, run.precision, run.openvino),
        concurrency=run.settings.actors,
        num_gpus=1 if on_gpu else 0,
    )
    missing = {part: sum(row["part"] == part for row in rows) for part in pending}
    kept = run.settings.attention_maps
    gathered = {part: _Gathered(PartResults(run.classes, run.proteins, kept, run.calibration)) for part in pending}
    began = time.perf_counter()
    with progress_bar(len(pending), "parts", "embed", shown=run.settings.progress) as bar:
        for row in data.iter_rows():
            part = int(row["part"])
            gathered[part].add(int(row["first"]), pickle.loads(row["results"]))
            missing[part] -= 1
            if not missing[part]:
                whole = gathered.pop(part)
                write_part(run, whole.read_part(part), whole.results, time.perf_counter() - began)
                bar.update()


def _rows(run: EmbedRun, pending: Sequence[int]) -> list[dict[str, Any]]:
    """One row per task: the blocks that it reads."""
    step = run.source.blocks_per_read
    return [
        {"part": part, "first": first, "names": pickle.dumps(run.parts[part][first : first + step])}
        for part in pending
        for first in range(0, len(run.parts[part]), step)
    ]


def _read(source: CellSource, budget: PictureBudget, row: dict[str, Any]) -> dict[str, Any]:
    """Names of blocks → blocks with their cells."""
    blocks = [read_block(source, name, budget) for name in pickle.loads(row["names"])]
    return {"part": row["part"], "first": row["first"], "blocks": pickle.dumps(blocks)}


class _Embedding:
    """An actor that holds the model."""

    def __init__(self, models: Sequence[Model], settings: EmbedSettings, precision: str, openvino: str | None) -> None:
        device = choose_device("cpu" if openvino else settings.device)
        self.embedder = BatchEmbedder(models, device, precision, settings.batch_size, openvino, settings.orientations)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Blocks with their cells → what came of them."""
        given = _Given(pickle.loads(row["blocks"]))
        reader = BatchReader(given, PictureBudget(0, 0), self.embedder.batch_size)
        results = list(self.embedder.run(reader.batches([(0, given.names())])))
        return {"part": row["part"], "first": row["first"], "results": pickle.dumps(results)}


@dataclass(frozen=True)
class _Given:
    """Blocks that have been read already, as a source."""

    blocks: Sequence[CellBlock]
    blocks_per_part: int = 1
    blocks_per_read: int = 1

    def names(self) -> Sequence[str]:
        """Their positions."""
        return [str(number) for number in range(len(self.blocks))]

    def read(self, name: str) -> CellBlock:
        """One of the blocks."""
        return self.blocks[int(name)]

    def fingerprint(self, variants: Sequence[Variant] | None = None) -> str:
        """Empty, because the source of the blocks has the fingerprint."""
        return ""


@dataclass
class _Gathered:
    """What has come back of one part."""

    results: PartResults
    notes: dict[int, tuple[BlockNotes, ...]] = field(default_factory=dict)

    def add(self, first: int, items: Sequence[BatchResult | ReadPart]) -> None:
        """Take what a task gave; its blocks are counted from `first` on."""
        for item in items:
            if isinstance(item, ReadPart):
                self.notes[first] = item.blocks
                continue
            places = tuple(Place(place.block + first, place.cell) for place in item.places)
            refused = {Place(p.block + first, p.cell): reason for p, reason in item.refused.items()}
            self.results.add(replace(item, places=places, refused=refused))

    def read_part(self, part: int) -> ReadPart:
        """The part as a whole."""
        return ReadPart(part, tuple(note for first in sorted(self.notes) for note in self.notes[first]))
