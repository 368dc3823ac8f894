"""A labels layer that shows the cells of a table: its colours and features, and the cell that is selected."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from subcell_hf.errors import InputError
from subcell_hf.napari_plugin.cells_on_layer import CellColours, CellsOnLayer
from subcell_hf.napari_plugin.image_layers import displayed_plane

_KEY = "subcell_hf"
_BOX_LAYER = "selected cell"
_BOX_COLOUR = "#ffd400"
_CLICK_PX = 4
"""Pixels that the mouse may move during a click."""


class LinkedLayer:
    """A labels layer and its cells; it is found again by `linked_layer`.

    Args:
        viewer: The viewer that the layer is in.
        layer: The labels layer.
        cells: Its cells.

    Attributes:
        viewer: As given.
        layer: As given.
        cells: As given.
        selected: Row of the selected cell; None at first.
        coloured_by: Column of the colours; empty before `colour_by`.
        on_select: Functions that are called with the row when a cell is selected.
        on_columns: Functions that are called when columns or colours have changed.
    """

    def __init__(self, viewer: Any, layer: Any, cells: CellsOnLayer) -> None:
        earlier = layer.metadata.get(_KEY)
        if isinstance(earlier, LinkedLayer):
            earlier.unlink()
        self.viewer, self.layer, self.cells = viewer, layer, cells
        self.selected: int | None = None
        self.coloured_by = ""
        self.on_select: list[Callable[[int], object]] = []
        self.on_columns: list[Callable[[], object]] = []
        layer.metadata[_KEY] = self
        viewer.mouse_drag_callbacks.append(self._select_clicked)
        self.colour_by(next(iter(cells.columns())))

    def unlink(self) -> None:
        """Ignore the layer from now on."""
        if self._select_clicked in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._select_clicked)
        self.layer.metadata.pop(_KEY, None)

    def colour_by(self, name: str) -> CellColours:
        """Colour the cells of the layer by a column, and bring the features of the layer up to date.

        Args:
            name: One of the columns of the cells.

        Returns:
            The colours of all cells of the table.

        Raises:
            InputError: If there is no such column.
        """
        from napari.utils.colormaps import DirectLabelColormap

        colours = self.cells.colours(name)
        hidden = np.zeros(4, np.float32)  # background, and what is no cell of the table
        by_label: dict[int | None, Any] = {None: hidden, 0: hidden}
        by_label |= {label: colours.rgba[row] for label, row in self.cells.row_of.items()}
        self.coloured_by = name
        self.layer.colormap = DirectLabelColormap(color_dict=by_label)
        self.layer.features = self.cells.features()
        for call in self.on_columns:
            call()
        return colours

    def select(self, row: int, *, centre: bool = True) -> None:
        """Select a cell: its label, with a box around it.

        Args:
            row: Row of the table.
            centre: Whether to move the viewer there.
        """
        self.selected = row
        label = self.cells.label_of.get(row)
        if label is None:
            field = self.cells.table.cells["field_of_view"].iloc[row]
            self.viewer.status = f"{self.cells.cell_id(row)} is in the field of view {field}, not on this layer"
        else:
            self.layer.selected_label = label
            self._show_box(label, centre=centre)
            self.viewer.status = self.cells.cell_id(row)
        for call in self.on_select:
            call(row)

    def _show_box(self, label: int, *, centre: bool) -> None:
        corners = self._box(label)
        if corners is None:  # the label was erased since
            self.viewer.status = f"The layer has no label {label} on this plane any more"
            return
        if centre:
            middle = corners.mean(axis=0)
            self.viewer.scene.camera.center = (*self.viewer.scene.camera.center[:-2], *middle)
        chosen = {*self.viewer.layers.selection}
        if _BOX_LAYER in self.viewer.layers:
            self.viewer.layers[_BOX_LAYER].data = [corners]
        else:
            width = float(np.abs(corners[2] - corners[0]).max()) / 100
            self.viewer.add_shapes(
                [corners], shape_type="polygon", name=_BOX_LAYER, edge_color=_BOX_COLOUR, face_color="transparent",
                edge_width=width, units=self.layer.units[-2:],
            )  # fmt: skip
        self.viewer.layers.selection.clear()
        self.viewer.layers.selection.update(chosen)

    def _box(self, label: int) -> Any:
        """Corners of the box around a label on the displayed plane, `[4, 2]` in coordinates of the viewer."""
        rows, columns = np.nonzero(displayed_plane(self.layer, self.viewer.dims) == label)
        if not len(rows):
            return None
        (top, bottom), (left, right) = ((axis.min() - 0.5, axis.max() + 0.5) for axis in (rows, columns))
        lead = [0.0] * (self.layer.ndim - 2)
        corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
        return np.array([self.layer.data_to_world([*lead, *corner])[-2:] for corner in corners])

    def _select_clicked(self, viewer: Any, event: Any) -> Iterator[None]:
        """Select the cell under a click; a drag moves the picture as before."""
        row, pressed_at = self._row_at(event), np.array(event.pos)
        yield
        while event.type == "mouse_move":
            yield
        if np.abs(np.array(event.pos) - pressed_at).max() > _CLICK_PX:
            return
        if row is not None:
            self.select(row, centre=False)

    def _row_at(self, event: Any) -> int | None:
        active = self.viewer.layers.selection.active
        painting = active is self.layer and str(self.layer.mode) not in ("pan_zoom", "pick")
        if self.layer not in self.viewer.layers or not self.layer.visible or painting or self.viewer.dims.ndisplay != 2:
            return None
        value = self.layer.get_value(event.position, world=True)
        if isinstance(value, tuple):  # of a layer of several resolutions, with the level
            value = value[1]
        return None if value is None else self.cells.row_of.get(int(value))


def linked_layer(layer: Any) -> LinkedLayer:
    """The link of a labels layer.

    Args:
        layer: A labels layer, or None.

    Raises:
        InputError: If its cells were not embedded or opened.
    """
    link = None if layer is None else layer.metadata.get(_KEY)
    if not isinstance(link, LinkedLayer) or link.layer is not layer:
        name = "There is no labels layer" if layer is None else f"The cells of {layer.name!r} are not embedded"
        raise InputError(f"{name}. Use Plugins → SubCell → Embed cells, or open a finished run there.")
    return link
