"""Draws the picture of docs/napari.md: `build/partners/bin/python -m tests.partners.napari_picture FILE.webp`."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from subcell_hf.napari_plugin import linked_layer
from subcell_hf.simulation.simulate import ProteinStyle, SimulatedAntibody, simulate_field
from tests.partners import napari_session as session

_LABELS = 12
_QUALITY = 85
_WIDTH_PX = 1150


def draw_picture(path: Path) -> None:
    """Embed a simulated field, map it, label some cells by their area, and save what the window shows."""
    antibody = SimulatedAntibody("SIM000000", "SIMG0000", ("Mitochondria",), ProteinStyle(intensity=0.7))
    field = simulate_field(7, antibody, "SIM-A", size_px=1024, pixel_size_um=0.2)
    with (
        tempfile.TemporaryDirectory() as folder,
        session.virtual_screen(),
        session.open_viewer(1500, 980) as viewer,
    ):
        layer = session.add_layers(viewer, field)
        layer.opacity = 0.45
        for colour in ("red", "yellow"):
            viewer.layers[session.LAYER_NAMES[colour]].visible = False
        embedding = session.open_widget(viewer, "Embed cells")
        embedding.model.value, embedding.folder.value = "features", Path(folder) / "run"
        session.press(embedding, "Embed cells")
        session.wait_until(lambda: not embedding.job.running)
        cell_map = session.open_widget(viewer, "Map of cells")
        session.press(cell_map, "Draw the map")
        session.wait_until(lambda: not cell_map.job.running)
        annotation = session.open_widget(viewer, "Annotate cells")
        viewer.window.remove_dock_widget(embedding.container.native)
        _annotate(annotation, layer, Path(folder) / "labels.jsonl")
        viewer.layers.selection.active = layer
        viewer.reset_view()
        session.settle()
        shown = Image.fromarray(viewer.screenshot(canvas_only=False, flash=False)[..., :3])
        shown.resize((_WIDTH_PX, round(shown.height * _WIDTH_PX / shown.width))).save(path, quality=_QUALITY)


def _annotate(annotation: Any, layer: Any, labels: Path) -> None:
    annotation.file.value, annotation.annotator.value = labels, "Ann"
    session.press(annotation, "Start")
    for name in ("small", "large"):
        annotation.new_class.value = name
        session.press(annotation, "Add class")
    link = linked_layer(layer)
    areas = link.cells.table.cells["qc_area_um2"]
    middle = float(np.median(areas))
    for _ in range(_LABELS):
        annotation.label("large" if areas[link.selected] > middle else "small")


if __name__ == "__main__":
    draw_picture(Path(sys.argv[1]))
