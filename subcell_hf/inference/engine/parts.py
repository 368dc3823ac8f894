"""A table in the making: parts, written whole as they finish, and joined when the last one is there.

`OUT/parts/` holds `plan.json`, and for each part `part-000000.parquet`, `.pictures.parquet` and `.attention.parquet`,
where it has any, and `part-000000.json`, written last: with it the part is finished, and it records sizes and
checksums: a part that is damaged is made again. What a part holds depends on the inputs and the settings alone, never
on the number of processes. Whoever finishes the last part joins them, under a lock.
"""

import csv
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.cells.folder import write_json
from subcell_hf.errors import InputError
from subcell_hf.images.metadata_columns import keep_apart_from_results
from subcell_hf.inference.engine.batches import BlockNotes, Place
from subcell_hf.inference.engine.forward import BatchResult
from subcell_hf.inference.sources.blocks import Skipped
from subcell_hf.storage.atomic import remove_leftovers
from subcell_hf.storage.folder_lock import LOCK_FILE, claim_folder
from subcell_hf.storage.input_lists import SKIPPED_FILE, UNUSED_FILE, write_csv
from subcell_hf.storage.records import describe_files, find_damage, read_record, write_record
from subcell_hf.tables.attention_maps import ATTENTION_FILE, CellAttention, iterate_attention, write_attention
from subcell_hf.tables.cell_pictures import PICTURES_FILE, CellPicture, iterate_pictures, write_pictures
from subcell_hf.tables.files import (
    EMBEDDINGS_FILE,
    H5AD_FILE,
    EmbeddingTable,
    calibrated_columns,
    frame_of_records,
    h5ad_from_parquet,
    join_parquet,
    top_locations,
    write_parquet,
)
from subcell_hf.tables.run_record import RUN_FILE, read_run

PARTS_FOLDER = "parts"

_PLAN_FILE = "plan.json"
_JOIN_LOCK = ".joining.lock"
_SMALLEST_RUN_PARTS = 64
_CHANGED_INPUT = (
    "the input files or their metadata have changed; earlier versions kept the names of wells, such as A1 for A01"
)

_logger = logging.getLogger(__name__)


