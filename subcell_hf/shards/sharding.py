"""Crops of cells → WebDataset tar shards, grouped by antibody, with an index.

A folder of shards holds `shard-000000.tar`, …, `cells.parquet` (one row per cell), `skipped.csv` (fields that
could not be used), and `index.json`, which is written last: a folder without it is not finished. In a shard every cell
is one sample of three members (mask, pixels, record); the cells of an antibody are stored together in parts of at least
eight, each with its share of all the antibody's fields of view.

What a shard holds depends only on the list of fields and the settings, never on the number of processes or on what was
interrupted: a killed run is resumed and gives the same bytes.
"""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from tqdm import tqdm

from subcell_hf import ontology
from subcell_hf.errors import KILLED_WORKER, InputError, KilledWorkerError
from subcell_hf.images.fields_of_view import UNUSABLE, reason_of
from subcell_hf.images.unused import unused_of
from subcell_hf.parallel.ray_tasks import check_engine, map_on_ray
from subcell_hf.parallel.worker_pool import WorkerPool
from subcell_hf.settings import Setting
from subcell_hf.shards.archive import format_of
from subcell_hf.shards.cell_table import cells_parquet
from subcell_hf.shards.codec import CropFormat
from subcell_hf.shards.index import CELLS_FILE, FORMAT_VERSION, INDEX_FILE, ShardIndex
from subcell_hf.shards.jobs import (
    CropSource,
    JoinedNotes,
    ListedCrops,
    ShardGroup,
    ShardJob,
    join_notes,
    open_progress,
    plan_shards,
    remove_progress,
    write_shard,
)
from subcell_hf.shards.splits import DEFAULT_FRACTIONS, check_split_request, parse_fractions, split_antibodies
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.folder_lock import claim_folder
from subcell_hf.storage.input_lists import SKIPPED_FILE, write_csv, write_unused
from subcell_hf.storage.plain_files import read_lines
from subcell_hf.storage.records import find_damage

_NO_ANTIBODY = "it has no antibody, expected one in the column `antibody` of the metadata"


def read_classes(path: Path) -> tuple[str, ...]:
    """Locations of a text file, one per line."""
    return tuple(read_lines(path))


@dataclass(frozen=True)
class ShardSettings:
    """How shards are written.

    Attributes:
        fields_per_shard: Approximate number of fields of view per shard; 64 fields of 15 cells make about 400 MB.
        fields_per_group: An antibody's parts are stratified over at most so many of its fields at a time, which bounds
            the memory that an antibody with thousands of fields takes.
        classes: Text file with one location per line; default: SubCell's 35 locations. In Python, their names in the
            order of the targets.
        source: Source of the images, stored in the index.
        split_by: `"gene"`, `"antibody"`, or None for no splits.
        split_fractions: Fraction of the antibodies in each split. In Python, `{split: fraction}`.
        seed: Seed of the splits.
    """

    fields_per_shard: Annotated[int, Setting(minimum=1)] = 64
    fields_per_group: int = 16
    classes: Annotated[tuple[str, ...], Setting(kind=Path, parse=read_classes)] = field(
        default_factory=ontology.training_locations
    )
    source: Annotated[str, Setting("--description")] = ""
    split_by: str | None = "gene"
    split_fractions: Annotated[
        Mapping[str, float], Setting("--fractions", parse=parse_fractions, default=DEFAULT_FRACTIONS)
    ] = field(default_factory=lambda: parse_fractions(DEFAULT_FRACTIONS))
    seed: Annotated[int, Setting(minimum=0)] = 0

    def __post_init__(self) -> None:
        if self.fields_per_shard < 1 or self.fields_per_group < 1:
            raise InputError(
                "fields_per_shard and fields_per_group must be at least 1, "
                f"got {self.fields_per_shard} and {self.fields_per_group}."
            )
        if self.split_by is not None:
            check_split_request(self.split_by, self.split_fractions)


@dataclass(frozen=True)
class ShardReport:
    """What a run did.

    Attributes:
        index: The index of the folder.
        skipped: Field of view, or cell, and reason, for all that could not be used; also in `skipped.csv`.
        resumed_shards: Shards that an earlier run had completed.
    """

    index: ShardIndex
    skipped: tuple[tuple[str, str], ...]
    resumed_shards: int


