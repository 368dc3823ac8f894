"""The published table: which rows are taken, in which order."""

import re
from pathlib import Path

import pytest

from subcell_hf.cells.published.choice import CellChoice, read_published_table
from subcell_hf.errors import InputError

HEADER = ",cell_id,x1,y1,x2,y2,if_plate_id,position,sample,atlas_name,antibody,ensembl_ids,gene_names,locations,more"


def write(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "metadata.csv"
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return path


def row(plate: int, cell: str, antibody: str, line: str = "U2OS", locations: str = "") -> str:
    return f'0,{cell},1.0,2.0,3.0,4.0,{plate},B3,2,{line},{antibody},ENSG,GENE,"{locations}",x'


def ids(path: Path, choice: CellChoice, **options: list[str]) -> list[str]:
    found = read_published_table(path, choice, **options)
    return [f"{one['field_of_view']}_{one['label']}" for one in found.table.to_pylist()]


def test_a_row_keeps_all_that_is_known_of_it(tmp_path: Path) -> None:
    path = write(tmp_path, row(10, "2.0", "HPA1", locations="Cytosol,Nuclear speckles"), row(9, "1.0", "HPA2"))
    found = read_published_table(path, CellChoice())
    assert list(found.fields) == ["10_B3_2", "9_B3_2"]
    assert found.records(found.fields["10_B3_2"]) == [
        {
            "field_of_view": "10_B3_2", "label": "2", "plate": "10", "well": "B3", "sample": "2", "cell_line": "U2OS",
            "antibody": "HPA1", "gene": "GENE", "ensembl_ids": "ENSG", "locations": "Cytosol;Nuclear speckles",
            "x1": "1.0", "y1": "2.0", "x2": "3.0", "y2": "4.0", "more": "x",
        }
    ]  # fmt: skip
    assert "locations" not in found.records(found.fields["9_B3_2"])[0]


def test_cells_are_sorted_by_field_and_number(tmp_path: Path) -> None:
    rows = [row(1, "10.0", "A"), row(1, "2", "A"), row(2, "1.0", "A"), row(1, "1.0", "A"), row(1, "", "A")]
    wanted = ["1_B3_2_", "1_B3_2_1", "1_B3_2_2", "1_B3_2_10", "2_B3_2_1"]
    assert ids(write(tmp_path, *rows), CellChoice()) == wanted
    assert ids(write(tmp_path, *reversed(rows)), CellChoice()) == wanted


def test_antibodies_cell_lines_and_splits_are_chosen(tmp_path: Path) -> None:
    path = write(tmp_path, row(1, "1.0", "A"), row(2, "1.0", "B"), row(3, "1.0", "B", "A-431"), row(4, "1.0", "C"))
    names = tmp_path / "antibodies.txt"
    names.write_text("B\nC\nD\n")
    assert ids(path, CellChoice(names)) == ["2_B3_2_1", "3_B3_2_1", "4_B3_2_1"]
    assert ids(path, CellChoice(names, ("A-431", "HeLa"))) == ["3_B3_2_1"]
    assert ids(path, CellChoice(names), antibodies=["A", "C"]) == ["4_B3_2_1"]
    assert read_published_table(path, CellChoice(names)).unknown_antibodies == ("D",)
    with pytest.raises(InputError, match=r"No cell of .* is left: cell lines HeLa\. Choose others"):
        read_published_table(path, CellChoice(cell_lines=("HeLa",)))


def test_at_most_so_many_cells_are_those_of_whole_antibodies(tmp_path: Path) -> None:
    path = write(tmp_path, *(row(plate, f"{cell}.0", f"HPA{plate % 5}") for plate in range(20) for cell in range(1, 4)))
    everything = ids(path, CellChoice())
    assert len(everything) == 60
    before: set[str] = set()
    for most in (1, 12, 13, 24, 59, 60, 100):
        taken = ids(path, CellChoice(max_cells=most))
        assert len(taken) == min(most, 60)
        assert taken == [name for name in everything if name in set(taken)]  # in the order of all
        assert before <= set(taken)
        before = set(taken)
        antibodies = [int(name.split("_")[0]) % 5 for name in taken]
        assert sum(antibodies.count(one) < 12 for one in set(antibodies)) <= 1
    with pytest.raises(InputError, match="max_cells is 0"):
        CellChoice(max_cells=0)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("a,b", ["1,2"], "has the columns a, b; expected each once, if_plate_id"),
        (HEADER, ["1,2"], "is damaged: .*Expected 15 columns, got 2"),
        (HEADER, [], "No cell of .* is left: the table is empty"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path: Path, header: str, rows: list[str], message: str) -> None:
    with pytest.raises(InputError, match=re.compile(message)):
        read_published_table(write(tmp_path, *rows, header=header), CellChoice())
