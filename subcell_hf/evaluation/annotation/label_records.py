"""Labels that people gave to cells: a file of JSON lines that only grows.

Each line is a record: a label, the undoing of an earlier record, or a class that is named, renamed or removed. What
counts follows from all records, so that nothing is ever overwritten and the files of several annotators can be read
together.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from subcell_hf.errors import InputError
from subcell_hf.storage.atomic import flush_to_disk
from subcell_hf.storage.folder_lock import try_lock, unlock
from subcell_hf.storage.full_disk import naming_full_disk

RECORD_VERSION = 1
LABEL, UNDO, CLASS, RENAME, REMOVE = "label", "undo", "class", "rename", "remove"
_NEEDED = {
    LABEL: ("cell_id", "class_name"),
    UNDO: ("undoes",),
    CLASS: ("class_name",),
    RENAME: ("class_name", "renamed_to"),
    REMOVE: ("class_name",),
}
"""Action → fields that it needs."""
_LONGEST_TEXT = 200
_LOCK_PATIENCE_S = 10.0


@dataclass(frozen=True)
class LabelRecord:
    """One line of a file of labels.

    Attributes:
        id: Unique; a record that is sent twice counts once.
        at: Time in UTC, as `2026-01-31T12:00:00.000Z`.
        by: Name of the annotator.
        action: `"label"`; `"undo"` of another record; `"class"`, which only names a class; `"rename"` or `"remove"`,
            which change a class in all labels before.
        cell_id: The cell of a label.
        class_name: The class of a label, or the one that is named, renamed or removed.
        renamed_to: New name of a class; if it is the name of another one, both become one class.
        undoes: `id` of the record that is undone.
        chosen_by: Why the cell was shown, such as `"random"` or `"uncertain"`; empty where it is not recorded.
        suggested: The class that was suggested for the cell when it was labelled; empty for none.
        model: Name of the model whose embeddings were shown.
        revision: Its commit on the Hub; empty for a local folder.
        weights_sha256: Checksum of its weights; empty where the table does not record it.
        version: Of the format.
    """

    id: str
    at: str
    by: str
    action: str
    cell_id: str = ""
    class_name: str = ""
    renamed_to: str = ""
    undoes: str = ""
    chosen_by: str = ""
    suggested: str = ""
    model: str = ""
    revision: str = ""
    weights_sha256: str = ""
    version: int = RECORD_VERSION

    def __post_init__(self) -> None:
        """Refuse what is no record.

        Raises:
            InputError: If a field is missing, too long or of another type.
        """
        for name, value in asdict(self).items():
            if not isinstance(value, int if name == "version" else str):
                raise InputError(f"The label record has {name} {value!r}, expected a text.")
        if self.version != RECORD_VERSION:
            raise InputError(
                f"The label record has version {self.version}, this subcell_hf reads {RECORD_VERSION}. Install a newer "
                "subcell_hf."
            )
        if self.action not in _NEEDED:
            raise InputError(f"The label record has action {self.action!r}, expected one of {', '.join(_NEEDED)}.")
        for name in ("id", "at", "by", *_NEEDED[self.action]):
            if not getattr(self, name).strip():
                raise InputError(f"The label record {self.id!r} of action {self.action} has no {name}.")
        for name in ("id", "by", "class_name", "renamed_to", "undoes"):
            text = getattr(self, name)
            if len(text) > _LONGEST_TEXT or not text.isprintable():
                raise InputError(
                    f"The label record has {name} {text[:40]!r}…, expected at most {_LONGEST_TEXT} printable letters."
                )

    @classmethod
    def from_mapping(cls, values: Any) -> "LabelRecord":
        """A record of plain data.

        Raises:
            InputError: If fields are missing, unknown or invalid.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"A label record is {type(values).__name__}, expected a JSON object.")
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        missing = [name for name in ("id", "at", "by", "action") if name not in values]
        if unknown or missing:
            raise InputError(f"A label record lacks {missing} and has the unknown fields {unknown}.")
        return cls(**values)

    def to_line(self) -> bytes:
        """As a line of a file; empty fields are left out."""
        content = {name: value for name, value in asdict(self).items() if value != ""}
        return json.dumps(content, ensure_ascii=False).encode() + b"\n"


