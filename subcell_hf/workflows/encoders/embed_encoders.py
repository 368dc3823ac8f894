"""The same cells by several encoders: what `subcell embed` runs where `--model` is given more than once."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from subcell_hf.cells.folder import write_json
from subcell_hf.errors import InputError, counted
from subcell_hf.images.unused import unused_of
from subcell_hf.inference.encoders.finding import Model, declare_channels
from subcell_hf.inference.encoders.specs import named_specs
from subcell_hf.inference.engine.at_work import at_work, encoders_that_died
from subcell_hf.inference.engine.embed_settings import EmbedSettings
from subcell_hf.inference.engine.embedding import EmbedReport
from subcell_hf.inference.engine.together import embed_together
from subcell_hf.inference.sources.recognition import input_channels, open_source
from subcell_hf.parallel.processes import Processes
from subcell_hf.progress import hide_weight_bars
from subcell_hf.storage.typed_json import settings_to_json
from subcell_hf.tables.run_record import ENCODERS_FILE, RUN_FILE, encoder_folders, read_run
from subcell_hf.workflows.embed import find_models_of, finish_run_folder, tables_are_complete
from subcell_hf.workflows.embed_input import EmbedInput
from subcell_hf.workflows.notes import note_renamed_columns, note_unused
from subcell_hf.workflows.tables import check_report_libraries, draw_encoders_page

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodersReport:
    """Result of `embed_with_encoders`.

    Attributes:
        folder: Folder of the runs.
        reports: Name of each encoder → what came of its run, in `folder/NAME`.
        failed: Name of each encoder that failed → why.
    """

    folder: Path
    reports: Mapping[str, EmbedReport]
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Input and reason for all that is not in each table, with the name of the encoder."""
        return tuple(
            (f"{name}: {source}", reason) for name, run in self.reports.items() for source, reason in run.skipped
        )


def embed_with_encoders(
    given: EmbedInput,
    models: Sequence[str],
    output: str | Path,
    settings: EmbedSettings | None = None,
    *,
    processes: Processes | None = None,
    report: bool = True,
    portable: bool = False,
) -> EncodersReport:
    """Embed the same cells by several encoders; images are read, segmented and cropped once.

    Each encoder has its own run in `output/NAME`, as `embed_to_folder` writes it, with the same cells and ids, and is
    resumed independently. An encoder that fails is logged as a warning, and the others go through.

    Example:
        ```python
        from subcell_hf.workflows import EmbedInput, embed_with_encoders

        embed_with_encoders(EmbedInput("images"), ["subcell=mae-rybg", "features"], "run")
        ```

    Args:
        given: What to embed; its `model` is not used.
        models: `[NAME=]SOURCE[,KEY=VALUE]…` for each encoder, see `docs/encoders.md`.
        output: Folder of the runs: new, empty, or of an earlier call.
        settings: How to do it.
        processes: Which of how many processes this is; None: as the launcher says.
        report: Whether to write `report.html` of each run, and `index.html`, which shows them side by side.
        portable: Whether to write SubCellPortable's files of each run.

    Raises:
        InputError: If nothing can be embedded, names occur twice, the folder holds something else, or every encoder
            failed.
        OSError: If a file cannot be written.
    """
    output, settings = Path(output), settings or EmbedSettings()
    processes = processes or Processes.of_environment()
    if report:
        check_report_libraries()
    if (output / RUN_FILE).is_file():
        raise InputError(f"{output} holds the run of one model. Choose a new folder (--output) for several encoders.")
    hide_weight_bars()
    inputs = {name: replace(given, model=spec.text) for name, spec in named_specs(models).items()}
    job = _Job(given, output, settings, processes, _earlier_encoders(output, given, inputs), report, portable)
    died = [name for name in encoders_that_died(output) if name in inputs]
    for name in died:
        _logger.warning(
            "An earlier run ended without an error while %s was at work: its code crashed, or the process was killed. "
            "It runs after all others; if it ends this run, too, leave it out.", name,
        )  # fmt: skip
    groups = [[name for name in inputs if name not in died], *([name] for name in died)]
    reports, failed = dict[str, EmbedReport](), dict[str, str]()
    for names in filter(None, groups):
        _embed_group(job, {name: inputs[name] for name in names}, reports, failed)
    if not reports:
        raise InputError(f"Every encoder failed. {' '.join(dict.fromkeys(failed.values()))}")
    if report and all(run.complete for run in reports.values()):
        with tables_are_complete(f"subcell report {output}"):
            draw_encoders_page(output)
    return EncodersReport(output, {name: reports[name] for name in inputs if name in reports}, failed)


