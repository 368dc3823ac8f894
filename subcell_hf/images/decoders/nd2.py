"""Nikon ND2 through the library `nd2`."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nd2
import numpy as np
import numpy.typing as npt

from subcell_hf.images.decoders.file_metadata import described
from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.decoders.stored_images import StoredImage, StoredImages
from subcell_hf.images.wells import agreed_well, wells_of_names

_AXES = frozenset("TPZCYXS")
_JOBS_NAME = re.compile(r"Well(?P<well>[A-P]\d{1,2})(?:_.*)?\.nd2", re.IGNORECASE)  # WellB02_PointB02_0000_Seq0000.nd2


class _File:
    def __init__(self, file: Any, path: Path):
        self._file = file
        self._path = path
        self._frames = {
            (place.get("P", 0), place.get("T", 0), place.get("Z", 0)): frame
            for frame, place in enumerate(file.loop_indices or ({},))
        }
        self.images: Sequence[StoredImage] = _describe(file, path)

    def read_plane(self, image: StoredImage, time: int, z: int, channel: int) -> npt.NDArray[Any]:
        frame = self._frames[image.number, time, z]
        pixels = self._file.read_frame(frame)
        # The library gives zeros for a frame that the file does not hold.
        if not pixels.any() and not _holds(self._path, frame, pixels.nbytes):
            raise FieldError(
                f"{self._path} has no pixels for frame {frame}, which its metadata announce. The recording was "
                "stopped, or the file is damaged. Export the frames that are there."
            )
        sizes = self._file.sizes
        samples = sizes.get("S", 1)
        shape = (image.channels, image.height, image.width, *((samples,) if samples > 1 else ()))
        return np.array(pixels.reshape(shape)[channel])  # a copy: the library maps the file, which is closed soon


@contextmanager
def open_images(path: Path) -> Iterator[StoredImages]:
    """Open a file."""
    with nd2.ND2File(path) as file:
        if file.is_legacy:
            raise FieldError(f"{path} is an ND2 of JPEG 2000, as written before 2010. Save it again, or as TIFF.")
        yield _File(file, path)


def _holds(path: Path, frame: int, frame_bytes: int) -> bool:
    """Whether the map of chunks, whose place the last eight bytes of a file say, lists a frame inside of the file."""
    with path.open("rb") as file:
        end = file.seek(-8, os.SEEK_END) + 8
        file.seek(int.from_bytes(file.read(8), "little"))
        chunks = file.read()
    name = b"ImageDataSeq|%d!" % frame
    place = chunks.find(name)
    offset = int.from_bytes(chunks[place + len(name) :][:8], "little")
    return place >= 0 and offset + frame_bytes <= end


def _describe(file: Any, path: Path) -> list[StoredImage]:
    sizes = dict(file.sizes)
    others = {axis: length for axis, length in sizes.items() if axis not in _AXES and length > 1}
    points: list[Any] = next((loop.parameters.points for loop in file.experiment if loop.type == "XYPosLoop"), [])
    count = sizes.get("P", 1)
    points = points if len(points) == count else [None] * count
    names = [str(point.name or "") if point else "" for point in points]
    job = _JOBS_NAME.fullmatch(path.name)
    by_file = {"the name of the file": job["well"] if job else ""}
    places = [agreed_well({**by_file, "the name of the position": well}) for well in wells_of_names(names)]
    channels = file.metadata.channels or []
    metadata = described([str(channel.channel.name or "") for channel in channels], *_pixel_um(file, channels))
    return [
        StoredImage(
            number=number,
            name=name,
            times=sizes.get("T", 1),
            z_planes=sizes.get("Z", 1),
            channels=sizes.get("C", 1),
            height=sizes["Y"],
            width=sizes["X"],
            dtype=file.dtype,
            metadata=metadata,
            well=places[number][0],
            stage_um=(point.stagePositionUm.x, point.stagePositionUm.y) if point else None,
            problem=f"it has {others} entries along other axes, expected none" if others else places[number][1],
        )
        for number, (name, point) in enumerate(zip(names, points, strict=True))
    ]


def _pixel_um(file: Any, channels: Sequence[Any]) -> tuple[float | None, float | None]:
    """Width and height; where the microscope was not calibrated, the file says 1 um without meaning it."""
    first = next(iter(channels), None)
    if first is None or not all(first.volume.axesCalibrated[:2]):
        return None, None
    size = file.voxel_size()
    return size.x, size.y
