"""Several encoders on the same cells: inputs are read, segmented and cropped once, and each encoder has its own run."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from subcell_hf.errors import InputError
from subcell_hf.images.unused import unused_of
from subcell_hf.inference.encoders.finding import Model
from subcell_hf.inference.engine.at_work import at_work
from subcell_hf.inference.engine.batches import Batch, Batcher, ReadPart, read_ahead
from subcell_hf.inference.engine.embed_settings import EmbedSettings
from subcell_hf.inference.engine.embedding import EmbedReport, embed_cells, finish_run, finished_report, open_run
from subcell_hf.inference.engine.forward import BatchEmbedder, Pipeline
from subcell_hf.inference.engine.parts import PartResults, PartsFolder
from subcell_hf.inference.engine.runs import EmbedRun, claim_planning, claim_run, write_part
from subcell_hf.inference.models.loading import choose_device
from subcell_hf.inference.models.openvino_encoder import choose_openvino
from subcell_hf.inference.models.variants import Variant
from subcell_hf.inference.sources.blocks import CellBlock, SharedReading, SharedSource, with_pictures
from subcell_hf.parallel.processes import Processes
from subcell_hf.parallel.worker_pool import map_ahead
from subcell_hf.progress import progress_bar


@dataclass(frozen=True)
class SourceOfEncoder:
    """A shared source as one of the encoders sees it.

    Attributes:
        source: The shared source.
        variants: Models of the encoder.
    """

    source: SharedSource
    variants: tuple[Variant, ...]

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

    def unused(self) -> Mapping[str, str]:
        """Images that belong to no input, with the reason."""
        return unused_of(self.source)

    def read(self, name: str) -> CellBlock:
        """Read a block for this encoder alone."""
        return self.source.read_each(name, [self.variants])[0]

    def fingerprint(self, variants: Sequence[Variant] | None = None) -> str:
        """As if the encoder were the only one."""
        return self.source.fingerprint(variants or self.variants)


@dataclass
class TogetherReport:
    """What a run of several encoders came to.

    Attributes:
        reports: Name of each encoder → what came of it.
        failed: Name of each encoder that failed → why; what it had finished is kept.
    """

    reports: dict[str, EmbedReport] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def embed_together(
    source: SharedSource,
    encoders: Mapping[str, Sequence[Model]],
    output: Path,
    settings: EmbedSettings,
    *,
    processes: Processes,
    records: Mapping[str, Mapping[str, Any]],
) -> TogetherReport:
    """Embed all cells of a source by several encoders; resumes earlier runs of the same inputs.

    An encoder that fails is left out from there, and the others go through. One that ends the process is found by
    `encoders_that_died` of the next run.

    Args:
        source: Where the cells come from.
        encoders: Name → the models of each.
        output: Folder of the runs, `output/NAME` for each encoder.
        settings: How to do it.
        processes: Which of how many processes this is.
        records: Name → more values for `run.json`; see `embed_cells`.

    Raises:
        InputError: If the folder of the runs cannot be written.
        OSError: If a file cannot be written.
    """
    report = TogetherReport()
    views = {
        name: SourceOfEncoder(source, tuple(model.variant for model in models)) for name, models in encoders.items()
    }
    if settings.engine == "ray":  # every task reads for one encoder
        for name, models in encoders.items():
            with _NotingFailure(report, name), at_work(output, name):
                report.reports[name] = embed_cells(
                    views[name], models, output / name, settings, processes=processes, record=records[name]
                )
    else:
        with ExitStack() as claims:
            runs = dict[str, EmbedRun]()
            for name, models in encoders.items():
                with _NotingFailure(report, name):
                    run = _open(claims, views[name], models, output / name, settings, processes, records[name])
                    if run.folder.is_joined():
                        report.reports[name] = finished_report(run)
                    else:
                        runs[name] = run
            _embed_runs(source, runs, output, settings, report)
    report.reports = {name: report.reports[name] for name in encoders if name in report.reports}
    return report


class _NotingFailure:
    """Keeps the error of one encoder from ending the others."""

    def __init__(self, report: TogetherReport, name: str) -> None:
        self._report, self._name = report, name

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, InputError):
            self._report.failed[self._name] = str(error)
            return True
        return False


def _open(
    claims: ExitStack,
    view: SourceOfEncoder,
    models: Sequence[Model],
    output: Path,
    settings: EmbedSettings,
    processes: Processes,
    record: Mapping[str, Any],
) -> EmbedRun:
    """Open the run of one encoder, and keep its folder until the end, unless it is complete."""
    openvino = choose_openvino(settings.engine_backend, settings.device, settings.precision)
    device = choose_device("cpu" if openvino else settings.device, processes.local_rank)
    names = list(view.names())
    if not names:
        raise InputError("The input contains no cells and no fields of view. Give another input.")
    if not PartsFolder(output, 0).is_joined():
        claims.enter_context(claim_run(output, processes))
    with claim_planning(output, processes):
        return open_run(view, models, output, settings, processes, record, names, device, openvino)


def _embed_runs(
    source: SharedSource, runs: Mapping[str, EmbedRun], output: Path, settings: EmbedSettings, report: TogetherReport
) -> None:
    """Embed what is missing, and join the parts of each run."""
    started = time.perf_counter()
    pending = {name: run.find_pending() for name, run in runs.items()}
    if any(pending.values()):
        _embed_pending(source, runs, pending, output, settings, report)
    seconds = time.perf_counter() - started
    for name, run in runs.items():
        if name not in report.failed:
            with _NotingFailure(report, name):
                report.reports[name] = finish_run(run, seconds, len(pending[name]))


def _embed_pending(
    source: SharedSource,
    runs: Mapping[str, EmbedRun],
    pending: Mapping[str, Sequence[int]],
    output: Path,
    settings: EmbedSettings,
    report: TogetherReport,
) -> None:
    """Hand each block to every encoder that has not embedded its part yet."""
    embedders, pipelines = dict[str, BatchEmbedder](), dict[str, Pipeline]()
    for name, run in runs.items():
        embedders[name] = run.embedder()
        pipelines[name] = Pipeline(embedders[name])
    results = {
        name: PartResults(run.classes, run.proteins, settings.attention_maps, run.calibration)
        for name, run in runs.items()
    }
    first = next(iter(runs.values()))
    reader = _SharedReader(source, runs, {name: embedder.batch_size for name, embedder in embedders.items()})
    began = dict.fromkeys(runs, time.perf_counter())
    total, shown = sum(map(len, pending.values())), settings.progress and first.processes.rank == 0
    with progress_bar(total, "parts", "embed", shown=shown) as bar:
        for name, item in reader.items(pending, settings.workers, report.failed):
            if name in report.failed:
                if len(report.failed.keys() & runs.keys()) == len(runs):
                    break
                continue
            done: list[Any] = []
            with _NotingFailure(report, name), at_work(output, name):
                done += pipelines[name].push(item)
                if isinstance(item, ReadPart):
                    done += pipelines[name].drain()
            for result in done:
                if isinstance(result, ReadPart):
                    write_part(runs[name], result, results[name], time.perf_counter() - began[name])
                    began[name] = time.perf_counter()
                    bar.update()
                else:
                    results[name].add(result)
            bar.update(0)
    for name, run in runs.items():
        run.batch_size = embedders[name].batch_size


class _SharedReader:
    """Reads every block once, and hands out the batches of each encoder.

    Args:
        source: Where the cells come from.
        runs: Name → run of each encoder; their parts are the same.
        cells_per_batch: Name → cells of a batch.
    """

    def __init__(self, source: SharedSource, runs: Mapping[str, EmbedRun], cells_per_batch: Mapping[str, int]) -> None:
        self._source, self._runs = source, runs
        self._batchers = {name: Batcher(cells_per_batch[name], run.device.type == "cuda") for name, run in runs.items()}

    def items(
        self, pending: Mapping[str, Sequence[int]], workers: int, failed: Mapping[str, str]
    ) -> Iterator[tuple[str, Batch | ReadPart]]:
        """Name of an encoder and its next batch, or that its part is complete; nothing more of those that failed."""
        return read_ahead(self._items(pending, workers, failed))

    def _items(
        self, pending: Mapping[str, Sequence[int]], workers: int, failed: Mapping[str, str]
    ) -> Iterator[tuple[str, Batch | ReadPart]]:
        first = next(iter(self._runs.values()))
        parts = sorted({part for own in pending.values() for part in own})
        wanted = {part: tuple(name for name, own in pending.items() if part in own) for part in parts}
        tasks = [(block, wanted[part]) for part in parts for block in first.parts[part]]
        choices = {name: tuple(model.variant for model in run.models) for name, run in self._runs.items()}
        read = map_ahead(SharedReading(self._source, choices).read, tasks, workers)
        blocks = zip(tasks, read, strict=True)
        for part in parts:
            for (block_name, _), each in islice(blocks, len(first.parts[part])):
                for name, block in each.items():
                    if name not in failed:
                        drawn = with_pictures(block, block_name, first.budget)
                        yield from ((name, batch) for batch in self._batchers[name].take(drawn))
            for name in wanted[part]:
                if name not in failed:
                    yield from ((name, item) for item in self._batchers[name].finish(part))
