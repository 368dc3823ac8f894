"""The widget that embeds the cells of open layers, or opens a finished run for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError, counted
from subcell_hf.napari_plugin.background import Job, shown_errors, warnings_collected
from subcell_hf.napari_plugin.cells_on_layer import CellsOnLayer
from subcell_hf.napari_plugin.image_layers import displayed_plane, guess_layers, read_field
from subcell_hf.napari_plugin.layer_choice import image_layers, labels_layers, status_line
from subcell_hf.napari_plugin.linked_layer import LinkedLayer
from subcell_hf.ontology import CHANNEL_STAINS
from subcell_hf.tables.embedding_table import EmbeddingTable

_DEFAULT_MODEL = "mae-rybg"
_PLACES = 7


def open_embed_widget() -> Any:
    """The widget for the current viewer, for the menu of napari."""
    from napari import current_viewer

    return EmbedWidget(current_viewer()).container


class EmbedWidget:
    """Choose layers, model and folder; embed the cells.

    Args:
        viewer: The viewer whose layers are offered.

    Attributes:
        container: The widget, of magicgui; it keeps this object alive.
        images: Colour name of a channel → choice of its layer.
        labels: Choice of the labels layer.
        model: Name, folder or Hub id of the model.
        pixel_size_um: 0 where the layers say it.
        field_name: Name of the field of view; empty for that of the labels layer.
        folder: Folder of the run.
        status: What came of it.
        job: The work in the background.
    """

    def __init__(self, viewer: Any) -> None:
        from magicgui.widgets import ComboBox, Container, FileEdit, FloatSpinBox, LineEdit, ProgressBar, PushButton

        self.viewer = viewer
        self.images = {
            colour: ComboBox(label=stain[:1].upper() + stain[1:], choices=lambda _: image_layers(viewer), nullable=True)
            for colour, stain in CHANNEL_STAINS.items()
        }
        self.labels = ComboBox(label="Labels of cells", choices=lambda _: labels_layers(viewer))
        self.model = LineEdit(label="Model", value=_DEFAULT_MODEL, tooltip="Name, folder, or OWNER/NAME on the Hub")
        self.pixel_size_um = FloatSpinBox(label="Pixel size (µm)", value=0, min=0, max=100, step=0.01)
        self.pixel_size_um.native.setDecimals(_PLACES)
        self.pixel_size_um.native.setSpecialValueText("as the layers say")
        self.field_name = LineEdit(label="Name of the field", tooltip="Empty: the name of the labels layer")
        self.folder = FileEdit(label="Folder of the run", mode="d", tooltip="A new folder, or that of a finished run")
        self.progress = ProgressBar(visible=False)
        self.status, status_row = status_line()
        embed, self.cancel, opened = (
            PushButton(text="Embed cells"),
            PushButton(text="Cancel"),
            PushButton(text="Open run"),
        )
        self.cancel.enabled = False
        buttons = Container(widgets=[embed, self.cancel, opened], layout="horizontal", labels=False)
        self.container = Container(
            widgets=[
                *self.images.values(), self.labels, self.model, self.pixel_size_um, self.field_name, self.folder,
                buttons, self.progress, status_row,
            ]
        )  # fmt: skip
        self.job = Job(self.show)
        self.container.controller = self
        embed.changed.connect(self.embed)
        opened.changed.connect(self.open_run)
        self.cancel.changed.connect(self.job.cancel)
        viewer.layers.events.inserted.connect(self.guess)
        self.guess()

    def show(self, message: str) -> None:
        """Show a message below the buttons."""
        self.status.value = message

    def guess(self, event: Any = None) -> None:
        """Choose layers by their names where nothing is chosen."""
        self.container.reset_choices()
        layers = {layer.name: layer for layer in image_layers(self.viewer)}
        for colour, name in guess_layers([*layers]).items():
            if self.images[colour].value is None:
                self.images[colour].value = layers[name]

    def embed(self) -> None:
        """Embed the cells of the chosen layers in the background."""
        with shown_errors(self.show):
            folder, layer = self._chosen_folder(), self.labels.value
            chosen = {colour: box.value for colour, box in self.images.items() if box.value is not None}
            field = read_field(
                chosen,
                layer,
                self.viewer.dims,
                name=self.field_name.value,
                pixel_size_um=self.pixel_size_um.value or None,
            )
            present = np.unique(np.asarray(field.label_mask))
            cells = int(np.count_nonzero(present))
            model = self.model.value.strip()
            if not model:
                raise InputError("No model is chosen. Enter its name, such as mae-rybg, its folder, or its Hub id.")

            def work(watch: Callable[[int], None]) -> tuple[EmbeddingTable, list[str]]:
                from subcell_hf.workflows import embed  # torch, when it is needed

                with warnings_collected() as notes:
                    table = embed(field, model, output=folder, watch=watch, progress=False)
                return table, notes

            self.progress.max = max(cells, 1)
            self.job.start(
                work,
                lambda found: self._link(layer, found[0], folder, field.name, present, found[1]),
                progress=lambda done: setattr(self.progress, "value", done),
                end=lambda: self._set_working(False),
            )
            self._set_working(True)
            source = "entered" if field.pixel_size_from == "option" else "of the layers"
            self.show(f"Embedding {counted(cells, 'cell')}; pixel size {field.pixel_size_um:g} µm, {source}.")

    def open_run(self) -> None:
        """Show the cells of a finished run on the labels layer that they were cut from."""
        with shown_errors(self.show):
            from subcell_hf.tables.files import read_table

            folder, layer = self._chosen_folder(), self.labels.value
            if layer is None:
                raise InputError("There is no labels layer. Open the mask that the cells were cut from.")
            present = np.unique(displayed_plane(layer, self.viewer.dims))
            self._link(layer, read_table(folder), folder, self.field_name.value.strip() or layer.name, present, [])

    def _chosen_folder(self) -> Path:
        text = self.folder.line_edit.value.strip()
        if not text:
            raise InputError("No folder is chosen. Choose a new folder for the run, or that of a finished run.")
        return Path(text).expanduser()

    def _link(
        self, layer: Any, table: EmbeddingTable, folder: Path, name: str, present: npt.ArrayLike, notes: list[str]
    ) -> None:
        cells = CellsOnLayer(table, folder, name, present)
        link = LinkedLayer(self.viewer, layer, cells)
        self.viewer.layers.selection.active = layer
        lost = f" {counted(cells.missing, 'cell is', 'cells are')} not on the layer." if cells.missing else ""
        by = cells.columns()[link.coloured_by]
        said = f"{counted(len(cells.row_of), 'cell')} of {folder}, coloured by: {by}.{lost}"
        self.show(" ".join([said, *notes]))

    def _set_working(self, working: bool) -> None:
        self.cancel.enabled = self.progress.visible = working
        self.progress.value = 0
