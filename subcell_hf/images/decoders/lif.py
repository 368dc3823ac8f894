"""Leica LIF through the library `liffile`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from liffile import LifFile

from subcell_hf.images.decoders.file_metadata import described
from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.decoders.stored_images import StoredImage, StoredImages
from subcell_hf.images.wells import agreed_well, well_at, wells_of_names

_AXES = frozenset("TZCYXSM")
_AXIS_NAMES = {"λ": "emission wavelength", "Λ": "excitation wavelength", "A": "rotation", "L": "loop"}
_LENGTH = "m"


class _File:
    def __init__(self, file: Any, path: Path):
        self._path = path
        self._series: list[Any] = []
        self._tiles: list[int] = []
        images: list[StoredImage] = []
        for series, said in zip(file.images, _wells([series.path for series in file.images]), strict=True):
            for tile in range(dict(series.sizes).get("M", 1)):
                images.append(_describe(series, len(images), tile, said))
                self._series.append(series)
                self._tiles.append(tile)
        self.images: Sequence[StoredImage] = images

    def read_plane(self, image: StoredImage, time: int, z: int, channel: int) -> npt.NDArray[Any]:
        series = self._series[image.number]
        wanted = {"T": time, "Z": z, "C": channel, "M": self._tiles[image.number]}
        block = series.memory_block
        if block.offset + block.size > self._path.stat().st_size:
            raise FieldError(f"{self._path} is truncated: series {image.name!r} is cut. Copy the file again.")
        return np.asarray(series.frame(**{axis: index for axis, index in wanted.items() if axis in series.sizes}))


@contextmanager
def open_images(path: Path) -> Iterator[StoredImages]:
    """Open a file."""
    with LifFile(path) as file:
        yield _File(file, path)


def _describe(series: Any, number: int, tile: int, said: Mapping[str, str]) -> StoredImage:
    sizes = dict(series.sizes)
    well, contradiction = agreed_well(said)
    problem = _problem(series, sizes) or (contradiction and f"series {series.path!r}: {contradiction}")
    tiles = sizes.get("M", 1)
    return StoredImage(
        number=number,
        name=f"{series.name}_{tile}" if tiles > 1 else str(series.name),
        times=sizes.get("T", 1),
        z_planes=sizes.get("Z", 1),
        channels=sizes.get("C", 1),
        height=sizes.get("Y", 1),
        width=sizes.get("X", 1),
        dtype=series.dtype,
        metadata=described(_channel_names(series), _step_um(series, "X"), _step_um(series, "Y")),
        well=well,
        problem=problem,
    )


def _wells(paths: Sequence[str]) -> list[dict[str, str]]:
    """What the names of each series, and of the folders that it lies in, say of its well.

    LAS X calls the series of a plate `TileScan 1/A/1/R1`, `TileScan 1/A1/R1`, or the same without the region.
    """
    parts = [path.split("/") for path in paths]
    names = wells_of_names([own[-1] for own in parts])
    folders = wells_of_names([own[-2] if len(own) > 1 else "" for own in parts])
    return [
        {
            "its row and column": next((well for pair in pairwise(own[1:]) if (well := _well_of_folders(*pair))), ""),
            "the folder that it lies in": folder,
            "its name": name,
        }
        for own, folder, name in zip(parts, folders, names, strict=True)
    ]


def _well_of_folders(row: str, column: str) -> str:
    return (well_at(row, column) or "") if row.isalpha() else ""


def _problem(series: Any, sizes: dict[str, int]) -> str | None:
    others = {axis: length for axis, length in sizes.items() if axis not in _AXES and length > 1}
    for axis, length in others.items():
        return (
            f"series {series.name!r} has {length} entries along the axis {axis} "
            f"({_AXIS_NAMES.get(axis, 'of unknown meaning')}), which are no channels; expected one. Save those that "
            "you need as separate images, or as channels."
        )
    if series.is_flim or not {"Y", "X"} <= set(sizes):
        return f"series {series.name!r} has the axes {', '.join(sizes)}, expected rows and columns of intensities."
    return None


def _channel_names(series: Any) -> list[str]:
    """Names of the dyes; the colours in which the channels were shown say nothing."""
    described_channels = series.xml_element.findall("./Data/Image/ImageDescription/Channels/ChannelDescription")
    names = []
    for channel in sorted(described_channels, key=lambda one: int(one.get("BytesInc", 0))):
        said = {item.findtext("Key"): item.findtext("Value") or "" for item in channel.iter("ChannelProperty")}
        names.append(said.get("DyeName", ""))
    return names


def _step_um(series: Any, axis: str) -> float | None:
    """Distance of pixels in micrometres: Leica's length reaches from the first centre to the last."""
    for item in series.xml_element.findall("./Data/Image/ImageDescription/Dimensions/DimensionDescription"):
        count = int(item.get("NumberOfElements", 0))
        if item.get("DimID") == {"X": "1", "Y": "2"}[axis] and item.get("Unit") == _LENGTH and count > 1:
            return float(item.get("Length", 0)) * 1e6 / (count - 1)
    return None
