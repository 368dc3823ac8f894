"""Every kind of file is read exactly, and every kind of damage has its message."""

import gzip
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from subcell_hf.images.files import FieldError, image_suffix, read_image
from tests.images.written_fields import random_plane, write_png


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".tif.gz", ".npy"])
def test_lossless_files_keep_every_bit(tmp_path: Path, dtype: str, suffix: str) -> None:
    plane = random_plane(1, dtype=dtype)
    path = tmp_path / f"plane{suffix}"
    if suffix == ".png":
        write_png(path, plane)
    elif suffix == ".npy":
        np.save(path, plane)
    else:
        plain = tmp_path / "plain.tif"
        tifffile.imwrite(plain, plane, compression="lzw")
        path.write_bytes(gzip.compress(plain.read_bytes()) if suffix == ".tif.gz" else plain.read_bytes())
    image = read_image(path)
    assert image.pixels.dtype == dtype
    assert image.axes == "YX"
    np.testing.assert_array_equal(image.pixels, plane)


def test_jpeg_is_read_as_the_decoder_gives_it(hpa_fields: Path) -> None:
    path = hpa_fields / "89_B5_1_blue.jpg"
    image = read_image(path)
    assert image.axes == "YXS"
    np.testing.assert_array_equal(image.pixels, imagecodecs.jpeg_decode(path.read_bytes()))


def test_a_file_is_known_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    write_png(tmp_path / "named_wrongly.tif", random_plane(1))
    np.testing.assert_array_equal(read_image(tmp_path / "named_wrongly.tif").pixels, random_plane(1))


def test_unicode_and_spaces_in_paths(tmp_path: Path) -> None:
    folder = tmp_path / "Zellen – Platte № 1 (µm)"
    folder.mkdir()
    write_png(folder / "ein Bild ä.png", random_plane(2))
    np.testing.assert_array_equal(read_image(folder / "ein Bild ä.png").pixels, random_plane(2))


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a_red.JPG", ".jpg"),
        ("a_red.tif.gz", ".tif.gz"),
        ("a.ome.tiff", ".ome.tiff"),
        ("a.zarr", ".zarr"),
        ("a.txt", None),
        ("a.csv", None),
    ],
)
def test_image_suffix(name: str, suffix: str | None) -> None:
    assert image_suffix(Path(name)) == suffix


def _written(folder: Path, kind: str) -> Path:
    plane = random_plane(3, (256, 256))
    path = folder / f"whole.{kind}"
    if kind == "png":
        write_png(path, plane)
    elif kind == "jpg":
        path.write_bytes(imagecodecs.jpeg_encode(plane))
    elif kind == "npy":
        np.save(path, plane)
    elif kind == "tif.gz":
        tifffile.imwrite(folder / "plain.tif", plane)
        path.write_bytes(gzip.compress((folder / "plain.tif").read_bytes()))
    else:
        tifffile.imwrite(path, plane, compression={"tif": None, "tiff": "zlib"}[kind])
    return path


@pytest.mark.parametrize("kept", [0.03, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "tiff", "tif.gz", "npy"])
def test_truncated_files_are_refused(tmp_path: Path, kind: str, kept: float) -> None:
    path = _written(tmp_path, kind)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(FieldError, match=r"truncated|corrupt") as raised:
        read_image(path)
    assert str(path) in str(raised.value)
    assert "again" in str(raised.value)


def test_a_jpeg_without_its_last_two_bytes_is_refused(tmp_path: Path) -> None:
    path = _written(tmp_path, "jpg")
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(FieldError, match="end mark is missing"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"GIF89a...", "no image that can be read"), (b"\x93NUMPY\x01\x00", "corrupt")],
)
def test_other_content_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(FieldError, match=message):
        read_image(tmp_path / "x.png")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match=r"nowhere\.png: No such file"):
        read_image(tmp_path / "nowhere.png")


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(FieldError, match="Python objects"):
        read_image(tmp_path / "x.npy")


