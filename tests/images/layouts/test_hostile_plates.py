"""Plates that are damaged, half written, renamed or put together wrongly are refused by name, and never guessed at."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from subcell_hf.images.fields_of_view import FieldError, FoundFields, list_fields
from subcell_hf.images.reading_options import ReadingOptions
from tests.images.layouts.written_indices import metaseries
from tests.images.layouts.written_plates import DYES, LAYOUTS, PIXEL_UM, PLATE, Plate

INDICES = {
    "Harmony 5": "Index.idx.xml",
    "Harmony 7": "Index.xml",
    "ImageXpress": "sim.HTD",
    "ImageXpress HCS.ai": "sim.jdce",
    "CellVoyager": "MeasurementData.mlf",
    "IN Cell": "sim.xdce",
    "scanR": "metadata.ome.xml",
}
XML = ("Harmony 5", "Harmony 7", "CellVoyager", "IN Cell", "scanR")
BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]>'


def small_plate() -> Plate:
    """Two sites of one well, without cells."""
    random = np.random.default_rng(0)
    return {("B02", site): {dye: random.integers(1, 999, (16, 16), np.uint16) for dye in DYES} for site in (1, 2)}


def write(name: str, folder: Path) -> Path:
    """Write a plate; returns its index, or the folder where the layout has none."""
    folder.mkdir(parents=True)
    LAYOUTS[name].write(folder, small_plate())
    return (
        next(iter(sorted(folder.rglob(INDICES[name]), key=lambda path: len(path.parts)))) if name in INDICES else folder
    )


def edit(index: Path, *changes: tuple[str, str], encoding: str = "utf-8") -> None:
    """Replace texts that must be there."""
    text = index.read_bytes().decode(encoding)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    index.write_bytes(text.encode(encoding))


def problems(found: FoundFields) -> list[str]:
    return [item.listed.problem for item in found.fields if item.listed.problem]


@pytest.mark.parametrize("name", INDICES)
def test_indices_in_other_case_and_deep_folders(name: str, tmp_path: Path) -> None:
    index = write(name, tmp_path / "in" / "2024" / "run 1")
    for path in [
        path for path in index.parent.iterdir() if path.is_file() and path.suffix.lower() not in (".tif", ".tiff")
    ]:
        path.rename(path.with_name(path.name.upper()))
    found = list_fields(tmp_path / "in")
    assert [item.metadata["well"] for item in found.fields] == ["B02", "B02"]
    assert problems(found) == []


@pytest.mark.parametrize("name", INDICES)
def test_the_index_itself_can_be_given(name: str, tmp_path: Path) -> None:
    index = write(name, tmp_path / "in")
    assert [item.name for item in list_fields(index).fields] == [
        item.name for item in list_fields(tmp_path / "in").fields
    ]


@pytest.mark.parametrize("name", XML)
def test_indices_in_utf_16(name: str, tmp_path: Path) -> None:
    index = write(name, tmp_path / "in")
    text = index.read_bytes().decode("latin-1" if name == "IN Cell" else "utf-8-sig")
    index.write_bytes(text.replace("utf-8", "utf-16").replace("ISO-8859-1", "utf-16").encode("utf-16"))
    found = list_fields(tmp_path / "in")
    assert [item.metadata["well"] for item in found.fields] == ["B02", "B02"]
    assert problems(found) == []


@pytest.mark.parametrize("name", XML)
def test_entities_are_refused(name: str, tmp_path: Path) -> None:
    index = write(name, tmp_path / "in")
    encoding = "latin-1" if name == "IN Cell" else "utf-8"
    start = index.read_bytes().decode(encoding)
    index.write_bytes(start.replace("?>", f"?>{BOMB}", 1).encode(encoding))
    with pytest.raises(FieldError, match=f"{index.name} declares <!DOCTYPE"):
        list_fields(tmp_path / "in")


@pytest.mark.parametrize("name", INDICES)
def test_an_index_that_is_cut_is_refused_with_its_name(name: str, tmp_path: Path) -> None:
    index = write(name, tmp_path / "in")
    whole = index.read_bytes()
    for share in (0.4, 0.7, 0.95):
        index.write_bytes(whole[: int(share * len(whole))])
        for copy in index.parent.rglob(index.name):
            copy.write_bytes(index.read_bytes())
        with pytest.raises(FieldError, match=index.name):
            list_fields(index)


def test_a_plate_that_is_still_being_written_does_not_keep_others_back(tmp_path: Path) -> None:
    write("Harmony 5", tmp_path / "in" / "done")
    index = write("Harmony 5", tmp_path / "in" / "running")
    edit(index, (PLATE, "SIM-2"))
    whole = index.read_bytes()
    index.write_bytes(whole[: len(whole) // 2])
    found = list_fields(tmp_path / "in")
    assert [item.name for item in found.fields if not item.listed.problem] == [f"{PLATE}_B02_1", f"{PLATE}_B02_2"]
    (problem,) = problems(found)
    assert f"running/{PLATE}__2024/Images/Index.idx.xml is not complete XML" in problem
    index.write_bytes(whole)
    next(index.parent.glob("r02c02f02*ch2*")).unlink()  # the index is there first, and images come later
    (problem,) = problems(list_fields(tmp_path / "in"))
    assert problem.startswith("Field 'SIM-2_B02_2': 1 of 2 listed planes is not on the disk: r02c02f02p01-ch2")


@pytest.mark.parametrize("name", ["Harmony 5", "CellVoyager", "IN Cell", "scanR", "ImageXpress HCS.ai"])
def test_two_plates_of_one_name_are_refused(name: str, tmp_path: Path) -> None:
    write(name, tmp_path / "in" / "a")
    write(name, tmp_path / "in" / "b")
    with pytest.raises(FieldError, match=r"Two plates are called 'SIM-1': .*/a/.* and .*/b/.* Give the folder of one"):
        list_fields(tmp_path / "in")


def test_two_plates_of_metaxpress_in_one_folder_stay_apart(tmp_path: Path) -> None:
    folder = write("ImageXpress", tmp_path / "one").parent
    other = write("ImageXpress", tmp_path / "two").parent
    for path in [path for path in other.rglob("*") if path.is_file()]:
        shutil.copy(path, folder / path.relative_to(other).with_name(path.name.replace("sim", "SIM-2")))
    found = list_fields(folder)
    assert [item.metadata["plate"] for item in found.fields] == ["SIM-2", "SIM-2", "sim", "sim"]
    assert problems(found) == []


@pytest.mark.parametrize("name", ["ImageXpress without index", "Harmony without index"])
def test_plates_without_index_of_one_name_are_refused(name: str, tmp_path: Path) -> None:
    write(name, tmp_path / "in" / "day 1")
    write(name, tmp_path / "in" / "day 2")
    with pytest.raises(FieldError, match="Two plates are called 'SIM-1'"):
        list_fields(tmp_path / "in")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("Harmony 5", "<URL>r02c02f01p01-ch1sk1fk1fl1.tiff", "<URL>../../../r02c02f01p01-ch1sk1fk1fl1.tiff"),
        ("Harmony 5", "<URL>r02c02f01p01-ch1sk1fk1fl1.tiff", "<URL>/etc/passwd"),
        ("CellVoyager", f">{PLATE}_B02_T0001F001L01A01Z01C01.tif", ">..\\..\\..\\x.tif"),
        ("IN Cell", 'filename="B - 02(fld 01 wv UV - DAPI).tif', 'filename="../../x.tif'),
    ],
)
def test_files_outside_of_the_input_are_not_read(name: str, old: str, new: str, tmp_path: Path) -> None:
    index = write(name, tmp_path / "in")
    edit(index, (old, new), encoding="latin-1" if name == "IN Cell" else "utf-8")
    (problem,) = problems(list_fields(tmp_path / "in"))
    assert "lies outside of the input" in problem


@pytest.mark.parametrize(("row", "column", "well"), [(9, 2, "I02"), (2, 13, "B13")])
def test_wells_beyond_the_plate(row: int, column: int, well: str, tmp_path: Path) -> None:
    index = write("Harmony 5", tmp_path / "in")
    edit(index, ("<Row>2</Row><Col>2</Col>", f"<Row>{row}</Row><Col>{column}</Col>"))
    found = problems(list_fields(tmp_path / "in"))
    assert len(found) == 2
    assert all(f"well {well} lies beyond plate '{PLATE}' of 8 rows and 12 columns" in problem for problem in found)


def test_wells_beyond_the_largest_plate(tmp_path: Path) -> None:
    folder = write("Gen5", tmp_path / "in")
    for path in list(folder.rglob("B2_*")):
        path.rename(path.with_name(path.name.replace("B2_", "B49_")))
    found = problems(list_fields(folder))
    assert len(found) == 2
    assert f"well B49 lies beyond plate '{PLATE}' of 32 rows and 48 columns" in found[0]


def test_two_folders_of_one_name_are_told_by_their_paths(tmp_path: Path) -> None:
    write("Gen5", tmp_path / "in" / "day 1")
    write("Gen5", tmp_path / "in" / "day 2")
    found = problems(list_fields(tmp_path / "in"))
    assert len(found) == 2
    assert f"/day 1/{PLATE}/B2_01_1_1_Hoechst 33342_001.tif" in found[0]
    assert f"/day 2/{PLATE}/B2_01_1_1_Hoechst 33342_001.tif" in found[0]


def test_wells_that_no_plate_has(tmp_path: Path) -> None:
    index = write("Harmony 5", tmp_path / "in")
    edit(index, ("<Row>2</Row>", "<Row>0</Row>"))
    with pytest.raises(FieldError, match="no plate has a well in row 0, column 2"):
        list_fields(tmp_path / "in")


def test_duplicate_planes(tmp_path: Path) -> None:
    index = write("Harmony 5", tmp_path / "harmony")
    edit(index, ("<FieldID>2</FieldID>", "<FieldID>1</FieldID>"))
    (problem,) = problems(list_fields(tmp_path / "harmony"))
    assert "has several planes 1 of channel Hoechst 33342: r02c02f01p01-ch1" in problem
    write("ImageXpress", tmp_path / "metaxpress")
    taken = next((tmp_path / "metaxpress").rglob("sim_B02_s1_w1????????-*.tif"))
    shutil.copy(taken, taken.with_name(taken.name.replace("0F0F", "0F0E")))
    (problem,) = problems(list_fields(tmp_path / "metaxpress"))
    assert "has several planes 0 of channel Hoechst 33342" in problem


def test_pixel_sizes_that_differ(tmp_path: Path) -> None:
    index = write("Harmony 5", tmp_path / "within")
    text = index.read_text("utf-8-sig")
    size = f"{PIXEL_UM * 1e-6:.17g}"
    head, _, rest = text.partition(size)
    first, _, tail = rest.partition(size)
    index.write_text(f"{head}6.5e-07{first}6.5e-07{tail}", "utf-8-sig")
    (problem,) = problems(list_fields(tmp_path / "within"))
    assert "pixel sizes of 0.325 and 0.65 um, expected one" in problem
    index.write_text(text.replace(f'X Unit="m">{size}', 'X Unit="m">6.5e-07'), "utf-8-sig")
    with pytest.raises(FieldError, match=r"Index\.idx\.xml: pixels are 0\.65 x 0\.325 um, expected square"):
        list_fields(tmp_path / "within")
    for file in sorted(write("ImageXpress without index", tmp_path / "files").rglob("sim_B02_s1_w2????????-*.tif")):
        text = metaseries("B02", 1, "Alexa 488", size_um=2 * PIXEL_UM)
        tifffile.imwrite(file, tifffile.imread(file), description=text, software="MetaSeries", metadata=None)
    with pytest.raises(FieldError, match="channels differ in pixel size"):
        list_fields(tmp_path / "files").fields[0].read()


def test_fields_with_fewer_channels(tmp_path: Path) -> None:
    index = write("Harmony 5", tmp_path / "in")
    text = index.read_text("utf-8-sig")
    start = text.index('<Image Version="1"><id>0202K1F2P1R2')
    end = text.index("</Image>", start) + len("</Image>")
    index.write_text(text[:start] + text[end:], "utf-8-sig")
    (problem,) = problems(list_fields(tmp_path / "in"))
    assert "channel Alexa 488 is missing: found Hoechst 33342" in problem


def test_names_of_fields_hold_no_separator(tmp_path: Path) -> None:
    index = write("Harmony 5", tmp_path / "in")
    edit(index, (f"<Name>{PLATE}</Name>", "<Name>../screen\\7/a</Name>"))
    found = list_fields(tmp_path / "in")
    assert [item.name for item in found.fields] == ["..-screen-7-a_B02_1", "..-screen-7-a_B02_2"]
    assert found.fields[0].metadata["plate"] == "../screen\\7/a"


def test_thumbnails_alone_are_no_plate(tmp_path: Path) -> None:
    write("ImageXpress without index", tmp_path / "in")
    for path in (tmp_path / "in").rglob("*.tif"):
        if "_thumb" not in path.name:
            path.unlink()
    with pytest.raises(FieldError, match="a thumbnail, by its name"):
        list_fields(tmp_path / "in")


def test_one_odd_name_does_not_make_a_plate(tmp_path: Path) -> None:
    for colour in ("blue", "green"):
        for well in ("A1", "A2"):
            tifffile.imwrite(tmp_path / f"7_{well}_1_{colour}.tif", np.eye(16, dtype=np.uint16))
    tifffile.imwrite(tmp_path / "old_A01_s1_w1.tif", np.eye(16, dtype=np.uint16))
    found = list_fields(tmp_path)
    assert found.layout == "one file per channel, by name"
    assert [item.name for item in found.fields if not item.listed.problem] == ["7_A1_1", "7_A2_1"]


@pytest.mark.parametrize(
    ("state", "unit", "expected"),
    [
        ("on", "um", PIXEL_UM),
        ("off", "um", None),
        ("on", "", None),
        ("on", "pixels", None),
        ("on", "mm", 1e3 * PIXEL_UM),
    ],
)
def test_metaxpress_says_no_pixel_size_where_it_was_not_calibrated(
    state: str, unit: str, expected: float | None, tmp_path: Path
) -> None:
    text = metaseries("B02", 1, "DAPI", state=state, unit=unit)
    tags = {"description": text, "software": "MetaSeries", "metadata": None, "resolution": (5000, 5000)}
    tifffile.imwrite(tmp_path / "p_B02_s1_w1.tif", np.eye(16, dtype=np.uint16), resolutionunit="CENTIMETER", **tags)
    (item,) = list_fields(tmp_path).fields
    assert list(item.listed.channel_planes) == ["DAPI"]
    if expected is not None and expected < 5:
        assert item.describe().pixel_size_um == expected
    else:
        assert "pixel size is" in str(item.describe().problem)
    field = list_fields(tmp_path, ReadingOptions(pixel_size_um=0.5)).fields[0].read()
    assert (field.pixel_size_um, field.metadata["stage_y_um"]) == (0.5, "19885.5")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<RecordID>1<", "<RecordID>9<"),
        ("<RecordID>1<", "<RecordID>0<"),
        ("<Magnification Unit=\"\">20<", "<Magnification Unit=\"\">0<"),
        (">WPlan_20x/1.0</Objective>", ">another</Objective>"),
        ("<ImageFactor Unit=\"\">1<", "<ImageFactor Unit=\"\">2<"),
        ("<TiffImageDescription ", f"{BOMB}<TiffImageDescription "),
        ("</TiffImageDescription>", ""),
    ],
)  # fmt: skip
def test_harmony_images_whose_description_is_damaged_need_the_index(old: str, new: str, tmp_path: Path) -> None:
    folder = write("Harmony without index", tmp_path / "in")
    for path in folder.rglob("*.tiff"):
        with tifffile.TiffFile(path) as file:
            page, pixels = file.pages.first, file.asarray()
            text = page.tags[65500].value.decode()
        if "ch1" in path.name:
            assert old in text
            text = text.replace(old, new)
        extra = [(65500, 1, len(text.encode()), text.encode(), True)]
        tifffile.imwrite(path, pixels, metadata=None, extratags=extra)
    with pytest.raises(FieldError, match=r"Copy Index\.idx\.xml \(or Index\.xml\)"):
        list_fields(folder)
