"""One published cell: its two files fetched, checked and cut, ahead of who asks for it.

Many threads wait for the server; few decode and cut, as many as there are cores, so that what they work on stays in the
processor's caches.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from subcell_hf.cells.pixel_sizes import PIXEL_SIZE, PIXEL_SIZE_FROM
from subcell_hf.cells.published.choice import FIELD, NUMBER, ChosenCells
from subcell_hf.cells.published.facts import published_cell_facts
from subcell_hf.cells.single_cells import Cell, CropSettings, cut_cells, window_around
from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.decoders.png_planes import decode_png_planes, png_shape
from subcell_hf.images.tables import CellBox
from subcell_hf.ontology import CHANNEL_STAINS
from subcell_hf.parallel.cores import usable_cores
from subcell_hf.parallel.freed_memory import keep_freed_memory
from subcell_hf.parallel.read_ahead import ReadAhead
from subcell_hf.storage.downloads.kept_connections import KeptConnections
from subcell_hf.storage.downloads.persistence import read_persistently
from subcell_hf.types import FieldCrops, FieldOfView

CHANNELS = tuple(CHANNEL_STAINS)
"""Channels of the crops that are handed out, in SubCell's order."""

_FILES_AHEAD = 128
_CELLS_AHEAD = 32
_REMEMBERED_RECORDS = 256
_INSIDE = 255
_LOCATIONS = "locations"
OTHER_LOCATIONS = "other_locations"
"""Column of a cell's locations that are no classes."""


class CutCell(NamedTuple):
    """One cell, or why there is none.

    Attributes:
        name: Its id, `<plate>_<well>_<sample>_<number>`.
        crops: The cell alone; None where it cannot be used.
        reason: Why.
        file_bytes: Size of its files; 0 where it cannot be used.
    """

    name: str
    crops: FieldCrops | None
    reason: str = ""
    file_bytes: int = 0


class _Decoded(NamedTuple):
    """The files of one cell, as far as its crop needs them.

    Attributes:
        window: The part of the image around the cell.
        origin: Row and column of the window in the image.
        box: The cell's bounding box in the image.
        inside: `[height, width]` of the box, True in the cell.
    """

    window: FieldOfView
    origin: tuple[int, int]
    box: CellBox
    inside: npt.NDArray[np.bool_]


class MeasuredRate(NamedTuple):
    """What fetching some cells took.

    Attributes:
        cells: How many.
        bytes: Size of their files.
        seconds: Time on the clock.
    """

    cells: int
    bytes: int
    seconds: float


