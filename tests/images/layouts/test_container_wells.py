"""Wells of CZI, LIF and ND2: every source that such a file has for them must agree."""

from pathlib import Path

import pytest

from subcell_hf.images.fields_of_view import find_fields
from subcell_hf.images.wells import agreed_well, well_position, wells_of_names
from tests.images.layouts.written_containers import write_czi, write_lif, write_nd2, written_pixels

PIXELS = written_pixels(1, 1, 1, 20, 20)


def wells_in(path: Path) -> list[tuple[str, str]]:
    return [(field.metadata.get("well", ""), field.metadata.get("site", "")) for field in find_fields(path)]


def problem_of(path: Path) -> str:
    """What is wrong with the only field of a file that has a problem; `None` where there is none."""
    (problem,) = {field.listed.problem for field in find_fields(path) if field.listed.problem} or {None}
    return str(problem)


def scene(name: str, index: int = 0, place: tuple[int, int] | None = None, shape: str = "", array: str = "") -> str:
    where = f"<RowIndex>{place[0]}</RowIndex><ColumnIndex>{place[1]}</ColumnIndex>" if place else ""
    inner = f'<Shape Name="{shape}">{where}</Shape>' if place or shape else ""
    return f'<Scene Index="{index}" Name="{name}">{inner}<ArrayName>{array}</ArrayName></Scene>'


@pytest.mark.parametrize(
    ("described", "well"),
    [
        (scene("P1", place=(4, 6), shape="D6"), "D06"),
        (scene("D6", place=(4, 6), shape="D6", array="D6"), "D06"),
        (scene("P1", place=(4, 6), shape="Chamber 6"), "D06"),
        (scene("P2", array="C11"), "C11"),
        (scene("B2"), "B02"),
        (scene("B2_0001"), "B02"),
        (scene("P1"), ""),
        (scene("S1", shape="Circle 1"), ""),
        (scene("TR1", array="TR1"), ""),  # ZEN's tile region
    ],
)
def test_the_well_of_a_scene(described: str, well: str, tmp_path: Path) -> None:
    write_czi(tmp_path / "a.czi", [PIXELS], names=("DAPI",), described=described)
    assert wells_in(tmp_path / "a.czi")[0][0] == well
    assert problem_of(tmp_path / "a.czi") == "None"


@pytest.mark.parametrize(
    ("described", "said"),
    [
        (
            scene("P1", place=(4, 6), shape="D7"),
            "D06 by its RowIndex and ColumnIndex, and D07 by the name of its Shape",
        ),
        (scene("C6", place=(4, 6), shape="D6"), "D06 by its RowIndex and ColumnIndex, and C06 by its Name"),
        (scene("A1", array="A2"), "A02 by its ArrayName, and A01 by its Name"),
    ],
)
def test_sources_of_a_scene_that_contradict_each_other(described: str, said: str, tmp_path: Path) -> None:
    other = scene("P2" if 'Name="P1"' in described else "A2", 1, place=(1, 2), shape="A2")
    write_czi(tmp_path / "a.czi", [PIXELS, PIXELS], names=("DAPI",), described=described + other)
    assert f"a.czi: scene {described[23:25]!r}: its well is {said}" in problem_of(tmp_path)


@pytest.mark.parametrize(
    ("names", "wells"),
    [
        (("TileScan 1/A/1/R1", "TileScan 1/A/1/R2", "TileScan 1/C/11/R1"), [("A01", "1"), ("A01", "2"), ("C11", "1")]),
        (("TileScan 1/A/1", "TileScan 1/B/2"), [("A01", "1"), ("B02", "1")]),
        (("TileScan 1/A1/R1", "TileScan 1/B2/R1"), [("A01", "1"), ("B02", "1")]),
        (("TileScan 1/A1", "TileScan 1/B2"), [("A01", "1"), ("B02", "1")]),
        (("A1", "B2"), [("A01", "1"), ("B02", "1")]),
        (("R1", "R2"), [("", "R1"), ("", "R2")]),
        (("Region 1", "B2"), [("", "B2"), ("", "Region 1")]),
    ],
)
def test_wells_of_series_of_leica(names: tuple[str, ...], wells: list[tuple[str, str]], tmp_path: Path) -> None:
    write_lif(tmp_path / "a.lif", dict.fromkeys(names, ("CYX", PIXELS[0, 0])), names=("DAPI",))
    assert sorted(wells_in(tmp_path / "a.lif")) == wells
    assert problem_of(tmp_path / "a.lif") == "None"


def test_folders_and_name_of_a_series_that_contradict_each_other(tmp_path: Path) -> None:
    write_lif(tmp_path / "a.lif", {"TileScan 1/A/1/B2": ("CYX", PIXELS[0, 0])}, names=("DAPI",))
    assert "series 'TileScan 1/A/1/B2': its well is A01 by its row and column, and B02 by its name" in problem_of(
        tmp_path
    )


@pytest.mark.parametrize(
    ("file", "positions", "wells"),
    [
        ("a.nd2", ("B01_0000", "B01_0001", "C03_0000"), [("B01", "1"), ("B01", "2"), ("C03", "1")]),
        ("WellB02_ChannelDAPI_Seq0000.nd2", ("",), [("B02", "1")]),
        ("WellB02_PointB02_0000_Seq0000.nd2", ("B02_0000", "B02_0001"), [("B02", "1"), ("B02", "2")]),
        ("Well.nd2", ("P1", "P2"), [("", "P1"), ("", "P2")]),
    ],
)
def test_wells_of_positions_of_nikon(
    file: str, positions: tuple[str, ...], wells: list[tuple[str, str]], tmp_path: Path
) -> None:
    write_nd2(tmp_path / file, written_pixels(1, len(positions), 1, 1, 20, 20), ("DAPI",), positions)
    assert wells_in(tmp_path / file) == wells


def test_a_file_of_jobs_and_its_position_that_contradict_each_other(tmp_path: Path) -> None:
    write_nd2(tmp_path / "WellB02_Seq0000.nd2", written_pixels(1, 1, 1, 1, 20, 20), ("DAPI",), ("B03_0000",))
    said = "its well is B02 by the name of the file, and B03 by the name of the position"
    assert f"WellB02_Seq0000.nd2: {said}" in problem_of(tmp_path)


def test_what_is_no_row_of_a_plate_is_no_well() -> None:
    assert well_position("AF48") == (32, 48)
    assert well_position("TR1") is None
    assert wells_of_names(["B_01", "B_02"]) == ["B01", "B02"]
    assert agreed_well({}) == ("", None)
