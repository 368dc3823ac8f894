"""Tables of metadata and boxes are read as texts and whole numbers, or refused."""

from pathlib import Path

import pytest

from subcell_hf.images.files import FieldError
from subcell_hf.images.tables import CellBox, join_metadata, read_boxes, read_field_metadata, read_table


def _write(folder: Path, text: str) -> Path:
    path = folder / "tabelle ü.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_tables(tmp_path: Path) -> None:
    path = _write(tmp_path, '\ufeff#a, b ,c\n1,"x, y",ü\n#2,skipped,row\n\n3\n')
    assert read_table(path) == [{"a": "1", "b": "x, y", "c": "ü"}, {"a": "3", "b": "", "c": ""}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b,a\n1,2,3\n", "column 'a' more than once"),
        ("a,b\n1,2,3\n", "row of 3 cells under 2 columns"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FieldError, match=message):
        read_table(_write(tmp_path, text))


def test_unreadable_tables(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match="Cannot read"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"a\n\xff\n")
    with pytest.raises(FieldError, match="not UTF-8"):
        read_table(tmp_path / "latin.csv")


def test_metadata_join(tmp_path: Path) -> None:
    path = _write(tmp_path, "field_of_view,antibody,gene\nf1,HPA1,\nf2,HPA2,G2\nf2,HPA3,G3\n")
    rows = read_field_metadata(path)
    assert join_metadata(["f1"], {"well": "A1", "gene": "G0"}, rows, path) == {
        "well": "A1",
        "gene": "G0",
        "antibody": "HPA1",
    }
    with pytest.raises(FieldError, match="'f2' has 2 rows"):
        join_metadata(["f2"], {}, rows, path)
    with pytest.raises(FieldError, match="'f3' has no rows"):
        join_metadata(["f3"], {}, rows, path)
    with pytest.raises(FieldError, match="expected one called field_of_view"):
        read_field_metadata(_write(tmp_path, "field,antibody\nf1,HPA1\n"))


def test_boxes(tmp_path: Path) -> None:
    header = "field_of_view,cell_id,top,left,height,width\n"
    boxes = read_boxes(_write(tmp_path, header + "f1,3,-2,4,50,60\nf1,4,0,0,1,1\nf2,3,9,9,9,9\n"))
    assert boxes["f1"] == [CellBox(3, -2, 4, 50, 60), CellBox(4, 0, 0, 1, 1)]
    assert boxes["f2"] == [CellBox(3, 9, 9, 9, 9)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("field_of_view,cell_id,top,left,height\nf,1,1,1,1\n", "no column width"),
        ("field_of_view,cell_id,top,left,height,width\nf,1,1,1.5,1,1\n", "expected a whole number"),
        (f"field_of_view,cell_id,top,left,height,width\nf,{'9' * 5000},1,1,1,1\n", "has '9{40}' .*whole number"),
        ("field_of_view,cell_id,top,left,height,width\nf,1,1,1,1,1\nf,1,2,2,2,2\n", "2 boxes with cell_id 1"),
        ("field_of_view,cell_id,top,left,height,width\nf,1,1,1,0,1\n", "no extent"),
    ],
)
def test_bad_boxes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FieldError, match=message):
        read_boxes(_write(tmp_path, text))
