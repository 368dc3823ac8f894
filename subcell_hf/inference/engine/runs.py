"""What the steps of an embedding run share: its settings, its plan, its folder."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from subcell_hf.errors import InputError
from subcell_hf.inference.encoders.finding import Model
from subcell_hf.inference.engine.batches import ReadPart
from subcell_hf.inference.engine.embed_settings import EmbedSettings
from subcell_hf.inference.engine.parts import PartResults, PartsFolder
from subcell_hf.inference.models.loading import ModelFolder
from subcell_hf.inference.sources.blocks import CellSource
from subcell_hf.model.locations_subcell import CALIBRATED
from subcell_hf.parallel.processes import Processes
from subcell_hf.storage.folder_lock import claim_folder
from subcell_hf.tables.cell_pictures import PictureBudget


@dataclass
class EmbedRun:
    """All that the steps of a run share."""

    source: CellSource
    models: tuple[Model, ...]
    settings: EmbedSettings
    processes: Processes
    names: list[str]
    parts: list[tuple[str, ...]]
    folder: PartsFolder
    budget: PictureBudget
    device: torch.device
    precision: str
    record: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    openvino: str | None = None
    way: str | None = None
    watch: Callable[[int], object] | None = None

    @property
    def own_parts(self) -> list[int]:
        """Numbers of the parts that this process embeds."""
        return [part for part in range(len(self.parts)) if part % self.processes.world_size == self.processes.rank]

    def find_pending(self) -> list[int]:
        """Those of `own_parts` that are not finished, or damaged."""
        return [part for part in self.own_parts if not self.folder.is_sound(part)]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.models[0].classes

    @property
    def calibration(self) -> Mapping[str, Any]:
        """What `subcell calibrate` wrote into the model's configuration; empty where there are several models."""
        models = [model for model in self.models if isinstance(model, ModelFolder)]
        config = models[0].config if len(models) == 1 == len(self.models) else {}
        return {name: config[name] for name in CALIBRATED if config.get(name)}

    @property
    def proteins(self) -> tuple[str, ...]:
        return self.models[0].variant.proteins


@contextmanager
def claim_run(output: Path, processes: Processes) -> Iterator[None]:
    """Keep the folder of a run for the process alone, or for the processes of its launch together.

    Raises:
        InputError: If another job works there, or another process has the same number.
    """
    if processes.world_size == 1:
        with claim_folder(output):
            yield
        return
    with claim_folder(output, shared=True), claim_folder(output, lock=f".process-{processes.rank}.lock"):
        yield


@contextmanager
def claim_planning(output: Path, processes: Processes) -> Iterator[None]:
    """Let the processes of a launch open the folder of their run one after the other."""
    if processes.world_size == 1:
        yield
        return
    with claim_folder(output, lock=".planning.lock", wait=True):
        yield


def write_part(run: EmbedRun, part: ReadPart, results: PartResults, seconds: float) -> None:
    """Write a part that is complete.

    Raises:
        InputError: In strict mode, if something of it was skipped.
    """
    content = results.finish(part.blocks)
    if run.settings.strict and content.skipped:
        raise InputError(f"{content.skipped[0].name}: {content.skipped[0].reason}")
    run.folder.write(part.part, content, seconds)
