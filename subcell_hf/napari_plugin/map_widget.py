"""The widget with the map of cells: it colours the layer, and points and labels select each other."""

from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import counted
from subcell_hf.napari_plugin.background import Job, shown_errors
from subcell_hf.napari_plugin.cells_on_layer import CLUSTER, CellColours
from subcell_hf.napari_plugin.layer_choice import labels_layers, status_line
from subcell_hf.napari_plugin.linked_layer import LinkedLayer, linked_layer
from subcell_hf.workflows.answers.cell_map import MappedCells, map_cells

_NEAR_PX = 12
"""Distance in pixels within which a click means a point."""
_ELSEWHERE = 0.25
"""Opacity of cells of other fields."""
_MOST_IN_LEGEND = 12
_DARK, _LIGHT, _RING = "#262930", "#d0d0d0", "#ffd400"


def open_map_widget() -> Any:
    """The widget for the current viewer, for the menu of napari."""
    from napari import current_viewer

    return MapWidget(current_viewer()).container


class MapWidget:
    """Colour the cells of a layer, and show those of its table on a map.

    Args:
        viewer: The viewer whose layers are offered.

    Attributes:
        container: The widget, of magicgui; it keeps this object alive.
        labels: Choice of the labels layer.
        colour: Choice of the column to colour by.
        canvas: The plot, of matplotlib.
        link: The layer whose cells are shown; None before there is one.
        mapped: The map; None before it is drawn.
        status: What came of it.
        job: The work in the background.
    """

    def __init__(self, viewer: Any) -> None:
        from magicgui.widgets import ComboBox, Container, PushButton
        from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
        from matplotlib.figure import Figure

        self.viewer = viewer
        self.link: LinkedLayer | None = None
        self.mapped: MappedCells | None = None
        self.labels = ComboBox(label="Labels of cells", choices=lambda _: labels_layers(viewer))
        self.colour = ComboBox(label="Colour by", choices=lambda _: self._columns())
        draw = PushButton(text="Draw the map")
        self.status, status_row = status_line()
        self.container = Container(widgets=[self.labels, self.colour, draw, status_row])
        self.canvas = FigureCanvasQTAgg(Figure(figsize=(4, 4), facecolor=_DARK, layout="constrained"))
        self.canvas.setMinimumSize(280, 280)
        self.canvas.mpl_connect("button_press_event", self._select_point)
        self.container.native.layout().addWidget(self.canvas)
        self._axes = self.canvas.figure.add_subplot()
        self._ring: Any = None
        self._axes.set_axis_off()
        self.job = Job(self.show)
        self.container.controller = self
        draw.changed.connect(self.draw)
        self.labels.changed.connect(self._watch_layer)
        self.colour.changed.connect(self._recolour)
        self._watch_layer()

    def show(self, message: str) -> None:
        """Show a message below the button."""
        self.status.value = message

    def _watch_layer(self) -> None:
        """Follow the chosen layer, now and whenever its cells are embedded or opened again."""
        if self.labels.value is not None:
            self.labels.value.events.features.connect(self.follow)
        self.follow()

    def follow(self, event: Any = None) -> None:
        """Show the cells of the chosen layer from now on."""
        layer = self.labels.value
        link = None if layer is None else layer.metadata.get("subcell_hf")
        if not isinstance(link, LinkedLayer) or link is self.link:
            return
        self.link, self.mapped = link, None
        link.on_select.append(self._mark)
        link.on_columns.append(self._columns_changed)
        self._columns_changed()
        self._paint()

    def draw(self) -> None:
        """Compute the map and the clusters in the background, and draw it."""
        with shown_errors(self.show):
            link = linked_layer(self.labels.value)
            self.follow()
            rows = [*link.cells.label_of]
            table = link.cells.table
            self.job.start(lambda _: map_cells(table, always=rows), lambda mapped: self._take(link, mapped))
            self.show(f"Computing the map of {counted(len(table), 'cell')}.")

    def _take(self, link: LinkedLayer, mapped: MappedCells) -> None:
        clusters: npt.NDArray[np.object_] = np.full(len(link.cells.table), "", dtype=object)
        clusters[mapped.rows] = mapped.clusters.astype(str)
        link.cells.set_column(CLUSTER, clusters)
        if link is self.link:
            self.mapped = mapped
        link.colour_by(link.coloured_by)
        self._paint()
        self.show(f"{counted(len(mapped.rows), 'cell')}; {mapped.method}.")

    def _columns(self) -> list[tuple[str, str]]:
        if self.link is None:
            return []
        return [(label, name) for name, label in self.link.cells.columns().items()]

    def _columns_changed(self) -> None:
        """Offer the columns of now, with that of the layer chosen; and repaint the points."""
        if self.link is None:
            return
        with self.colour.changed.blocked():
            self.colour.reset_choices()
            self.colour.value = self.link.coloured_by
        self._paint()

    def _recolour(self, name: str | None) -> None:
        if self.link is not None and name and name != self.link.coloured_by:
            with shown_errors(self.show):
                self.link.colour_by(name)

    def _paint(self) -> None:
        """Draw the points in the colours of the layer."""
        self._axes.clear()
        self._axes.set_axis_off()
        self._ring = None
        if self.link is None or self.mapped is None:
            self.canvas.draw_idle()
            return
        mapped, colours = self.mapped, self.link.cells.colours(self.link.coloured_by)
        rgba = colours.rgba[mapped.rows].copy()
        rgba[~np.isin(mapped.rows, [*self.link.cells.label_of]), 3] *= _ELSEWHERE
        size = float(np.clip(4000 / len(mapped.rows), 4, 60))
        self._axes.scatter(mapped.positions[:, 0], mapped.positions[:, 1], c=rgba, s=size, linewidths=0)
        self._ring = self._axes.scatter([], [], s=size * 4, facecolors="none", edgecolors=_RING, linewidths=2)
        self._axes.set_aspect("equal")
        self._draw_legend(colours)
        if self.link.selected is not None:
            self._mark(self.link.selected)
        self.canvas.draw_idle()

    def _draw_legend(self, colours: CellColours) -> None:
        from matplotlib.lines import Line2D

        shown = [*colours.legend.items()][:_MOST_IN_LEGEND]
        marks = [Line2D([], [], marker="o", linestyle="", color=colour, label=level) for level, colour in shown]
        self._axes.legend(
            handles=marks, title=colours.label, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, fontsize=8,
            frameon=False, labelcolor=_LIGHT,
        ).get_title().set_color(_LIGHT)  # fmt: skip

    def _mark(self, row: int) -> None:
        """Ring the point of a cell."""
        if self.mapped is None or self._ring is None:
            return
        place = np.flatnonzero(self.mapped.rows == row)
        self._ring.set_offsets(self.mapped.positions[place])
        self.canvas.draw_idle()

    def _select_point(self, event: Any) -> None:
        """Select the cell of the point that was clicked."""
        if self.link is None or self.mapped is None or event.x is None:
            return
        places = self._axes.transData.transform(self.mapped.positions)
        distances = np.hypot(*(places - (event.x, event.y)).T)
        nearest = int(distances.argmin())
        if distances[nearest] <= _NEAR_PX:
            with shown_errors(self.show):
                self.link.select(int(self.mapped.rows[nearest]))
                self.show(self.link.cells.cell_id(int(self.mapped.rows[nearest])))
