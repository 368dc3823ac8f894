"""Annotation of one table by one annotator: labels come in, the classifier is trained again, and cells are proposed."""

import threading
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError
from subcell_hf.evaluation.annotation.cell_classifier import (
    CellClassifier,
    Components,
    HeldOutEstimate,
    LabelledFeatures,
    estimate_held_out,
    group_cells,
    train_classifier,
)
from subcell_hf.evaluation.annotation.label_records import (
    LABEL,
    REMOVE,
    RENAME,
    UNDO,
    LabelFile,
    LabelRecord,
    MergedLabels,
    merge_labels,
    read_labels,
)
from subcell_hf.evaluation.annotation.proposals import MIXED, RANDOM, STRATEGIES, Pool, Proposal, propose_cells
from subcell_hf.settings import Setting
from subcell_hf.tables.embedding_table import EmbeddingTable

_UNKNOWN = "unknown"
_SENT = ("id", "action", "cell_id", "class_name", "renamed_to", "undoes", "chosen_by", "suggested")
"""Fields of a record that its sender says."""
_NAMES = ("class_name", "renamed_to")


@dataclass(frozen=True)
class AnnotationSettings:
    """How labels become a classifier, and which cells are shown.

    Attributes:
        classes: Name of a class, in the order of the keys 1 to 9; repeatable; more can be added on the page.
        strategy: Which cells are shown next: mixed, uncertain, diverse, rare or random.
        group_by: What the held-out estimate keeps together: field, antibody, or auto: the antibody if every cell has
            one.
        strength: Inverse of the classifier's penalty.
        seed: Seed of proposals, folds and bootstrap.
    """

    classes: Annotated[tuple[str, ...], Setting("--class")] = ()
    strategy: str = MIXED
    group_by: str = "auto"
    strength: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse invalid settings.

        Raises:
            InputError: Naming the setting.
        """
        if self.strategy not in STRATEGIES:
            raise InputError(f"strategy is {self.strategy!r}, expected one of {', '.join(STRATEGIES)}.")
        if not self.strength > 0:
            raise InputError(f"strength is {self.strength}, expected a number above 0.")
        if len({*self.classes}) < len(self.classes) or not all(name.strip() for name in self.classes):
            raise InputError(f"classes are {self.classes}, expected different names that are not empty.")


@dataclass(frozen=True)
class EncoderIdentity:
    """Which encoder computed embeddings.

    Attributes:
        name: As the table records it; `"unknown"` for a table of another tool.
        revision: Commit on the Hub; empty for a local folder.
        weights_sha256: Checksum of the weights; empty where the table does not record it.
    """

    name: str = _UNKNOWN
    revision: str = ""
    weights_sha256: str = ""

    @classmethod
    def of_provenance(cls, provenance: Mapping[str, Any]) -> "EncoderIdentity":
        """The encoder, or encoders, of a table.

        Args:
            provenance: Of the table.
        """
        models = [model for model in provenance.get("models", ()) if isinstance(model, Mapping)]
        if not models:
            return cls()
        values = [[str(model.get(key) or "") for model in models] for key in cls.__dataclass_fields__]
        return cls(*(" + ".join(filter(None, texts)) for texts in values))

    @property
    def is_known(self) -> bool:
        """Whether the table records it."""
        return self.name != _UNKNOWN

    def __str__(self) -> str:
        facts = [f"revision {self.revision}"] if self.revision else []
        facts += [f"weights {self.weights_sha256[:12]}"] if self.weights_sha256 else []
        return f"{self.name} ({', '.join(facts)})" if facts else self.name


@dataclass(frozen=True)
class TrainedState:
    """What follows from the labels so far.

    Attributes:
        merged: The labels.
        classifier: None while fewer than two classes have labels.
        probabilities: `[cells, classes]` of the whole table; None without a classifier.
        estimate: None while there are too few labels or groups.
        proposals: Cells to look at next.
        unknown_cells: Labelled cells that are not in the table.
    """

    merged: MergedLabels = field(default_factory=MergedLabels)
    classifier: CellClassifier | None = None
    probabilities: npt.NDArray[np.float32] | None = None
    estimate: HeldOutEstimate | None = None
    proposals: tuple[Proposal, ...] = ()
    unknown_cells: tuple[str, ...] = ()


class AnnotationSession:
    """One annotator at one table.

    Several threads may use it. `add_records` returns when the labels are on the disk; `train` brings the classifier and
    the proposals up to date.

    Args:
        table: Cells with embeddings.
        labels: File of labels; it is created with the first one.
        settings: How labels are used.
        annotator: Name that is recorded with each label.
        others: Files of other annotators, which are only read.
        shown: Ids of the cells that can be shown; None: all.

    Attributes:
        table: As given.
        settings: As given.
        strategy: Which cells are proposed; at first as in the settings.
        annotator: As given.
        encoder: Which encoder computed the embeddings.
        components: Projection of the embeddings.
        features: `[cells, components]`.
        state: What follows from the labels that `train` last saw.

    Raises:
        InputError: If a file of labels is damaged, or the table has fewer than two cells.
    """

    def __init__(
        self,
        table: EmbeddingTable,
        labels: Path,
        settings: AnnotationSettings | None = None,
        *,
        annotator: str,
        others: Sequence[Path] = (),
        shown: Iterable[str] | None = None,
    ) -> None:
        if len(table) < 2:
            raise InputError(f"The table has {len(table)} cells, expected at least two. Embed more images.")
        self.table, self.annotator = table, annotator
        self.settings = settings or AnnotationSettings()
        self.strategy = self.settings.strategy
        self.encoder = EncoderIdentity.of_provenance(table.provenance)
        self.file = LabelFile(labels)
        self._others = [record for path in others for record in read_labels(path)]
        self.cell_ids = [str(cell) for cell in table.cells["cell_id"]]
        self.row_of = {cell: row for row, cell in enumerate(self.cell_ids)}
        self.can_be_shown = np.ones(len(table), bool)
        if shown is not None:
            self.can_be_shown[:] = False
            self.can_be_shown[[self.row_of[cell] for cell in shown if cell in self.row_of]] = True
        columns = {name: table.cells[name] for name in ("field_of_view", "antibody") if name in table.cells}
        self.grouped_by, self._groups = group_cells(columns, self.settings.group_by)
        self.components = Components.of(table.embeddings, seed=self.settings.seed)
        self.features = self.components(table.embeddings)
        self.state = TrainedState()
        self._lock, self._training = threading.Lock(), threading.Lock()
        self.train()

    def records(self) -> list[LabelRecord]:
        """All records: of the file, as far as it was read, and of the others' files."""
        with self._lock:
            return [*self._others, *self.file.records]

    def add_records(self, given: Sequence[Mapping[str, Any]]) -> None:
        """Store labels, undoings and changes of classes, which were sent by the page or by a program.

        Args:
            given: Each with `action` and what belongs to it: `cell_id`, `class_name`, `renamed_to`, `undoes`, and
                optionally `id`, `chosen_by` and `suggested`. Records whose `id` is stored already are ignored.

        Raises:
            InputError: If one is invalid, of an unknown cell or class, or undoes a record of somebody else; nothing is
                stored.
        """
        with self._lock:
            own = {record.id for record in self.file.records if record.by == self.annotator}
            records: list[LabelRecord] = []
            for values in given:
                record = self._complete(values)
                if record.action == LABEL and record.cell_id not in self.row_of:
                    raise InputError(f"The table has no cell {record.cell_id!r}. Reload the page.")
                if record.action == UNDO and record.undoes not in own:
                    raise InputError(f"There is no record {record.undoes!r} of {self.annotator} to undo.")
                if record.action in (RENAME, REMOVE) and record.id not in own:
                    known = merge_labels([*self._others, *self.file.records, *records], self.settings.classes).classes
                    if record.class_name not in known:
                        raise InputError(
                            f"There is no class {record.class_name!r} to {record.action}. Reload the page."
                        )
                records.append(record)
                own.add(record.id)
            self.file.append(records)

    def _complete(self, values: Mapping[str, Any]) -> LabelRecord:
        if not isinstance(values, Mapping) or not set(values) <= set(_SENT):
            raise InputError(f"A label is {str(values)[:200]}, expected an object with some of {', '.join(_SENT)}.")
        facts = asdict(self.encoder) if values.get("action") == LABEL else {}
        facts = {"model" if name == "name" else name: value for name, value in facts.items()}
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        record = {"id": uuid.uuid4().hex, "action": "", **values, **facts, "at": now, "by": self.annotator}
        record |= {name: value.strip() for name, value in record.items() if name in _NAMES and isinstance(value, str)}
        return LabelRecord.from_mapping(record)

    def refresh(self) -> bool:
        """Read what another process appended to the file of labels; returns whether there was anything."""
        with self._lock:
            return bool(self.file.refresh())

    def merged(self) -> MergedLabels:
        """The labels as they are now."""
        return merge_labels(self.records(), self.settings.classes)

    def labelled(self, merged: MergedLabels) -> LabelledFeatures:
        """Cells of the table on whose class all annotators agree.

        Args:
            merged: Labels.
        """
        cells = [cell for cell in merged.labels if cell in self.row_of]
        rows = np.array([self.row_of[cell] for cell in cells], dtype=np.int64)
        at_random = [RANDOM in merged.first_shown[cell].values() for cell in cells]
        return LabelledFeatures(
            self.features[rows],
            np.array([merged.labels[cell] for cell in cells], dtype=str),
            self._groups[rows],
            self.grouped_by,
            np.array(at_random, dtype=bool),
        )

    def train(self, proposals: int = 24) -> TrainedState:
        """Train the classifier, estimate how good it is, and choose the next cells.

        Args:
            proposals: Number of cells to propose.

        Returns:
            The new state.
        """
        with self._training:
            records = self.records()
            merged = merge_labels(records, self.settings.classes)
            labelled = self.labelled(merged)
            counts = Counter(labelled.labels.tolist())
            classifier = probabilities = estimate = None
            if len(counts) > 1:
                classifier = train_classifier(labelled.features, labelled.labels, self.settings.strength)
                probabilities = classifier.probabilities(self.features)
                estimate = estimate_held_out(labelled, strength=self.settings.strength, seed=self.settings.seed)
            rng = np.random.default_rng((self.settings.seed, len(records)))
            pool = self._pool(
                merged, probabilities, [counts[name] for name in classifier.classes] if classifier else ()
            )
            self.state = TrainedState(
                merged,
                classifier,
                probabilities,
                estimate,
                tuple(propose_cells(pool, self.strategy, proposals, rng)),
                tuple(cell for cell in merged.records if cell not in self.row_of),
            )
            return self.state

    def _pool(self, merged: MergedLabels, probabilities: npt.NDArray[np.float32] | None, counts: Sequence[int]) -> Pool:
        seen = np.zeros(len(self.table), bool)
        seen[[self.row_of[cell] for cell in merged.records if cell in self.row_of]] = True
        return Pool(
            self.features, np.flatnonzero(self.can_be_shown & ~seen), np.flatnonzero(seen), probabilities, counts
        )

    def other_encoders(self) -> list[str]:
        """Encoders of earlier labels that are not the table's, by name."""
        known = {
            str(EncoderIdentity(one.model or _UNKNOWN, one.revision, one.weights_sha256))
            for one in self.records()
            if one.action == LABEL
        }
        return sorted(known - {str(self.encoder)})
