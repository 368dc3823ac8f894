"""Baselines computed from a source of cells: an untrained twin embeds them, and the same reading measures them."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from subcell_hf.errors import InputError
from subcell_hf.evaluation.baselines.baselines import BaselineSettings, assemble_baselines
from subcell_hf.evaluation.baselines.measurements import Measurements
from subcell_hf.inference.engine.embed_settings import EmbedSettings
from subcell_hf.inference.engine.embedding import Processes, embed_cells
from subcell_hf.inference.models.loading import AUTO, ModelFolder, find_models
from subcell_hf.inference.models.variants import Variant
from subcell_hf.inference.sources.blocks import CellBlock, CellSource
from subcell_hf.inference.sources.recognition import open_source
from subcell_hf.inference.sources.source_options import SourceOptions
from subcell_hf.parallel.worker_pool import WorkerPool
from subcell_hf.progress import hide_weight_bars
from subcell_hf.storage.model_folders import CONFIG_FILE
from subcell_hf.tables.files import EmbeddingTable
from subcell_hf.weights.untrained import save_untrained
from subcell_hf.workflows.evaluation.table_origin import TableOrigin

_MEASURED, _EMBEDDED = ".measured-", ".untrained-"
"""Beginnings of hidden folders with what has been done until now; the rest of the name identifies the input."""


@dataclass(frozen=True)
class MeasuredSource:
    """A source of cells that measures each block as it is read, so that fields are segmented once for all baselines.

    Attributes:
        source: Whose blocks are pieces of the measurements.
        measurements: Where to.
    """

    source: CellSource
    measurements: Measurements

    @property
    def blocks_per_part(self) -> int:
        """As the source says."""
        return self.source.blocks_per_part

    @property
    def blocks_per_read(self) -> int:
        """As the source says."""
        return self.source.blocks_per_read

    def names(self) -> Sequence[str]:
        """Names of the blocks."""
        return self.source.names()

    def read(self, name: str) -> CellBlock:
        """Read one block and measure it."""
        block = self.source.read(name)
        if not self.measurements.has(name):
            self.measurements.measure(name, [block.crops] if block.crops else [])
        return block

    def fingerprint(self, variants: Sequence[Variant] | None = None) -> str:
        """As the source says."""
        return self.source.fingerprint(variants)


@dataclass(frozen=True)
class BaselineComputation:
    """The baselines of the cells of a table.

    Attributes:
        origin: Where the cells come from.
        cells: Metadata of the table.
        folder: Folder of the baselines.
        source: The cells, cut as for the table.
        key: Identifies the state of the input.
        measurements: Of the cells; None where features and pixels are not wanted.
        workers: Processes that read and measure.
    """

    origin: TableOrigin
    cells: pd.DataFrame
    folder: Path
    source: CellSource
    key: str
    measurements: Measurements | None
    workers: int

    @classmethod
    def open(
        cls, origin: TableOrigin, cells: pd.DataFrame, folder: Path, *, measured: bool, workers: int
    ) -> "BaselineComputation":
        """Open the source as `subcell embed` did.

        Raises:
            InputError: If it cannot be opened.
        """
        models = tuple(_recorded_model(facts) for facts in origin.models)
        options = origin.input.options if origin.input else SourceOptions()
        source, _, _ = open_source(origin.source, models, options)
        edge, planes = BaselineSettings.pixel_edge, _shared_planes(models, cells)
        facts = json.dumps([origin.identity, source.fingerprint(), edge, planes])
        key = hashlib.sha256(facts.encode()).hexdigest()[:16]
        measurements = Measurements(folder / f"{_MEASURED}{key}", edge, planes) if measured else None
        return cls(origin, cells, folder, source, key, measurements, workers)

    @cached_property
    def pieces(self) -> dict[str, tuple[str, ...]]:
        """Name of each piece that is measured at once → the blocks in it."""
        names, size = list(self.source.names()), self.source.blocks_per_read
        return {names[start]: tuple(names[start : start + size]) for start in range(0, len(names), size)}

    def embed_untrained(self, output: Path, record: Mapping[str, Any]) -> None:
        """Embed the cells by twins of the models with random weights; resumable.

        Args:
            output: Folder of the run, which appears whole, in the place of an earlier one.
            record: For its `run.json`.

        Raises:
            InputError: If a model is gone, or cells cannot be embedded.
            OSError: If a file cannot be written.
        """
        if others := [facts["name"] for facts in self.origin.models if "encoder" in facts]:
            raise InputError(f"{others[0]} is no SubCell model, of which an untrained twin could be made")
        hide_weight_bars()
        source = self.source
        if self.measurements is not None and source.blocks_per_read == 1:
            source = MeasuredSource(source, self.measurements)
        self.folder.mkdir(parents=True, exist_ok=True)
        embedded = self.folder / f"{_EMBEDDED}{self.key}"
        with tempfile.TemporaryDirectory() as weights:
            models = _untrained_twins(self.origin, Path(weights))
            settings = EmbedSettings(
                precision=self.origin.precision,
                orientations=self.origin.orientations,
                workers=self.workers if self.workers > 1 else 0,
                pictures=0,
                h5ad=False,
            )
            embed_cells(source, models, embedded, settings, processes=Processes(), record=record)
        if output.exists():
            shutil.rmtree(output)
        embedded.replace(output)
        _remove(self.folder, _EMBEDDED)

    def measure(self) -> dict[str, EmbeddingTable]:
        """The tables `features` and `pixels`, of what was measured before and what still lacks.

        Raises:
            InputError: If a cell of the table is not there any more or is another one now.
        """
        if self.measurements is None:
            raise ValueError("The computation was opened without measurements.")
        self._measure_missing(self.measurements)
        channels = self.measurements.find_channels(self.pieces)
        measured = self.measurements.read(self.pieces, self.cells)
        answers = [name for name in self.cells if name == "model" or str(name).startswith("top_")]
        cells = self.cells.drop(columns=answers)  # of the model, not of the cell
        tables = assemble_baselines(measured, cells, channels, BaselineSettings())
        _remove(self.folder, _MEASURED)
        return tables

    def _measure_missing(self, measurements: Measurements) -> None:
        lacking = [(piece, blocks) for piece, blocks in self.pieces.items() if not measurements.has(piece)]
        if not lacking:
            return
        if self.workers > 1:
            with WorkerPool(self.workers, _open_in_worker, (self.source, measurements)) as pool:
                list(tqdm(pool.map(_measure_in_worker, lacking), "measure", len(lacking), disable=None))
            return
        for piece, blocks in tqdm(lacking, "measure", disable=None):
            _measure(self.source, measurements, piece, blocks)


def _remove(folder: Path, beginning: str) -> None:
    """Remove what was done for this and for other states of the input."""
    for path in folder.glob(f"{beginning}*"):
        shutil.rmtree(path)


def _recorded_model(facts: Mapping[str, Any]) -> ModelFolder:
    """A model as reading and cropping need to know it, by the provenance of a table; its weights may be gone."""
    variant = Variant(
        name=facts["name"],
        channels=tuple(facts["channels"]),
        proteins=tuple(facts["proteins"]),
        crop_px=facts["crop_px"],
        pixel_size_um=facts["pixel_size_um"],
        patch_px=facts.get("patch_px", 1),
        settings=dict(facts["processor"]),
    )
    return ModelFolder(facts["name"], Path(), facts["revision"], {}, variant, facts["weights_sha256"])


def _shared_planes(models: Sequence[ModelFolder], cells: pd.DataFrame) -> tuple[str, ...]:
    """What all models that the table names have seen; empty, which is every plane, where it is one model."""
    named = set(cells["model"]) if "model" in cells else set()
    planes = [model.variant.planes for model in models if model.variant.name in named]
    if len(planes) < 2:
        return ()
    return tuple(name for name in planes[0] if all(name in other for other in planes))


def _untrained_twins(origin: TableOrigin, folder: Path) -> tuple[ModelFolder, ...]:
    """Models of the same shape with random weights, which see the cells as the models of the table do."""
    given = origin.input
    recorded = [_recorded_model(facts) for facts in origin.models]
    several = given is not None and given.model == AUTO
    name = AUTO if several else given.model if given is not None and given.model else recorded[0].name
    owner, revision = None, recorded[0].revision
    if given is not None:
        path = given.find(name)  # a folder without a model may have the name of a published one
        name = AUTO if several else path if (Path(path) / CONFIG_FILE).is_file() else name
        owner = given.find(given.models) if several and given.models is not None else None
        revision = given.revision or revision
    found = find_models(name, models=owner, revision=None if Path(name).is_dir() else revision)
    by_name = {model.name if several else recorded[0].name: model for model in found}
    twins = []
    for number, model in enumerate(recorded):
        written = save_untrained(str(by_name[model.name].folder), folder / str(number))
        twin = find_models(str(written))[0]
        twins.append(replace(twin, name=f"untrained twin of {model.name}", variant=model.variant))
    return tuple(twins)


_opened: dict[str, tuple[CellSource, Measurements]] = {}
"""What this worker process measures."""


def _open_in_worker(source: CellSource, measurements: Measurements) -> None:
    _opened["own"] = source, measurements


def _measure_in_worker(task: tuple[str, Sequence[str]]) -> None:
    _measure(*_opened["own"], *task)


def _measure(source: CellSource, measurements: Measurements, piece: str, blocks: Sequence[str]) -> None:
    read = [source.read(name).crops for name in blocks]
    measurements.measure(piece, [crops for crops in read if crops is not None])