def read_labels(path: Path) -> list[LabelRecord]:
    """Read a file of labels.

    Args:
        path: JSON lines. A last line that was cut off, as by a power failure, was never acknowledged: it is left out.

    Returns:
        The records in the order of the file.

    Raises:
        InputError: If it is missing, or a line is no record.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist, expected a file of labels (.jsonl). Check the path.")
    return list(_parse_lines(path, path.read_bytes()))


def _parse_lines(path: Path, content: bytes, first: int = 1) -> Iterator[LabelRecord]:
    complete = content[: content.rfind(b"\n") + 1]
    for number, line in enumerate(complete.split(b"\n")[:-1], first):
        if line.strip():
            try:
                yield LabelRecord.from_mapping(json.loads(line))
            except (ValueError, RecursionError) as error:  # an InputError is a ValueError
                raise InputError(
                    f"{path}, line {number} is no label record ({error}). Restore the file from a copy, or remove the "
                    "line."
                ) from error


class LabelFile:
    """A file of labels that is read and appended to, by several processes if need be.

    Args:
        path: The file; it is created with the first record.

    Attributes:
        path: As given.
        records: All records so far, in the order of the file.

    Raises:
        InputError: If it is a folder, or a line of it is no record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[LabelRecord] = []
        self._ids: set[str] = set()
        self._read_bytes = 0
        self._lines = 0
        if path.is_dir():
            raise InputError(f"{path} is a folder, expected a file of labels (.jsonl). Give a file in it (--labels).")
        if path.exists():
            self.refresh()

    def refresh(self) -> list[LabelRecord]:
        """Read what was appended since, by this process or another.

        Returns:
            The new records.
        """
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            return self._read_from(file)

    def append(self, records: Iterable[LabelRecord]) -> list[LabelRecord]:
        """Append records that are not there yet; when this returns, they are on the disk.

        Args:
            records: In order.

        Returns:
            All records that are new to this object, also those of other processes.

        Raises:
            InputError: If the file cannot be written, or another process keeps it locked.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        with naming_full_disk(self.path), self.path.open("a+b") as file, _locked(file.fileno(), self.path):
            file.seek(0)
            new = self._read_from(file)
            # What follows the last line was cut off while it was written, and never acknowledged.
            file.truncate(self._read_bytes)
            waiting = {record.id: record for record in records if record.id not in self._ids}
            file.write(b"".join(record.to_line() for record in waiting.values()))
            file.flush()
            os.fsync(file.fileno())
            if is_new:
                flush_to_disk(self.path.parent)
            file.seek(0)
            return new + self._read_from(file)

    def _read_from(self, file: Any) -> list[LabelRecord]:
        file.seek(self._read_bytes)
        content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        new = [one for one in _parse_lines(self.path, complete, self._lines + 1) if one.id not in self._ids]
        self._read_bytes += len(complete)
        self._lines += complete.count(b"\n")
        self._ids |= {record.id for record in new}
        self.records += new
        return new


@contextmanager
def _locked(descriptor: int, path: Path) -> Iterator[None]:
    until = time.monotonic() + _LOCK_PATIENCE_S
    while not try_lock(descriptor):
        if time.monotonic() > until:
            raise InputError(f"{path} is locked by another process. Close that process, or give another --labels.")
        time.sleep(0.01)
    try:
        yield
    finally:
        unlock(descriptor)


@dataclass(frozen=True)
class MergedLabels:
    """What the records of one or several annotators say together.

    Attributes:
        classes: Names of the classes, in the order in which they were first named.
        labels: Cell → class, where all annotators of the cell agree.
        records: Cell → annotator → the record that counts: the latest that is not undone, with the class's name of now.
        first_shown: Cell → annotator → `chosen_by` of the annotator's first label, even if it is undone: a cell that
            was drawn at random stays so when its label is corrected.
        disagreements: Cell → annotator → class, where they do not.
        compared: Cells that two or more annotators have labelled.
    """

    classes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    records: Mapping[str, Mapping[str, LabelRecord]] = field(default_factory=dict)
    first_shown: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    disagreements: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    compared: int = 0


def merge_labels(records: Iterable[LabelRecord], classes: Sequence[str] = ()) -> MergedLabels:
    """Merge records of one or several files.

    An annotator's latest label of a cell counts. If it is undone, the one before it counts again. A class is renamed or
    removed in the labels that all annotators gave before.

    Args:
        records: Records in any order; repeated ones count once.
        classes: Names that come first.
    """
    unique = {record.id: record for record in records}
    undone = {record.undoes for record in unique.values() if record.action == UNDO}
    names = dict.fromkeys(classes)
    by_cell: dict[str, dict[str, LabelRecord]] = {}
    first_shown: dict[str, dict[str, str]] = {}
    for record in sorted(unique.values(), key=lambda one: one.at):  # those of one time keep their order
        if record.action == LABEL:
            first_shown.setdefault(record.cell_id, {}).setdefault(record.by, record.chosen_by)
        if record.id in undone or record.action == UNDO:
            continue
        if record.action in (RENAME, REMOVE):
            names = _change_class(names, by_cell, record)
            continue
        names.setdefault(record.class_name)
        if record.action == LABEL:
            by_cell.setdefault(record.cell_id, {})[record.by] = record
    by_cell = {cell: own for cell, own in by_cell.items() if own}
    said = {cell: {by: one.class_name for by, one in own.items()} for cell, own in by_cell.items()}
    return MergedLabels(
        classes=tuple(names),
        labels={cell: next(iter(own.values())) for cell, own in said.items() if len({*own.values()}) == 1},
        records=by_cell,
        first_shown=first_shown,
        disagreements={cell: own for cell, own in said.items() if len({*own.values()}) > 1},
        compared=sum(len(own) > 1 for own in said.values()),
    )


def _change_class(
    names: Mapping[str, None], by_cell: Mapping[str, dict[str, LabelRecord]], change: LabelRecord
) -> dict[str, None]:
    """Names of the classes after a class was renamed or removed; its labels are changed where they are."""
    old, new = change.class_name, change.renamed_to
    for own in by_cell.values():
        for by, record in [*own.items()]:
            if record.class_name == old and change.action == RENAME:
                own[by] = replace(record, class_name=new)
            elif record.class_name == old:
                del own[by]
    kept = (new if name == old else name for name in names)
    return dict.fromkeys(name for name in kept if name)  # a class that is removed has no new name
