"""What the steps of an embedding run share: its settings, its plan, its folder."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from subcell_hf.errors import InputError
from subcell_hf.inference.engine.batches import ReadPart
from subcell_hf.inference.engine.parts import PartResults, PartsFolder
from subcell_hf.inference.models.loading import ModelFolder
from subcell_hf.inference.sources.blocks import CellSource
from subcell_hf.parallel.processes import Processes
from subcell_hf.parallel.ray_tasks import check_engine
from subcell_hf.storage.folder_lock import claim_folder
from subcell_hf.tables.cell_pictures import DEFAULT_PICTURES, PictureBudget


@dataclass(frozen=True)
class EmbedSettings:
    """How a run is done; of these only precision, pictures and attention maps change what comes out.

    Attributes:
        device: `"auto"`, or as torch names it; `"openvino:GPU"` for another device of OpenVINO than the CPU.
        precision: `"auto"`, which is that of the run that is resumed, or else the fastest on this machine; `"fp32"` or
            `"bf16"`. On OpenVINO also `"int8"`, which is the default of models that `subcell optimize` wrote.
        batch_size: Images of a forward; None: chosen here, and halved when memory runs out.
        workers: Processes that read and crop; 0: a thread beside the model.
        pictures: How many cells get a picture at most.
        attention_maps: Whether to keep the attention of every cell, for SubCellPortable's pictures.
        h5ad: Whether to write the AnnData file, too.
        strict: Whether to stop at the first input that cannot be used.
        progress: Whether to show how far it has come.
        engine: `"local"`, or `"ray"` for a cluster.
        engine_backend: `"torch"`, or `"openvino"`, which runs what `subcell optimize` wrote in int8.
        actors: With Ray: processes that hold the model.
    """

    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    workers: int = 0
    pictures: int = DEFAULT_PICTURES
    attention_maps: bool = False
    h5ad: bool = True
    strict: bool = False
    progress: bool = True
    engine: str = "local"
    engine_backend: str = "torch"
    actors: int = 1

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be.

        Raises:
            InputError: Naming the setting.
        """
        for name, least in (("batch_size", 1), ("workers", 0), ("pictures", 0), ("actors", 1)):
            given = getattr(self, name)
            if given is not None and given < least:
                raise InputError(f"{name} is {given}, expected at least {least}.")
        check_engine(self.engine)


@dataclass
class EmbedRun:
    """All that the steps of a run share."""

    source: CellSource
    models: tuple[ModelFolder, ...]
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

    @property
    def classes(self) -> tuple[str, ...]:
        return self.models[0].classes

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