def write_shards(
    source: CropSource,
    output: Path,
    settings: ShardSettings | None = None,
    *,
    workers: int = 1,
    strict: bool = False,
    progress: bool = True,
    engine: str = "local",
) -> ShardReport:
    """Write the crops of a source as shards, or resume an earlier run of the same inputs.

    Args:
        source: Where the crops come from.
        output: Folder of the shards.
        settings: How to write them.
        workers: Processes that read, compress and write; 1 works in this process.
        strict: Raise at the first bad field instead of skipping it.
        progress: Show a progress bar.
        engine: `"local"`, or `"ray"` for tasks on a Ray cluster, which must see the same folders.

    Returns:
        The index, what was skipped, and how much an earlier run had done.

    Raises:
        InputError: If nothing can be used, ids occur twice, an antibody has two genes, or the folder holds shards of
            other inputs; in strict mode also for every bad field.
        OSError: If a file cannot be written.
        KilledWorkerError: If a worker process was killed.
    """
    settings = settings or ShardSettings()
    check_engine(engine)
    fields = sorted(source.fields(), key=lambda item: item.name)
    genes = _genes(fields)
    unnamed = [item.name for item in fields if not item.metadata.get("antibody")]
    if strict and unnamed:
        raise InputError(f"Field of view {unnamed[0]}: {_NO_ANTIBODY}.")
    plan = plan_shards(
        [item for item in fields if item.metadata.get("antibody")], settings.fields_per_shard, settings.fields_per_group
    )
    index = _index_of(output)
    # A complete folder is recognised without reading a cell, which may lie behind a network that is away.
    crop_format = _first_format(source, plan) if index is None else index.crop_format
    fingerprint = _fingerprint(source, plan, genes, crop_format, settings)
    if index is not None:
        return _finished(output, index, fingerprint)
    with claim_folder(output):
        if (index := _index_of(output)) is not None:  # of a job that ended meanwhile
            return _finished(output, index, fingerprint)
        open_progress(output, fingerprint)
        jobs = [
            ShardJob(output, number, groups, crop_format, settings.classes, strict, fingerprint)
            for number, groups in enumerate(plan)
        ]
        pending = [job for job in jobs if not job.is_done()]
        _run(source, pending, workers, len(jobs), progress, engine)
        joined = join_notes(jobs)
        skipped = [(name, _NO_ANTIBODY) for name in unnamed] + joined.skipped
        reasons = [{"field_of_view": name, "reason": reason} for name, reason in skipped]
        write_csv(output / SKIPPED_FILE, ("field_of_view", "reason"), reasons)
        write_unused(output, unused_of(source))
        index = _write_index(output, joined, genes, crop_format, settings, fingerprint)
        remove_progress(output)
    return ShardReport(index, tuple(skipped), len(jobs) - len(pending))


def _genes(fields: Sequence[ListedCrops]) -> dict[str, str]:
    """Gene of every antibody, empty where unknown; refuses fields of one name and antibodies of two genes."""
    _refuse_repeats("Names of fields of view", [item.name for item in fields])
    genes: dict[str, str] = {}
    for item in fields:
        antibody, gene = item.metadata.get("antibody", ""), item.metadata.get("gene", "")
        known = genes.setdefault(antibody, gene) or gene
        if antibody and gene and known != gene:
            raise InputError(
                f"Antibody {antibody} has the genes {known} and {gene} (field {item.name}), expected one. "
                "Correct the column `gene` of the metadata."
            )
        genes[antibody] = known
    return genes


