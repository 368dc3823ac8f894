"""Image files → a folder of single-cell crops: what `subcell crops` runs."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm import tqdm

from subcell_hf import __version__
from subcell_hf.cells.custom_segmentation import describe_segmentation
from subcell_hf.cells.folder import (
    FIELDS_FOLDER,
    FILTERED_FILE,
    TABLE_FILE,
    count_crops,
    field_file,
    open_crops_folder,
    read_crop_table,
    read_crops,
    write_crop_pixels,
    write_crop_table,
    write_json,
)
from subcell_hf.cells.pixel_sizes import PIXEL_SIZE, PIXEL_SIZE_FROM, count_pixel_sizes
from subcell_hf.cells.quality import DOUBTFUL_CHANNELS, count_doubtful_channels
from subcell_hf.cells.segmentation import find_segmenter, segment_cells
from subcell_hf.cells.single_cells import CropSettings, crop_field, cut_cells, select_cells
from subcell_hf.errors import KILLED_WORKER, InputError, KilledWorkerError
from subcell_hf.images.decoders.remote_paths import RemotePath
from subcell_hf.images.fields_of_view import UNUSABLE, FieldError, FieldSource, ReadingOptions, list_fields, reason_of
from subcell_hf.images.folder_contents import CROPS_FILE
from subcell_hf.images.tables import CellBox, read_boxes
from subcell_hf.parallel.ray_tasks import check_engine, map_on_ray
from subcell_hf.parallel.worker_pool import WorkerPool
from subcell_hf.storage.folder_lock import claim_folder
from subcell_hf.storage.input_lists import SKIPPED_FILE, write_csv, write_unused
from subcell_hf.storage.records import describe_files, find_damage, read_record, write_record
from subcell_hf.storage.typed_json import settings_to_json
from subcell_hf.types import FieldOfView

__all__ = [
    "CropReport",
    "CropSettings",
    "count_crops",
    "crop_field",
    "crop_fields",
    "read_crop_table",
    "read_crops",
]

_FILTERED_COLUMNS = ("cell_id", "field_of_view", "label", "reason", "qc_area_um2", "qc_cut_by_border", "qc_saturation")


@dataclass(frozen=True)
class CropReport:
    """What a run came to.

    Attributes:
        fields: Fields that were cropped, in this run or an earlier one.
        cells: Crops in the folder.
        filtered_cells: Cells that the filters left out; `filtered.csv` lists them.
        skipped: Field → reason; `skipped.csv` lists them too.
        unused: Image that belongs to no field → reason; `unused.csv` lists them too, where there are any.
    """

    fields: int
    cells: int
    filtered_cells: int
    skipped: Mapping[str, str]
    unused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Task:
    """One field, and all that a worker needs to crop it."""

    source: FieldSource
    boxes: tuple[CellBox, ...] | None
    settings: CropSettings
    segmentation: str
    channels: tuple[str, ...]
    dtype: str
    folder: Path

    @property
    def pixels_path(self) -> Path:
        return self.folder / FIELDS_FOLDER / f"{field_file(self.source.name)}.tiff"

    @property
    def rows_path(self) -> Path:
        return self.folder / FIELDS_FOLDER / f"{field_file(self.source.name)}.json"

    def fingerprint(self) -> str:
        """Changes where the field's crops would, short of its image files."""
        facts = [
            sorted(self.source.metadata.items()),
            [path.name for path in self.source.files],
            None if self.boxes is None else [asdict(box) for box in self.boxes],
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def crop_fields(
    source: Path,
    output: Path,
    *,
    settings: CropSettings | None = None,
    reading: ReadingOptions | None = None,
    segmentation: str = "watershed",
    boxes: Path | None = None,
    workers: int = 1,
    strict: bool = False,
    progress: bool = True,
    engine: str = "local",
) -> CropReport:
    """Crop all cells of a source into a folder.

    Fields without a mask are segmented. A field that cannot be used is skipped and listed. After a kill, the same call
    resumes the run: fields whose files are complete, and not older than their images, are kept.

    Args:
        source: See `find_fields`.
        output: Folder to write; new, empty, or of an earlier run with the same settings.
        settings: Sizes and filters; None for the published ones.
        reading: How to read the images.
        segmentation: One of `SEGMENTERS`, or `module:function`, for fields without mask or boxes.
        boxes: Table of bounding boxes: `field_of_view,cell_id,top,left,height,width`.
        workers: Processes.
        strict: Whether to stop at the first field that cannot be used.
        progress: Whether to show a bar on a terminal.
        engine: `"local"`, or `"ray"` for tasks on a Ray cluster, which must see the same folders.

    Raises:
        FieldError: If the source holds no field that can be used, or, when strict, at the first bad field.
        InputError: If the folder holds something else, or crops made with other settings.
        KilledWorkerError: If a worker process was killed.
    """
    settings, reading = settings or CropSettings(), reading or ReadingOptions()
    find_segmenter(segmentation)
    if workers < 1:
        raise InputError(f"workers is {workers}, expected at least 1.")
    check_engine(engine)
    listed = list_fields(source, reading)
    found = listed.fields
    boxes_by_field = read_boxes(boxes) if boxes is not None else None
    described = _describe(source, settings, reading, segmentation, boxes)
    with claim_folder(output):
        facts = open_crops_folder(output, described)
        if "channels" not in facts:
            first = _first_readable(found)
            if first is not None:
                facts |= {"channels": list(first.channels), "dtype": first.pixels.dtype.name}
                facts["pixel_size_um"] = settings.output_pixel_size_um
                write_json(output / CROPS_FILE, facts)
        channels, dtype = tuple(facts.get("channels", ())), facts.get("dtype", "")
        tasks = [
            _Task(item, _boxes_of(item, boxes_by_field), settings, segmentation, channels, dtype, output)
            for item in found
        ]
        skipped = {}
        for task, problem in tqdm(
            _run(tasks, workers, engine),
            total=len(tasks),
            unit="field",
            desc="crops",
            disable=None if progress else True,
        ):
            if problem is not None:
                if strict:
                    raise FieldError(problem)
                skipped[task.source.name] = problem
        done = [task for task in tasks if task.source.name not in skipped]
        return _finish(output, facts, done, skipped, listed.unused)


def _describe(
    source: Path, settings: CropSettings, reading: ReadingOptions, segmentation: str, boxes: Path | None
) -> dict[str, Any]:
    """All that decides about the crops, as JSON has it."""
    described: dict[str, Any] = {
        "source": str(source),
        "segmentation": describe_segmentation(segmentation),
        "boxes": str(boxes) if boxes else None,
        "subcell_hf": __version__,
        **asdict(settings),
        **settings_to_json(reading),
    }
    round_trip: dict[str, Any] = json.loads(json.dumps(described))
    return round_trip


def _first_readable(found: Iterable[FieldSource]) -> FieldOfView | None:
    """The first field that can be read: all others must have its channels and bit depth."""
    for item in found:
        try:
            return item.read()
        except UNUSABLE:  # reported when its turn comes
            continue
    return None


def _boxes_of(item: FieldSource, boxes: Mapping[str, Sequence[CellBox]] | None) -> tuple[CellBox, ...] | None:
    return None if boxes is None else tuple(boxes.get(item.name, ()))


def _run(tasks: Sequence[_Task], workers: int, engine: str) -> Iterator[tuple[_Task, str | None]]:
    """Crop fields, here or in processes; yields each with the problem that it had."""
    if engine == "ray":
        yield from ((tasks[number], problem) for number, problem in map_on_ray(_crop_one, tasks))
        return
    if workers == 1 or len(tasks) < 2:
        yield from ((task, _crop_one(task)) for task in tasks)
        return
    with WorkerPool(min(workers, len(tasks))) as pool:
        pending = {pool.submit(_crop_one, task): task for task in tasks}
        try:
            for future in as_completed(pending):
                yield pending[future], future.result()
        except BrokenProcessPool as error:
            raise KilledWorkerError(KILLED_WORKER) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _crop_one(task: _Task) -> str | None:
    """Crop one field into its files; returns why it cannot be done."""
    if _is_finished(task):
        return None
    try:
        field = task.source.read()
        _check_uniform(field, task)
        if task.boxes is not None and not task.boxes:
            raise FieldError(
                f"Field {field.name!r} has no box in the table of boxes. Add its cells, or leave the field out."
            )
        if field.label_mask is None and task.boxes is None:
            trusted = task.source.options.trust_masks
            field = replace(field, label_mask=segment_cells(field, task.segmentation, trusted=trusted))
        kept, filtered = select_cells(field, task.settings, task.boxes)
        crops = cut_cells(field, kept, task.settings)
    except UNUSABLE as error:
        return reason_of(error)
    task.rows_path.unlink(missing_ok=True)  # from here on until the end the field is not finished
    if kept:
        write_crop_pixels(task.pixels_path, crops)
    file = task.pixels_path.relative_to(task.folder).as_posix()
    rows = {
        "fingerprint": task.fingerprint(),
        "cells": [{**record, "file": file, "index": index} for index, record in enumerate(crops.cells)],
        "filtered": [{**cell.record, "reason": reason} for cell, reason in filtered],
        "files": describe_files(task.rows_path.parent, [task.pixels_path] if kept else []),
    }
    write_record(task.rows_path, rows)
    return None


def _is_finished(task: _Task) -> bool:
    """Whether an earlier run has completed this field, its files are sound, and its images have not changed since."""
    if task.source.listed.problem:
        return False
    rows = read_record(task.rows_path)
    if rows is None or rows["fingerprint"] != task.fingerprint():
        return False
    if find_damage(task.rows_path.parent, rows["files"]):
        return False
    done = task.rows_path.stat().st_mtime_ns
    local = (path for path in task.source.files if not isinstance(path, RemotePath))
    return all(path.exists() and path.stat().st_mtime_ns <= done for path in local)


def _check_uniform(field: FieldOfView, task: _Task) -> None:
    """Refuse a field that could not be batched with the others."""
    if field.channels != task.channels:
        raise FieldError(
            f"Field {field.name!r} has channels {', '.join(field.channels)}, the first field has "
            f"{', '.join(task.channels)}. Choose channels that all have (--channels), or crop them apart."
        )
    if field.pixels.dtype.name != task.dtype:
        raise FieldError(
            f"Field {field.name!r} is {field.pixels.dtype}, the first field is {task.dtype}. Export all alike, or crop "
            "them apart."
        )


def _finish(
    output: Path, facts: dict[str, Any], done: Sequence[_Task], skipped: Mapping[str, str], unused: Mapping[str, str]
) -> CropReport:
    """Write the tables, and then that the run is finished."""
    cells: list[dict[str, Any]] = []
    filtered: list[dict[str, Any]] = []
    for task in done:
        rows = read_record(task.rows_path)
        if rows is None:
            raise InputError(f"{task.rows_path} was damaged during the run. Run the same command again.")
        cells += rows["cells"]
        filtered += rows["filtered"]
    report = CropReport(len(done), len(cells), len(filtered), dict(sorted(skipped.items())), unused)
    reasons = [{"field_of_view": name, "reason": reason} for name, reason in report.skipped.items()]
    write_csv(output / SKIPPED_FILE, ("field_of_view", "reason"), reasons)
    write_unused(output, unused)
    if not done:
        if not any((output / FIELDS_FOLDER).glob("*.json")):
            (output / CROPS_FILE).unlink()  # a run of which nothing came binds nobody to its settings
        raise FieldError(
            f"Nothing was cropped: {len(skipped)} of {len(skipped)} fields were skipped, see {output / SKIPPED_FILE}; "
            f"the first: {next(iter(report.skipped.values()))}"
        )
    write_crop_table(output / TABLE_FILE, cells)
    write_csv(output / FILTERED_FILE, _FILTERED_COLUMNS, filtered)
    facts["counts"] = {
        "fields": report.fields,
        "cells": report.cells,
        "skipped_fields": len(report.skipped),
        "filtered_cells": report.filtered_cells,
    }
    table = pq.ParquetFile(output / TABLE_FILE)
    counted = (PIXEL_SIZE, PIXEL_SIZE_FROM, DOUBTFUL_CHANNELS, "field_of_view")
    columns = table.read(columns=[name for name in counted if name in table.schema_arrow.names])
    facts["pixel_sizes"] = count_pixel_sizes(columns)
    facts["doubtful_channels"] = count_doubtful_channels(columns)
    write_json(output / CROPS_FILE, {**facts, "finished": True})
    return report
