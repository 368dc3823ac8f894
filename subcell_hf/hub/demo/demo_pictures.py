"""What the demo shows: pictures as arrays, everything else as small pieces of HTML; lies beside `app.py` on the Hub."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, StrictUndefined
from jinja2.environment import TemplateModule
from PIL import Image

from subcell_hf.hub.demo.demo_images import Picture
from subcell_hf.hub.demo.demo_model import CellReading, ReferenceCells

Rgb = npt.NDArray[np.uint8]

_CHANNEL_RGB = {"red": (1.0, 0.0, 0.0), "yellow": (0.7, 0.7, 0.0), "blue": (0.0, 0.0, 1.0), "green": (0.0, 1.0, 0.0)}
_OTHER_RGB = ((1.0, 0.0, 1.0), (0.0, 1.0, 1.0), (0.7, 0.7, 0.7), (1.0, 0.5, 0.0))
_SHOWN_PX = 1024
_GAMMA = 0.7
_HOT = np.array([[0, 0, 0], [120, 0, 60], [230, 60, 20], [255, 180, 40], [255, 255, 200]], np.float32)
_MAP_PX, _MARGIN_PX = 420, 16
_UNKNOWN_COLOUR = "#8a8a8a"


def draw_picture(picture: Picture, chosen: int | None) -> Rgb:
    """The upload in colours with its cells outlined, the chosen one in white; at most 1,024 px wide or high."""
    step = max(1, int(np.ceil(max(picture.shape) / _SHOWN_PX)))
    planes = {channel: _stretch(plane[::step, ::step]) for channel, plane in picture.planes.items()}
    rgb = _compose(planes)
    if picture.cells is not None:
        cells = picture.cells[::step, ::step]
        rgb[_outline(cells)] = (150, 150, 150)
        if chosen is not None:
            rgb[_thick(_outline(np.where(cells == chosen, 1, 0)))] = (255, 255, 255)
    return rgb


def cell_at(picture: Picture, x_shown: int, y_shown: int) -> int | None:
    """Label of the cell at a point of what `draw_picture` drew; None outside of cells."""
    if picture.cells is None:
        return None
    step = max(1, int(np.ceil(max(picture.shape) / _SHOWN_PX)))
    height, width = picture.shape
    label = int(picture.cells[min(y_shown * step, height - 1), min(x_shown * step, width - 1)])
    return label or None


def draw_seen(reading: CellReading, channels: Sequence[str]) -> Rgb:
    """What the model saw, in colours, with the outline of the cell."""
    rgb = _compose(dict(zip(channels, reading.pixel_values, strict=True)))
    if reading.cell_mask is not None:
        rgb[_thick(_outline(reading.cell_mask.astype(np.int32)))] = (255, 255, 255)
    return rgb


def draw_attention(reading: CellReading) -> Rgb | None:
    """Where the model looked: what it saw in grey under the weights of the patches, from black over red to white."""
    if reading.attention is None:
        return None
    height, width = reading.pixel_values.shape[1:]
    weights = reading.attention - reading.attention.min()
    weights = weights / max(float(np.percentile(weights, 99)), 1e-12)
    smooth = Image.fromarray(weights.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    heat = np.clip(np.asarray(smooth), 0, 1)
    grey = 255 * reading.pixel_values.mean(axis=0, keepdims=True) ** _GAMMA
    colours = np.stack([np.interp(heat, np.linspace(0, 1, len(_HOT)), _HOT[:, i]) for i in range(3)])
    share = 0.25 + 0.6 * heat
    rgb = np.moveaxis(grey * (1 - share) + colours * share, 0, 2).clip(0, 255).astype(np.uint8)
    if reading.cell_mask is not None:
        rgb[_thick(_outline(reading.cell_mask.astype(np.int32)))] = (255, 255, 255)
    return np.ascontiguousarray(rgb)


def list_locations(reading: CellReading, colours: Mapping[str, str], shown: int = 8) -> str:
    """Locations as bars in their colours, best first."""
    rows = [
        {"name": name, "percent": f"{100 * score:.1f}", "colour": _safe_colour(colours.get(name))}
        for name, score in (reading.locations or ())[:shown]
    ]
    return _piece("locations", rows)


def draw_map(reading: CellReading, reference: ReferenceCells | None, colours: Mapping[str, str]) -> str:
    """The map of the reference cells with this one among them, as SVG with a legend, and how to read it."""
    if reference is None:
        return _piece("map", None)
    rows, _ = reference.find_nearest(reading.embedding)
    spots = _spots(np.concatenate([reference.positions, [reference.place(reading.embedding)]]))
    near = Counter(reference.labels[row] for row in rows).most_common(3)
    named = [f"{count} {name}" for name, count in near]
    if others := len(rows) - sum(count for _, count in near):
        named.append(f"{others} others")
    top, bottom = spots[:, 1].min() - _MARGIN_PX, spots[:, 1].max() + _MARGIN_PX
    x_star, y_star = spots[-1].tolist()
    drawing = {
        "box": f"0 {top:.0f} {_MAP_PX} {bottom - top:.0f}",
        "dots": [
            {"x": f"{x:.1f}", "y": f"{y:.1f}", "colour": _safe_colour(colours.get(label)), "label": label}
            for (x, y), label in zip(spots[:-1].tolist(), reference.labels, strict=True)
        ],
        "star": _star(x_star, y_star, 13),
        "legend": [
            {"name": name, "colour": _safe_colour(colours.get(name))}
            for name, _ in Counter(reference.labels).most_common()
        ],
        "nearest": len(rows),
        "named": named,
        "cells": f"{len(reference.labels):,}",
        "method": reference.method,
    }
    return _piece("map", drawing)


def list_similar(reading: CellReading, reference: ReferenceCells | None) -> str:
    """The reference cells most like this one with their pictures, most similar first."""
    if reference is None:
        return ""
    rows, cosines = reference.find_similar(reading.embedding)
    cells = [
        {
            "name": reference.cell_ids[row],
            "label": reference.labels[row],
            "similarity": f"{cosine:.3f}",
            "picture": base64.b64encode(reference.pictures[row]).decode(),
        }
        for row, cosine in zip(rows.tolist(), cosines.tolist(), strict=True)
    ]
    return _piece("similar", cells)


def message(text: str, is_error: bool) -> str:
    """A line that says what happened."""
    return _piece("message", text, is_error)


def _piece(name: str, *facts: Any) -> str:
    """A piece of HTML by the macro of that name."""
    return str(getattr(_pieces(), name)(*facts)).strip()


@cache
def _pieces() -> TemplateModule:
    text = Path(__file__).with_name("demo_pieces.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(text).module


def _spots(positions: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Places from 0 to 1, y upwards → pixels of the map, y downwards."""
    spots = positions * (_MAP_PX - 2 * _MARGIN_PX) + _MARGIN_PX
    return np.stack([spots[:, 0], _MAP_PX - spots[:, 1]], axis=1)


