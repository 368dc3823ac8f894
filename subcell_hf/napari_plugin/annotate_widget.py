"""The widget that gives classes to cells: labels go to the same file as those of `subcell annotate`."""

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError
from subcell_hf.evaluation.annotation.annotation_session import AnnotationSession
from subcell_hf.evaluation.annotation.label_records import CLASS, LABEL, UNDO
from subcell_hf.napari_plugin.background import Job, shown_errors
from subcell_hf.napari_plugin.cells_on_layer import CLASS as CLASS_COLUMN
from subcell_hf.napari_plugin.layer_choice import labels_layers, status_line
from subcell_hf.napari_plugin.linked_layer import LinkedLayer, linked_layer
from subcell_hf.workflows.annotation.annotate import AnnotationInput, export_annotation, open_annotation_session

_KEYS = 9
_BY_HAND = "selected"


def open_annotate_widget() -> Any:
    """The widget for the current viewer, for the menu of napari."""
    from napari import current_viewer

    return AnnotateWidget(current_viewer()).container


class AnnotateWidget:
    """Give classes to the cells of a layer, by buttons or the keys Alt-1 to Alt-9.

    Args:
        viewer: The viewer whose layers are offered.

    Attributes:
        container: The widget, of magicgui; it keeps this object alive.
        labels: Choice of the labels layer.
        file: File of labels.
        annotator: Name that is recorded with each label.
        new_class: Name of a class to add.
        classes: One button per class.
        session: The annotation; None before it is started.
        link: The layer whose cells are annotated.
        status: What came of it.
        job: The work in the background.
    """

    def __init__(self, viewer: Any) -> None:
        from magicgui.widgets import ComboBox, Container, FileEdit, LineEdit, PushButton

        self.viewer = viewer
        self.session: AnnotationSession | None = None
        self.link: LinkedLayer | None = None
        self._given: list[str] = []
        self._reason = _BY_HAND
        self.labels = ComboBox(label="Labels of cells", choices=lambda _: labels_layers(viewer))
        self.file = FileEdit(label="File of labels", mode="w", filter="*.jsonl", tooltip="As of subcell annotate")
        self.annotator = LineEdit(label="Annotator", tooltip="Empty: the name of the user")
        self.new_class = LineEdit(label="New class")
        self.classes = Container(labels=False)
        self.status, status_row = status_line()
        texts = ("Start", "Add class", "Accept suggestion", "Next cell", "Undo", "Export")
        calls = (self.start, self.add_class, self.accept, self.next_cell, self.undo, self.export)
        buttons = [PushButton(text=text) for text in texts]
        for button, call in zip(buttons, calls, strict=True):
            button.changed.connect(call)
        rows = [Container(widgets=pair, layout="horizontal", labels=False) for pair in (buttons[2:4], buttons[4:])]
        self.container = Container(
            widgets=[
                self.labels, self.file, self.annotator, buttons[0], self.new_class, buttons[1], self.classes, *rows,
                status_row,
            ]
        )  # fmt: skip
        self.job = Job(self.show)
        self.container.controller = self
        for number in range(_KEYS):
            viewer.bind_key(f"Alt-{number + 1}", lambda _, number=number: self._label_by_key(number), overwrite=True)

    def show(self, message: str) -> None:
        """Show a message below the buttons."""
        self.status.value = message

    def start(self) -> None:
        """Open the file of labels, and show the first cell."""
        with shown_errors(self.show):
            link = linked_layer(self.labels.value)
            text = self.file.line_edit.value.strip()
            if not text:
                raise InputError("No file of labels is chosen. Choose a new file, or that of an earlier annotation.")
            given = AnnotationInput(Path(text).expanduser(), self.annotator.value.strip() or None)
            shown = [link.cells.cell_id(row) for row in link.cells.label_of]
            self.session = open_annotation_session(link.cells.folder, given, shown=shown)
            if link is not self.link:
                link.on_select.append(lambda _: self._describe())
            self.link, self._input, self._given = link, given, []
            self._refresh()
            link.colour_by(CLASS_COLUMN if self.session.merged().labels else link.coloured_by)
            self.next_cell()

    def add_class(self) -> None:
        """Add the class that was typed."""
        with shown_errors(self.show):
            session, _ = self._started()
            session.add_records([{"action": CLASS, "class_name": self.new_class.value}])
            self.new_class.value = ""
            session.train()
            self._refresh()

    def label(self, name: str) -> None:
        """Give the selected cell a class, and go to the next one.

        Args:
            name: The class.
        """
        with shown_errors(self.show):
            session, link = self._started()
            if link.selected is None or link.selected not in link.cells.label_of:
                raise InputError("No cell of this layer is selected. Click a cell.")
            suggested = self._suggested(link.selected)
            record = {
                "id": uuid.uuid4().hex,
                "action": LABEL,
                "cell_id": link.cells.cell_id(link.selected),
                "class_name": name,
                "chosen_by": self._reason,
                "suggested": suggested[0] if suggested else "",
            }
            session.add_records([record])
            self._given.append(record["id"])
            session.train()
            self._refresh()
            link.colour_by(CLASS_COLUMN)
            self.next_cell()

    def accept(self) -> None:
        """Give the selected cell the class that is suggested for it."""
        with shown_errors(self.show):
            _, link = self._started()
            suggested = None if link.selected is None else self._suggested(link.selected)
            if suggested is None:
                raise InputError("There is no suggestion yet. Label cells of two classes.")
            self.label(suggested[0])

    def next_cell(self) -> None:
        """Select the cell that is proposed next."""
        with shown_errors(self.show):
            session, link = self._started()
            proposed = [one for one in session.state.proposals if one.row != link.selected]
            if not proposed:
                self.show("All cells of this layer are labelled.")
                return
            self._reason = proposed[0].reason
            link.select(proposed[0].row)
            self._reason = proposed[0].reason
            self._describe_shown()

    def undo(self) -> None:
        """Undo the latest label of this session, and select its cell again."""
        with shown_errors(self.show):
            session, link = self._started()
            if not self._given:
                raise InputError("There is no label of this session to undo.")
            undone = self._given.pop()
            session.add_records([{"action": UNDO, "undoes": undone}])
            cell = next(record.cell_id for record in session.records() if record.id == undone)
            session.train()
            self._refresh()
            link.colour_by(link.coloured_by)
            link.select(session.row_of[cell])

    def export(self) -> None:
        """Write labels, scores and the classifier in the background, as `subcell annotate --export` does."""
        with shown_errors(self.show):
            _, link = self._started()
            folder, given = link.cells.folder, self._input
            self.job.start(
                lambda _: export_annotation(folder, given), lambda done: self.show(" ".join(done.describe()))
            )
            self.show(f"Writing {given.export_folder}.")

    def _started(self) -> tuple[AnnotationSession, LinkedLayer]:
        if self.session is None or self.link is None:
            raise InputError("The annotation is not started. Choose layer and file of labels, and press Start.")
        if linked_layer(self.link.layer) is not self.link:
            raise InputError("The cells of the layer were embedded or opened again since. Press Start again.")
        return self.session, self.link

    def _label_by_key(self, number: int) -> None:
        if self.session is not None and number < len(self.classes) and self.container.visible:
            self.label(self.session.merged().classes[number])

    def _suggested(self, row: int) -> tuple[str, float] | None:
        """Class and its probability; None without a classifier."""
        state = None if self.session is None else self.session.state
        if state is None or state.classifier is None or state.probabilities is None:
            return None
        best = int(state.probabilities[row].argmax())
        return state.classifier.classes[best], float(state.probabilities[row, best])

    def _refresh(self) -> None:
        """Buttons of the classes, and the column of classes: labels, and paler what is suggested."""
        from magicgui.widgets import PushButton

        session, link = self._started()
        merged = session.merged()
        counts = [*merged.labels.values()]
        self.classes.clear()
        for number, name in enumerate(merged.classes):
            key = f"Alt-{number + 1}  " if number < _KEYS else ""
            button = PushButton(text=f"{key}{name} ({counts.count(name)})")
            button.changed.connect(lambda _, name=name: self.label(name))
            self.classes.append(button)
        values: npt.NDArray[np.object_] = np.full(len(session.table), "", dtype=object)
        state = session.state
        if state.classifier is not None and state.probabilities is not None:
            values[:] = np.array(state.classifier.classes, dtype=object)[state.probabilities.argmax(axis=1)]
        faint = np.ones(len(values), bool)
        for cell, name in merged.labels.items():
            if (row := session.row_of.get(cell)) is not None:
                values[row], faint[row] = name, False
        link.cells.set_column(CLASS_COLUMN, values, faint)

    def _describe(self) -> None:
        """Say what is known of a cell that the user has selected."""
        self._reason = _BY_HAND
        self._describe_shown()

    def _describe_shown(self) -> None:
        session, link = self._started()
        if link.selected is None:
            return
        cell = link.cells.cell_id(link.selected)
        said = [f"{cell} ({self._reason})."]
        if (given := session.merged().labels.get(cell)) is not None:
            said.append(f"Labelled: {given}.")
        if (suggested := self._suggested(link.selected)) is not None:
            said.append(f"Suggested: {suggested[0]} ({suggested[1]:.0%}).")
        estimate = session.state.estimate
        if estimate is not None:
            said.append(
                f"Balanced accuracy {estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%}) on "
                f"{estimate.cells} held-out cells."
            )
        self.show(" ".join(said))
