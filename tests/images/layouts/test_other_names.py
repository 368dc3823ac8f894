"""Names of exports of microscopes' programs, and kinds of files that are not read: listed, or refused by name."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from subcell_hf.images.fields_of_view import FieldError, ReadingOptions, find_fields, list_fields
from tests.images.layouts.written_indices import htd
from tests.images.layouts.written_plates import DYES, LAYOUTS, PLATE

PIXELS = np.arange(1, 401, dtype=np.uint16).reshape(20, 20)

EXPORTS = {
    "Gen5 Z-stack": (
        ["A1_01_1_2Z0_DAPI_001.tif", "A1_01_1_2Z1_DAPI_001.tif", "A1_01_2_2Z0_GFP 469,525_001.tif"],
        "BioTek Cytation (Gen5)", ("A01", "2"), {"DAPI": 2, "GFP 469,525": 1},
    ),
    "Gen5 processed": (
        ["P24_-1_1_1_Tsf[Tex_Red 586,647]_001.tif", "P24_-1_2_1_Tsf[DAPI 377,447]_001.tif"],
        "BioTek Cytation (Gen5)", ("P24", "1"), {"Tsf[Tex_Red 586,647]": 1, "Tsf[DAPI 377,447]": 1},
    ),
    "ArrayScan": (
        ["MFGTMP-PC_140206180002_C07f02d0.TIF", "MFGTMP-PC_140206180002_C07f02d1.TIF"],
        "Cellomics ArrayScan", ("C07", "2"), {"d0": 1, "d1": 1},
    ),
    "EVOS": (
        [f"scan 1_Plate_R_p00_z0{z}_0_B11f03d{d}.TIF" for z in (0, 1) for d in (0, 2)],
        "EVOS", ("B11", "3"), {"d0": 2, "d2": 2},
    ),
    "Keyence": (
        ["1_XY01_00002_Z001_CH1.tif", "1_XY01_00002_Z002_CH1.tif", "1_XY01_00002_Z001_CH2.tif"],
        "Keyence BZ-X", ("", "XY01_00002"), {"CH1": 2, "CH2": 1},
    ),
    "Matrix Screener": (
        [f"image--L0000--S00--U01--V00--J08--E00--O00--X00--Y02--T0000--Z00--C0{c}.ome.tif" for c in (0, 1)],
        "Leica LAS (Matrix Screener)", ("", "U01--V00--J08--E00--O00--X00--Y02"), {"C00": 1, "C01": 1},
    ),
    "ZEN": (
        ["exp-01_s02_z1_c1.tif", "exp-01_s02_z2_c1.tif", "exp-01_s02_z1_c2.tif", "exp-01_s02_z2_c2.tif"],
        "Zeiss ZEN", ("", "2"), {"c1": 2, "c2": 2},
    ),
    "ZEN originals": (["e_B4_s1c1_ORG.tif", "e_B4_s1c2_ORG.tif"], "Zeiss ZEN", ("B04", "1"), {"c1": 1, "c2": 1}),
    "LAS X": (
        ["Project_TileScan 1_C_11_R2_z00_ch00.tif", "Project_TileScan 1_C_11_R2_z00_ch01.tif"],
        "Leica LAS X", ("C11", "2"), {"ch00": 1, "ch01": 1},
    ),
    "MetaMorph": (["a b_w1DAPI_s3.TIF", "a b_w2FITC 100_s3.TIF"], "MetaMorph", ("", "3"), {"DAPI": 1, "FITC 100": 1}),
    "JOBS": (
        ["WellB02_PointB02_0003_ChannelDAPI_Seq0000.tif", "WellB02_PointB02_0003_ChannelGFP_Seq0001.tif"],
        "Nikon JOBS", ("B02", "B02_0003"), {"DAPI": 1, "GFP": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPORTS)
def test_names_of_exports(name: str, tmp_path: Path) -> None:
    files, layout, (well, site), channels = EXPORTS[name]
    for file in files:
        tifffile.imwrite(tmp_path / file, PIXELS)
    found = list_fields(tmp_path)
    assert found.layout.startswith(layout)
    (field,) = found.fields
    assert (field.metadata.get("well", ""), field.metadata["site"]) == (well, site)
    assert {channel: len(planes) for channel, planes in field.listed.channel_planes.items()} == channels
    assert not found.unused


def test_composites_of_zen_and_uuids_of_metaxpress_are_no_channels(tmp_path: Path) -> None:
    for file in ("e_s1_c1.tif", "e_s1_c2.tif", "e_s1_c1+2.tif"):
        tifffile.imwrite(tmp_path / file, PIXELS)
    assert list(list_fields(tmp_path).unused) == [str(tmp_path / "e_s1_c1+2.tif")]
    (tmp_path / "ix").mkdir()
    for wave in (1, 2):
        tifffile.imwrite(tmp_path / "ix" / f"p_B02_w{wave}A0A0A0A{wave}-0F0F-4A4A-9B9B-00000000000{wave}.tif", PIXELS)
    assert list_fields(tmp_path / "ix").layout.startswith("ImageXpress")


def write_htd(folder: Path, *changes: tuple[bytes, bytes]) -> None:
    """A plate of ImageXpress of one well, one site and two wavelengths."""
    folder.mkdir()
    text = htd({"B02"}, 1, ["DAPI", "FITC"])
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "sim.HTD").write_bytes(text)
    for wave in (1, 2):
        tifffile.imwrite(folder / f"sim_B02_s1_w{wave}.TIF", PIXELS, resolution=(4e4, 4e4), resolutionunit="CENTIMETER")


@pytest.mark.parametrize(
    ("changes", "channels"),
    [
        ([(b'"', b"")], ("DAPI", "FITC")),
        ([(b'", ', b'",   ')], ("DAPI", "FITC")),
        ([(b"TRUE", b"True"), (b"FALSE", b"false")], ("DAPI", "FITC")),
        ([(b'"FITC"', b'"Cy3, long"')], ("DAPI", "Cy3, long")),
        ([(b'"ZSeries", FALSE\r\n', b""), (b'"TimePoints", 1\r\n', b"")], ("DAPI", "FITC")),
        ([(b'"ZSeries", FALSE', b'"ZSeries", TRUE\r\n"ZSteps", 5')], ("DAPI", "FITC")),  # projections alone
    ],
)
def test_forms_of_the_htd(changes: list[tuple[bytes, bytes]], channels: tuple[str, ...], tmp_path: Path) -> None:
    write_htd(tmp_path / "p", *changes)
    (field,) = list_fields(tmp_path / "p").fields
    assert field.listed.problem is None
    assert (field.metadata["well"], field.describe().channels) == ("B02", channels)


@pytest.mark.parametrize("form", ["{}", "_[{}]"])
def test_identifiers_in_names_of_metaxpress(form: str, tmp_path: Path) -> None:
    write_htd(tmp_path / "p")
    for wave in (1, 2):
        path = tmp_path / "p" / f"sim_B02_s1_w{wave}.TIF"
        path.rename(path.with_stem(path.stem + form.format(f"A0A0A0A{wave}-0F0F-4A4A-9B9B-00000000000{wave}")))
    (field,) = list_fields(tmp_path / "p").fields
    assert field.describe().problem is None
    (tmp_path / "p" / "sim.HTD").unlink()
    assert list_fields(tmp_path / "p").layout.startswith("ImageXpress")


def test_an_htd_in_utf_16(tmp_path: Path) -> None:
    write_htd(tmp_path / "p")
    index = tmp_path / "p" / "sim.HTD"
    index.write_bytes(index.read_bytes().decode("latin-1").encode("utf-16"))
    (field,) = list_fields(tmp_path / "p").fields
    assert field.describe().problem is None


@pytest.mark.parametrize(
    ("transformations", "size_um"),
    [
        ([{"type": "scale", "scale": [1, 0.2, 0.2], "input": "0", "output": "physical"}], 0.2),
        ([{"type": "sequence", "output": {"name": "physical"}, "transformations": [
            {"type": "scale", "scale": [1, 0.2, 0.2]}, {"type": "translation", "translation": [0, 5, 5]}]}], 0.2),
        ([{"type": "affine", "affine": [[1, 0, 0]], "output": "physical"}], None),
    ],
)  # fmt: skip
def test_the_draft_of_ome_zarr_0_6(
    transformations: list[dict[str, object]], size_um: float | None, tmp_path: Path
) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    group.create_array("0", shape=(2, 20, 20), dtype="uint16", chunks=(1, 20, 20))[...] = np.stack([PIXELS, PIXELS + 1])
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    pixel_axes = [{"name": f"dim_{number}"} for number in range(3)]
    systems = [{"name": "0", "axes": pixel_axes}, {"name": "physical", "axes": axes}]
    datasets = [{"path": "0", "coordinateTransformations": transformations}]
    group.attrs["ome"] = {
        "version": "0.6", "multiscales": [{"coordinateSystems": systems, "datasets": datasets}],
        "omero": {"channels": [{"label": "blue"}, {"label": "green"}]},
    }  # fmt: skip
    (field,) = find_fields(tmp_path / "a.zarr")
    if size_um is None:
        with pytest.raises(FieldError, match="coordinate transformations of the types affine are not read"):
            field.read()
    else:
        np.testing.assert_array_equal(field.read().pixels, np.stack([PIXELS, PIXELS + 1]))
        assert field.read().pixel_size_um == size_um


def gen5_xml(width_um: float, height_um: float) -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?><BTIImageMetaData><ImageReference><Plate>1</Plate></ImageReference>'
        f"<ImageAcquisition><ImageWidthMicrons>{width_um}</ImageWidthMicrons><ImageHeightMicrons>{height_um}"
        "</ImageHeightMicrons></ImageAcquisition></BTIImageMetaData>"
    )


def test_gen5_says_the_size_of_its_images(tmp_path: Path) -> None:
    options = ReadingOptions(channel_mapping={"DAPI": "blue"})
    file = tmp_path / "A1_01_1_1_DAPI_001.tif"
    tifffile.imwrite(file, PIXELS, description=gen5_xml(6.5, 6.5), metadata=None)
    (field,) = find_fields(tmp_path, options)
    assert field.describe().pixel_size_um == field.read().pixel_size_um == pytest.approx(6.5 / 20)
    tifffile.imwrite(file, PIXELS, description=gen5_xml(6.5, 13), metadata=None)
    with pytest.raises(FieldError, match=r"pixels are 0\.325 x 0\.65 um"):
        find_fields(tmp_path, options)[0].read()
    tifffile.imwrite(file, PIXELS, description="<BTIImageMetaData></BTIImageMetaData>", metadata=None)
    with pytest.raises(FieldError, match="the instrument's XML in the file's tags cannot be used"):
        find_fields(tmp_path, options)[0].read()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (
            "a.vsi",
            ".vsi files are not read (Olympus and Evident, cellSens and FluoView): convert it to OME-Zarr",
        ),
        ("a.oir", ".oir files are not read (Olympus and Evident"),
        ("a.lof", ".lof files are not read (Leica LAS X)"),
        ("a_R3D.dv", ".dv files are not read (DeltaVision)"),
        ("a.ims", ".ims files are not read (Imaris)"),
        ("MFGTMP_1_A01f00d0.C01", ".c01 files are not read (Cellomics ArrayScan)"),
        ("001001000.flex", ".flex files are not read (Opera and Columbus)"),
        ("a.bmp", ".bmp files are not read: save it as TIFF or PNG"),
    ],
)
def test_kinds_that_are_not_read_are_named_with_a_remedy(file: str, said: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(b"anything")
    (field,) = list_fields(tmp_path).fields
    assert said in str(field.listed.problem)
    with pytest.raises(FieldError) as raised:
        list_fields(tmp_path / file)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("p.xlef", "save the project as one .lif file"),
        ("NDTiff.index", "save the data as OME-TIFF in Micro-Manager"),
        ("frame_t.ets", "a part of a .vsi of Olympus"),
        ("plate.h5", "HDF5, of which the layout is not known"),
    ],
)
def test_files_that_are_no_images_say_what_to_give(file: str, said: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(b"anything")
    for source in (tmp_path, tmp_path / file):
        with pytest.raises(FieldError) as raised:
            list_fields(source)
        assert said in str(raised.value)


def test_an_archive_in_a_folder_says_how_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "plate.zip").write_bytes(b"anything")
    with pytest.raises(FieldError, match="an archive: give it by itself, or unpack it"):
        list_fields(tmp_path)


def test_separate_images_of_micro_manager_1(tmp_path: Path) -> None:
    """Names of channels and time points of every image, as version 1.4 writes them; the calibration may be missing."""
    summary = {"Summary": {"ChNames": ["DAPI", "GFP"], "PixelSize_um": 0}}
    for position in ("Pos0", "Pos1"):
        (tmp_path / "run_1" / position).mkdir(parents=True)
        described: dict[str, object] = dict(summary)
        for time in (0, 1):
            for number, channel in enumerate(("DAPI", "GFP")):
                file = f"img_{time:09d}_{channel}_000.tif"
                described[f"FrameKey-{time}-{number}-0"] = {
                    "FileName": file, "Channel": channel, "PositionName": position, "PixelSizeUm": 0.0,
                    "XPositionUm": 12.5, "YPositionUm": -4,
                }  # fmt: skip
                tifffile.imwrite(tmp_path / "run_1" / position / file, PIXELS + number + 10 * time)
        (tmp_path / "run_1" / position / "metadata.txt").write_text(json.dumps(described))
    options = ReadingOptions(pixel_size_um=0.3, channel_mapping={"DAPI": "blue", "GFP": "green"})
    found = list_fields(tmp_path, options)
    assert found.layout == "Micro-Manager (separate image files)"
    assert [field.name for field in found.fields] == [f"run_1_Pos{n}_t{t}" for n in (0, 1) for t in (0, 1)]
    np.testing.assert_array_equal(found.fields[1].read().pixels, [PIXELS + 10, PIXELS + 11])
    assert found.fields[1].metadata["stage_x_um"] == "12.5"
    (tmp_path / "run_1" / "Pos1" / "img_000000001_GFP_000.tif").unlink()
    assert "1 of 2 listed planes is not on the disk" in str(list_fields(tmp_path, options).fields[3].listed.problem)
    assert "pixel size is unknown" in str(list_fields(tmp_path).fields[0].describe().problem)
    whole = (tmp_path / "run_1" / "Pos1" / "metadata.txt").read_text()
    (tmp_path / "run_1" / "Pos1" / "metadata.txt").write_text(whole[:-40])
    names = [field.name for field in list_fields(tmp_path, options).fields]
    assert names == ["Pos1-metadata.txt", "run_1_Pos0_t0", "run_1_Pos0_t1"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("\n}", "", "is damaged or not JSON"),
        ('["Hoechst 33342", "Alexa 488"]', '"DAPI"', "expected a list of names"),
        ("Alexa 488", "Hoechst 33342", "several planes 0 of channel Hoechst 33342"),
        ("Coords-B2-Site_1/img_channel001", "Coords-B2-Site_1/img_channel007", "IndexError"),
        ("PixelSizeUm", "Other", "pixel size is unknown"),
    ],
)
def test_damaged_descriptions_of_micro_manager(old: str, new: str, said: str, tmp_path: Path) -> None:
    pixels = dict.fromkeys(DYES, PIXELS)
    LAYOUTS["Micro-Manager"].write(tmp_path, {("B02", 1): pixels, ("B02", 2): pixels})
    index = tmp_path / PLATE / "B2-Site_1" / "metadata.txt"
    text = index.read_text()
    assert old in text
    index.write_text(text.replace(old, new))
    problems = [str(field.describe().problem) for field in list_fields(tmp_path).fields]
    assert [said in problem for problem in problems].count(True) == 1
    assert problems.count("None") == 1


@pytest.mark.parametrize(
    ("file", "index"),
    [
        ("W0001F0001T0001Z001C1.tif", "MeasurementData.mlf"),
        ("DC_sCMOS #1_CAM1.tif", "MeasurementData.mlf"),
        ("r01c01f01p01rc2-ch1sk1fk1fl1.tiff", "Index.idx.xml"),
        ("001001-1-001001001.tif", "Index.idx.xml"),
        ("run_t0_B02_s0_w1_z0.tif", "the .jdce"),
        ("img_000000000_DAPI_000.tif", "metadata.txt"),
        ("img_channel000_position000_time000000000_z000.tif", "metadata.txt"),
    ],
)
def test_images_that_need_an_index_say_which(file: str, index: str, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / file, PIXELS)
    (field,) = list_fields(tmp_path).fields
    assert f"Copy {index}" in str(field.listed.problem)


def _positions_of_micro_manager(folder: Path) -> None:
    """Two positions, a file each, whose OME-XML describes both, as Micro-Manager writes them."""
    described = "".join(
        f'<Image ID="Image:{n}" Name="e_MMStack_Pos{n}"><Pixels ID="Pixels:{n}" DimensionOrder="XYCZT" Type="uint16" '
        f'SizeX="20" SizeY="20" SizeC="2" SizeZ="1" SizeT="1" PhysicalSizeX="0.3" PhysicalSizeY="0.3">'
        + "".join(f'<Channel ID="Channel:{n}:{c}" Name="{name}"/>' for c, name in enumerate(("DAPI", "GFP")))
        + "".join(
            f'<TiffData FirstC="{c}" FirstZ="0" FirstT="0" IFD="{c}" PlaneCount="1">'
            f'<UUID FileName="e_MMStack_Pos{n}.ome.tif">urn:uuid:{n}</UUID></TiffData>'
            for c in (0, 1)
        )
        + "</Pixels></Image>"
        for n in (0, 1)
    )
    for n in (0, 1):
        xml = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{n}">{described}</OME>'
        pixels = np.stack([PIXELS, PIXELS + 1]) + 1000 * n
        tifffile.imwrite(folder / f"e_MMStack_Pos{n}.ome.tif", pixels.astype(np.uint16), description=xml, metadata=None)


def test_positions_of_micro_manager_are_told_apart_without_remarks(tmp_path: Path) -> None:
    _positions_of_micro_manager(tmp_path)
    code = "import sys; from subcell_hf.cli import app; app(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, "inspect", str(tmp_path)], capture_output=True, text=True)
    assert "2 fields of view, 2 usable" in done.stdout
    assert done.stderr == ""
    options = ReadingOptions(channel_mapping={"DAPI": "blue", "GFP": "green"})
    for number, field in enumerate(find_fields(tmp_path, options)):
        np.testing.assert_array_equal(field.read().pixels, np.stack([PIXELS, PIXELS + 1]) + 1000 * number)
