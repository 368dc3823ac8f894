"""What the numbers of a file mean: inverted, indexed, transparent or packed values are read right or refused."""

import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from subcell_hf.images.files import FieldError, read_image
from subcell_hf.images.planes import channel_stack, check_intensities, check_label_mask, single_plane
from tests.images.written_fields import random_plane

PLANE = random_plane(1)
RAMP = np.arange(256, dtype=np.uint16) * 257
NOTHING = np.zeros(256, np.uint16)


@pytest.mark.parametrize("form", ["plain", "bigtiff", "ome", "imagej"])
def test_min_is_white_is_refused_by_name(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"a{'.ome' if form == 'ome' else ''}.tif"
    options: dict[str, Any] = {"bigtiff": {"bigtiff": True}, "imagej": {"imagej": True}}.get(form, {})
    tifffile.imwrite(path, PLANE, photometric="minisblack" if form == "imagej" else "miniswhite", **options)
    if form == "imagej":  # as ImageJ does for an inverted lookup table
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            tiff.pages[0].tags["PhotometricInterpretation"].overwrite(0)
    with pytest.raises(FieldError, match=r"a\S*\.tif has the photometric interpretation MinIsWhite.*Invert LUT"):
        read_image(path)


def test_min_is_white_is_seen_on_every_page(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.stack([PLANE] * 3), photometric="minisblack", metadata={"axes": "CYX"})
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[1].tags["PhotometricInterpretation"].overwrite(0)
    with pytest.raises(FieldError, match="MinIsWhite"):
        read_image(path)


@pytest.mark.parametrize("rows", ["g", "rgb", "rb"])
def test_palettes_that_are_ramps_of_one_colour_only_show_it(tmp_path: Path, rows: str) -> None:
    palette = np.stack([RAMP if colour in rows else NOTHING for colour in "rgb"])
    tifffile.imwrite(tmp_path / "a.tif", PLANE, photometric="palette", colormap=palette)
    np.testing.assert_array_equal(single_plane(read_image(tmp_path / "a.tif")), PLANE)


@pytest.mark.parametrize(
    "palette",
    [
        np.stack([RAMP[::-1]] * 3),
        np.random.default_rng(1).integers(0, 65_535, (3, 256), np.uint16),
        np.stack([RAMP, RAMP[::-1], NOTHING]),
        np.stack([NOTHING] * 3),
    ],
    ids=["reversed", "noise", "red to green", "black"],
)
def test_other_palettes_hold_labels_but_no_intensities(tmp_path: Path, palette: npt.NDArray[np.uint16]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PLANE, photometric="palette", colormap=palette)
    image = read_image(tmp_path / "a.tif")
    with pytest.raises(FieldError, match="photometric interpretation Palette"):
        single_plane(image)
    np.testing.assert_array_equal(check_label_mask(image, PLANE.shape), PLANE)


@pytest.mark.parametrize("photometric", ["separated", "cielab", "cfa", "logl", "linear_raw"])
def test_other_photometrics_are_refused_by_name(tmp_path: Path, photometric: str) -> None:
    samples = {"separated": 4, "cielab": 3}.get(photometric, 1)
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.stack([PLANE] * samples, axis=-1),
        photometric="minisblack",
        planarconfig="contig",
        extrasamples=[0] * (samples - 1),
    )
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        code = tifffile.PHOTOMETRIC[photometric.upper()]
        tiff.pages[0].tags["PhotometricInterpretation"].overwrite(int(code))
    with pytest.raises(FieldError, match=f"photometric interpretation {photometric.upper()}"):
        read_image(tmp_path / "a.tif")


def test_ycbcr_is_read_only_where_jpeg_compression_says_how(tmp_path: Path) -> None:
    colour = np.stack([np.zeros_like(PLANE), np.full_like(PLANE, 120), np.zeros_like(PLANE)], axis=-1)
    tifffile.imwrite(tmp_path / "jpeg.tif", colour, photometric="rgb", compression="jpeg")
    with tifffile.TiffFile(tmp_path / "jpeg.tif") as tiff:
        assert tiff.pages[0].photometric == tifffile.PHOTOMETRIC.YCBCR
    np.testing.assert_allclose(single_plane(read_image(tmp_path / "jpeg.tif")), 120, atol=2)
    tifffile.imwrite(tmp_path / "raw.tif", colour, photometric="rgb")
    with tifffile.TiffFile(tmp_path / "raw.tif", mode="r+b") as tiff:
        tiff.pages[0].tags["PhotometricInterpretation"].overwrite(6)
    with pytest.raises(FieldError, match="YCBCR"):
        read_image(tmp_path / "raw.tif")


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("count", [2, 4, 5])
def test_extra_samples_of_a_grey_image_are_channels(tmp_path: Path, count: int, planar: str) -> None:
    stack = np.stack([random_plane(seed) for seed in range(count)])
    pixels = stack if planar == "separate" else np.moveaxis(stack, 0, -1)
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig=planar, extrasamples=[0] * (count - 1)
    )
    np.testing.assert_array_equal(channel_stack(read_image(tmp_path / "a.tif")), stack)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("colours", [1, 3])