def _png_of_zeros(width: int, height: int) -> bytes:
    """A PNG that says it is huge and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_decompression_bombs_are_refused_before_decoding(tmp_path: Path) -> None:
    bombs = {}
    bombs["png"] = _png_of_zeros(200_000, 200_000)
    bombs["gz"] = gzip.compress(gzip.compress(b"\0" * 40_000_000)[:100] + b"\0" * 40_000_000)
    tifffile.imwrite(tmp_path / "small.tif", np.zeros((6000, 6000), np.uint8), compression="zlib")
    bombs["tif"] = (tmp_path / "small.tif").read_bytes()
    jpeg = bytearray(imagecodecs.jpeg_encode(random_plane(4)))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    bombs["jpg"] = bytes(jpeg)
    for kind, data in bombs.items():
        path = tmp_path / f"bomb.{kind}"
        path.write_bytes(data)
        assert len(data) < 200_000
        with pytest.raises(FieldError, match=r"too large.*at most 30,000,000 bytes.*max_decoded_bytes"):
            read_image(path, max_decoded_bytes=30_000_000)


def test_npy_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (100000, 100000), }".ljust(117) + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 4)
    with pytest.raises(FieldError, match="too large"):
        read_image(tmp_path / "x.npy")


def test_a_file_larger_than_the_limit_is_not_even_opened(tmp_path: Path) -> None:
    write_png(tmp_path / "x.png", random_plane(1))
    with pytest.raises(FieldError, match="too large"):
        read_image(tmp_path / "x.png", max_decoded_bytes=1000)


def test_one_file_of_a_set_is_refused(tmp_path: Path) -> None:
    planes = "".join(
        f'<TiffData FirstC="{channel}" IFD="0" PlaneCount="1">'
        f'<UUID FileName="{name}.ome.tif">urn:uuid:{name}</UUID></TiffData>'
        for channel, name in enumerate("ab")
    )
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:a">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="72" SizeY="64" SizeC="2" '
        f'SizeZ="1" SizeT="1">{planes}</Pixels></Image></OME>'
    )
    tifffile.imwrite(tmp_path / "a.ome.tif", random_plane(1), description=xml, metadata=None)
    with pytest.raises(FieldError, match="one of several files"):
        read_image(tmp_path / "a.ome.tif")


def test_strips_that_were_never_written_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", random_plane(1), rowsperstrip=32)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        tiff.pages[0].tags["StripByteCounts"].overwrite([64 * 72 // 2, 0])
    with pytest.raises(FieldError, match="truncated TIFF: 0 bytes"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_ome_zarr(tmp_path: Path, zarr_format: int) -> None:
    pixels = np.stack([random_plane(seed, dtype="uint16") for seed in (1, 2)])
    path = tmp_path / "field 1.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    group.create_array("0", data=pixels)
    axes = [{"name": "c", "type": "channel"}] + [
        {"name": name, "type": "space", "unit": "micrometer"} for name in ("y", "x")
    ]
    scale = [{"type": "scale", "scale": [1.0, 0.2, 0.2]}]
    facts = {
        "multiscales": [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}],
        "omero": {"channels": [{"label": "DAPI"}, {"label": "GFP"}]},
    }
    group.attrs.update({"ome": facts} if zarr_format == 3 else facts)
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.axes == "CYX"
    assert image.metadata.channel_names == ("DAPI", "GFP")
    assert image.metadata.pixel_size_um == pytest.approx(0.2)
    with pytest.raises(FieldError, match="too large"):
        read_image(path, max_decoded_bytes=1000)


def test_a_folder_that_is_no_ome_zarr_is_refused(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "plate.zarr", mode="w").attrs["plate"] = {}
    with pytest.raises(FieldError, match="multiscales"):
        read_image(tmp_path / "plate.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(FieldError, match="no OME-Zarr image"):
        read_image(tmp_path / "empty.zarr")
