"""Whatever a decoder raises becomes the file's reason, and no file makes a reader hang or take all memory."""

import gzip
import io
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from subcell_hf.images.files import FieldError, read_image
from tests.images.written_fields import random_plane, write_png

PLANE = random_plane(1, (64, 64))


def _tag(path: Path, name: str, value: object, page: int = 0) -> None:
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[page].tags[name].overwrite(value)


@pytest.mark.parametrize(
    ("options", "tag", "value"),
    [
        ({"rowsperstrip": 16}, "RowsPerStrip", 0),
        ({"tile": (32, 32)}, "TileWidth", 0),
        ({"tile": (32, 32)}, "TileLength", 0),
        ({"rowsperstrip": 16, "compression": "zlib"}, "RowsPerStrip", 1),
        ({"tile": (32, 32)}, "TileWidth", 16),
        ({}, "SamplesPerPixel", 2),
        ({}, "SampleFormat", 9),
        ({}, "ImageWidth", 0),
        ({}, "ImageLength", 65),
        ({"compression": "zlib"}, "Compression", 5),
        ({"compression": "zlib"}, "Compression", 60_000),
        ({"compression": "zlib", "predictor": 2}, "Predictor", 77),
    ],
)
def test_tags_of_a_tiff(tmp_path: Path, options: dict[str, object], tag: str, value: int) -> None:
    path = tmp_path / "a.tif"
    plane = PLANE.astype(np.int8) if tag == "SampleFormat" else PLANE  # of unsigned ones, the tag may be left out
    tifffile.imwrite(path, plane, metadata=None, **options)
    _tag(path, tag, value)
    with pytest.raises(FieldError, match=r"a\.tif.*(truncated|corrupt|shape|values of a kind)"):
        read_image(path)


def test_a_chain_of_pages_that_ends_nowhere_or_never(tmp_path: Path) -> None:
    """Cut at a page, tifffile reads the pages before it; in a circle of more than a hundred, for ever."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([PLANE] * 150), photometric="minisblack", metadata=None)
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        first, last = tiff.pages[3].offset, tiff.pages[149].offset
    end = last + 2 + struct.unpack_from("<H", whole, last)[0] * 12
    assert whole[end : end + 4] == b"\0\0\0\0"
    for offset in (first, len(whole) + 10, len(whole) - 1):
        path.write_bytes(whole[:end] + struct.pack("<I", offset) + whole[end + 4 :])
        with pytest.raises(FieldError, match=f"no page 151 lies at byte {offset:,}"):
            read_image(path)


def test_a_file_that_lists_pages_without_end(tmp_path: Path) -> None:
    pages = b"".join(struct.pack("<HHHIII", 1, 256, 3, 1, 1, 8 + (number + 1) * 18) for number in range(30_000))
    (tmp_path / "a.tif").write_bytes(struct.pack("<2sHI", b"II", 42, 8) + pages)
    with pytest.raises(FieldError, match="more than 20,000 pages"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("facts", ['SizeC="2000000000"', 'SizeC="1" extra="2000000000"', 'SizeC="x"'])
def test_ome_xml_that_announces_more_than_a_file_can_hold(tmp_path: Path, facts: str) -> None:
    count = 'PlaneCount="2000000000"' if "extra" in facts else ""
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        f'DimensionOrder="XYCZT" Type="uint8" SizeX="64" SizeY="64" SizeZ="1" SizeT="1" {facts}><TiffData {count}/>'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite(tmp_path / "a.ome.tif", PLANE, description=xml, metadata=None)
    with pytest.raises(FieldError, match="corrupt"):
        read_image(tmp_path / "a.ome.tif")


def test_ome_xml_that_expands_to_billions_of_letters(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    xml = f'<!DOCTYPE OME [<!ENTITY a0 "ha">{entities}]><OME xmlns="http://www.openmicroscopy.org/">&a9;</OME>'
    tifffile.imwrite(tmp_path / "a.ome.tif", PLANE, description=xml, metadata=None)
    with pytest.raises(FieldError, match="malformed"):
        read_image(tmp_path / "a.ome.tif")


def _npy(header: str, content: bytes = b"\0" * 16) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 4), ",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 4",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 4), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 4), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 4), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 4, 4), }",
        "{'descr': '|u0', 'fortran_order': False, 'shape': (4, 4), }",
        "{'descr': 'nonsense', 'fortran_order': False, 'shape': (4, 4), }",
        "(" * 100,
        "{" + "-" * 100,
    ],
)
def test_headers_of_npy(tmp_path: Path, header: str) -> None:
    (tmp_path / "a.npy").write_bytes(_npy(header))
    with pytest.raises(FieldError, match=r"a\.npy (is|has)"):
        read_image(tmp_path / "a.npy")


def test_a_sound_npy_of_the_same_make_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(_npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4, 4), }"))
    assert read_image(tmp_path / "a.npy").pixels.shape == (4, 4)


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(FieldError, match="no regular file"):
        read_image(tmp_path / "a.png")


def test_a_large_file_of_small_images_is_read(tmp_path: Path) -> None:
    """The limit is one of decoded images: a TIFF of many positions may be larger."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PLANE)
    with path.open("ab") as file:
        file.write(b"\0" * 100_000)
    np.testing.assert_array_equal(read_image(path, max_decoded_bytes=10_000).pixels, PLANE)


