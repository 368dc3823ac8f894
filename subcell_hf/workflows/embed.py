"""From images to embeddings and protein locations: what `subcell embed` runs, and `subcell_hf.embed` of a notebook."""

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError, counted
from subcell_hf.images.decoders.file_metadata import MAX_PIXEL_SIZE_UM, MIN_PIXEL_SIZE_UM, is_sane_pixel_size
from subcell_hf.images.field_source import channel_order
from subcell_hf.images.unused import unused_of
from subcell_hf.inference.encoders.finding import Model, declare_channels, find_encoders
from subcell_hf.inference.engine.embed_settings import EmbedSettings
from subcell_hf.inference.engine.embedding import EmbedReport, embed_cells
from subcell_hf.inference.models.variants import choose_variant
from subcell_hf.inference.sources.blocks import CellSource
from subcell_hf.inference.sources.cell_sources import ArrayCells
from subcell_hf.inference.sources.field_cells import FieldCells
from subcell_hf.inference.sources.field_reading import with_planes
from subcell_hf.inference.sources.recognition import input_channels, open_source
from subcell_hf.inference.sources.shard_cells import ShardCells
from subcell_hf.inference.sources.source_options import SourceOptions
from subcell_hf.parallel.processes import ALONE, Processes
from subcell_hf.progress import hide_weight_bars
from subcell_hf.storage.parquet_files import open_parquet
from subcell_hf.storage.typed_json import settings_to_json
from subcell_hf.tables.files import EMBEDDINGS_FILE, EmbeddingTable, read_table
from subcell_hf.tables.run_record import read_run
from subcell_hf.types import FieldCrops, FieldOfView
from subcell_hf.workflows.embed_input import EmbedInput
from subcell_hf.workflows.notes import (
    note_doubtful_channels,
    note_pixel_sizes,
    note_renamed,
    note_renamed_columns,
    note_unused,
    note_use,
)
from subcell_hf.workflows.tables import check_report_libraries, draw_report, write_portable

PORTABLE_FOLDER = "portable"
"""Folder of SubCellPortable's files, in the folder of a run."""

_CELLS_PER_BLOCK = 64
_SHOWN_LOCATIONS = 5

_logger = logging.getLogger(__name__)