@dataclass(frozen=True)
class _Job:
    """What all encoders of a run share."""

    given: EmbedInput
    output: Path
    settings: EmbedSettings
    processes: Processes
    earlier: Sequence[str]
    report: bool
    portable: bool


def _embed_group(
    job: _Job, inputs: Mapping[str, EmbedInput], reports: dict[str, EmbedReport], failed: dict[str, str]
) -> None:
    """Embed by some of the encoders, in one pass over the cells; adds what came of it to `reports` and `failed`."""
    given, output, settings = job.given, job.output, job.settings
    found = _find(inputs, output, failed)
    if not found:
        return
    every = [model for own in found.values() for model in own]
    source, opened, what = open_source(given.source, every, given.options)
    if job.processes.rank == 0:
        _logger.info("%s: %s.", given.source, what)
        note_unused(unused_of(source))
        note_renamed_columns(given.source, given.options.reading, h5ad=settings.h5ad, passes=given.protein_channels)
    treated = iter(opened)
    encoders = {name: tuple(next(treated) for _ in own) for name, own in found.items()}
    done = embed_together(
        source,
        encoders,
        output,
        replace(settings, attention_maps=settings.attention_maps or job.portable),
        processes=job.processes,
        records={name: {"input": settings_to_json(one)} for name, one in inputs.items()},
    )
    for name, reason in done.failed.items():
        _logger.warning("%s failed, and the other encoders were continued: %s", name, reason)
    failed |= done.failed
    reports |= done.reports
    if not reports:
        return
    if all(run.complete for run in done.reports.values()):
        record = {"format": 1, "encoders": [*job.earlier, *reports], "failed": failed}
        write_json(output / ENCODERS_FILE, record)
        for run in done.reports.values():
            finish_run_folder(run, report=job.report, portable=job.portable)
    else:
        left = sum(run.missing_parts for run in done.reports.values())
        _logger.warning(
            "%s is not complete: %s are left to other processes. If no other process is running, run the same command "
            "again; it skips completed parts.",
            output, counted(left, "part"),
        )  # fmt: skip


def _earlier_encoders(output: Path, given: EmbedInput, inputs: Mapping[str, EmbedInput]) -> list[str]:
    """Encoders of an earlier call that this one does not name.

    Raises:
        InputError: If they embedded other cells.
    """
    now, names = settings_to_json(given), []
    for name, folder in encoder_folders(output).items():
        if name in inputs:
            continue
        before = read_run(folder).get("input", {})
        if any(before.get(key) != now[key] for key in ("source", "options")):
            raise InputError(
                f"{output} holds the encoder {name} of {before.get('source')} with its own options, and this run is of "
                f"{given.source}. Use the same input and options, or choose a new folder (--output)."
            )
        names.append(name)
    return names


def _find(inputs: Mapping[str, EmbedInput], output: Path, failed: dict[str, str]) -> dict[str, tuple[Model, ...]]:
    """The models of each encoder; what cannot be found or loaded is kept in `failed`."""
    found: dict[str, tuple[Model, ...]] = {}
    for name, given in inputs.items():
        with at_work(output, name):
            try:
                models = find_models_of(given)
            except InputError as error:
                failed[name] = str(error)
                _logger.warning("%s cannot be used, and only the other encoders are run: %s", name, error)
                continue
        models = declare_channels(models, partial(input_channels, given.source, given.options))
        # One other encoder is called as the user calls it; SubCell models chosen by `auto` keep their names.
        found[name] = tuple(model if len(models) > 1 else _named(model, name) for model in models)
    return found


def _named(model: Model, name: str) -> Model:
    return replace(model, variant=replace(model.variant, name=name), name=name)
