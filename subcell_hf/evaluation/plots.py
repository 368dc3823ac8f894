"""How figures of the room look, and how they are written: for print, for every kind of colour vision."""

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from subcell_hf.storage.atomic import write_atomically

MODEL_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#333333")
"""Okabe and Ito's, the model first; distinguishable with every kind of colour vision."""

MODEL_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#7F7F7F"
MILLIMETRE = 1 / 25.4
"""In inches, as matplotlib measures figures."""

_STYLE: Any = {
    "font.size": 8,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "subcell",
}


@contextmanager
def figure_of(
    width_mm: float, height_mm: float, rows: int = 1, columns: int = 1, **kwargs: Any
) -> Iterator[tuple[Figure, Any]]:
    """A figure in the style of the room, with its axes.

    Args:
        width_mm: Width in millimetres.
        height_mm: Height.
        rows: Rows of axes.
        columns: Columns of axes.
        **kwargs: For `Figure.subplots`.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width_mm * MILLIMETRE, height_mm * MILLIMETRE), layout="constrained")
        yield figure, figure.subplots(rows, columns, **kwargs)
        # Arranged once, since every file that is written of the figure would arrange it again.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def colour_of(models: Sequence[str], model: str) -> str:
    """Colour of a model among those of a figure."""
    return MODEL_COLOURS[list(models).index(model) % len(MODEL_COLOURS)]


def marker_of(models: Sequence[str], model: str) -> str:
    """Marker of a model, so that colour is never the only difference."""
    return MODEL_MARKERS[list(models).index(model) % len(MODEL_MARKERS)]


def save_figure(figure: Figure, path: Path) -> tuple[Path, Path]:
    """Write a figure as PDF and PNG (300 dpi), the same bytes for the same figure.

    Args:
        figure: To write.
        path: File without ending.

    Returns:
        Both files.
    """
    files = path.with_name(f"{path.name}.pdf"), path.with_name(f"{path.name}.png")
    choices: tuple[dict[str, Any], ...] = ({"metadata": {"CreationDate": None}}, {"dpi": 300})
    for file_path, options in zip(files, choices, strict=True):
        with matplotlib.rc_context(_STYLE), write_atomically(file_path) as file:
            figure.savefig(file, format=file_path.suffix[1:], **options)
    return files


def inline_png(figure: Figure, dpi: int = 160) -> str:
    """A figure as a data URL, for pages that need no other file."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="png", dpi=dpi)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
