"""Images are decoded in three places, two of which travel alone: the same files give the same numbers, or none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import torch

from subcell_hf import SubCellConfig, SubCellForImageClassification, SubCellImageProcessor
from subcell_hf.hub.demo.demo_images import read_channel_files
from subcell_hf.hub.endpoint import endpoint_images
from subcell_hf.hub.endpoint.endpoint_images import Budget, Limits, decode_image
from subcell_hf.images.files import read_image
from subcell_hf.images.planes import single_plane
from subcell_hf.model.image_files_subcell import read_file, read_plane
from subcell_hf.model.pipeline_subcell import SubCellPipeline
from tests.hub.tiny_models import TINY
from tests.images.written_fields import COLOURS, random_plane

PLANE = random_plane(1)
PROCESSOR = SubCellImageProcessor()
NOTHING = np.zeros_like(PLANE)
RAMP = np.arange(256, dtype=np.uint16) * 257


def _package(path: Path) -> npt.NDArray[Any]:
    return single_plane(read_image(path))


def _pipeline(path: Path) -> npt.NDArray[Any]:
    plane: npt.NDArray[Any] = read_plane(path, "green")
    return plane


def _endpoint(path: Path) -> npt.NDArray[Any]:
    decoded = decode_image(path.read_bytes(), "green", Limits(), Budget(Limits()))
    return endpoint_images.read_plane(decoded, PROCESSOR, "green", "green")


def _demo(path: Path) -> npt.NDArray[Any]:
    return read_channel_files({"green": str(path)}, PROCESSOR)["green"]


READERS = {"package": _package, "pipeline": _pipeline, "endpoint": _endpoint, "demo": _demo}


def _green(leak: int, pixels: int) -> npt.NDArray[np.uint8]:
    """A green picture of 4608 pixels, of which some have a red value beside their green one of 100."""
    red = NOTHING.copy()
    red.flat[:pixels] = leak
    return np.stack([red, np.full_like(PLANE, 100), NOTHING], axis=-1)


def _tiff(pixels: npt.NDArray[Any], **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        tifffile.imwrite(folder / "a.tif", pixels, **options)
        return folder / "a.tif"

    return write


def _png(pixels: npt.NDArray[Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "a.png").write_bytes(imagecodecs.png_encode(pixels))
        return folder / "a.png"

    return write


def _rgba(alpha: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.stack([NOTHING, PLANE, NOTHING, alpha], axis=-1)


SOUND: dict[str, Callable[[Path], Path]] = {
    "grey": _png(PLANE),
    "grey of 16 bits": _tiff(PLANE.astype(np.uint16) * 257),
    "grey as colours": _png(np.stack([PLANE] * 3, axis=-1)),
    "green": _png(np.stack([NOTHING, PLANE, NOTHING], axis=-1)),
    "green with a leak below the limit": _png(_green(65, 1000)),
    "green with few leaking pixels": _png(_green(255, 4)),
    "ramp of green": _tiff(PLANE, photometric="palette", colormap=np.stack([RAMP * 0, RAMP, RAMP * 0])),
}
UNFIT: dict[str, Callable[[Path], Path]] = {
    "green with a leak above the limit": _png(_green(68, 1000)),
    "green with a leak in some pixels": _png(_green(100, 100)),
    "composite": _png(np.stack([PLANE, PLANE[::-1], NOTHING], axis=-1)),
    "MinIsWhite": _tiff(PLANE, photometric="miniswhite"),
    "reversed palette": _tiff(PLANE, photometric="palette", colormap=np.stack([RAMP[::-1]] * 3)),
    "YCbCr without JPEG": _tiff(np.stack([PLANE] * 3, axis=-1), photometric="ycbcr"),
    "CMYK": _tiff(_rgba(PLANE), photometric="separated"),
    "CFA": _tiff(PLANE, photometric="cfa"),
    "varying alpha": _tiff(_rgba(PLANE), photometric="rgb", extrasamples=["unassalpha"]),
    "grey and varying alpha": _tiff(
        np.stack([PLANE, PLANE[::-1]], axis=-1), photometric="minisblack", planarconfig="contig", extrasamples=[2]
    ),
}


@pytest.mark.parametrize("kind", SOUND)
def test_sound_files_give_equal_planes(tmp_path: Path, kind: str) -> None:
    path = SOUND[kind](tmp_path)
    planes = {name: read(path) for name, read in READERS.items()}
    assert planes["package"].shape == PLANE.shape
    for name, plane in planes.items():
        assert plane.dtype == planes["package"].dtype, name
        np.testing.assert_array_equal(plane, planes["package"], err_msg=name)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", UNFIT)
def test_unfit_files_are_refused_by_all(tmp_path: Path, kind: str, reader: str) -> None:
    path = UNFIT[kind](tmp_path)
    with pytest.raises(ValueError, match=r"a\.tif|a\.png|green"):
        READERS[reader](path)


def test_opaque_alpha_is_dropped_where_colour_tiffs_are_read(tmp_path: Path) -> None:
    path = _tiff(_rgba(np.full_like(PLANE, 255)), photometric="rgb", extrasamples=["unassalpha"])(tmp_path)
    for name in READERS:
        np.testing.assert_array_equal(READERS[name](path), PLANE, err_msg=name)


@pytest.mark.parametrize("colour", ["red", "green", "blue", "yellow"])
def test_hpa_pictures_give_equal_planes(hpa_fields: Path, colour: str) -> None:
    path = hpa_fields / f"800_A6_1_{colour}.jpg"
    expected = _package(path)
    np.testing.assert_array_equal(read_plane(path, colour), expected)
    np.testing.assert_array_equal(read_channel_files({colour: str(path)}, PROCESSOR)[colour], expected)


# --- the pipeline's files with all channels ------------------------------------------------------------------------

STACK = np.stack([random_plane(seed) for seed in range(4)])


@pytest.mark.parametrize("axes", ["ZYX", "TYX"])
def test_planes_that_are_named_are_channels(tmp_path: Path, axes: str) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack", metadata={"axes": axes})
    np.testing.assert_array_equal(read_file(path, named_channels=4).pixels, STACK)
    with pytest.raises(ValueError, match=rf"has the axes {axes}.*name them all \(channels=\[…\]\)"):
        read_file(path, named_channels=3)


@pytest.mark.parametrize("reader", READERS)
def test_missing_strips_are_not_zeros(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PLANE, compression="zlib", rowsperstrip=16)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        counts = list(tiff.pages[0].databytecounts)
        tiff.pages[0].tags["StripByteCounts"].overwrite([*counts[:-1], 0])
    with pytest.raises(ValueError, match=r"a\.tif|green"):
        READERS[reader](path)


def test_missing_planes_are_not_zeros(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack", metadata={"axes": "CYX"}, rowsperstrip=16)
    xml = tifffile.tiffcomment(path)
    tifffile.tiffcomment(path, xml.replace('PlaneCount="4"', 'PlaneCount="3"').encode())
    with pytest.raises(ValueError, match="lacks planes"):
        read_file(path)


@pytest.mark.parametrize(
    ("x", "y", "problem"),
    [(0, 0, None), (0.1, 0.102, "expected square"), (-1, -1, "two positive"), (0.1, 0, "two positive")],
)
def test_the_given_pixel_size_wins(tmp_path: Path, x: float, y: float, problem: str | None) -> None:
    path = tmp_path / "a.ome.tif"
    facts = {"axes": "CYX", "PhysicalSizeX": x, "PhysicalSizeY": y}
    tifffile.imwrite(path, STACK, photometric="minisblack", metadata=facts)
    file = read_file(path)
    assert file.pixel_size_um is None
    assert (file.pixel_size_problem is None) == (problem is None)
    assert problem is None or problem in str(file.pixel_size_problem)


def test_the_pixel_size_of_single_planes_counts(tmp_path: Path) -> None:
    """Files with one channel each have a pixel size as well as those with all."""
    torch.manual_seed(0)
    processor = SubCellImageProcessor(size=64, pixel_size_um=0.1)
    locate = SubCellPipeline(SubCellForImageClassification(SubCellConfig(**TINY)).eval(), image_processor=processor)
    planes = dict(zip(COLOURS, STACK, strict=True))
    for name, size in (*((colour, 0.2) for colour in COLOURS), ("other", 0.1)):
        facts = {"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeY": size}
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", planes.get(name, PLANE), metadata=facts)
    files = {name: tmp_path / f"{name}.ome.tif" for name in COLOURS}

    def pixels(item: dict[str, Any]) -> torch.Tensor:
        read: torch.Tensor = locate.preprocess(item)["pixel_values"]
        return read

    assert torch.equal(pixels(files), pixels({**planes, "pixel_size_um": 0.2}))
    assert torch.equal(pixels({**files, "pixel_size_um": 0.15}), pixels({**planes, "pixel_size_um": 0.15}))
    assert not torch.equal(pixels(files), pixels(planes))
    (tmp_path / "link.ome.tif").symlink_to(files["red"])
    for same in (files["red"], tmp_path / "." / "red.ome.tif", tmp_path / "link.ome.tif"):
        with pytest.raises(ValueError, match="is given for both red and green"):
            pixels({**files, "green": same})
    with pytest.raises(ValueError, match="channels differ in pixel size"):
        pixels({**files, "green": tmp_path / "other.ome.tif"})