@pytest.mark.parametrize("error", [AssertionError, MemoryError, RecursionError, OverflowError, ZeroDivisionError])
def test_whatever_a_decoder_raises_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def decode(*_: object, **__: object) -> None:
        raise error

    path = tmp_path / "a.png"
    write_png(path, PLANE)
    monkeypatch.setattr("imagecodecs.png_decode", decode)
    with pytest.raises(FieldError, match=r"a\.png.*(corrupt|more memory)"):
        read_image(path)


def _zarr(path: Path, **options: object) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", data=PLANE, chunks=(32, 32), **options)
    axes = [{"name": "y"}, {"name": "x"}]
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
    return path


def _change(key: str, value: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        facts = json.loads((path / "0/.zarray").read_text())
        (path / "0/.zarray").write_text(json.dumps({**facts, key: value}))

    return change


@pytest.mark.parametrize(
    "damage",
    [
        _change("shape", [10**9, 10**9]),
        _change("shape", [0, 64]),
        _change("chunks", [10**6, 10**6]),
        _change("chunks", [0, 32]),
        lambda path: (_change("chunks", [1, 1])(path), _change("shape", [5000, 5000])(path)),
        _change("dtype", "|O"),
        _change("dtype", "<U7"),
        _change("compressor", {"id": "pickle"}),
        _change("filters", [{"id": "pickle"}]),
        _change("compressor", {"id": "nonsense"}),
        _change("fill_value", "nonsense"),
        lambda path: (path / "0/0.0").write_bytes((path / "0/0.0").read_bytes()[:30]),
        lambda path: (path / "0/0.0").write_bytes(b""),
        lambda path: (path / "0/0.0").write_bytes(b"nonsense"),
        lambda path: (path / "0/.zarray").write_text("{"),
        lambda path: (path / "0/.zarray").write_text("[" * 100_000),
        lambda path: (path / ".zattrs").write_text('{"multiscales": 5}'),
        lambda path: (path / ".zattrs").write_text('{"ome": 5}'),
    ],
)
def test_ome_zarr(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path = _zarr(tmp_path / "a.zarr")
    damage(path)
    with pytest.raises(FieldError, match=r"a\.zarr"):
        read_image(path)


def test_a_pickle_inside_of_a_zarr_is_not_run(tmp_path: Path) -> None:
    path = _zarr(tmp_path / "a.zarr", compressors=None)
    _change("compressor", {"id": "pickle"})(path)
    run = f"cos\nsystem\n(S'touch {tmp_path / 'was_run'}'\ntR.".encode()
    for chunk in (path / "0").glob("[0-9]*"):
        chunk.write_bytes(run)
    with pytest.raises(FieldError):
        read_image(path)
    assert not (tmp_path / "was_run").exists()


def test_gzip_around_a_damaged_tiff(tmp_path: Path) -> None:
    stream = io.BytesIO()
    tifffile.imwrite(stream, PLANE, metadata=None)
    data = stream.getvalue()
    (tmp_path / "a.tif.gz").write_bytes(gzip.compress(data[: len(data) // 2]))
    with pytest.raises(FieldError, match="truncated"):
        read_image(tmp_path / "a.tif.gz")
