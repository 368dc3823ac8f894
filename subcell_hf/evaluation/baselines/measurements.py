"""Cells measured piece by piece for the baselines, kept on the disk until the last piece is there."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.cells.cell_features import measure_cells
from subcell_hf.errors import InputError, counted
from subcell_hf.evaluation.baselines.baselines import Measured, shrink_pixels
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.records import describe_files, find_damage, read_record, write_record
from subcell_hf.types import FieldCrops

_PLACES = ("top", "left", "height", "width", "qc_area_um2")
"""Columns that identify a cell, together with its id."""


@dataclass(frozen=True)
class Measurements:
    """A folder with one file per measured piece; a resumed run measures only the missing pieces.

    Attributes:
        folder: Where the files lie.
        pixel_edge: See `BaselineSettings`.
        channels: Planes to measure; empty: all that crops have.
    """

    folder: Path
    pixel_edge: int
    channels: tuple[str, ...] = ()

    def has(self, piece: str) -> bool:
        """Whether a piece is there, with every byte as it was written."""
        record = read_record(self._path(piece).with_suffix(".json"))
        return record is not None and not find_damage(self.folder, record["files"])

    def measure(self, piece: str, blocks: Sequence[FieldCrops]) -> None:
        """Measure the cells of a piece and write what was found.

        Args:
            piece: Name of the piece.
            blocks: Its cells; those whose mask is empty are left out.

        Raises:
            InputError: If cells cannot be measured.
        """
        crops = [kept for kept in map(_with_masks, blocks) if kept.cells]
        found = [self._measure(block) for block in crops]
        names = found[0][1] if found else ()
        if any(other != names for _, other, _ in found):
            raise InputError(f"The cells of {piece} differ in their channels: they cannot be measured together.")
        records = [record for block in crops for record in block.cells]
        columns = {
            "ids": np.array([str(record["cell_id"]) for record in records], np.str_),
            "places": np.array([[_number(record.get(name)) for name in _PLACES] for record in records], np.float64),
            "values": np.concatenate([values for values, _, _ in found]) if found else np.empty((0, 0)),
            "names": np.array(names, np.str_),
            "channels": np.array(self.channels or (crops[0].channels if crops else ()), np.str_),
            "pixels": np.concatenate([pixels for *_, pixels in found]) if found else np.empty((0, 0)),
        }
        with write_atomically(self._path(piece)) as file:
            np.savez(file, allow_pickle=False, **columns)
        files = describe_files(self.folder, [self._path(piece)])
        write_record(self._path(piece).with_suffix(".json"), {"files": files})

    def find_channels(self, pieces: Iterable[str]) -> tuple[str, ...]:
        """The planes of the first piece that has cells; empty where none has."""
        for piece in pieces:
            with np.load(self._path(piece), allow_pickle=False) as arrays:
                if len(arrays["ids"]):
                    return tuple(str(name) for name in arrays["channels"])
        return ()

    def read(self, pieces: Iterable[str], cells: pd.DataFrame) -> Iterator[Measured]:
        """What was measured of the cells of a table; cells that the table lacks are left out.

        Args:
            pieces: Names of all pieces.
            cells: Metadata of the table, with `cell_id`.

        Yields:
            Piece by piece, for `assemble_baselines`.

        Raises:
            InputError: If a cell does not lie where the table says.
        """
        known = pd.Index(cells["cell_id"])
        places = np.stack([_numbers(cells, name) for name in _PLACES], axis=1)
        for piece in pieces:
            with np.load(self._path(piece), allow_pickle=False) as arrays:
                rows = known.get_indexer(arrays["ids"])
                kept = rows >= 0
                if not kept.any():
                    continue
                _check_places(arrays["ids"][kept], arrays["places"][kept], places[rows[kept]])
                names = tuple(str(name) for name in arrays["names"])
                yield rows[kept].astype(np.int64), arrays["values"][kept], names, arrays["pixels"][kept]

    def _measure(self, crops: FieldCrops) -> tuple[npt.NDArray[np.float32], tuple[str, ...], npt.NDArray[np.float16]]:
        wanted, pixels = self.channels or crops.channels, crops.pixels
        if wanted != crops.channels:
            pixels = pixels[:, [crops.channels.index(name) for name in wanted]]
        values, names = measure_cells(pixels, crops.cell_masks, wanted)
        return values, names, shrink_pixels(pixels, crops.cell_masks, self.pixel_edge)

    def _path(self, piece: str) -> Path:
        return self.folder / f"{hashlib.sha256(piece.encode()).hexdigest()[:32]}.npz"


def _with_masks(crops: FieldCrops) -> FieldCrops:
    """Without the cells whose mask is empty."""
    kept: npt.NDArray[np.bool_] = np.asarray(crops.cell_masks.any(axis=(1, 2)))
    if kept.all():
        return crops
    cells = tuple(record for record, inside in zip(crops.cells, kept, strict=True) if inside)
    return FieldCrops(
        crops.field_of_view, crops.pixels[kept], crops.cell_masks[kept], crops.channels, crops.pixel_size_um, cells
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float | np.number) else np.nan


def _numbers(cells: pd.DataFrame, name: str) -> npt.NDArray[np.float64]:
    """A column as numbers, NaN where it says nothing."""
    if name not in cells:
        return np.full(len(cells), np.nan)
    numbers: npt.NDArray[np.float64] = pd.to_numeric(cells[name], errors="coerce").to_numpy(np.float64)
    return numbers


def _check_places(ids: npt.NDArray[np.str_], found: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> None:
    """Refuse cells that have the name of another one."""
    both = np.isfinite(found) & np.isfinite(expected)
    moved = (both & ~np.isclose(found, expected, rtol=1e-4, atol=1e-6)).any(axis=1)
    if moved.any():
        first = str(ids[moved][0])
        raise InputError(
            f"{counted(int(moved.sum()), 'cell')}, first {first!r}: position or size in the images differs from the "
            "table. The images, their masks or the cropping have changed. Embed them again."
        )
