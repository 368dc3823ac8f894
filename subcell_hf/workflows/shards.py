"""Shards for training: written, inspected, split and looked at; what the commands on shards run."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from subcell_hf.augmentation.presets import load_settings
from subcell_hf.augmentation.view_pictures import picture_views
from subcell_hf.cells.published.choice import CellChoice
from subcell_hf.cells.published.crops import open_published_crops
from subcell_hf.cells.published.facts import (
    antibodies_of_split,
    fetch_published_splits,
    published_cell_facts,
    published_place,
)
from subcell_hf.cells.quality import count_doubtful_channels
from subcell_hf.cells.single_cells import CropSettings
from subcell_hf.cells.sources import ImageFields, crop_source
from subcell_hf.errors import InputError, counted
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.images.unused import unused_of
from subcell_hf.shards.batch_plan import BatchSettings
from subcell_hf.shards.cell_table import read_cell_records
from subcell_hf.shards.contact_sheet import check_sheet_name, write_contact_sheet
from subcell_hf.shards.index import INDEX_FILE
from subcell_hf.shards.index_splits import SplitReport, import_splits, split_shards
from subcell_hf.shards.inspection import InspectionReport, inspect_shards
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.sharding import ShardReport, ShardSettings, write_shards
from subcell_hf.shards.splits import read_antibody_lists, read_published_splits
from subcell_hf.shards.streaming import training_loader
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.workflows.notes import (
    note_doubtful_channels,
    note_expected_time,
    note_published_cells,
    note_renamed_columns,
    note_unused,
)

_logger = logging.getLogger(__name__)


def shard_images(
    source: str | Path,
    output: str | Path,
    *,
    settings: ShardSettings | None = None,
    split_by: str | None = None,
    choice: CellChoice | None = None,
    split: str | None = None,
    reading: ReadingOptions | None = None,
    segmentation: str = "watershed",
    workers: int = 1,
    strict: bool = False,
    progress: bool = True,
    engine: str = "local",
) -> ShardReport:
    """Write crops as tar shards for training; images are cropped first.

    Warned of and logged are renamed metadata columns, doubtful channels and unused images.

    Args:
        source: Output folder of `crop_images`, images, or `hpa:` for the published cells: `shard_published_cells`.
        output: Folder to write; new, empty, or of an earlier run of the same inputs, which is resumed.
        settings: Size of the shards, locations, splits.
        split_by: `"gene"`, `"antibody"` or `"none"`, in place of the one in `settings`; for published cells also
            `"published"`, which is their default.
        choice: Which of the published cells; for no other input.
        split: Which of the published splits; for no other input.
        reading: How to read images; default where `source` holds crops.
        segmentation: `"watershed"`, `"cellpose"`, `"stardist"` or `"module:function"`, for images without masks; see
            `segment_cells`.
        workers: Number of processes.
        strict: Whether to stop at the first field that cannot be used.
        progress: Whether to show progress on stderr.
        engine: `"local"`, or `"ray"`.

    Returns:
        The index of the shards, and what was skipped.

    Raises:
        InputError: If nothing can be used, or the folder holds shards of other inputs.
        OSError: If a file cannot be written.
        KilledWorkerError: If a worker process was killed.
    """
    if published_place(str(source)) is not None:
        if (reading or ReadingOptions(), segmentation) != (ReadingOptions(), "watershed"):
            raise InputError(f"{source} names crops, which are read in one way only. Leave out options on images.")
        return shard_published_cells(
            str(source),
            output,
            choice=choice,
            split=split,
            split_by=split_by or "published",
            settings=settings,
            workers=workers,
            strict=strict,
            progress=progress,
            engine=engine,
        )
    if split is not None or choice not in (None, CellChoice()):
        raise InputError(
            f"A split, antibodies, cell lines and a number of cells can be chosen for hpa: only, not for {source}."
        )
    if split_by is not None:
        settings = replace(settings or ShardSettings(), split_by=None if split_by == "none" else split_by)
    source, output = Path(source), Path(output)
    reading = reading or ReadingOptions()
    note_renamed_columns(str(source), reading)
    crops = crop_source(source, ImageFields(source, reading, segmentation=segmentation))
    report = write_shards(crops, output, settings, workers=workers, strict=strict, progress=progress, engine=engine)
    note_unused(unused_of(crops))
    note_doubtful_channels(count_doubtful_channels(read_cell_records(str(output))))
    return report


def shard_published_cells(
    source: str,
    output: str | Path,
    *,
    choice: CellChoice | None = None,
    split: str | None = None,
    split_by: str = "published",
    settings: ShardSettings | None = None,
    crop: CropSettings | None = None,
    workers: int = 1,
    strict: bool = False,
    progress: bool = True,
    engine: str = "local",
) -> ShardReport:
    """Write the cells that SubCell was trained on, which are public, as tar shards for training.

    How many cells there are, their licence, size and time are logged before they are downloaded. A cell whose files are
    missing or broken is listed in `skipped.csv`; if the server cannot be reached, the run ends, and the same call
    resumes it.

    Args:
        source: `hpa:` for the public bucket, `hpa:https://…` for a mirror, `hpa:FOLDER` for a copy.
        output: Folder to write; new, empty, or of an earlier run of the same cells, which is resumed.
        choice: Which cells; None: all.
        split: Only the cells of this one of the published splits: `"train"`, `"validation"` or `"test"`.
        split_by: How the antibodies are split: `"published"` for the published lists, `"gene"`, `"antibody"`, or
            `"none"`.
        settings: Size of the shards, locations, fractions and seed of new splits; its `split_by` is replaced.
        crop: Sizes of the crops; None: those of the published models' training.
        workers: Number of processes, each with 64 requests at a time.
        strict: Whether to stop at the first cell that cannot be used.
        progress: Whether to show progress on stderr.
        engine: `"local"`, or `"ray"`.

    Returns:
        The index of the shards, and what was skipped.

    Raises:
        InputError: If no cell is left, the table or the lists cannot be had, or the folder holds shards of other cells.
        UnreachableError: If the server cannot be reached.
        OSError: If a file cannot be written.
        KilledWorkerError: If a worker process was killed.
    """
    output, facts = Path(output), published_cell_facts()
    place = published_place(source)
    if place is None:
        raise InputError(f"{source} does not name the published cells, expected hpa:, hpa:URL or hpa:FOLDER.")
    complete = (output / INDEX_FILE).is_file()
    lists = fetch_published_splits() if split_by == "published" else {}
    settings = replace(
        settings or ShardSettings(),
        split_by=None if split_by in ("published", "none") else split_by,
        source=(settings.source if settings else "") or f"{facts.source}, {facts.license}",
    )
    cells = open_published_crops(
        place,
        choice,
        split_antibodies=antibodies_of_split(split),
        settings=crop,
        classes=settings.classes,
        ask=not complete,
        progress=progress,
    )
    if not complete:
        note_published_cells(cells)
        note_expected_time(cells, output)
    report = write_shards(cells, output, settings, workers=workers, strict=strict, progress=progress, engine=engine)
    if split_by == "published":
        changed = import_splits(output, lists, method="published lists")
        report = replace(report, index=changed.index)
    if complete:
        _logger.info("%s was complete already: no cell was read.", output)
    return report


@dataclass(frozen=True)
class CheckedShards:
    """What an inspection found and drew.

    Attributes:
        inspection: The index, and what differs from it.
        contact_sheet: The contact sheet; None where files are damaged or it could not be written.
    """

    inspection: InspectionReport
    contact_sheet: Path | None


def check_shards(folder: str | Path, *, contact_sheet: str | Path | None = None, workers: int = 1) -> CheckedShards:
    """Verify all files of a folder of shards, and draw a contact sheet if they are sound.

    Args:
        folder: Local folder of shards.
        contact_sheet: Contact sheet to write (`.html` or `.png`); None: `contact_sheet.html` in the folder, of which
            a warning is logged if it cannot be written.
        workers: Number of processes.

    Raises:
        InputError: If the index cannot be read, or the contact sheet that was asked for cannot be written.
    """
    folder = Path(folder)
    contact_sheet = None if contact_sheet is None else Path(contact_sheet)
    path = contact_sheet or folder / "contact_sheet.html"
    check_sheet_name(path)
    inspection = inspect_shards(folder, workers=workers)
    if inspection.problems:
        return CheckedShards(inspection, None)
    index = inspection.index
    cells, antibodies = counted(index.cells, "cell"), counted(len(index.antibodies), "antibody", "antibodies")
    shards = counted(len(index.shards), "shard")
    _logger.info("%s, %s, %s: all files match the index.", cells, antibodies, shards)
    try:
        write_contact_sheet(ShardReader(folder), path)
    except OSError as error:
        problem = (
            f"The contact sheet was not drawn: {path} cannot be written ({error.strerror or error}). Name another file "
            "with --contact-sheet."
        )
        if contact_sheet is not None:
            raise InputError(problem) from error
        _logger.warning("%s", problem)
        return CheckedShards(inspection, None)
    return CheckedShards(inspection, path)


def change_splits(
    folder: str | Path,
    *,
    by: str = "gene",
    fractions: Mapping[str, float] | None = None,
    seed: int = 0,
    lists: Mapping[str, Path] | None = None,
    published: str | Path | None = None,
) -> SplitReport:
    """Split the antibodies of a folder of shards again, or import lists of antibodies.

    Args:
        folder: Local folder of shards.
        by: `"gene"`: antibodies of one gene stay together; or `"antibody"`.
        fractions: Split name → its fraction of the antibodies; None: 0.8 train, 0.1 validation, 0.1 test.
        seed: Seed of random splits.
        lists: Split name → file with one antibody per line, instead of random splits.
        published: Folder with the published antibody lists to verify and import, instead of random splits.

    Raises:
        InputError: If lists contradict each other, or the folder holds no shards.
    """
    folder = Path(folder)
    published = None if published is None else Path(published)
    if lists and published:
        raise InputError("Give either --list or --published, not both.")
    if published:
        return import_splits(folder, read_published_splits(published), method="published lists")
    if lists:
        return import_splits(folder, read_antibody_lists(lists), method="imported lists")
    chosen = ShardSettings().split_fractions if fractions is None else fractions
    return split_shards(folder, by=by, fractions=chosen, seed=seed)


def draw_views(
    shards: str,
    output: str | Path,
    *,
    pipeline: str = "multi_task",
    split: str | None = None,
    antibodies: int = 2,
    cells: int = 4,
    seed: int = 0,
) -> int:
    """Draw cells beside the augmented views used for training.

    Args:
        shards: Folder or URL of shards.
        output: PNG image to write.
        pipeline: Name of a preset, or a YAML file of view settings; see `load_settings`.
        split: Split to draw cells from; None: all cells.
        antibodies: Number of antibodies.
        cells: Number of cells per antibody.
        seed: Seed of the selection of cells and of their views.

    Returns:
        Number of cells drawn.

    Raises:
        InputError: If the shards, the split or the settings cannot be used.
    """
    output = Path(output)
    settings, reader = load_settings(pipeline), ShardReader(shards)
    plan = BatchSettings(antibodies_per_batch=antibodies, cells_per_antibody=cells, seed=seed)
    batch = next(iter(training_loader(reader, plan, split=split)))
    generator = torch.Generator().manual_seed(batch["view_seed"])
    picture = picture_views(batch, reader.index.crop_format.channels, settings, generator)
    with write_atomically(output) as file:
        Image.fromarray(picture).save(file, format="PNG")
    return len(batch["pixels"])
