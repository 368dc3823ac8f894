"""Pictures of cells, packed into few images that a page can hold."""

import base64
import io
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from subcell_hf.tables.cell_pictures import PICTURE_PX, PICTURES_FILE, CellPicture, iterate_pictures

PER_ROW = 12
PER_SHEET = PER_ROW * PER_ROW
_ATTENTION_PX = 32
_ATTENTION_LEVELS = 32
_QUALITY = 80


@dataclass
class PictureSheets:
    """Sheets of 12 × 12 cells as data URIs.

    Attributes:
        cell_ids: The cells in the order of their tiles.
        composites: WebP, 128 px tiles.
        outlines: PNG, white lines on nothing, 128 px tiles; an empty text where no cell of the sheet has a mask.
        attention: PNG, tiles of 32 px, the heads side by side, already coloured and partly transparent; an empty text
            where no cell of the sheet has any.
        heads: Pooling heads per tile of `attention`.
        left_out: Pictures for which there was no room.
    """

    cell_ids: list[str] = field(default_factory=list)
    composites: list[str] = field(default_factory=list)
    outlines: list[str] = field(default_factory=list)
    attention: list[str] = field(default_factory=list)
    heads: int = 0
    left_out: int = 0

    def size_bytes(self) -> int:
        """Length of all URIs."""
        return sum(map(len, (*self.composites, *self.outlines, *self.attention)))

    def as_json(self) -> dict[str, Any]:
        """What the script of a page needs to find and draw the tiles."""
        content = {name: value for name, value in asdict(self).items() if name != "cell_ids"}
        content["tiles_in_all"] = len(self.cell_ids)
        return {**content, "px": PICTURE_PX, "per_row": PER_ROW, "per_sheet": PER_SHEET}


def read_pictures(folder: Path, cell_ids: Container[str]) -> dict[str, CellPicture]:
    """Pictures of some cells of a run by `cell_id`; none where the run kept none.

    Args:
        folder: Folder of the run.
        cell_ids: The cells.
    """
    path = folder / PICTURES_FILE
    if not path.is_file():
        return {}
    return {picture.cell_id: picture for picture in iterate_pictures(path) if picture.cell_id in cell_ids}


def pack_pictures(pictures: Mapping[str, CellPicture], order: Sequence[str], max_bytes: int) -> PictureSheets:
    """Pack pictures into sheets until there are as many bytes as a page should have.

    Args:
        pictures: `cell_id` → picture.
        order: Cells in order of importance.
        max_bytes: Room for all sheets as text.
    """
    shapes = [p.attention.shape for p in pictures.values() if p.attention is not None]
    sheets = PictureSheets(heads=max((shape[0] for shape in shapes), default=0))
    for start in range(0, len(order), PER_SHEET):
        part = [pictures[cell_id] for cell_id in order[start : start + PER_SHEET]]
        encoded = (_composites(part), _outlines(part), _attention(part, sheets.heads))
        if sheets.size_bytes() + sum(map(len, encoded)) > max_bytes:
            sheets.left_out = len(order) - start
            break
        sheets.cell_ids += [picture.cell_id for picture in part]
        for target, uri in zip((sheets.composites, sheets.outlines, sheets.attention), encoded, strict=True):
            target.append(uri)
    return sheets


def _tiles(count: int, width: int, height: int, shape: tuple[int, ...] = ()) -> npt.NDArray[np.uint8]:
    """An empty sheet for so many tiles."""
    rows = -(-count // PER_ROW)
    return np.zeros((rows * height, min(count, PER_ROW) * width, *shape), np.uint8)


def _place(sheet: npt.NDArray[np.uint8], number: int, tile: npt.NDArray[np.uint8]) -> None:
    height, width = tile.shape[:2]
    top, left = number // PER_ROW * height, number % PER_ROW * width
    sheet[top : top + height, left : left + width] = tile


def _composites(part: Sequence[CellPicture]) -> str:
    sheet = _tiles(len(part), PICTURE_PX, PICTURE_PX, (3,))
    for number, picture in enumerate(part):
        _place(sheet, number, picture.composite_pixels())
    return _uri(Image.fromarray(sheet), "WEBP", quality=_QUALITY, method=4)


def _outlines(part: Sequence[CellPicture]) -> str:
    sheet = _tiles(len(part), PICTURE_PX, PICTURE_PX)
    for number, picture in enumerate(part):
        mask = picture.cell_mask()
        if mask is not None:
            _place(sheet, number, _edge(mask).astype(np.uint8))
    if not sheet.any():
        return ""
    image = Image.fromarray(sheet, "P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    return _uri(image, "PNG", transparency=0, bits=1, optimize=True)


def _edge(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Pixels of a mask that touch its outside; the border of the picture is no edge."""
    wide = np.pad(mask, 1, mode="edge")
    inner = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    edge: npt.NDArray[np.bool_] = mask & ~inner
    return edge


def _attention(part: Sequence[CellPicture], heads: int) -> str:
    if all(picture.attention is None for picture in part):
        return ""
    sheet = _tiles(len(part), heads * _ATTENTION_PX, _ATTENTION_PX)
    for number, picture in enumerate(part):
        if picture.attention is not None:
            _place(sheet, number, np.hstack([_levels(head) for head in picture.attention.astype(np.float32)]))
    image = Image.fromarray(sheet, "P")
    colours, opacities = _heat()
    image.putpalette(colours)
    return _uri(image, "PNG", transparency=opacities, optimize=True)


def _levels(head: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """One head's attention, stretched to its own range, in few levels: `[32, 32]`."""
    enlarged = np.asarray(Image.fromarray(head).resize((_ATTENTION_PX, _ATTENTION_PX), Image.Resampling.BILINEAR))
    low, high = float(enlarged.min()), float(enlarged.max())
    scaled = (enlarged - low) / (high - low) if high > low else np.zeros_like(enlarged)
    levels: npt.NDArray[np.uint8] = (scaled * (_ATTENTION_LEVELS - 1)).round().astype(np.uint8)
    return levels


def _heat() -> tuple[list[int], bytes]:
    """Colours from dark red over orange to pale yellow, the lower the less opaque; read alike by the colour-blind."""
    steps = np.linspace(0, 1, _ATTENTION_LEVELS)
    stops = [0.0, 0.35, 0.7, 1.0]
    channels = [
        np.interp(steps, stops, values) for values in ([90, 213, 240, 255], [0, 94, 190, 252], [60, 0, 50, 210])
    ]
    colours = np.stack(channels, axis=1).round().astype(int).ravel().tolist()
    return colours, bytes((np.interp(steps, [0, 0.15, 1], [0, 0.15, 0.95]) * 255).round().astype(int).tolist())


def _uri(image: Image.Image, kind: str, **options: Any) -> str:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(sink.getvalue()).decode()}"
