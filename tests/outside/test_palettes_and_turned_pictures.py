"""Masks whose labels are numbers of a palette; images stored turned, several to a file, or in a wrong colour."""

import io
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from subcell_hf.hub.demo.demo_images import read_channel_files
from subcell_hf.hub.demo.demo_images import read_mask as read_demo_mask
from subcell_hf.hub.endpoint import endpoint_images
from subcell_hf.hub.endpoint.endpoint_images import Budget, Limits, decode_image
from subcell_hf.images.decoders.file_metadata import ImageMetadata
from subcell_hf.images.decoders.image import Image as ImageOfFile
from subcell_hf.images.fields_of_view import FieldError, ReadingOptions, find_fields
from subcell_hf.images.files import read_image
from subcell_hf.images.planes import check_label_mask, label_plane, single_plane
from subcell_hf.model.image_files_subcell import read_mask, read_plane
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from tests.images.written_fields import random_plane

PROCESSOR = SubCellImageProcessor()
PLANE = random_plane(1)
LABELS = np.zeros(PLANE.shape, np.uint8)
LABELS[2:20, 2:20], LABELS[22:40, 4:30], LABELS[42:60, 6:30] = 1, 2, 5
COLOURS = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 128, 128)]  # as labelme numbers them


def _package_mask(path: Path) -> npt.NDArray[Any]:
    return check_label_mask(read_image(path), LABELS.shape)


def _pipeline_mask(path: Path) -> npt.NDArray[Any]:
    mask: npt.NDArray[Any] = read_mask(path, "mask")
    return mask


def _endpoint_mask(path: Path) -> npt.NDArray[Any]:
    return _endpoint(path, None)


def _demo_mask(path: Path) -> npt.NDArray[Any]:
    return read_demo_mask(str(path), (LABELS.shape[0], LABELS.shape[1]), PROCESSOR)


MASK_READERS = {"package": _package_mask, "pipeline": _pipeline_mask, "endpoint": _endpoint_mask, "demo": _demo_mask}


def _package(path: Path) -> npt.NDArray[Any]:
    return single_plane(read_image(path), colour="green")


def _pipeline(path: Path) -> npt.NDArray[Any]:
    plane: npt.NDArray[Any] = read_plane(path, "green")
    return plane


def _endpoint(path: Path, channel: str | None = "green") -> npt.NDArray[Any]:
    decoded = decode_image(path.read_bytes(), path.name, Limits(), Budget(Limits()))
    return endpoint_images.read_plane(decoded, PROCESSOR, channel, path.name)


def _demo(path: Path) -> npt.NDArray[Any]:
    return read_channel_files({"green": str(path)}, PROCESSOR)["green"]


READERS = {"package": _package, "pipeline": _pipeline, "endpoint": _endpoint, "demo": _demo}


def _indexed(colours: list[tuple[int, int, int]], labels: npt.NDArray[np.uint8] = LABELS) -> Image.Image:
    picture = Image.fromarray(labels, "P")
    picture.putpalette([value for colour in colours for value in colour])
    return picture


