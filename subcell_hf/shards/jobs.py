"""Which fields go into which shard, and the work of writing one shard."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from subcell_hf.errors import InputError
from subcell_hf.images.fields_of_view import UNUSABLE, FieldError, reason_of
from subcell_hf.shards.archive import EncodedCell, ShardWriter, cell_key, deal_parts, encode_field
from subcell_hf.shards.cell_table import CELL_COLUMNS
from subcell_hf.shards.codec import CropFormat
from subcell_hf.shards.index import ShardEntry
from subcell_hf.storage.atomic import remove_leftovers, write_atomically
from subcell_hf.storage.records import find_damage, read_record, write_record
from subcell_hf.types import FieldCrops

PROGRESS_FOLDER = ".progress"
"""Notes of a run that is not finished: one per complete shard, and the plan."""

_PLAN_FILE = "plan.json"


class ListedCrops(NamedTuple):
    """A field of view whose crops can be had.

    Attributes:
        name: The field's unique id.
        metadata: What is known of it without reading pixels; `antibody` and `gene` matter here.
    """

    name: str
    metadata: Mapping[str, str]


class CropSource(Protocol):
    """Where crops come from. It is sent to other processes, so it must pickle."""

    def fields(self) -> Sequence[ListedCrops]:
        """Every field of view, without reading pixels."""

    def read(self, name: str) -> FieldCrops:
        """The crops of one field; raises InputError or OSError where the field is bad."""

    def fingerprint(self) -> str:
        """A text that changes when the inputs change, or the way they are cropped."""


@runtime_checkable
class AnnouncedSource(Protocol):
    """A source that fetches what will be read next while its crops are compressed."""

    def announce(self, names: Sequence[str]) -> None:
        """Which fields will be read next, in order."""


class ShardGroup(NamedTuple):
    """Fields of one antibody whose cells are dealt into parts together."""

    antibody: str
    fields: tuple[str, ...]


@dataclass(frozen=True)
class ShardJob:
    """All that a process needs to know of one shard, beside the source."""

    output: Path
    number: int
    groups: tuple[ShardGroup, ...]
    crop_format: CropFormat
    classes: tuple[str, ...]
    strict: bool
    fingerprint: str

    @property
    def shard(self) -> Path:
        """The tar file."""
        return self.output / f"shard-{self.number:06d}.tar"

    @property
    def note(self) -> Path:
        """What is known of the shard, written once it is complete."""
        return self.output / PROGRESS_FOLDER / f"{self.shard.stem}.json"

    def is_done(self) -> bool:
        """Whether an earlier run completed this shard and every byte is as it was written; its note comes after it."""
        note = read_record(self.note)
        if note is None or note["fingerprint"] != self.fingerprint:
            return False
        return not find_damage(self.output, {self.shard.name: note["shard"]})


def plan_shards(
    fields: Sequence[ListedCrops], fields_per_shard: int, fields_per_group: int
) -> list[tuple[ShardGroup, ...]]:
    """Decide which fields go into which shard.

    Args:
        fields: Fields that have an antibody, sorted by name.
        fields_per_shard: Fields in a shard, about.
        fields_per_group: Fields whose cells are dealt into parts together, at most.

    Returns:
        For each shard its groups: an antibody and some or all of its fields, sorted by antibody.
    """
    by_antibody: dict[str, list[str]] = {}
    for item in fields:
        by_antibody.setdefault(item.metadata["antibody"], []).append(item.name)
    shards: list[list[ShardGroup]] = []
    size = fields_per_shard
    for antibody, names in sorted(by_antibody.items()):
        count = -(-len(names) // fields_per_group)
        # Dealt in turn, so that no group is left with a few fields only.
        for group in (ShardGroup(antibody, tuple(names[start::count])) for start in range(count)):
            if not shards or size + len(group.fields) > fields_per_shard:
                shards.append([])
                size = 0
            shards[-1].append(group)
            size += len(group.fields)
    return [tuple(groups) for groups in shards]


def write_shard(source: CropSource, job: ShardJob) -> None:
    """Write one shard and, after it, the note that says that it is complete."""
    skipped: list[tuple[str, str]] = []
    rows: list[dict[str, Any]] = []
    part = 0
    if isinstance(source, AnnouncedSource):
        source.announce([name for group in job.groups for name in group.fields])
    with write_atomically(job.shard) as file:
        writer = ShardWriter(file, job.crop_format)
        for group in job.groups:
            for cells in deal_parts(_encode_group(source, job, group, skipped)):
                for position, cell in enumerate(cells):
                    place = writer.add(cell_key(job.number, part, position), cell)
                    rows.append({**cell.record, **place, "part": part})
                part += 1
        size_bytes, sha256 = writer.finish()
    antibodies = len({row["antibody"] for row in rows})
    entry = ShardEntry(job.shard.name, len(rows), part, antibodies, size_bytes, sha256)
    write_record(job.note, {"fingerprint": job.fingerprint, "shard": asdict(entry), "skipped": skipped, "rows": rows})


def _encode_group(
    source: CropSource, job: ShardJob, group: ShardGroup, skipped: list[tuple[str, str]]
) -> list[EncodedCell]:
    """The compressed cells of a group, sorted by field; bad fields and cells are added to `skipped`."""
    cells: list[EncodedCell] = []
    for name in group.fields:
        try:
            crops = source.read(name)
            if job.strict and crops.skipped:
                raise FieldError(": ".join(crops.skipped[0]))
            if len(crops.cells):
                cells += encode_field(crops, group.antibody, job.crop_format, job.classes)
            skipped += crops.skipped or ([] if crops.cells else [(name, "it has no cell")])
        except UNUSABLE as error:
            if job.strict:
                raise InputError(f"Field of view {name}: {reason_of(error)}") from error
            skipped.append((name, reason_of(error)))
    return cells


class JoinedNotes(NamedTuple):
    """What all shards hold together.

    Attributes:
        shards: The shards that have cells.
        columns: Column → one value per cell, in the order of the shards.
        skipped: Field of view and reason.
    """

    shards: list[ShardEntry]
    columns: dict[str, list[Any]]
    skipped: list[tuple[str, str]]


def join_notes(jobs: Sequence[ShardJob]) -> JoinedNotes:
    """Join the notes of all shards; a shard without cells is removed."""
    shards: list[ShardEntry] = []
    skipped: list[tuple[str, str]] = []
    columns: dict[str, list[Any]] = {name: [] for name in CELL_COLUMNS}
    for job in jobs:
        note = read_record(job.note)
        if note is None:
            raise InputError(f"{job.note} was damaged during the run. Run the same command again.")
        skipped += [(name, reason) for name, reason in note["skipped"]]
        if not note["rows"]:
            job.shard.unlink()
            continue
        for row in note["rows"]:
            # Columns that no cell had so far are filled up to here.
            columns |= {name: [None] * len(columns["shard"]) for name in row.keys() - columns.keys()}
            for name, values in columns.items():
                values.append(len(shards) if name == "shard" else row.get(name))
        shards.append(ShardEntry.from_record(note["shard"]))
    others = sorted(columns.keys() - set(CELL_COLUMNS))
    return JoinedNotes(shards, {name: columns[name] for name in (*CELL_COLUMNS, *others)}, skipped)


def open_progress(output: Path, fingerprint: str) -> None:
    """Begin or resume a run in this folder."""
    plan = output / PROGRESS_FOLDER / _PLAN_FILE
    # Without a sound plan the notes still know where they belong.
    found = [read_record(path) for path in (plan, *plan.parent.glob("*.json"))]
    if any(record is not None and record["fingerprint"] != fingerprint for record in found):
        raise InputError(
            f"{output} contains an unfinished run with other inputs or settings. Use the same ones to resume, choose "
            "another folder, or delete this one."
        )
    begun = plan.is_file() or any(record is not None for record in found)
    strangers = [] if begun else sorted(path.name for path in output.glob("*.tar"))
    if strangers:
        raise InputError(f"{output} holds {', '.join(strangers[:3])} without an index. Choose an empty folder.")
    remove_leftovers(output)
    remove_leftovers(plan.parent)
    if found[0] is None:
        write_record(plan, {"fingerprint": fingerprint})


def remove_progress(output: Path) -> None:
    """Remove the notes, the plan last: while it exists, a killed run is recognised as ours."""
    folder = output / PROGRESS_FOLDER
    if folder.is_dir():
        remove_leftovers(output)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == _PLAN_FILE):
            path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):  # another process found the run complete and does the same
            folder.rmdir()