class CellFetcher:
    """Fetches and cuts cells.

    Args:
        place: Address or folder of the published files.
        cells: The table of the cells.
        settings: How to cut.
        classes: Names of locations; others are moved to the column `other_locations`. None: all stay.
        threads: Files that are fetched at a time.
    """

    def __init__(
        self,
        place: str,
        cells: ChosenCells,
        settings: CropSettings,
        classes: Sequence[str] | None,
        threads: int,
    ) -> None:
        self._cells, self._settings = cells, settings
        self._classes = None if classes is None else frozenset(classes)
        self._place, self._read_file = place, _reader(place, threads)
        self._record = lru_cache(_REMEMBERED_RECORDS)(lambda row: cells.records(range(row, row + 1))[0])
        self._files = ReadAhead(self._fetch, threads, max(_FILES_AHEAD, 2 * threads))
        self._cut_cells = ReadAhead(self._cut, usable_cores(), _CELLS_AHEAD)
        self._measured: dict[int, CutCell] = {}
        keep_freed_memory()

    def announce(self, rows: Iterable[int]) -> None:
        """Begin to fetch cells that will be asked for next, in order."""
        rows = [row for row in rows if row not in self._measured]
        self._files.announce(name for row in rows for name in _file_names(self._record(row)))
        self._cut_cells.announce(rows)

    def take(self, rows: range) -> list[CutCell]:
        """Cells by their rows of the table.

        Raises:
            UnreachableError: If the files cannot be reached.
        """
        if rows and not self._cut_cells.knows(rows[0]) and rows[0] not in self._measured:
            self.announce(rows)
        known = self._measured
        return [known.pop(row) if row in known else self._cut_cells.take(row) for row in rows]

    def measure(self, rows: range) -> MeasuredRate:
        """Fetch and cut cells for their size and time; they are kept for who takes them."""
        begun = time.perf_counter()
        cells = self.take(rows)
        self._measured = dict(zip(rows, cells, strict=True))
        return MeasuredRate(len(rows), sum(cell.file_bytes for cell in cells), time.perf_counter() - begun)

    def _cut(self, row: int) -> CutCell:
        record = dict(self._record(row))
        name = f"{record[FIELD]}_{record.get(NUMBER, '')}"
        try:
            found, file_bytes = self._read(record)
        except FieldError as error:
            return CutCell(name, None, str(error))
        record |= {
            "cell_id": name,
            **self._sort_locations(record.pop(_LOCATIONS, "")),
            "top": found.box.top,
            "left": found.box.left,
            "height": found.box.height,
            "width": found.box.width,
            PIXEL_SIZE: found.window.pixel_size_um,
            PIXEL_SIZE_FROM: found.window.pixel_size_from,
        }
        box = replace(found.box, top=found.box.top - found.origin[0], left=found.box.left - found.origin[1])
        crops = cut_cells(found.window, [Cell(box, (box.top, box.left), found.inside, record)], self._settings)
        return CutCell(name, crops, file_bytes=file_bytes)

    def _read(self, record: Mapping[str, Any]) -> tuple["_Decoded", int]:
        """A cell's decoded files and their size; what was damaged on its way is fetched once more."""
        names = _file_names(record)
        image, mask = map(self._files.take, names)
        try:
            return _decode(image, mask, record, self._settings), len(image) + len(mask)
        except FieldError:
            image, mask = map(self._fetch, names)
            return _decode(image, mask, record, self._settings), len(image) + len(mask)

    def _fetch(self, name: str) -> bytes:
        """One file."""
        where = f"{self._place}/{name}"

        def read() -> bytes:
            try:
                return self._read_file(name)
            except (FileNotFoundError, PermissionError) as error:
                reason = error.strerror or error
                raise FieldError(f"{where} is not there ({reason}). The other cells are not affected.") from error

        return read_persistently(read, where)

    def _sort_locations(self, locations: str) -> dict[str, str]:
        """Locations that are classes, and the others."""
        names = [name.strip() for name in locations.split(";") if name.strip()]
        known = [name for name in names if self._classes is None or name in self._classes]
        others = [name for name in names if name not in known]
        return {_LOCATIONS: ";".join(known), **({OTHER_LOCATIONS: ";".join(others)} if others else {})}


def _reader(place: str, threads: int) -> Callable[[str], bytes]:
    """Reads a file of an address or folder by its name there."""
    if not place.startswith(("https://", "http://")):
        return lambda name: Path(place, name).read_bytes()
    server = KeptConnections(place, threads)
    return lambda name: server.read(f"{place}/{quote(name)}")


def _file_names(record: Mapping[str, Any]) -> tuple[str, str]:
    """The names of image and mask."""
    stem = f"{record.get('plate', '')}/{record[FIELD]}_{record.get(NUMBER, '')}_cell"
    return f"{stem}_image.png", f"{stem}_mask.png"


def _decode(image: bytes, mask: bytes, record: Mapping[str, Any], settings: CropSettings) -> _Decoded:
    facts = published_cell_facts()
    image_name, mask_name = _file_names(record)
    samples = len(facts.channels_of_rgba)
    values, shape = decode_png_planes(mask, 1, mask_name)[0], png_shape(image, samples, image_name)
    if shape != values.shape:
        raise FieldError(f"{mask_name} has {values.shape} px, expected those of the image, {shape}.")
    if min(shape) < settings.crop_px:
        raise FieldError(
            f"Its image has an edge of {min(shape)} px, expected at least {settings.crop_px} px, which are cut out "
            "around the cell."
        )
    box, inside = _cell_of(values, mask_name)
    rows, columns = window_around(box, settings, facts.pixel_size_um, shape)
    name, pixels = str(record[FIELD]), decode_png_planes(image, samples, image_name, rows, columns)
    window = FieldOfView(name, pixels, facts.channels_of_rgba, facts.pixel_size_um, pixel_size_from="published")
    return _Decoded(window, (rows.start, columns.start), box, inside)


def _cell_of(values: npt.NDArray[np.uint8], name: str) -> tuple[CellBox, npt.NDArray[np.bool_]]:
    """The box of a mask's cell, and the mask within it."""
    is_inside = values == _INSIDE
    found = np.count_nonzero(is_inside)
    if not found or found != np.count_nonzero(values != 0):
        raise FieldError(
            f"{name} has values from {values.min()} to {values.max()}, expected 0 outside of the cell and {_INSIDE} in "
            "it."
        )
    rows, columns = np.flatnonzero(is_inside.any(axis=1)), np.flatnonzero(is_inside.any(axis=0))
    box = CellBox(1, int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1)
    return box, is_inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