@pytest.mark.parametrize("reader", MASK_READERS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("background", ["black", "white", "transparent"])
def test_numbers_of_a_palette_are_labels(tmp_path: Path, background: str, bits: int, reader: str) -> None:
    colours = [(255, 255, 255), *COLOURS[1:]] if background == "white" else COLOURS
    options = {"transparency": 0} if background == "transparent" else {}
    _indexed(colours).save(tmp_path / "a.png", bits=bits, **options)
    np.testing.assert_array_equal(MASK_READERS[reader](tmp_path / "a.png"), LABELS)


@pytest.mark.parametrize("reader", MASK_READERS)
def test_a_grey_palette_shows_the_labels(tmp_path: Path, reader: str) -> None:
    """Optimizers of PNG files store few grey values as a palette, in any order."""
    order = np.array([5, 2, 0, 1], np.uint8)
    places = np.argsort(order)[np.searchsorted(np.sort(order), LABELS)].astype(np.uint8)
    _indexed([(value, value, value) for value in order.tolist()], places).save(tmp_path / "a.png")
    np.testing.assert_array_equal(MASK_READERS[reader](tmp_path / "a.png"), LABELS)


def test_the_demo_takes_no_jpeg_for_labels(tmp_path: Path) -> None:
    Image.fromarray((LABELS > 0).astype(np.uint8) * 255).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg is a JPEG; its compression changes labels"):
        _demo_mask(tmp_path / "a.jpg")


def test_a_pillow_mask_with_a_palette_has_the_same_labels() -> None:
    np.testing.assert_array_equal(read_mask(_indexed(COLOURS), "mask"), LABELS)


@pytest.mark.parametrize("reader", MASK_READERS)
def test_a_colour_view_of_labels_is_no_mask(tmp_path: Path, reader: str) -> None:
    _indexed(COLOURS).convert("RGB").save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png"):
        MASK_READERS[reader](tmp_path / "a.png")


@pytest.mark.parametrize("reader", MASK_READERS)
def test_one_bit_is_read_only_where_the_file_settles_what_it_means(tmp_path: Path, reader: str) -> None:
    """MinIsWhite inverts one bit, save where tifffile has written it, which marks every array of bool so."""
    inside = LABELS > 0
    tifffile.imwrite(tmp_path / "a.tif", inside)
    np.testing.assert_array_equal(MASK_READERS[reader](tmp_path / "a.tif"), inside)
    tifffile.imwrite(tmp_path / "a.tif", inside, software="ImageMagick")
    with pytest.raises(ValueError, match=r"a\.tif has the photometric interpretation MinIsWhite"):
        MASK_READERS[reader](tmp_path / "a.tif")


def test_a_mask_stored_column_by_column_is_turned_as_its_image_is() -> None:
    square = np.ascontiguousarray(LABELS[:, :64])
    mask = ImageOfFile(Path("a.zarr"), square.T, "XY", ImageMetadata())
    np.testing.assert_array_equal(check_label_mask(mask, square.shape), square)


def test_a_palette_mask_is_used_beside_its_field(tmp_path: Path) -> None:
    for colour, plane in (("blue", PLANE), ("green", random_plane(2))):
        (tmp_path / f"a_{colour}.png").write_bytes(imagecodecs.png_encode(plane))
    _indexed(COLOURS).save(tmp_path / "a_mask.png")
    (field,) = find_fields(tmp_path, ReadingOptions(pixel_size_um=0.5))
    np.testing.assert_array_equal(field.read().label_mask, LABELS)


@pytest.mark.parametrize("reader", READERS)
def test_pictures_with_a_palette_are_their_colours_or_refused(tmp_path: Path, reader: str) -> None:
    green = [(0, value, 0) for value in range(256)][::-1]
    _indexed(green, PLANE).save(tmp_path / "a.png")
    np.testing.assert_array_equal(READERS[reader](tmp_path / "a.png"), 255 - PLANE)
    _indexed(green, PLANE).save(tmp_path / "clear.png", transparency=0)
    with pytest.raises(ValueError, match=r"clear\.png has .*[pP]alette"):
        READERS[reader](tmp_path / "clear.png")


def _turned_tiff(path: Path, value: int) -> None:
    tifffile.imwrite(path, PLANE, extratags=[(274, 3, 1, value, True)])


def _turned_picture(path: Path, value: int) -> None:
    exif = Image.Exif()
    exif[274] = value
    Image.fromarray(PLANE).save(path, exif=exif)


TURNED: dict[str, Callable[[Path, int], None]] = {
    "a.tif": _turned_tiff, "a.png": _turned_picture, "a.jpg": _turned_picture
}  # fmt: skip


@pytest.mark.parametrize(("name", "reader"), list(product(TURNED, [*READERS, "mask"])))
def test_turned_images_are_refused(tmp_path: Path, name: str, reader: str) -> None:
    read = {**READERS, "mask": lambda path: label_plane(read_image(path), PLANE.shape, "mask")}[reader]
    for value in (2, 6, 8):
        TURNED[name](tmp_path / name, value)
        with pytest.raises(ValueError, match=rf"a\.\w+ has the orientation {value}"):
            read(tmp_path / name)
    TURNED[name](tmp_path / name, 1)
    assert read(tmp_path / name).shape == PLANE.shape


@pytest.mark.parametrize(("name", "reader"), list(product(["a.png", "a.jpg"], READERS)))
def test_files_of_several_pictures_are_refused(tmp_path: Path, name: str, reader: str) -> None:
    frames = [Image.fromarray(PLANE), Image.fromarray(PLANE[::-1].copy())]
    frames[0].save(tmp_path / name, "MPO" if name == "a.jpg" else "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"a\.\w+ (holds|contains)"):
        READERS[reader](tmp_path / name)


def test_cut_or_strange_exif_says_nothing(tmp_path: Path) -> None:
    for exif in (b"", b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12", b"Exif\0\0no TIFF"):
        content = io.BytesIO()
        Image.fromarray(PLANE).save(content, "JPEG", exif=exif)
        (tmp_path / "a.jpg").write_bytes(content.getvalue())
        assert read_image(tmp_path / "a.jpg").pixels.shape == PLANE.shape


# --- a picture in another channel's colour ---------------------------------------------------------------------------


def _in_colour(folder: Path, channel: str, samples: tuple[int, ...], plane: npt.NDArray[np.uint8] = PLANE) -> Path:
    pixels = np.zeros((*plane.shape, 3), np.uint8)
    for sample in samples:
        pixels[..., sample] = plane
    path = folder / f"800_A6_1_{channel}.png"
    path.write_bytes(imagecodecs.png_encode(pixels))
    return path


@pytest.mark.parametrize(("channel", "samples"), [("blue", (0,)), ("green", (0, 1)), ("yellow", (0,)), ("red", (1, 2))])
def test_a_picture_in_another_channels_colour_is_refused_by_all(
    tmp_path: Path, channel: str, samples: tuple[int, ...]
) -> None:
    path = _in_colour(tmp_path, channel, samples)
    with pytest.raises(FieldError, match=f"800_A6_1_{channel}.png does not show {channel}"):
        find_fields(tmp_path)[0].read()
    with pytest.raises(ValueError, match="composite"):
        read_plane(path, channel)
    with pytest.raises(ValueError, match=f"is a composite: .*expected signal in {channel} alone"):
        read_channel_files({channel: str(path)}, PROCESSOR)
    with pytest.raises(ValueError, match=f"is a composite: .*expected signal in {channel} alone"):
        _endpoint(path, channel)


@pytest.mark.parametrize("samples", [(2,), (0, 1, 2)])
def test_its_own_colour_and_grey_are_read(tmp_path: Path, samples: tuple[int, ...]) -> None:
    path = _in_colour(tmp_path, "blue", samples)
    np.testing.assert_array_equal(find_fields(tmp_path)[0].read().pixels[0], PLANE)
    np.testing.assert_array_equal(read_plane(path, "blue"), PLANE)
    np.testing.assert_array_equal(read_channel_files({"blue": str(path)}, PROCESSOR)["blue"], PLANE)


def test_noise_near_black_is_no_other_colour(tmp_path: Path) -> None:
    path = _in_colour(tmp_path, "green", (0, 1), (PLANE > 100).astype(np.uint8))
    expected = find_fields(tmp_path)[0].read().pixels[0]
    np.testing.assert_array_equal(read_plane(path, "green"), expected)
    np.testing.assert_array_equal(read_channel_files({"green": str(path)}, PROCESSOR)["green"], expected)


def test_a_mapped_name_may_be_shown_in_any_colour(tmp_path: Path) -> None:
    _in_colour(tmp_path, "WGA", (1,))
    (field,) = find_fields(tmp_path, ReadingOptions(channel_mapping={"WGA": "red"}, pixel_size_um=0.1))
    np.testing.assert_array_equal(field.read().pixels[0], PLANE)
