"""Zeiss CZI through Zeiss's own library, `pylibCZIrw`: every scene by itself."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
import numpy.typing as npt
from pylibCZIrw import czi

from subcell_hf.images.decoders.file_metadata import described
from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.decoders.stored_images import StoredImage, StoredImages
from subcell_hf.images.wells import agreed_well, well_at, well_position, wells_of_names
from subcell_hf.storage.xml_files import parse_xml_elements, text_of

_DTYPES = {"Gray8": "u1", "Gray16": "u2", "Gray32Float": "f4", "Bgr24": "u1", "Bgr48": "u2", "Bgr96Float": "f4"}
_AXIS_NAMES = {"H": "phase", "I": "illumination", "R": "rotation", "V": "view", "B": "block"}


class _File:
    def __init__(self, file: Any, path: Path):
        self._file = file
        self._path = path
        # Levels of pyramids may reach beyond what was recorded.
        rectangles: dict[int | None, Any] = dict(sorted(file.scenes_bounding_rectangle_no_pyramid.items()))
        self._rectangles = rectangles or {None: file.total_bounding_rectangle_no_pyramid}
        self._scenes = list(self._rectangles)
        bounds = file.total_bounding_box_no_pyramid
        self._start = {axis: bounds[axis][0] for axis in "TZC" if axis in bounds}
        self.images: Sequence[StoredImage] = _describe(file, path, self._rectangles)

    def read_plane(self, image: StoredImage, time: int, z: int, channel: int) -> npt.NDArray[Any]:
        scene = self._scenes[image.number]
        wanted = {"T": time, "Z": z, "C": channel}
        place = {axis: first + wanted[axis] for axis, first in self._start.items()}
        tiles = [tile for tile in _tiles(self._file, place) if tile.get("S", 0) == (scene or 0)]
        # The library gives black for what is not there.
        if not tiles:
            raise FieldError(
                f"{self._path} has no pixels for scene {image.number}, time point {time}, Z-plane {z}, channel "
                f"{channel}, which its metadata announce. The recording was stopped, or the file is damaged."
            )
        for axis, name in _AXIS_NAMES.items():
            if len({tile.get(axis, 0) for tile in tiles}) > 1:
                raise FieldError(f"{self._path} has several entries along the axis {axis} ({name}), expected one.")
        pixels = self._file.read(self._rectangles[scene], plane=place, scene=scene)
        return np.asarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., ::-1])  # blue, green, red


@contextmanager
def open_images(path: Path) -> Iterator[StoredImages]:
    """Open a file."""
    with czi.open_czi(str(path)) as file:
        yield _File(file, path)


def _tiles(file: Any, place: Mapping[str, int]) -> list[dict[str, int]]:
    """Axis → index of every tile of a plane that is stored at full resolution."""
    found: list[dict[str, int]] = []

    def collect(_: int, tile: Any) -> bool:
        found.append(dict(tile.coordinate.to_dict()))
        return True

    file.enumerate_subblocks_subset(collect, plane=dict(place), only_layer0=True)
    if not found:  # tiles need not say an axis of which there is only one entry, and then do not match
        file.enumerate_subblocks_subset(collect, only_layer0=True)
    return [tile for tile in found if all(tile.get(axis, 0) == index for axis, index in place.items())]


def _describe(file: Any, path: Path, rectangles: Mapping[int | None, Any]) -> list[StoredImage]:
    bounds = file.total_bounding_box_no_pyramid
    described_by = next(parse_xml_elements(file.raw_metadata, path, "Metadata"), Element("Metadata"))
    sizes = {axis: bounds[axis][1] - bounds[axis][0] for axis in bounds}
    said = _described_scenes(described_by)
    metadata = described(_channel_names(described_by, sizes.get("C", 1)), *_pixel_um(described_by))
    problem = _problem(file, described_by)
    images = []
    for number, (scene, size) in enumerate(rectangles.items()):
        name, well, stage_um, contradiction = said.get(scene or 0, ("", "", None, None))
        images.append(
            StoredImage(
                number=number,
                name=name,
                times=sizes.get("T", 1),
                z_planes=sizes.get("Z", 1),
                channels=sizes.get("C", 1),
                height=size.h,
                width=size.w,
                dtype=np.dtype(_DTYPES.get(next(iter(file.pixel_types.values())), "u2")),
                metadata=metadata,
                well=well,
                stage_um=stage_um,
                problem=problem or (contradiction and f"scene {name!r}: {contradiction}"),
            )
        )
    return images


def _problem(file: Any, metadata: Element) -> str | None:
    kinds = sorted(set(file.pixel_types.values()))
    if not set(kinds) <= set(_DTYPES) or len(kinds) > 1:
        return f"its channels have pixels of the kinds {', '.join(kinds)}, expected one of {', '.join(_DTYPES)} for all"
    image = metadata.find("./Information/Image")
    for axis, name in _AXIS_NAMES.items():
        length = "" if image is None else text_of(image, f"Size{axis}")
        if length not in ("", "0", "1"):
            return (
                f"it has {length} entries along the axis {axis} ({name}), expected one. Process it in ZEN, or save the "
                "entry that you need as a separate file"
            )
    return None


_Scene = tuple[str, str, tuple[float, float] | None, str | None]


def _described_scenes(metadata: Element) -> dict[int, _Scene]:
    """Scene → its name, well, centre on the stage, and what is wrong with its well.

    ZEN says the well by row, column and name of the plate's shape, by the name of the array of tiles, and often by the
    name of the scene; names such as P1 count positions.
    """
    described_scenes = metadata.findall("./Information/Image/Dimensions/S/Scenes/Scene")
    names = [str(scene.get("Name", "")) for scene in described_scenes]
    scenes: dict[int, _Scene] = {}
    for scene, name, well_by_name in zip(described_scenes, names, wells_of_names(names), strict=True):
        shape = scene.find("Shape")
        shape = Element("Shape") if shape is None else shape
        by_place = well_at(text_of(shape, "RowIndex"), text_of(shape, "ColumnIndex")) or ""
        by_shape = str(shape.get("Name", "")) if by_place else ""
        array = text_of(scene, "ArrayName")
        said = {
            "its RowIndex and ColumnIndex": by_place,
            "the name of its Shape": by_shape if well_position(by_shape) else "",
            "its ArrayName": array if well_position(array) else "",
            "its Name": well_by_name,
        }
        centre = text_of(scene, "CenterPosition").split(",")
        stage_um = (float(centre[0]), float(centre[1])) if len(centre) == 2 else None
        well, contradiction = agreed_well(said)
        scenes[int(scene.get("Index", 0))] = (name, well, stage_um, contradiction)
    return scenes


def _channel_names(metadata: Element, count: int) -> list[str]:
    for place in ("./Information/Image/Dimensions/Channels/Channel", "./DisplaySetting/Channels/Channel"):
        names = [str(channel.get("Name") or text_of(channel, "Fluor")) for channel in metadata.iterfind(place)]
        if len(names) == count and all(names):
            return names
    return []


def _pixel_um(metadata: Element) -> tuple[float | None, float | None]:
    metres = {item.get("Id"): text_of(item, "Value") for item in metadata.iterfind("./Scaling/Items/Distance")}
    width, height = (float(metres[axis]) * 1e6 if metres.get(axis) else None for axis in "XY")
    return width, height
