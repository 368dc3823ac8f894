"""Indices of Harmony and Columbus as they differ between programs: pages, planes without a file, several indices."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from subcell_hf.images.fields_of_view import ReadingOptions, find_fields, list_fields

PIXELS = np.arange(1, 2 * 2 * 20 * 20 + 1, dtype=np.uint16).reshape(2, 2, 20, 20)  # [Z-planes, channels, …]
DYES = ("DAPI", "FITC")


def image(url: str, channel: int, z: int = 1, site: int = 1, attributes: str = "") -> str:
    return (
        f'<Image Version="1"><id>0203K1F{site}P{z}R{channel}</id><URL{attributes}>{url}</URL><Row>2</Row><Col>3</Col>'
        f"<FieldID>{site}</FieldID><PlaneID>{z}</PlaneID><TimepointID>1</TimepointID><ChannelID>{channel}</ChannelID>"
        f"<ChannelName>{DYES[channel - 1]}</ChannelName>"
        '<ImageResolutionX Unit="m">3E-07</ImageResolutionX><ImageResolutionY Unit="m">3E-07</ImageResolutionY></Image>'
    )


def write_index(path: Path, images: str, namespace: str = "PEHH/HarmonyV5", plate: str = "col-1") -> None:
    path.write_text(
        f'\ufeff<?xml version="1.0" encoding="utf-8"?><EvaluationInputData xmlns="http://www.perkinelmer.com/{namespace}">'
        f"<Plates><Plate><PlateID>{plate}</PlateID><PlateRows>8</PlateRows><PlateColumns>12</PlateColumns></Plate>"
        f'</Plates><Wells><Well><id>0203</id><Image id="0203K1F1P1R1" /></Well></Wells><Images>{images}</Images>'
        "</EvaluationInputData>",
        encoding="utf-8",
    )


def test_columbus_says_the_page_of_each_plane(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "002003-1.tif", PIXELS.reshape(4, 20, 20), metadata=None, photometric="minisblack")
    images = "".join(
        image("002003-1.tif", channel, z, attributes=f' BufferNo="{2 * (z - 1) + channel - 1}"')
        for z in (1, 2)
        for channel in (1, 2)
    )
    write_index(tmp_path / "ImageIndex.ColumbusIDX.xml", images, "Columbus")
    (tmp_path / "MeasurementIndex.ColumbusIDX.xml").write_text("<ColumbusMeasurementIndex/>")
    found = list_fields(tmp_path, ReadingOptions(z_projection=1))
    (field,) = found.fields
    assert (field.name, field.describe().problem, found.unused) == ("col-1_B03_1", None, {})
    read = field.read()
    assert np.array_equal(read.pixels, PIXELS[1])
    assert (read.channels, read.pixel_size_um) == (DYES, 0.3)
    assert find_fields(tmp_path / "ImageIndex.ColumbusIDX.xml")[0].name == field.name


def test_planes_without_a_file_are_missing(tmp_path: Path) -> None:
    """The instrument lists what it could not take: it must not become a thinner stack, or a plate without the field."""
    for z in (1, 2):
        tifffile.imwrite(tmp_path / f"z{z}.tiff", PIXELS[z - 1, 0])
    images = image("z1.tiff", 1, 1) + image("z2.tiff", 1, 2) + image("", 1, 3) + image("", 1, 1, site=2)
    write_index(tmp_path / "Index.idx.xml", images)
    first, second = find_fields(tmp_path)
    assert "1 of 3 listed planes is not on the disk: 0203K1F1P3R1 (no file in Index.idx.xml)" in str(
        first.listed.problem
    )
    assert "1 of 1 listed plane is not on the disk: 0203K1F2P1R1" in str(second.listed.problem)


@pytest.mark.parametrize(("names", "used"), [(["Index.ref.xml"], 0), (["INDEX.REF.XML", "Index.idx.xml"], 1)])
def test_one_index_of_a_folder_is_read(names: list[str], used: int, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tiff", PIXELS[0, 0])
    for number, name in enumerate(names):
        write_index(tmp_path / name, image("a.tiff", 1), plate=f"P{number}")
    assert [field.name for field in find_fields(tmp_path)] == [f"P{used}_B03_1"]


def test_z_planes_of_channels_that_are_not_wanted_need_no_choice(tmp_path: Path) -> None:
    """Brightfield is often a stack beside single planes of fluorescence."""
    images = image("a.tiff", 1)
    tifffile.imwrite(tmp_path / "a.tiff", PIXELS[0, 0])
    for z in (1, 2):
        tifffile.imwrite(tmp_path / f"b{z}.tiff", PIXELS[z - 1, 1])
        images += image(f"b{z}.tiff", 2, z)
    write_index(tmp_path / "Index.idx.xml", images)
    (field,) = find_fields(tmp_path, ReadingOptions(channels=("DAPI",)))
    assert (field.describe().z_planes, field.describe().problem) == (1, None)
    assert np.array_equal(field.read().pixels, PIXELS[0, :1])
    assert "2 Z-planes" in str(find_fields(tmp_path)[0].describe().problem)