def test_alpha_is_no_channel(tmp_path: Path, colours: int, kind: str) -> None:
    opaque = np.full_like(PLANE, 255)
    for name, alpha in (("opaque", opaque), ("varying", PLANE)):
        tifffile.imwrite(
            tmp_path / f"{name}.tif",
            np.stack([*[PLANE] * colours, alpha], axis=-1),
            photometric="rgb" if colours == 3 else "minisblack",
            planarconfig="contig",
            extrasamples=[kind],
        )
    image = read_image(tmp_path / "opaque.tif")
    np.testing.assert_array_equal(single_plane(image), PLANE)
    assert len(channel_stack(image, named_channels=colours + 1)) == 1  # a name too many does not make it one
    with pytest.raises(FieldError, match="transparency that varies"):
        read_image(tmp_path / "varying.tif")


def test_packed_and_signed_values_keep_their_numbers(tmp_path: Path) -> None:
    twelve = random_plane(2, dtype="uint16") & 4095
    (tmp_path / "packed.tif").write_bytes(_twelve_bit_tiff(twelve))
    np.testing.assert_array_equal(single_plane(read_image(tmp_path / "packed.tif")), twelve)
    signed = PLANE.astype(np.int16)
    tifffile.imwrite(tmp_path / "signed.tif", signed)
    plane = check_intensities(single_plane(read_image(tmp_path / "signed.tif")), "a")
    assert plane.dtype == np.uint16
    np.testing.assert_array_equal(plane, PLANE)


def _twelve_bit_tiff(plane: npt.NDArray[np.uint16]) -> bytes:
    """An uncompressed TIFF of 12 bits per pixel, as cameras write it."""
    height, width = plane.shape
    pairs = plane.reshape(-1, 2).astype(np.uint32)
    joined = pairs[:, 0] << 12 | pairs[:, 1]
    content = np.stack([joined >> 16, joined >> 8 & 255, joined & 255], axis=1).astype(np.uint8).tobytes()
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(content)}
    entries = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in tags.items())
    page = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return struct.pack("<2sHI", b"II", 42, 8 + len(content)) + content + page


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_values_that_are_no_intensities_are_refused(tmp_path: Path, value: float) -> None:
    plane = PLANE.astype(np.float32)
    plane[3, 4] = value
    tifffile.imwrite(tmp_path / "a.tif", plane)
    with pytest.raises(FieldError, match=r"negative|NaN or infinite"):
        check_intensities(single_plane(read_image(tmp_path / "a.tif")), "a")


@pytest.mark.parametrize("dtype", ["complex64", "bool"])
def test_kinds_that_are_no_intensities_are_refused(tmp_path: Path, dtype: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PLANE > 9 if dtype == "bool" else PLANE.astype(dtype))
    with pytest.raises(FieldError, match="expected intensities"):
        check_intensities(single_plane(read_image(tmp_path / "a.tif")), "a")


def _png(colour_type: int, pixels: npt.NDArray[np.uint8], *chunks: tuple[bytes, bytes]) -> bytes:
    """An 8-bit PNG with chunks before its pixels."""
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )


@pytest.mark.parametrize(
    "chunk",
    [
        (b"gAMA", struct.pack(">I", 22_000)),
        (b"sBIT", b"\4"),
        (b"tRNS", struct.pack(">H", 7)),
        (b"sRGB", b"\0"),
        (b"bKGD", struct.pack(">H", 9)),
    ],
    ids=lambda chunk: chunk[0].decode(),
)
def test_png_values_are_what_is_stored(tmp_path: Path, chunk: tuple[bytes, bytes]) -> None:
    (tmp_path / "a.png").write_bytes(_png(0, PLANE, chunk))
    image = read_image(tmp_path / "a.png")
    assert image.axes == "YX"
    np.testing.assert_array_equal(image.pixels, PLANE)


def test_png_palettes_mean_their_colours(tmp_path: Path) -> None:
    reversed_grey = bytes(value for index in range(256) for value in [255 - index] * 3)
    (tmp_path / "a.png").write_bytes(_png(3, PLANE, (b"PLTE", reversed_grey)))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, 255 - PLANE)
    see_through = (b"tRNS", bytes([0] * 128 + [255] * 128))
    (tmp_path / "b.png").write_bytes(_png(3, PLANE, (b"PLTE", reversed_grey), see_through))
    with pytest.raises(FieldError, match="transparency that varies"):
        read_image(tmp_path / "b.png")


def test_cmyk_jpeg_is_refused(tmp_path: Path) -> None:
    pixels = np.stack([PLANE, PLANE, PLANE, np.full_like(PLANE, 255)], axis=-1)
    (tmp_path / "a.jpg").write_bytes(imagecodecs.jpeg_encode(pixels, colorspace="CMYK", outcolorspace="CMYK"))
    with pytest.raises(FieldError, match=r"JPEG of 4 samples \(CMYK\)"):
        read_image(tmp_path / "a.jpg")
