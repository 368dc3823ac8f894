"""A napari with a window on a virtual screen, whose plugin is used as a user does: clicks, keys, and waiting."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subcell_hf.types import FieldOfView

MANIFEST = Path(__file__).parents[2] / "subcell_hf" / "napari_plugin" / "napari.yaml"
LAYER_NAMES = {"red": "tubulin 647", "yellow": "calreticulin", "blue": "DAPI", "green": "GFP"}
SCREEN = "1600x1000x24"
_PATIENCE_S = 240.0


@contextmanager
def virtual_screen() -> Iterator[None]:
    """A screen of its own, for Qt draws nothing of a viewer without one; where there is none, tests are skipped."""
    server = shutil.which("Xvfb")
    if server is None:
        pytest.skip("no screen for a window: Xvfb is not installed (apt-get install xvfb libegl1 libgl1-mesa-dri)")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "napari.yaml")  # nothing of this user's settings
        reading, writing = os.pipe()
        words = [server, "-displayfd", str(writing), "-screen", "0", SCREEN, "-nolisten", "tcp"]
        screen = subprocess.Popen(words, pass_fds=[writing], stderr=subprocess.DEVNULL)
        os.close(writing)
        try:
            with os.fdopen(reading) as file:
                os.environ["DISPLAY"] = f":{file.readline().strip()}"
            os.environ["QT_QPA_PLATFORM"] = "xcb"
            yield
        finally:
            screen.terminate()
            screen.wait()


@contextmanager
def open_viewer(width: int = 1300, height: int = 850) -> Iterator[Any]:
    """A viewer that knows the plugin."""
    import napari
    import npe2

    plugins = npe2.PluginManager.instance()
    if "subcell-hf" not in [manifest.name for manifest in plugins.iter_manifests()]:  # not installed since it has one
        plugins.register(npe2.PluginManifest.from_file(MANIFEST))
    viewer = napari.Viewer()
    viewer.window._qt_window.resize(width, height)
    try:
        yield viewer
    finally:
        viewer.close()


def add_layers(viewer: Any, field: FieldOfView, units: str = "um") -> Any:
    """Add the planes and the mask of a field as a reader does; returns the labels layer."""
    scale = [field.pixel_size_um] * 2
    for colour, plane in zip(field.channels, field.pixels, strict=True):
        viewer.add_image(
            plane, name=LAYER_NAMES[colour], scale=scale, units=units, blending="additive", colormap=colour
        )
    return viewer.add_labels(np.asarray(field.label_mask).astype(int), name=field.name, scale=scale, units=units)


def open_widget(viewer: Any, name: str) -> Any:
    """A widget of the menu, with its controller."""
    widget = viewer.window.add_plugin_dock_widget("subcell-hf", name)[1]
    settle()  # keys are for what is visible
    return widget.controller


def wait_until(happened: Callable[[], bool]) -> None:
    """Let the window work until something has happened."""
    from qtpy.QtWidgets import QApplication

    until = time.monotonic() + _PATIENCE_S
    while not happened():
        QApplication.processEvents()
        time.sleep(0.005)
        assert time.monotonic() < until, "it did not happen"


def settle() -> None:
    """Let the window draw what it has to draw."""
    from qtpy.QtWidgets import QApplication

    for _ in range(10):
        QApplication.processEvents()
        time.sleep(0.01)


def press(widget: Any, text: str) -> None:
    """Click the button with a text."""
    from qtpy.QtWidgets import QPushButton

    (button,) = (one for one in widget.container.native.findChildren(QPushButton) if one.text() == text)
    button.click()


def click_point(widget: Any, point: int) -> None:
    """Click a point of the map."""
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtTest import QTest

    x, y = widget.canvas.figure.axes[0].transData.transform(widget.mapped.positions[point]) / (
        widget.canvas.device_pixel_ratio
    )
    at = QPoint(round(x), round(widget.canvas.height() - y))
    QTest.mouseClick(widget.canvas, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, at)


def click_label(viewer: Any, layer: Any, label: int) -> None:
    """Move the viewer to a label, and click it in the middle of the canvas."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    rows, columns = np.nonzero(np.asarray(layer.data) == label)
    middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)  # a pixel of the cell
    viewer.scene.camera.center = (0, *layer.data_to_world((rows[middle], columns[middle])))
    settle()
    canvas = viewer.window._qt_viewer.canvas.native
    QTest.mouseClick(canvas, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, canvas.rect().center())
    settle()


def press_key(viewer: Any, number: int) -> None:
    """Press Alt and a digit in the viewer."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    canvas = viewer.window._qt_viewer.canvas.native
    QTest.keyClick(canvas, Qt.Key(Qt.Key.Key_0 + number), Qt.KeyboardModifier.AltModifier)
    settle()