def _compose(planes: Mapping[str, npt.NDArray[np.float32]]) -> Rgb:
    others = iter(_OTHER_RGB * 4)
    rgb: Any = 0
    for channel, plane in planes.items():
        colour = np.array(_CHANNEL_RGB.get(channel) or next(others), np.float32)
        rgb = rgb + plane[..., None] ** _GAMMA * colour
    return np.ascontiguousarray((np.clip(rgb, 0, 1) * 255).astype(np.uint8))


def _stretch(plane: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    low, high = np.percentile(plane, [1, 99.7])
    return np.asarray(np.clip((plane.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1), np.float32)


def _outline(cells: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
    """Pixels of a cell beside another label."""
    edge = np.zeros(cells.shape, bool)
    for axis in (0, 1):
        differs = np.diff(cells, axis=axis) != 0
        first, second = [slice(None)] * 2, [slice(None)] * 2
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        edge[tuple(first)] |= differs
        edge[tuple(second)] |= differs
    return edge & (cells > 0)


def _thick(edge: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    thick = edge.copy()
    thick[1:] |= edge[:-1]
    thick[:, 1:] |= edge[:, :-1]
    return thick


def _star(x: float, y: float, radius: float) -> str:
    angles = np.pi * (np.arange(10) / 5 - 0.5)
    radii = np.where(np.arange(10) % 2 == 0, radius, radius * 0.45)
    points = [f"{x + r * np.cos(a):.1f},{y + r * np.sin(a):.1f}" for a, r in zip(angles, radii, strict=True)]
    return f"M{' L'.join(points)} Z"


def _safe_colour(colour: str | None) -> str:
    is_hex = colour is not None and len(colour) == 7 and colour[0] == "#" and colour[1:].isalnum()
    return str(colour) if is_hex else _UNKNOWN_COLOUR