def plan_parts(names: Sequence[str], smallest: int, largest: int) -> list[tuple[str, ...]]:
    """Cut the blocks of a run into parts: some 64 in a small run, of `largest` blocks in a large one.

    Args:
        names: Of all blocks.
        smallest: Blocks of a part at least, so that it fills a batch.
        largest: Blocks of a part at most.
    """
    size = min(max(smallest, -(-len(names) // _SMALLEST_RUN_PARTS)), largest)
    return [tuple(names[start : start + size]) for start in range(0, len(names), size)]


@dataclass(frozen=True)
class PartContent:
    """What a part comes to.

    Attributes:
        table: Its cells; None where all were skipped.
        pictures: Of some of them.
        attention: Of all of them, where it is wanted and the model has it.
        skipped: What is not in the table.
    """

    table: EmbeddingTable | None
    pictures: Sequence[CellPicture]
    skipped: Sequence[Skipped]
    attention: Sequence[CellAttention] = ()


class PartResults:
    """Gathers what batches give until their part is complete.

    Args:
        classes: Names of the classifier's classes, empty where there is none.
        proteins: Names of the passes; empty where there is one.
        attention_maps: Whether the attention of every cell is kept.
        calibration: `EmbedRun.calibration`.
    """

    def __init__(
        self,
        classes: tuple[str, ...],
        proteins: tuple[str, ...],
        attention_maps: bool = False,
        calibration: Mapping[str, Any] | None = None,
    ) -> None:
        self.calibration = calibration or {}
        self.classes, self.proteins, self.attention_maps = classes, proteins, attention_maps
        self._rows: dict[Place, tuple[Any, ...]] = {}
        self._refused: dict[Place, str] = {}

    def add(self, result: BatchResult) -> None:
        """Take the results of one batch."""
        self._refused.update(result.refused)
        for number, place in enumerate(result.places):
            numbers = (
                None if values is None else values[number]
                for values in (result.embeddings, result.probabilities, result.attentions)
            )
            self._rows[place] = (*numbers, result.image_px)

    def finish(self, blocks: Sequence[BlockNotes]) -> PartContent:
        """What the part comes to; forgets all that was added."""
        records: list[dict[str, Any]] = []
        rows, pictures, skipped, attention = [], list[CellPicture](), list[Skipped](), list[CellAttention]()
        for number, notes in enumerate(blocks):
            skipped += notes.skipped
            for cell, record in enumerate(notes.records):
                place = Place(number, cell)
                reason = self._refused.get(place)
                row = self._rows.get(place)
                if row is not None and not np.isfinite(row[0]).all():
                    reason = "its embedding is not finite; try --precision fp32"
                if reason is not None or row is None:
                    skipped.append(Skipped(str(record["cell_id"]), reason or "no result was stored for it"))
                    continue
                records.append({**keep_apart_from_results(record), "model": notes.model})
                rows.append(row)
                looked = None if row[2] is None else np.asarray(row[2], np.float16)
                if cell in notes.pictures:
                    pictures.append(replace(notes.pictures[cell], attention=looked))
                if self.attention_maps and looked is not None:
                    attention.append(CellAttention(str(record["cell_id"]), looked, row[3]))
        self._rows, self._refused = {}, {}
        return PartContent(self._table(records, rows) if rows else None, pictures, skipped, attention)

    def _table(self, records: Sequence[Mapping[str, Any]], rows: Sequence[tuple[Any, ...]]) -> EmbeddingTable:
        cells = frame_of_records(records)
        embeddings = np.stack([row[0] for row in rows])
        if not self.classes:
            return EmbeddingTable(cells, embeddings)
        passes = np.stack([row[1] for row in rows])  # [cells, passes, classes]
        probabilities: npt.NDArray[np.float32] = passes.mean(axis=1, dtype=np.float32)
        for name, values in top_locations(probabilities, self.classes).items():
            cells[name] = values
        cells = cells.assign(**calibrated_columns(embeddings, probabilities, self.classes, self.calibration))
        each = {name: passes[:, number] for number, name in enumerate(self.proteins)} if len(self.proteins) > 1 else {}
        return EmbeddingTable(cells, embeddings, probabilities, self.classes, each)


@dataclass(frozen=True)
class PartsFolder:
    """The parts of one run.

    Attributes:
        output: Folder of the run.
        parts: Number of parts.
        fingerprint: Of the inputs, models and settings; parts of a run with another one do not count.
    """

    output: Path
    parts: int
    fingerprint: str | None = None

    @property
    def folder(self) -> Path:
        """Where the parts lie until they are joined."""
        return self.output / PARTS_FOLDER

    def open(self, settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
        """Begin a run, or resume it.

        Args:
            settings: For the message, should they differ.
            defaults: Settings of an earlier run that its record does not name; the first versions left them out.

        Raises:
            InputError: If the folder holds a run of something else, or what it holds is damaged.
        """
        plan = {"fingerprint": self.fingerprint, "settings": dict(settings), "parts": self.parts}
        plan = json.loads(json.dumps(plan))
        earlier = read_run(self.output) if self.is_joined() else read_record(self.folder / _PLAN_FILE)
        if earlier is not None:
            _compare(self.output, earlier, plan, defaults or {})
            return
        finished = list(self.folder.glob("part-*.json"))
        for path in finished:  # without the plan, parts still know where they belong
            _compare(self.output, {**plan, **(read_record(path) or {})}, plan, {})
        # A run without results leaves only the lists of its inputs, which do not prevent another run.
        own = (PARTS_FOLDER, SKIPPED_FILE, UNUSED_FILE, LOCK_FILE)
        strangers = [path.name for path in self.output.glob("*") if path.name not in own]
        begun = finished or (self.folder / _PLAN_FILE).is_file()
        if strangers and not begun and not all(name.startswith(".") for name in strangers):
            raise InputError(
                f"{self.output} contains {', '.join(sorted(strangers)[:3])} and is not a run of subcell embed. "
                "Choose a new folder (--output)."
            )
        write_record(self.folder / _PLAN_FILE, plan)

    def recorded_precision(self) -> tuple[str, str]:
        """Precision and backend of the run that the folder holds; empty where it has none, or none that says it."""
        record = read_run(self.output) or read_record(self.folder / _PLAN_FILE) or {}
        precision, backend = (str(record.get("settings", {}).get(name, "")) for name in ("precision", "engine backend"))
        return ("", "") if precision == "auto" else (precision, backend or "torch")  # earlier versions recorded "auto"

    def is_joined(self) -> bool:
        """Whether the run is complete."""
        return (self.output / RUN_FILE).is_file()

    def read_skipped(self) -> tuple[Skipped, ...]:
        """What `skipped.csv` of a complete run lists."""
        with (self.output / SKIPPED_FILE).open(encoding="utf-8", newline="") as file:
            return tuple(Skipped(row["input"], row["reason"]) for row in csv.DictReader(file))

    def is_done(self, part: int) -> bool:
        """Whether a part is finished, by its record and the sizes of its files."""
        record = self._record(part)
        return record is not None and not find_damage(self.folder, record["files"], read_bytes=False)

    def is_sound(self, part: int) -> bool:
        """Whether every byte of a finished part is as it was written; damage is named in a warning."""
        record, path = self._record(part), self._path(part, "json")
        if record is None:
            damage = [f"{path.name} is damaged"] if path.is_file() else []
        else:
            damage = find_damage(self.folder, record["files"])
        if damage:
            _logger.warning("A part in %s is embedded again: %s.", self.folder, "; ".join(damage))
        return record is not None and not damage

    def _record(self, part: int) -> dict[str, Any] | None:
        """What is known of a finished part of this run."""
        record = read_record(self._path(part, "json"))
        known = record is not None and self.fingerprint in (None, record["fingerprint"])
        return record if known else None

    def _path(self, part: int, suffix: str) -> Path:
        return self.folder / f"part-{part:06d}.{suffix}"

    def write(self, part: int, content: PartContent, seconds: float) -> None:
        """Write one part, and last of all that it is finished."""
        if content.table is not None:
            write_parquet(content.table, self._path(part, "parquet"))
        if content.pictures:
            write_pictures(content.pictures, self._path(part, PICTURES_FILE))
        if content.attention:
            write_attention(content.attention, self._path(part, ATTENTION_FILE))
        written = {
            "parquet": content.table is not None,
            PICTURES_FILE: bool(content.pictures),
            ATTENTION_FILE: bool(content.attention),
        }
        notes = {
            "fingerprint": self.fingerprint,
            "files": describe_files(self.folder, [self._path(part, kind) for kind, there in written.items() if there]),
            "cells": 0 if content.table is None else len(content.table),
            "pictures": len(content.pictures),
            "attention": len(content.attention),
            "skipped": [list(item) for item in content.skipped],
            "seconds": round(seconds, 3),
        }
        write_record(self._path(part, "json"), notes)

    def notes(self) -> list[dict[str, Any]]:
        """What is known of every part.

        Raises:
            FileNotFoundError: If a part is not finished, or not any more.
        """
        notes = []
        for part in range(self.parts):
            note = self._record(part)
            if note is None:
                raise FileNotFoundError(
                    f"{self._path(part, 'json')} is missing or damaged. Run the same command again."
                )
            notes.append(note)
        return notes

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process of a run joins the parts; the others wait."""
        with claim_folder(self.output, lock=_JOIN_LOCK, wait=True):
            yield

    def join(self, facts: Mapping[str, Any], *, h5ad: bool) -> list[Skipped]:
        """Join all parts into the files of the run.

        Args:
            facts: `table_facts` of the whole.
            h5ad: Whether to write the AnnData file, too.

        Returns:
            What was skipped.

        Raises:
            InputError: If no part has a cell; `skipped.csv` is written before.
        """
        notes = self.notes()
        skipped = [Skipped(*item) for note in notes for item in note["skipped"]]
        write_csv(
            self.output / SKIPPED_FILE, ("input", "reason"), [{"input": s.name, "reason": s.reason} for s in skipped]
        )
        filled = [self._path(part, "parquet") for part, note in enumerate(notes) if note["cells"]]
        if not filled:
            shutil.rmtree(self.folder, ignore_errors=True)
            inputs = "the only input was" if len(skipped) == 1 else f"all {len(skipped)} inputs were"
            raise InputError(
                f"No cell could be embedded: {inputs} skipped, see {self.output / SKIPPED_FILE}; "
                f"the first: {skipped[0].reason if skipped else 'there was none'}"
            )
        join_parquet(filled, self.output / EMBEDDINGS_FILE, facts)
        pictured = [self._path(part, PICTURES_FILE) for part, note in enumerate(notes) if note["pictures"]]
        if pictured:
            write_pictures((p for path in pictured for p in iterate_pictures(path)), self.output / PICTURES_FILE)
        looked = [self._path(part, ATTENTION_FILE) for part, note in enumerate(notes) if note.get("attention")]
        if looked:
            write_attention((c for path in looked for c in iterate_attention(path)), self.output / ATTENTION_FILE)
        if h5ad:
            self.write_h5ad()
        return skipped

    def write_h5ad(self) -> None:
        """Write the AnnData file of the joined table.

        Raises:
            InputError: If it cannot be written; the other tables are complete without it.
        """
        try:
            h5ad_from_parquet(self.output / EMBEDDINGS_FILE, self.output / H5AD_FILE)
        except OSError as error:
            raise InputError(
                f"{self.output / H5AD_FILE} could not be written: {error}. {EMBEDDINGS_FILE} is complete: run the same "
                "command again with --no-h5ad to finish without it."
            ) from error

    def finish(self, run: Mapping[str, Any]) -> None:
        """Write `run.json`, which says that the run is complete, and remove the parts."""
        tables = [self.output / name for name in (EMBEDDINGS_FILE, PICTURES_FILE, ATTENTION_FILE, H5AD_FILE)]
        files = describe_files(self.output, filter(Path.is_file, tables))
        write_json(self.output / RUN_FILE, {**run, "files": files})
        self.clear()

    def check_tables(self, *, h5ad: bool) -> None:
        """Compare the tables of a complete run with what was written; the AnnData file is written again if need be.

        Args:
            h5ad: Whether there is to be an AnnData file.

        Raises:
            InputError: If a table is damaged that only embedding again can give.
        """
        files = read_run(self.output).get("files", {})
        made_again = files.pop(H5AD_FILE, None)
        damage = find_damage(self.output, files)
        if not (self.output / SKIPPED_FILE).is_file():
            damage.append(f"{SKIPPED_FILE} is missing")
        if damage:
            raise InputError(
                f"{self.output} holds a complete run, but it is damaged: {'; '.join(damage)}. Copy the folder again, "
                "or embed into a new one (--output)."
            )
        path = self.output / H5AD_FILE
        if h5ad and (not path.is_file() or (made_again and find_damage(self.output, {H5AD_FILE: made_again}))):
            self.write_h5ad()

    def clear(self) -> None:
        """Remove the parts of a complete run; another process may be at it as well."""
        remove_leftovers(self.output)
        shutil.rmtree(self.folder, ignore_errors=True)


def _compare(output: Path, earlier: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse to resume a run of something else, and report what differs."""
    if earlier.get("fingerprint") == now["fingerprint"]:
        return
    old, new = {**defaults, **earlier.get("settings", {})}, now["settings"]
    changed = [
        f"{name}: {old.get(name)!r} in that run, {new.get(name)!r} now"
        for name in sorted({*old, *new})
        if _text_of(old.get(name)) != _text_of(new.get(name))
    ]
    raise InputError(
        f"{output} holds a run with other inputs or settings ({'; '.join(changed) or _CHANGED_INPUT}). "
        "Use the same ones to resume, or choose a new folder (--output)."
    )


def _text_of(value: Any) -> str:
    """A setting for comparison: earlier versions wrote texts, and left out what was not given."""
    return "" if value in (None, [], {}) else str(value)
