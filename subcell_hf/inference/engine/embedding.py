"""Cells → embedding table: what `subcell embed` runs, on one process or many."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from subcell_hf.cells.pixel_sizes import PIXEL_SIZE, PIXEL_SIZE_FROM, count_pixel_sizes
from subcell_hf.cells.quality import DOUBTFUL_CHANNELS, count_doubtful_channels
from subcell_hf.errors import InputError
from subcell_hf.images.unused import unused_of
from subcell_hf.inference.encoders.finding import Model, subcell_models
from subcell_hf.inference.engine.batches import BatchReader, ReadPart
from subcell_hf.inference.engine.embed_settings import EmbedSettings
from subcell_hf.inference.engine.pace import SHORTEST_S, Pace
from subcell_hf.inference.engine.parts import PartResults, PartsFolder, plan_parts
from subcell_hf.inference.engine.runs import (
    EmbedRun,
    calibration_of,
    claim_planning,
    claim_run,
    fingerprint_of,
    named_values,
    write_part,
)
from subcell_hf.inference.models.layer_times import LayerShape, time_layer
from subcell_hf.inference.models.loading import ModelFolder, choose_device
from subcell_hf.inference.models.openvino_encoder import AUTO_BACKEND, choose_openvino
from subcell_hf.inference.models.precision import AUTO_PRECISION, ChosenPrecision, check_precision, choose_precision
from subcell_hf.inference.sources.blocks import CellSource
from subcell_hf.inference.sources.source_options import SourceOptions
from subcell_hf.parallel.processes import Processes
from subcell_hf.progress import progress_bar
from subcell_hf.report.novelty import novelty_columns, summarize_novelty
from subcell_hf.storage.input_lists import write_unused
from subcell_hf.storage.typed_json import settings_to_json
from subcell_hf.tables.cell_pictures import PictureBudget
from subcell_hf.tables.embedding_table import SCHEMA_VERSION
from subcell_hf.tables.files import EMBEDDINGS_FILE
from subcell_hf.tables.run_record import RUN_FORMAT, read_run

__all__ = ["EmbedReport", "Processes", "embed_cells"]

_LIBRARIES = (
    "subcell-hf",
    "torch",
    "transformers",
    "numpy",
    "scikit-image",
    "scipy",
    "tifffile",
    "imagecodecs",
    "pyarrow",
    "openvino",
)

_ON_CPU = ("CPU", "openvino")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbedReport:
    """What a run came to.

    Attributes:
        output: Folder of the run.
        cells: Rows of the table.
        skipped: Input and reason, for all that is not in the table.
        resumed_parts: Parts that an earlier run had finished.
        parts: Parts of the whole run.
        missing_parts: Parts that other processes have not finished yet; the last to finish writes the tables.
    """

    output: Path
    cells: int
    skipped: Sequence[tuple[str, str]]
    resumed_parts: int
    parts: int
    missing_parts: int = 0

    @property
    def complete(self) -> bool:
        """Whether the tables are written."""
        return not self.missing_parts


def embed_cells(
    source: CellSource,
    models: Sequence[Model],
    output: Path,
    settings: EmbedSettings | None = None,
    *,
    processes: Processes | None = None,
    record: Mapping[str, Any] | None = None,
    watch: Callable[[int], object] | None = None,
) -> EmbedReport:
    """Embed all cells of a source; resumes an earlier run of the same inputs.

    Args:
        source: Where the cells come from.
        models: The models that its blocks name.
        output: Folder of the run.
        settings: How to do it.
        processes: Which of how many processes this is; None: as the launcher says.
        record: More JSON values for `run.json`, by name. Of a value `input`, see `workflows.embed_input`, what differs
            is named where the folder holds a run of something else.
        watch: Called after each batch with the number of cells embedded so far; what it raises stops the run.

    Returns:
        What came of it.

    Raises:
        InputError: If nothing can be embedded, or the folder holds a run of something else; in strict mode also for
            every input that cannot be used.
        OSError: If a file cannot be written.
    """
    settings, processes = settings or EmbedSettings(), processes or Processes.of_environment()
    openvino = choose_openvino(settings.engine_backend, settings.device, settings.precision)
    if not openvino:
        check_precision(settings.precision)
    device = choose_device("cpu" if openvino else settings.device, processes.local_rank)
    names = list(source.names())
    if not names:
        raise InputError("The input contains no cells and no fields of view. Give another input.")
    prepare = partial(open_run, source, models, output, settings, processes, record or {}, names, device, openvino)
    if PartsFolder(output, 0).is_joined():
        return finished_report(prepare())
    with claim_run(output, processes):
        # Who comes first decides on the precision; processes of one launch may differ in what they measure.
        with claim_planning(output, processes):
            run = prepare()
        run.watch = watch
        return finished_report(run) if run.folder.is_joined() else _embed(run)


def _embed(run: EmbedRun) -> EmbedReport:
    """Embed the share of this process; whoever ends last joins the parts."""
    started = time.perf_counter()
    pending = run.find_pending()
    if run.settings.engine == "ray":
        from subcell_hf.inference.engine.cluster import embed_on_ray

        embed_on_ray(run, pending)
    else:
        _embed_parts(run, pending)
    return finish_run(run, time.perf_counter() - started, len(pending))


def finish_run(run: EmbedRun, seconds: float, embedded: int) -> EmbedReport:
    """Join the parts of a run, if no other process has parts left.

    Args:
        run: The run, whose share of this process is embedded.
        seconds: Time that it took.
        embedded: Parts of the share that were embedded now.

    Returns:
        What came of the run.

    Raises:
        InputError: If parts were removed while this ran, or no cell could be embedded.
        OSError: If a file cannot be written.
    """
    processes = run.processes
    resumed = len(run.own_parts) - embedded
    missing = sum(not run.folder.is_done(part) for part in range(len(run.parts)))
    if missing and not run.folder.is_joined():
        if processes.world_size == 1:
            raise InputError(
                f"{missing} of {len(run.parts)} finished parts of {run.folder.output} were removed while this ran. "
                "Make sure that nothing else changes the folder, and run the same command again."
            )
        return EmbedReport(run.folder.output, 0, (), resumed, len(run.parts), missing)
    with run.folder.lock():
        if run.folder.is_joined():
            return replace(finished_report(run), resumed_parts=resumed)
        try:
            # What other processes have written is looked at here for the first time.
            others = [part for part in range(len(run.parts)) if part % processes.world_size != processes.rank]
            _embed_parts(run, [part for part in others if not run.folder.is_sound(part)])
            return _join(run, seconds, resumed)
        except FileNotFoundError:
            # Without locks another process may have joined the parts, and removed them, at the same time.
            if not run.folder.is_joined():
                raise
            return replace(finished_report(run), resumed_parts=resumed)


def open_run(
    source: CellSource,
    models: Sequence[Model],
    output: Path,
    settings: EmbedSettings,
    processes: Processes,
    record: Mapping[str, Any],
    names: list[str],
    device: torch.device,
    openvino: str | None,
) -> EmbedRun:
    """Plan the run, and open its folder.

    Args:
        source: See `embed_cells`, as for all that is not listed here.
        models: The same.
        output: The same.
        settings: The same.
        processes: The same.
        record: The same.
        names: Names of all blocks.
        device: Device of torch.
        openvino: OpenVINO's name of a device that was asked for.

    Raises:
        InputError: If the folder holds a run of something else.
    """
    recorded, backend = PartsFolder(output, 0).recorded_precision()
    same = settings.engine_backend in (AUTO_BACKEND, backend) and (not openvino or (openvino, backend) == _ON_CPU)
    others = [model.name for model in models if not isinstance(model, ModelFolder)]
    if others:
        chosen = ChosenPrecision("fp32", f"{', '.join(others)} is no SubCell model and always computed in fp32")
    elif settings.precision == AUTO_PRECISION and recorded and same:
        chosen = ChosenPrecision(recorded, "as this run began", "CPU" if backend == "openvino" else None)
    else:
        backend = settings.engine_backend
        chosen = choose_precision(
            settings.precision, subcell_models(models), device, backend=backend, openvino=openvino
        )
    if settings.precision in (AUTO_PRECISION, *(["bf16", "int8"] if others else [])) and processes.rank == 0:
        library = " on OpenVINO" if chosen.openvino else ""
        _logger.info("Precision %s%s: %s.", chosen.name, library, chosen.reason)
    precision = chosen.name
    parts = plan_parts(names, source.blocks_per_read, source.blocks_per_part)
    budget = PictureBudget.of_fields(names, settings.pictures)
    shown = {
        "models": [f"{model.name} {model.checksum[:16]}" for model in models],
        "precision": precision,
        "engine backend": "openvino" if chosen.openvino else "torch",
        "orientations": settings.orientations,
        "pictures": settings.pictures,
        "attention of every cell (--portable)": settings.attention_maps,
        **named_values(record.get("input", {})),
    }
    fingerprint = fingerprint_of(source, models, settings, precision, chosen.openvino)
    folder = PartsFolder(output, len(parts), fingerprint)
    run = EmbedRun(source, tuple(models), settings, processes, names, parts, folder, budget, device, precision)
    run.openvino, run.way = chosen.openvino, chosen.way
    run.record = {**record, "fingerprint": fingerprint, "settings": shown}
    earlier = {"options": settings_to_json(SourceOptions()), "engine backend": "torch", "orientations": 1}
    folder.open(shown, named_values(earlier))
    if settings.orientations != 1 and calibration_of(models) and processes.rank == 0:
        _logger.warning(
            "%s was calibrated on cells in one orientation, and this run averages over %d: the table has no sets of "
            "locations and no novelty. --orientations 1 adds them.", models[0].name, settings.orientations,
        )  # fmt: skip
    return run


def _embed_parts(run: EmbedRun, pending: Sequence[int]) -> None:
    """Embed parts one after the other, and write each as it finishes."""
    if not pending:
        return
    settings = run.settings
    embedder = run.embedder()
    reader = BatchReader(
        run.source, run.budget, embedder.batch_size, settings.workers, pin_memory=run.device.type == "cuda"
    )
    results = PartResults(run.classes, run.proteins, settings.attention_maps, run.calibration)
    pace, part_began = Pace(), time.perf_counter()
    began = part_began
    pace.start()
    shown = settings.progress and run.processes.rank == 0
    with progress_bar(len(pending), "parts", "embed", shown=shown) as bar:
        batches = pace.waiting_for(reader.batches([(part, run.parts[part]) for part in pending]))
        for item in embedder.run(batches):
            if isinstance(item, ReadPart):
                write_part(run, item, results, time.perf_counter() - part_began)
                part_began = time.perf_counter()
                bar.update()
                continue
            results.add(item)
            pace.cells += len(item.places)
            bar.set_postfix_str(f"{pace.cells / (time.perf_counter() - began):.1f} cells/s", refresh=False)
            bar.update(0)
            if run.watch is not None:
                run.watch(pace.cells)
    run.batch_size = embedder.batch_size
    pace.stop()
    _note_pace(run, pace)


def _note_pace(run: EmbedRun, pace: Pace) -> None:
    """Log the rate of this process beside the normal one."""
    models = subcell_models(run.models)
    if run.way is None or pace.seconds < SHORTEST_S or any(model.config.get("backbone_config") for model in models):
        return
    if len(models) < len(run.models):  # nothing is timed for other encoders
        return
    shape = min(map(LayerShape.of_model, models), key=lambda shape: shape.cpu_batch)
    normal = time_layer(shape, run.device).cells_per_s(run.way)
    normal = None if normal is None else normal / max(1, len(run.proteins)) / run.settings.orientations
    if text := pace.describe(normal, on_cpu=run.device.type == "cpu"):
        _logger.info("%s", text)


def _join(run: EmbedRun, seconds: float, resumed: int) -> EmbedReport:
    """Write the tables, and last of all `run.json`."""
    names = run.proteins if len(run.proteins) > 1 and run.classes else ()
    averaged = {"orientations": run.settings.orientations} if run.settings.orientations != 1 else {}
    provenance = {
        "subcell_hf": _version("subcell-hf"),
        "models": [model.facts() for model in run.models],
        "precision": run.precision,
        **averaged,
    }
    facts = {
        "schema_version": SCHEMA_VERSION,
        "classes": list(run.classes),
        "passes": list(names),
        "provenance": provenance,
    }
    unused = unused_of(run.source)
    write_unused(run.folder.output, unused)
    skipped = run.folder.join(facts, h5ad=run.settings.h5ad)
    table = pq.ParquetFile(run.folder.output / EMBEDDINGS_FILE)
    counted: tuple[str, ...] = (PIXEL_SIZE, PIXEL_SIZE_FROM, DOUBTFUL_CHANNELS, "field_of_view")
    calibrated = run.calibration.get("novelty")
    counted += novelty_columns(calibrated) if calibrated else ()
    columns = table.read(columns=[name for name in dict.fromkeys(counted) if name in table.schema_arrow.names])
    novelty = summarize_novelty(columns.to_pandas(), calibrated) if calibrated else None
    if novelty is not None and novelty.differs:
        _logger.warning("The cells differ from those of the calibration: %s", novelty.describe())
    notes = run.folder.notes()
    cells = sum(note["cells"] for note in notes)
    run.folder.finish(
        {
            **run.record,
            "format": RUN_FORMAT,
            "embed_settings": settings_to_json(run.settings),
            "models": [model.record() for model in run.models],
            "versions": {name: _version(name) for name in _LIBRARIES},
            "device": f"openvino:{run.openvino}" if run.openvino else _describe(run.device),
            "precision": run.precision,
            **averaged,
            "batch_size": run.batch_size,
            "processes": run.processes.world_size,
            "cells": cells,
            "skipped": len(skipped),
            "unused": len(unused),
            "pixel_sizes": count_pixel_sizes(columns),
            "doubtful_channels": count_doubtful_channels(columns),
            **({} if novelty is None else {"novelty": novelty.as_json()}),
            "timings": {
                "wall_s": round(seconds, 3),
                "resumed_parts": resumed,
                "parts_s": [note["seconds"] for note in notes],
            },
        }
    )
    return EmbedReport(run.folder.output, cells, tuple(skipped), resumed, len(run.parts))


def finished_report(run: EmbedRun) -> EmbedReport:
    """The report of a run that is complete already; adds an AnnData file that was not wanted then.

    Args:
        run: The run.

    Raises:
        InputError: If its tables are damaged.
    """
    output = run.folder.output
    run.folder.check_tables(h5ad=run.settings.h5ad)
    run.folder.clear()
    facts = read_run(output)
    return EmbedReport(output, facts["cells"], run.folder.read_skipped(), len(run.parts), len(run.parts))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _describe(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
