"""What the steps of an embedding run share: its settings, its plan, its folder."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from subcell_hf.errors import InputError
from subcell_hf.inference.encoders.finding import Model, subcell_models
from subcell_hf.inference.engine.batches import ReadPart
from subcell_hf.inference.engine.embed_settings import EmbedSettings
from subcell_hf.inference.engine.forward import BatchEmbedder
from subcell_hf.inference.engine.parts import PartResults, PartsFolder
from subcell_hf.inference.models.openvino_encoder import OPTIMIZATION_FILE
from subcell_hf.inference.sources.blocks import CellSource
from subcell_hf.model.locations_subcell import CALIBRATED
from subcell_hf.parallel.processes import Processes
from subcell_hf.storage.folder_lock import claim_folder
from subcell_hf.storage.records import sha256_of
from subcell_hf.tables.cell_pictures import PictureBudget
from subcell_hf.tables.embedding_table import SCHEMA_VERSION


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
        """What `subcell calibrate` wrote into the model's configuration; empty where there are several models.

        Empty also for means over orientations, because classifiers are calibrated on cells in one orientation.
        """
        return calibration_of(self.models) if self.settings.orientations == 1 else {}

    def embedder(self) -> BatchEmbedder:
        """What embeds the batches of this process."""
        settings = self.settings
        return BatchEmbedder(
            self.models, self.device, self.precision, settings.batch_size, self.openvino, settings.orientations
        )

    @property
    def proteins(self) -> tuple[str, ...]:
        return self.models[0].variant.proteins


def calibration_of(models: Sequence[Model]) -> dict[str, Any]:
    """What `subcell calibrate` wrote into the configuration of a model; empty where there are several models.

    Args:
        models: The models of a run.
    """
    found = subcell_models(models)
    config = found[0].config if len(found) == 1 == len(models) else {}
    return {name: config[name] for name in CALIBRATED if config.get(name)}


def fingerprint_of(
    source: CellSource, models: Sequence[Model], settings: EmbedSettings, precision: str, openvino: str | None
) -> str:
    """Identify what a run computes: by its inputs, models, and the settings that change the tables.

    Facts that earlier versions did not have are only added where they differ from what those did, so that runs of
    earlier versions can be resumed.

    Args:
        source: Where the cells come from.
        models: The models of the run.
        settings: How it is done.
        precision: As it was chosen.
        openvino: OpenVINO's name of the device; None for torch.
    """
    facts: list[Any] = [source.fingerprint(), [model.checksum for model in models], precision, settings.pictures]
    facts += [SCHEMA_VERSION]
    facts += ["attention"] if settings.attention_maps else []
    facts += ["openvino"] if openvino else []
    facts += [m.config[name] for m in subcell_models(models) for name in CALIBRATED if m.config.get(name)]
    if precision == "int8":
        facts += [sha256_of(model.folder / OPTIMIZATION_FILE) for model in subcell_models(models)]
    facts += [f"{settings.orientations} orientations"] if settings.orientations != 1 else []
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def named_values(content: Mapping[str, Any]) -> dict[str, Any]:
    """What changes the cells of a run by its name; models have checksums.

    Args:
        content: The nested `input` of `run.json`.
    """
    values: dict[str, Any] = {}
    for name, value in content.items():
        if name in ("reading", "filters", "options"):
            values |= named_values(value)
        elif name not in ("model", "models", "revision", "working_folder", "command"):
            values[name] = value
    return values


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