def embed(
    images: Any,
    model: str | Path,
    *,
    models: str | None = None,
    revision: str | None = None,
    channels: Sequence[str] | None = None,
    pixel_size_um: float | None = None,
    cell_masks: Any = None,
    protein_channels: Sequence[str] = (),
    mask_cells: bool | None = None,
    output: str | Path | None = None,
    options: SourceOptions | None = None,
    report: bool = False,
    portable: bool = False,
    watch: Callable[[int], object] | None = None,
    **settings: Any,
) -> EmbeddingTable:
    """Embed cells, and predict the locations of their protein if the model has a classifier.

    Example:
        ```python
        import subcell_hf

        table = subcell_hf.embed("images", model="mae-rybg")
        table.cells[["cell_id", "top_location_1"]]
        ```

    Args:
        images: A path: whatever `subcell embed` takes. Or crops in memory: `[cells, channels, height, width]`, or a
            list of `[channels, height, width]`, numpy or torch. Or a `FieldOfView` with a label mask, which is cropped.
        model: Name of a published model, such as `"mae-rybg"`, which is fetched; folder; Hub id; another encoder, such
            as `"features"` or `"my_encoder.py:build"`; or `"auto"` with `models`.
        models: With `"auto"`: folder of models, or their owner on the Hub.
        revision: Branch, tag or commit of a model on the Hub.
        channels: Names of the planes of arrays; default: the model's. A model with separate channel tokens takes any
            1–8 that it knows; name a stain that it does not know `other`.
        pixel_size_um: Edge of a pixel of arrays in micrometres; default: the model's.
        cell_masks: Of arrays: `[cells, height, width]`, True inside.
        protein_channels: Planes that take the protein's place in turn.
        mask_cells: Whether the surroundings of a cell are masked; default: as configured in the model.
        output: Folder of the run, as `subcell embed` writes it; default: none is kept.
        options: For a path: how images are read, segmented and cropped. For a `FieldOfView`: `filters` and `crop_px`.
        report: Whether to write `report.html` into `output`.
        portable: Whether to write SubCellPortable's files of every cell into `output/portable`.
        watch: Called after each batch with the number of cells embedded so far. What it raises stops the run; with the
            same `output`, a later call resumes it.
        **settings: Fields of `EmbedSettings`: `device`, `precision`, `batch_size`, `workers`, `engine`, ….

    Returns:
        The table. What was skipped is warned of, and listed in `provenance["skipped"]`.

    Raises:
        InputError: If nothing can be embedded, or an argument cannot work.
        OSError: If a file cannot be written.
    """
    if output is None and (report or portable):
        raise InputError("report and portable write files and need an output folder. Pass output=….")
    options, proteins = options or SourceOptions(), tuple(protein_channels)
    chosen = EmbedSettings(**{"h5ad": output is not None, **settings})
    with tempfile.TemporaryDirectory(prefix="subcell-") as temporary:
        folder = Path(output) if output is not None else Path(temporary) / "run"
        if isinstance(images, str | Path):
            if channels is not None or pixel_size_um is not None or cell_masks is not None:
                raise InputError("channels, pixel_size_um and cell_masks apply to arrays. For a path pass options=….")
            given = EmbedInput(
                str(images), str(model), models, revision, proteins, mask_cells, options, working_folder=str(Path.cwd())
            )
            done = embed_to_folder(
                given, folder, chosen, processes=Processes(), report=report, portable=portable, watch=watch
            )
        else:
            hide_weight_bars()
            found = find_encoders(
                str(model),
                models=models,
                revision=revision,
                proteins=proteins,
                crop_px=options.crop_px,
                mask_cells=mask_cells,
            )
            cells: CellSource
            if isinstance(images, FieldOfView):
                if channels is not None or pixel_size_um is not None or cell_masks is not None:
                    raise InputError("A FieldOfView has channels, pixel_size_um and label_mask. Set them there.")
                cells, found = _cells_of_field(images, found, options)
            else:
                cells, found = _cells_of_arrays(images, found, channels, pixel_size_um, cell_masks)
            done = _run(cells, found, folder, chosen, Processes(), {}, report=report, portable=portable, watch=watch)
        table = read_table(folder)
    if done.skipped:
        skipped = counted(len(done.skipped), "input was", "inputs were")
        warnings.warn(f"{skipped} skipped, the first: {done.skipped[0]}", stacklevel=2)
    listed = [{"input": name, "reason": reason} for name, reason in done.skipped]
    return replace(table, provenance={**table.provenance, "skipped": listed})


def embed_to_folder(
    given: EmbedInput,
    output: str | Path,
    settings: EmbedSettings | None = None,
    *,
    processes: Processes | None = None,
    report: bool = True,
    portable: bool = False,
    watch: Callable[[int], object] | None = None,
) -> EmbedReport:
    """Embed cells into a folder, on one process or as one of many; resumes an earlier run of the same input.

    How the input was understood, and what to check about it, is logged; see `docs/embed.md` for the files.

    Args:
        given: What to embed, by which models.
        output: Folder of the run: new, empty, or of an earlier run.
        settings: How to do it.
        processes: Which of how many processes this is; None: as the launcher says.
        report: Whether to write `report.html`.
        portable: Whether to write SubCellPortable's files of every cell into `output/portable`.
        watch: Called after each batch with the number of cells embedded so far; what it raises stops the run.

    Returns:
        Numbers of cells and parts, and what was skipped. `complete` is False where other processes are left to finish;
        the last one writes the tables.

    Raises:
        InputError: If nothing can be embedded, or the folder holds a run of something else; in strict mode also for
            every input that cannot be used.
        OSError: If a file cannot be written.
    """
    output = Path(output)
    if report:
        check_report_libraries()
    settings, processes = settings or EmbedSettings(), processes or Processes.of_environment()
    if processes.world_size > 1:
        _logger.warning("%s", processes.describe())
    hide_weight_bars()
    found = declare_channels(find_models_of(given), lambda: input_channels(given.source, given.options))
    cells, found, what = open_source(given.source, found, given.options)
    if processes.rank == 0:
        _logger.info("%s: %s.", given.source, what)
        note_unused(unused_of(cells))
        note_renamed_columns(given.source, given.options.reading, h5ad=settings.h5ad, passes=given.protein_channels)
        if isinstance(cells, ShardCells):
            note_renamed(cells.renamed(), "The shards define splits; the metadata column with that name is stored as")
    record = {"input": settings_to_json(given)}
    return _run(cells, found, output, settings, processes, record, report=report, portable=portable, watch=watch)