def _refuse_repeats(what: str, names: Sequence[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InputError(f"{what} occur twice: {', '.join(twice[:10])}. Every one must be unique; rename the others.")


def _first_format(source: CropSource, plan: Sequence[Sequence[ShardGroup]]) -> CropFormat:
    """The format of the first field that can be read: all others must agree with it."""
    reason = "no field has an antibody"
    for name in (name for groups in plan for group in groups for name in group.fields):
        try:
            crops = source.read(name)
            if len(crops.cells):
                return format_of(crops)
            reason = ": ".join(crops.skipped[0]) if crops.skipped else f"{name} has no cells"
        except UNUSABLE as error:
            reason = f"{name}: {reason_of(error)}"
    raise InputError(
        f"Nothing to write: no field of view has both an antibody and cells that can be read; last reason: {reason}. "
        "Name the antibody of every field: a CSV with the columns field_of_view and antibody (--metadata), or, of a "
        ".h5sc file, a column antibody in its obs."
    )


def _fingerprint(
    source: CropSource,
    plan: Sequence[Sequence[ShardGroup]],
    genes: Mapping[str, str],
    crop_format: CropFormat,
    settings: ShardSettings,
) -> str:
    """Checksum of everything that the shards depend on."""
    everything = [FORMAT_VERSION, source.fingerprint(), plan, genes, crop_format.as_record(), asdict(settings)]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def _index_of(output: Path) -> ShardIndex | None:
    """The index of a folder; None while it is not complete."""
    path = output / INDEX_FILE
    return ShardIndex.from_json(path.read_bytes(), str(path)) if path.is_file() else None


def _finished(output: Path, index: ShardIndex, fingerprint: str) -> ShardReport:
    """The report of a folder that is complete already."""
    if index.fingerprint != fingerprint:
        raise InputError(
            f"{output} already holds shards of other inputs or settings. Choose another folder, or delete this one."
        )
    files = {shard.file: asdict(shard) for shard in index.shards}
    files[CELLS_FILE] = {"bytes": index.cells_bytes, "sha256": index.cells_sha256}
    damage = find_damage(output, files)
    if not (output / SKIPPED_FILE).is_file():
        damage.append(f"{SKIPPED_FILE} is missing")
    if damage:
        raise InputError(
            f"{output} holds complete shards, but they are damaged: {'; '.join(damage)}. Copy the folder again, or "
            "delete it and run the same command again."
        )
    remove_progress(output)
    with (output / SKIPPED_FILE).open(encoding="utf-8", newline="") as file:
        skipped = tuple((row["field_of_view"], row["reason"]) for row in csv.DictReader(file))
    return ShardReport(index, skipped, len(index.shards))


def _run(source: CropSource, jobs: Sequence[ShardJob], workers: int, total: int, progress: bool, engine: str) -> None:
    """Write shards, in this process or in several."""
    with tqdm(
        total=total, initial=total - len(jobs), unit="shard", desc="Shards", disable=None if progress else True
    ) as bar:
        if engine == "ray":
            for _ in map_on_ray(partial(write_shard, source), jobs):
                bar.update()
            return
        if workers <= 1 or len(jobs) <= 1:
            for job in jobs:
                write_shard(source, job)
                bar.update()
            return
        pool = WorkerPool(min(workers, len(jobs)), _begin_worker, (source,))
        try:
            for _ in pool.map(_write_in_worker, jobs):
                bar.update()
        except BrokenProcessPool as error:
            raise KilledWorkerError(KILLED_WORKER) from error
        finally:
            pool.shutdown(cancel_futures=True)


_worker_source: list[CropSource] = []
"""In a worker process, the one source: sent once, not with every job, since its tables may be large."""


def _begin_worker(source: CropSource) -> None:
    _worker_source.append(source)


def _write_in_worker(job: ShardJob) -> None:
    write_shard(_worker_source[0], job)


def _write_index(
    output: Path,
    joined: JoinedNotes,
    genes: Mapping[str, str],
    crop_format: CropFormat,
    settings: ShardSettings,
    fingerprint: str,
) -> ShardIndex:
    """Write the table of cells and, last of all, the index."""
    columns = joined.columns
    if not joined.shards:
        raise InputError(f"Nothing to write: every field was skipped; see {output / SKIPPED_FILE}.")
    _refuse_repeats("Cell ids", columns["cell_id"])
    content = cells_parquet(columns)
    with write_atomically(output / CELLS_FILE) as file:
        file.write(content)
    antibodies = tuple(sorted(set(columns["antibody"])))
    index = ShardIndex(
        crop_format=crop_format,
        antibodies=antibodies,
        genes=tuple(genes[antibody] for antibody in antibodies),
        classes=settings.classes,
        cell_lines=tuple(sorted({str(name or "") for name in columns["cell_line"]})),
        shards=tuple(joined.shards),
        cells=len(columns["cell_id"]),
        cells_bytes=len(content),
        cells_sha256=hashlib.sha256(content).hexdigest(),
        source=settings.source,
        fingerprint=fingerprint,
    )
    if settings.split_by is not None:
        index = _with_splits(index, columns, settings.split_by, settings)
    with write_atomically(output / INDEX_FILE) as file:
        file.write(index.to_json())
    return index


def _with_splits(
    index: ShardIndex, columns: Mapping[str, Sequence[Any]], by: str, settings: ShardSettings
) -> ShardIndex:
    """The index with its antibodies split, stratified on all locations of their cells."""
    locations: dict[str, set[str]] = {antibody: set() for antibody in index.antibodies}
    for antibody, names in set(zip(columns["antibody"], columns["locations"], strict=True)):
        locations[antibody] |= {name.strip() for name in str(names or "").split(";")} - {""}
    genes = dict(zip(index.antibodies, index.genes, strict=True))
    splits = split_antibodies(genes, locations, by=by, fractions=settings.split_fractions, seed=settings.seed)
    return index.with_splits(splits, f"by {by}, seed {settings.seed}")
