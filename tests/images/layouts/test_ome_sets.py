"""OME-TIFFs whose OME-XML is of several files, as Micro-Manager writes them, or of planes that lie elsewhere."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from subcell_hf.images.fields_of_view import FieldError, find_fields, list_fields

PIXELS = np.random.default_rng(0).integers(1, 4000, (4, 2, 24, 32)).astype(np.uint16)
OME = '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'


def image(name: str, number: int, planes: str) -> str:
    channels = "".join(f'<Channel ID="C:{number}:{c}" Name="{dye}"/>' for c, dye in enumerate(("DAPI", "GFP")))
    return (
        f'<Image ID="Image:{number}" Name="{name}"><Pixels ID="P:{number}" DimensionOrder="XYCZT" Type="uint16" '
        'SizeX="32" SizeY="24" SizeC="2" SizeZ="1" SizeT="1" PhysicalSizeX="0.325" PhysicalSizeY="0.325">'
        f"{channels}{planes}</Pixels></Image>"
    )


def of_file(name: str) -> str:
    return "".join(
        f'<TiffData FirstC="{c}" IFD="{c}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{name}</UUID></TiffData>'
        for c in (0, 1)
    )


def save(path: Path, planes: npt.NDArray[np.uint16], xml: str) -> None:
    with tifffile.TiffWriter(path) as tiff:
        for number, plane in enumerate(planes):
            tiff.write(plane, description=None if number else xml.encode(), metadata=None, contiguous=False)


def write_stacks(folder: Path, labels: Sequence[str], in_all: bool) -> list[str]:
    """One file for each position; the first describes all of them, and version 1.4 copies that into every file."""
    names = [f"exp_1_MMStack_{label}.ome.tif" for label in labels]
    xml = OME + "".join(image(name[:-8], n, of_file(name)) for n, name in enumerate(names)) + "</OME>"
    other = f'{OME}<BinaryOnly MetadataFile="{names[0]}" UUID="urn:uuid:{names[0]}"/></OME>'
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        save(folder / name, PIXELS[number], xml if in_all or not number else other)
    return names


@pytest.mark.parametrize("in_all", [True, False])
def test_stacks_of_micro_manager(tmp_path: Path, in_all: bool) -> None:
    write_stacks(tmp_path, ["A1-Site_0", "A1-Site_1", "B12-Site_0"], in_all)
    (tmp_path / "other").mkdir()
    save(tmp_path / "other" / "alone.ome.tif", PIXELS[3], f"{OME}{image('alone', 0, '<TiffData/>')}</OME>")
    found = list_fields(tmp_path)
    assert [(field.name, field.metadata["well"]) for field in found.fields] == [
        ("exp_1_A01_0", "A01"), ("exp_1_A01_1", "A01"), ("exp_1_B12_0", "B12"),
    ]  # fmt: skip
    for number, field in enumerate(found.fields):
        read = field.read()
        assert np.array_equal(read.pixels, PIXELS[number])
        assert (read.channels, read.pixel_size_um) == (("DAPI", "GFP"), 0.325)
    assert list(found.unused) == [str(tmp_path / "other" / "alone.ome.tif")]


def test_a_set_without_the_file_that_describes_it_is_refused(tmp_path: Path) -> None:
    names = write_stacks(tmp_path, ["Pos0", "Pos1"], in_all=False)
    (tmp_path / names[0]).unlink()
    with pytest.raises(FieldError, match=f"{re.escape(names[0])} is missing, which describes the OME-TIFFs beside it"):
        list_fields(tmp_path)


def test_a_file_of_a_set_that_is_not_there_is_named(tmp_path: Path) -> None:
    names = write_stacks(tmp_path / "a", ["Pos0", "Pos1"], in_all=True)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for name in names:  # another acquisition
        (tmp_path / "b" / name).rename(tmp_path / "b" / name.replace("exp_1", "exp_2"))
    (tmp_path / "a" / names[1]).unlink()
    problems = {field.name: field.listed.problem for field in find_fields(tmp_path / "a")}
    assert problems["exp_1_MMStack_Pos0"] is None
    assert f"2 of 2 listed planes are not on the disk: {names[1]}" in str(problems["exp_1_MMStack_Pos1"])
    assert all("are not on the disk" in str(field.listed.problem) for field in find_fields(tmp_path / "b"))


def test_planes_of_evos_are_read_whatever_their_ome_xml_announces(tmp_path: Path) -> None:
    for channel in (0, 1):
        xml = f"{OME}{image('scan', 0, '<TiffData/>')}</OME>"
        save(tmp_path / f"scan_Plate_R_p00_0_A01f00d{channel}.TIF", PIXELS[0, channel : channel + 1], xml)
    (field,) = find_fields(tmp_path)
    read = field.read()
    assert (field.name, read.channels, read.pixel_size_um) == ("scan_Plate_R_p00_A01_0", ("d0", "d1"), 0.325)
    assert np.array_equal(read.pixels, PIXELS[0])


def test_ndtiff_is_refused_by_name(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "exp_NDTiffStack.tif", PIXELS[0])
    (tmp_path / "NDTiff.index").write_bytes(b"")
    with pytest.raises(FieldError, match=r"NDTiff\.index cannot be read: it is an index of Micro-Manager's NDTiff"):
        list_fields(tmp_path)
