"""Plates as one picture: how many fields of view each well has, and which wells have problems."""

import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from subcell_hf.errors import InputError, counted
from subcell_hf.evaluation.plots import figure_of
from subcell_hf.images.wells import row_letters, well_position
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.workflows.inspect_images import InspectedField, Inspection, plate_shape

MOST_PLATES = 48
"""Plates of one picture; more would be too small, or the picture too long for viewers."""

_SUFFIXES = (".png", ".pdf", ".svg")
_EMPTY = "#ECECEC"
_SOME = "#E69F00"  # Okabe and Ito's orange and vermilion, which stand out from blue for every kind of colour vision
_ALL = "#D55E00"
_MOST_LISTED_COUNTS = 6
_MOST_NUMBERED_COLUMNS = 24
_MOST_PER_ROW = 4
_Position = tuple[int, int]
_FIELD_OF_PROBLEM = re.compile(r"Field (?P<name>'.+?'|\".+?\"):? ")


@dataclass(frozen=True)
class _Plate:
    """Wells of a plate: how many fields they have, and how many of these have problems."""

    name: str
    shape: _Position
    fields: Counter[_Position]
    troubled: Counter[_Position]
    unusable: Counter[_Position]


def draw_plates(found: Inspection, path: str | Path) -> Path:
    """Draw the plates of an inspection, one panel each: fields of view per well, and wells with problems.

    Args:
        found: What `inspect_images` found.
        path: File to write, `.png`, `.pdf` or `.svg`; an existing one is replaced. It shows the first `MOST_PLATES`
            plates, and its title says where there are more.

    Returns:
        The file.

    Raises:
        InputError: If no field is in a well, or the file has another ending.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"The picture of the plates is {path}, expected a file name with {', '.join(_SUFFIXES)}.")
    plates = _plates(found)
    if not plates:
        raise InputError(
            f"No picture of plates can be drawn: none of {counted(len(found.fields), 'field')} of view has a well. "
            "Give a plate, or say with --pattern which part of the names is the well."
        )
    if len(plates) > MOST_PLATES:
        logging.getLogger(__name__).warning(
            "%s shows the first %d of %d plates; inspect fewer to see the others.", path, MOST_PLATES, len(plates)
        )
    shown = plates[:MOST_PLATES]
    per_row = min(_MOST_PER_ROW, math.ceil(math.sqrt(len(shown))))
    rows = math.ceil(len(shown) / per_row)
    width_mm = 190 if per_row == 1 else 105 * per_row
    slope = max(plate.shape[0] / plate.shape[1] for plate in shown)
    height_mm = rows * (width_mm / per_row * slope + 9) + 18
    with figure_of(width_mm, height_mm, rows, per_row, squeeze=False) as (figure, axes):
        counts = sorted({number for plate in shown for number in plate.fields.values()})
        colours = _colours(counts)
        for panel, plate in zip(axes.flat, shown, strict=False):
            _draw(panel, plate, colours, is_large=per_row == 1)
        for panel in axes.flat[len(shown) :]:
            panel.set_axis_off()
        figure.suptitle(_title(found, plates), x=0.01, ha="left", fontsize=9, linespacing=1.5)
        figure.legend(
            handles=_legend(shown, counts, colours), loc="outside lower left", ncols=9, fontsize=8, handletextpad=0.3,
            columnspacing=1.4,
        )  # fmt: skip
        with write_atomically(path) as file:
            figure.savefig(file, format=path.suffix[1:].lower(), dpi=200)
    return path


def _plates(found: Inspection) -> list[_Plate]:
    named = {match["name"] for problem in found.problems if (match := _FIELD_OF_PROBLEM.match(problem))}
    plates: dict[str, list[tuple[_Position, InspectedField]]] = {}
    for field in found.fields:
        position = well_position(field.well)
        if position is not None:
            plates.setdefault(field.plate, []).append((position, field))
    return [
        _Plate(
            name,
            plate_shape(position for position, _ in placed),
            Counter(position for position, _ in placed),
            Counter(position for position, field in placed if field.problem or repr(field.name) in named),
            Counter(position for position, field in placed if field.problem),
        )
        for name, placed in sorted(plates.items())
    ]


def _colours(counts: Sequence[int]) -> Mapping[int, Any]:
    """Number of fields → its colour, darker for more."""
    scale = matplotlib.colormaps["Blues"]
    low, high = counts[0], counts[-1]
    return {number: scale(0.6 if low == high else 0.3 + 0.6 * (number - low) / (high - low)) for number in counts}


def _draw(panel: Any, plate: _Plate, colours: Mapping[int, Any], is_large: bool) -> None:
    rows, columns = plate.shape
    places = [(row, column) for row in range(1, rows + 1) for column in range(1, columns + 1)]
    circles = [Circle((column, row), 0.42) for row, column in places]
    filled = [colours[plate.fields[place]] if plate.fields[place] else _EMPTY for place in places]
    panel.add_collection(PatchCollection(circles, facecolors=filled, linewidths=0))
    points = (190 if is_large else 105) * 72 / 25.4 / (columns + 2)  # width of a well
    for colour, wells in ((_SOME, plate.troubled), (_ALL, _lost(plate))):
        rings = [Circle((column, row), 0.42 - 0.045) for row, column in wells]
        panel.add_collection(
            PatchCollection(rings, facecolors="none", edgecolors=colour, linewidths=min(3.0, max(0.8, 0.1 * points)))
        )
    for row, column in _lost(plate):
        panel.plot(
            [column - 0.2, column + 0.2],
            [row + 0.2, row - 0.2],
            color=_ALL,
            linewidth=min(2.4, max(0.8, 0.08 * points)),
        )
    size = min(8.0, 0.34 * points)
    if columns <= _MOST_NUMBERED_COLUMNS and size >= 4 and len(set(plate.fields.values())) > 1:
        for (row, column), number in plate.fields.items():
            if (row, column) not in _lost(plate):
                is_dark = _luminance(colours[number]) < 0.55
                panel.text(
                    column, row, str(number), ha="center", va="center_baseline", fontsize=size,
                    color="white" if is_dark else "#333333",
                )  # fmt: skip
    every = 1 if columns <= 24 else 4
    panel.set_xticks(range(1, columns + 1, every))
    panel.set_yticks(range(1, rows + 1, every), [row_letters(row) for row in range(1, rows + 1, every)])
    panel.tick_params(length=0, labelsize=min(8.0, max(4.5, 0.42 * points)), top=True, labeltop=True, labelbottom=False)
    panel.set(xlim=(0.4, columns + 0.6), ylim=(rows + 0.6, 0.4), aspect="equal")
    for side in panel.spines.values():
        side.set_visible(False)
    panel.set_title(_headline(plate), loc="left", fontsize=8, pad=6)


def _luminance(colour: Any) -> float:
    return float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)))


def _lost(plate: _Plate) -> set[_Position]:
    """Wells of which no field can be used."""
    return {place for place, number in plate.unusable.items() if number == plate.fields[place]}


def _headline(plate: _Plate) -> str:
    parts = [f"{counted(len(plate.fields), 'well')} of {plate.shape[0] * plate.shape[1]}"]
    parts.append(counted(plate.fields.total(), "field"))
    parts += [f"{counted(len(plate.troubled), 'well')} with problems"] if plate.troubled else []
    name = plate.name or "plate without a name"
    return f"{name if len(name) <= 40 else name[:39] + '…'}: {', '.join(parts)}"


def _title(found: Inspection, plates: Sequence[_Plate]) -> str:
    placed = sum(plate.fields.total() for plate in plates)
    lines = [f"Fields of view per well, {found.layout}"]
    lines += [f"Plates 1 to {MOST_PLATES} of {len(plates)}"] if len(plates) > MOST_PLATES else []
    others = len(found.fields) - placed
    lines += [f"{counted(others, 'field')} of view without a well not shown"] if others else []
    return "\n".join(lines)


def _legend(plates: Sequence[_Plate], counts: Sequence[int], colours: Mapping[int, Any]) -> list[Line2D]:
    """What the colours mean: all numbers of fields, or where there are many some from the fewest to the most."""
    step = max(1, math.ceil((len(counts) - 1) / (_MOST_LISTED_COUNTS - 1)))
    listed = sorted({*counts[::step], counts[-1]})
    ends = (listed[0], listed[-1])
    handles = [_dot(colours[number], counted(number, "field") if number in ends else str(number)) for number in listed]
    if any(len(plate.fields) < plate.shape[0] * plate.shape[1] for plate in plates):
        handles.insert(0, _dot(_EMPTY, "no field"))
    if any(plate.troubled.keys() - _lost(plate) for plate in plates):
        handles.append(_dot("white", "some fields have problems", _SOME))
    if any(_lost(plate) for plate in plates):
        handles.append(_dot("white", "no field can be used", _ALL))
    return handles


def _dot(colour: Any, label: str, ring: str | None = None) -> Line2D:
    return Line2D(
        [], [], marker="o", linestyle="none", markersize=8, markerfacecolor=colour, markeredgecolor=ring or colour,
        markeredgewidth=1.5 if ring else 0, label=label,
    )  # fmt: skip