def find_models_of(given: EmbedInput) -> tuple[Model, ...]:
    """The models of an input, see `find_encoders`.

    Args:
        given: What is embedded.

    Raises:
        InputError: If there is none.
    """
    return find_encoders(
        given.model,
        models=given.models,
        revision=given.revision,
        proteins=given.protein_channels,
        crop_px=given.options.crop_px,
        mask_cells=given.mask_cells,
    )


def _run(
    cells: CellSource,
    models: Sequence[Model],
    output: Path,
    settings: EmbedSettings,
    processes: Processes,
    record: Mapping[str, Any],
    *,
    report: bool,
    portable: bool,
    watch: Callable[[int], object] | None = None,
) -> EmbedReport:
    """Embed, log the outcome, and write the files that are made from complete tables."""
    settings = replace(settings, attention_maps=settings.attention_maps or portable)
    done = embed_cells(cells, models, output, settings, processes=processes, record=record, watch=watch)
    if not done.complete:
        _logger.warning(
            "%s is not complete: process %d of %d has finished its share, and %d of %d parts are left to the other "
            "processes. The last process to finish writes the tables. If no other process is running, run the same "
            "command again; it skips completed parts. %s",
            output, processes.rank + 1, processes.world_size, done.missing_parts, done.parts, ALONE,
        )  # fmt: skip
        return done
    return finish_run_folder(done, report=report, portable=portable)


def finish_run_folder(done: EmbedReport, *, report: bool, portable: bool) -> EmbedReport:
    """Log the outcome of a complete run, and write the files that are made from its tables.

    Args:
        done: What came of the run.
        report: Whether to write `report.html`.
        portable: Whether to write SubCellPortable's files.

    Raises:
        InputError: If one of these files cannot be written.
    """
    output = done.output
    skipped = counted(len(done.skipped), "input was", "inputs were")
    _logger.info("%s holds %s; %s skipped.", output, counted(done.cells, "cell"), skipped)
    facts = read_run(output)
    note_pixel_sizes(facts)
    note_use(facts)
    note_doubtful_channels(facts.get("doubtful_channels", ()))
    _note_locations(output)
    if portable:
        with tables_are_complete(f"subcell portable {output} --output {output / PORTABLE_FOLDER}"):
            write_portable(output, output / PORTABLE_FOLDER)
    if report:
        with tables_are_complete(f"subcell report {output} (--output FILE writes it elsewhere)"):
            draw_report(output)
    return done


@contextmanager
def tables_are_complete(command: str) -> Iterator[None]:
    """Add to errors after the tables were written that the tables are complete, and how to write the rest.

    Args:
        command: The command that writes the rest.

    Raises:
        InputError: In place of an `InputError` or `OSError` of the block.
    """
    try:
        yield
    except (InputError, OSError) as error:
        raise InputError(f"{error} The tables are complete. To write the missing files, run: {command}") from error


def _note_locations(folder: Path) -> None:
    """Log the most frequent predicted locations; log nothing without a classifier."""
    with open_parquet(folder / EMBEDDINGS_FILE) as file:
        if "top_location_1" not in file.schema_arrow.names:
            return
        counts = file.read(columns=["top_location_1"]).to_pandas()["top_location_1"].value_counts()
    named = sorted(((str(name), int(count)) for name, count in counts.items()), key=lambda pair: (-pair[1], pair[0]))
    most = ", ".join(f"{name} ({count})" for name, count in named[:_SHOWN_LOCATIONS])
    others = f" and {len(named) - _SHOWN_LOCATIONS} more" if len(named) > _SHOWN_LOCATIONS else ""
    _logger.info("Predicted locations, in cells: %s%s.", most, others)


