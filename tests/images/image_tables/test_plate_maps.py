"""Plate maps in every form join the right well; what has no partner is counted, and contradictions are refused."""

from pathlib import Path

import pytest

from subcell_hf.errors import InputError
from subcell_hf.images.fields_of_view import list_fields
from subcell_hf.images.image_tables.plate_maps import PlateMap, describe_join, join_plate_maps, read_plate_map
from subcell_hf.images.reading_options import ReadingOptions
from tests.images.written_fields import write_hpa_field


def _map(tmp_path: Path, text: str, name: str = "drug.csv") -> PlateMap:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_plate_map(path)


@pytest.mark.parametrize(
    "text",
    [
        "well,drug\nB03,DMSO\n",
        "Metadata_Well;drug\nb3;DMSO\n",
        "\ufeffwell_position\tdrug\nB3\tDMSO\n",
        'row,col,drug\nB,"""03""",DMSO\n',
        "Row,Column,drug\n2,3,DMSO\n",
        "WellRow,WellCol,drug\nb,3.0,DMSO\n",
        "barcode,well,drug\n800,B-03,DMSO\n",
        ",1,2,3\nA,x,y,z\nB,p,q,DMSO\n",
        "drug;01;02;03\nA;x;y;z\nB;p;q;DMSO\n",
        "<>,1,2,3\nA,x,y,z\nB,p,q,DMSO\n",
        "Destination Well,Destination Plate Barcode,drug\nB3,800,DMSO\n",
        '"row","1","2","3"\n"A","x","y","z"\n"B","p","q","DMSO"\n',
    ],
)
def test_every_form_says_the_same_of_a_well(tmp_path: Path, text: str) -> None:
    assert join_plate_maps([_map(tmp_path, text)], "800", "b03") == {"drug": "DMSO"}


def test_grids_of_96_and_384_wells_are_read_whole(tmp_path: Path) -> None:
    for rows, columns in ((8, 12), (16, 24)):
        letters = [chr(ord("A") + row) for row in range(rows)]
        lines = [",".join([letter, *(f"{letter}{column}" for column in range(1, columns + 1))]) for letter in letters]
        grid = _map(tmp_path, "\n".join([",".join(["", *map(str, range(1, columns + 1))]), *lines]), "dose.um.csv")
        assert grid.columns == ("dose",)
        assert len(grid.wells[""]) == rows * columns
        assert grid.wells[""][f"{letters[-1]}{columns}"] == {"dose": f"{letters[-1]}{columns}"}


def test_barcodes_name_the_maps_of_their_plates(tmp_path: Path) -> None:
    (tmp_path / "platemap").mkdir()
    (tmp_path / "platemap" / "M1.txt").write_text("plate_map_name\twell_position\tdrug\nM1\tA01\tDMSO\nM1\tA02\t\n")
    found = _map(tmp_path, "Assay_Plate_Barcode,Plate_Map_Name,Batch\nP1,M1,x\nP2,M2,y\n", "barcode_platemap.csv")
    assert join_plate_maps([found], "P1", "A01") == {"Batch": "x", "plate_map_name": "M1", "drug": "DMSO"}
    assert join_plate_maps([found], "P1", "A2") == {"Batch": "x", "plate_map_name": "M1"}
    with pytest.raises(InputError, match="plate 'P2' has the map 'M2', but no file of that name"):
        join_plate_maps([found], "P2", "A01")
    with pytest.raises(InputError, match="lists plate 'P1' more than once"):
        _map(tmp_path, "Assay_Plate_Barcode,Plate_Map_Name\nP1,M1\nP1,M1\n", "barcode_platemap.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("well,drug\nA1,x\nA01,y\n", r"says 'x' and 'y' of drug in well A01 \(rows 1 and 2\)"),
        ("well,drug\nA1,x\nA01,\n", "says 'x' and '' of drug"),
        ("well,row,col,drug\nA1,B,2,x\n", "has 'A1' and 'B 2' as the well of row 1"),
        ("1,2\nx,y\n", "is no plate map"),
        ("A,1,2\nB,x,y\n", "is no plate map"),
        ("well,drug\nZebra,x\n", "has 'Zebra' as the well of row 1"),
        ("drug,dose\nx,1\n", "is no plate map: it has the columns drug, dose"),
        (",1,2\nA,x,y\nA,z,w\n", "has a row letter more than once"),
    ],
)
def test_what_says_two_things_or_nothing_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _map(tmp_path, text)


def test_a_row_that_is_there_twice_alike_counts_once(tmp_path: Path) -> None:
    assert len(_map(tmp_path, "well,drug\nA1,x\nA01,x\n").wells[""]) == 1


def test_two_tables_may_say_different_things_but_not_of_one_column(tmp_path: Path) -> None:
    drug = _map(tmp_path, "well,drug\nA1,x\n")
    dose = _map(tmp_path, "well,dose\nA1,5\n", "dose.csv")
    assert join_plate_maps([drug, dose], "", "A01") == {"drug": "x", "dose": "5"}
    other = _map(tmp_path, "well,drug\nA1,y\n", "other.csv")
    with pytest.raises(InputError, match="say 'x' and 'y' of drug in well A01"):
        join_plate_maps([drug, other], "", "A01")


def test_wells_and_rows_without_the_other_are_counted(tmp_path: Path) -> None:
    found = _map(tmp_path, "plate,well,drug\nP1,A1,x\nP1,A2,y\nP3,A1,z\n")
    said = describe_join([found], [("P1", "A01"), ("P1", "B01"), ("P2", "A01")])
    assert said == {
        str(found.path): "a plate map: 2 of the 3 wells of the images have no row in it: P1/B01, P2/A01; 1 of its 2 "
        "wells have no image: P1/A02; 1 of its plates have no image: P3"
    }
    assert describe_join([found], [("P1", "A01"), ("P1", "A02"), ("P3", "A01")]) == {}
    with pytest.raises(InputError, match="says nothing of any well of the images: its plates are P1, P3, the images"):
        describe_join([found], [("P9", "A01")])


def test_a_fields_metadata_have_what_the_plate_map_says_of_its_well(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for name in ("800_A6_1", "800_A7_1"):
        write_hpa_field(images, name)
    table = tmp_path / "map.csv"
    table.write_text("well,drug,label,antibody\nA6,DMSO,control,HPA1\n")
    options = ReadingOptions(plate_maps=(table,))
    found = list_fields(images, options)
    first, second = found.fields
    assert first.metadata["drug"] == "DMSO"
    assert first.metadata["metadata_label"] == "control"  # cells have a label of their own
    assert "drug" not in second.metadata
    assert found.unused[str(table)] == "a plate map: 1 of the 2 wells of the images have no row in it: 800/A07"
    (images / "metadata.csv").write_text("field_of_view,antibody\n800_A6_1,HPA2\n800_A7_1,HPA2\n")
    assert "its metadata say 'HPA2' of antibody, the plate map 'HPA1'" in str(
        list_fields(images, options).fields[0].listed.problem
    )
    with pytest.raises(InputError, match="Cannot read the plate map"):
        list_fields(images, ReadingOptions(plate_maps=(tmp_path / "none.csv",)))
