"""One published cell: its two files fetched, checked and cut, in threads ahead of who asks for it."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import quote

import fsspec.core
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
from subcell_hf.parallel.read_ahead import ReadAhead
from subcell_hf.storage.downloads.persistence import read_persistently
from subcell_hf.types import FieldCrops, FieldOfView

CHANNELS = tuple(CHANNEL_STAINS)
"""Channels of the crops that are handed out, in SubCell's order."""

_CELLS_AHEAD = 96
_INSIDE = 255
_LOCATIONS = "locations"
OTHER_LOCATIONS = "other_locations"
"""Column of a cell's locations that are no classes."""

_SILENCE_S = 60.0
_ASK_AGAIN = frozenset({408, 425, 429})
"""HTTP answers that say to ask again later, though their numbers blame the request."""


class CutCell(NamedTuple):
    """One cell, or why there is none.

    Attributes:
        name: Its id, `<plate>_<well>_<sample>_<number>`.
        crops: The cell alone; None where it cannot be used.
        reason: Why.
    """

    name: str
    crops: FieldCrops | None
    reason: str = ""


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
        threads: Cells that are fetched at a time.
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
        self._filesystem, self._root = _open(place)
        self._quoted = "://" in self._root
        self._ahead = ReadAhead(self._cut, threads, max(_CELLS_AHEAD, threads))

    def announce(self, rows: Iterable[int]) -> None:
        """Begin to fetch cells that will be asked for next, in order."""
        self._ahead.announce(rows)

    def take(self, rows: range) -> list[CutCell]:
        """Cells by their rows of the table.

        Raises:
            UnreachableError: If the files cannot be reached.
        """
        if rows and not self._ahead.knows(rows[0]):
            self._ahead.announce(rows)
        return [self._ahead.take(row) for row in rows]

    def measure(self, rows: range) -> MeasuredRate:
        """Fetch and cut cells for their size and time alone."""
        ahead = ReadAhead(self._measure, len(rows), len(rows))
        begun = time.perf_counter()
        ahead.announce(rows)
        sizes = [ahead.take(row) for row in rows]
        return MeasuredRate(len(rows), sum(sizes), time.perf_counter() - begun)

    def _measure(self, row: int) -> int:
        """Size in bytes of a cell's files; 0 where it cannot be used."""
        try:
            content = self._fetch(self._record(row))
            _decode(*content, self._record(row), self._settings)
        except FieldError:
            return 0
        return sum(map(len, content))

    def _cut(self, row: int) -> CutCell:
        record = self._record(row)
        name = f"{record[FIELD]}_{record.get(NUMBER, '')}"
        try:
            found = self._read(record)
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
        order = [crops.channels.index(channel) for channel in CHANNELS]
        return CutCell(name, replace(crops, pixels=crops.pixels[:, order], channels=CHANNELS))

    def _record(self, row: int) -> dict[str, Any]:
        return self._cells.records(range(row, row + 1))[0]

    def _read(self, record: Mapping[str, Any]) -> "_Decoded":
        """A cell's decoded files; what is damaged may have been damaged on its way, and is fetched once more."""
        content = self._fetch(record)
        try:
            return _decode(*content, record, self._settings)
        except FieldError:
            return _decode(*self._fetch(record), record, self._settings)

    def _fetch(self, record: Mapping[str, Any]) -> tuple[bytes, bytes]:
        """The files of image and mask, both asked for at once."""
        paths = [f"{self._root}/{name}" for name in _file_names(record, quoted=self._quoted)]

        def read() -> tuple[bytes, bytes]:
            image, mask = self._filesystem.cat_ranges(paths, [None, None], [None, None], on_error="return")
            for path, found in zip(paths, (image, mask), strict=True):
                if isinstance(found, Exception):
                    raise _explained(found, path)
            return image, mask

        return read_persistently(read, paths[0])

    def _sort_locations(self, locations: str) -> dict[str, str]:
        """Locations that are classes, and the others."""
        names = [name.strip() for name in locations.split(";") if name.strip()]
        known = [name for name in names if self._classes is None or name in self._classes]
        others = [name for name in names if name not in known]
        return {_LOCATIONS: ";".join(known), **({OTHER_LOCATIONS: ";".join(others)} if others else {})}


def _open(place: str) -> tuple[Any, str]:
    """The file system of an address or folder, and the path in it."""
    options = {}
    if place.startswith(("https://", "http://")):
        import aiohttp  # a tenth of a second that other inputs save

        # Proxies as the environment says; no limit to a slow transfer, but to a silent one.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE_S, sock_read=_SILENCE_S)
        options = {"client_kwargs": {"trust_env": True, "timeout": timeout}}
    filesystem, root = fsspec.core.url_to_fs(place, **options)
    return filesystem, str(root)


def _file_names(record: Mapping[str, Any], *, quoted: bool) -> tuple[str, str]:
    plate, name = record.get("plate", ""), f"{record[FIELD]}_{record.get(NUMBER, '')}"
    files = (f"{plate}/{name}_cell_image.png", f"{plate}/{name}_cell_mask.png")
    return (quote(files[0]), quote(files[1])) if quoted else files


def _explained(error: Exception, path: str) -> Exception:
    """What a failed request means: the file is not there, or the network or server is at fault."""
    status = getattr(error, "status", 0)
    if isinstance(error, FileNotFoundError | PermissionError) or (400 <= status < 500 and status not in _ASK_AGAIN):
        code = f" (HTTP {status})" if status else ""
        return FieldError(f"{path} is not there{code}. The other cells are not affected.")
    return error


def _decode(image: bytes, mask: bytes, record: Mapping[str, Any], settings: CropSettings) -> _Decoded:
    facts = published_cell_facts()
    image_name, mask_name = _file_names(record, quoted=False)
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
    if not values.any() or ((values + 1) > 1).any():  # 255 + 1 is 0
        raise FieldError(
            f"{name} has values from {values.min()} to {values.max()}, expected 0 outside of the cell and {_INSIDE} in "
            "it."
        )
    rows, columns = np.flatnonzero(values.any(axis=1)), np.flatnonzero(values.any(axis=0))
    box = CellBox(1, int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1)
    inside = values[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == _INSIDE
    return box, inside