def _cells_of_field(
    image: FieldOfView, found: Sequence[Model], options: SourceOptions
) -> tuple[FieldCells, tuple[Model, ...]]:
    """The cells of a field of view in memory, and the models."""
    if replace(options, filters=SourceOptions().filters, crop_px=None) != SourceOptions():
        raise InputError("Of options, only filters and crop_px apply to a FieldOfView. Leave the others out.")
    shape = None if image.label_mask is None else image.label_mask.shape
    if shape is not None and shape != image.pixels.shape[1:]:
        raise InputError(
            f"Field {image.name!r} has a label mask of shape {shape}, expected {image.pixels.shape[1:]} as its pixels. "
            "Give the mask of this image."
        )
    if not is_sane_pixel_size(image.pixel_size_um):
        raise InputError(
            f"Field {image.name!r} has a pixel size of {image.pixel_size_um} um, expected {MIN_PIXEL_SIZE_UM} to "
            f"{MAX_PIXEL_SIZE_UM}. Give the edge of a pixel in micrometres."
        )
    models = declare_channels(found, lambda: sorted(image.channels, key=channel_order))
    variant = choose_variant([model.variant for model in models], image.channels)
    return FieldCells(with_planes(image, variant.planes), variant, options.filters), models


def _cells_of_arrays(
    images: Any,
    found: Sequence[Model],
    channels: Sequence[str] | None,
    pixel_size_um: float | None,
    cell_masks: Any,
) -> tuple[ArrayCells, tuple[Model, ...]]:
    """Crops in memory, and the models as they treat them."""
    if channels is None and not found[0].variant.channels:
        raise InputError(f"{found[0].name} takes any channels. Name the planes of the arrays by channels=[…].")
    models = _for_given_crops(declare_channels(found, lambda: channels or ()))
    variants = tuple(item.variant for item in models)
    names = tuple(channels) if channels is not None else variants[0].planes
    for variant in variants:
        variant.refuse_unknown(names)
    crops = _blocks(images, names, pixel_size_um or variants[0].pixel_size_um, cell_masks)
    return ArrayCells(crops, variants, has_masks=cell_masks is not None), models


def _for_given_crops(models: Sequence[Model]) -> tuple[Model, ...]:
    """The models for single cells that somebody else has cropped."""
    return tuple(replace(model, variant=model.variant.for_given_crops()) for model in models)


def _blocks(images: Any, channels: tuple[str, ...], pixel_size_um: float, cell_masks: Any) -> tuple[FieldCrops, ...]:
    """Crops in memory, cut into blocks of one size."""
    crops = [_array(image) for image in (images if isinstance(images, list | tuple) else list(_array(images)))]
    masks = None if cell_masks is None else [np.asarray(_array(mask), np.bool_) for mask in cell_masks]
    if not crops or (masks is not None and len(masks) != len(crops)):
        got = f"{counted(len(crops), 'crop')} and {counted(0 if masks is None else len(masks), 'mask')}"
        raise InputError(f"Got {got}, expected at least one crop, and one mask per crop if masks are given.")
    blocks, width = [], len(str(len(crops) - 1))
    start = 0
    for stop in range(1, len(crops) + 1):
        same = stop < len(crops) and crops[stop].shape == crops[start].shape and crops[stop].dtype == crops[start].dtype
        if same and stop - start < _CELLS_PER_BLOCK:
            continue
        shape = crops[start].shape
        if len(shape) != 3 or shape[0] != len(channels):
            raise InputError(
                f"Crop {start} has shape {shape}, expected [{len(channels)}, height, width] with the planes "
                f"{', '.join(channels)}. Name other planes by channels=[…]."
            )
        inside = np.ones((stop - start, *shape[1:]), np.bool_) if masks is None else np.stack(masks[start:stop])
        records = tuple({"cell_id": f"{number:0{width}d}", "field_of_view": ""} for number in range(start, stop))
        name = f"crops {start}"
        blocks.append(FieldCrops(name, np.stack(crops[start:stop]), inside, channels, pixel_size_um, records))
        start = stop
    return tuple(blocks)


def _array(values: Any) -> npt.NDArray[Any]:
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values)
