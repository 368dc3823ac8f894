"""What the widgets have in common: choices of layers, and a line for messages."""

from typing import Any

_STATUS_HEIGHT_PX = 72


def image_layers(viewer: Any) -> list[Any]:
    """Image layers of a viewer.

    Args:
        viewer: The viewer.
    """
    from napari.layers import Image

    return [layer for layer in viewer.layers if isinstance(layer, Image)]


def labels_layers(viewer: Any) -> list[Any]:
    """Labels layers of a viewer.

    Args:
        viewer: The viewer.
    """
    from napari.layers import Labels

    return [layer for layer in viewer.layers if isinstance(layer, Labels)]


def status_line() -> tuple[Any, Any]:
    """A label for messages of any length, and the row that it fills."""
    from magicgui.widgets import Container, Label

    line = Label(value="")
    line.native.setWordWrap(True)
    line.min_height = _STATUS_HEIGHT_PX  # a wrapped text does not make its row higher
    return line, Container(widgets=[line], labels=False)
