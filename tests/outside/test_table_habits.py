"""Tables as spreadsheets and people write them: what is taken for what is said, and what cannot be is named."""

import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError, InputWarning
from subcell_hf.evaluation.localization.labels import class_scheme, label_cells
from subcell_hf.evaluation.perturbation.table import read_profiles
from subcell_hf.evaluation.proteome_map.field_means import average_fields
from subcell_hf.images.fields_of_view import ReadingOptions, list_fields
from subcell_hf.images.files import FieldError
from subcell_hf.images.tables import read_boxes
from subcell_hf.storage.foreign_tables import read_foreign_table
from subcell_hf.storage.hdf5 import write_hdf5
from subcell_hf.tables.aggregation import aggregate
from subcell_hf.tables.files import EmbeddingTable, read_table, write_parquet
from tests.inference.embedding_runs import write_fields


def _file(folder: Path, text: str, name: str = "t.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def _table(**columns: list[str]) -> EmbeddingTable:
    rows = len(next(iter(columns.values())))
    cells = pd.DataFrame({"cell_id": [f"c{n}" for n in range(rows)], "field_of_view": "f", **columns})
    return EmbeddingTable(cells, np.eye(rows, dtype=np.float32), provenance={"model": "sound"})


@pytest.mark.parametrize("cell", ['"=""007"""', '="007"'])
def test_what_keeps_zeros_in_a_spreadsheet_is_no_part_of_the_text(tmp_path: Path, cell: str) -> None:
    table = read_foreign_table(_file(tmp_path, f"antibody,b\n{cell},=x\n"))
    assert (table.text("antibody"), table.text("b")) == (["007"], ["=x"])


def test_a_mark_inside_of_quotes_is_no_part_of_a_name(tmp_path: Path) -> None:
    table = read_foreign_table(_file(tmp_path, '"\ufeffcell_id","gene"\nc,g\n'))
    assert list(table.columns) == ["cell_id", "gene"]


def test_columns_chosen_by_content_are_named(tmp_path: Path) -> None:
    path = _file(tmp_path, "cell_id,Strain,day,area,weird\na,3,1,0.5,2\nb,4,2,1.5,7\n")
    with pytest.warns(InputWarning, match=r"embedding \(2: area, weird\), the others metadata \(cell_id, Strain"):
        np.testing.assert_array_equal(read_table(path).embeddings, [[0.5, 2], [1.5, 7]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_table(_file(tmp_path, "cell_id,Strain,feat0\na,3,0.5\n"))
        read_profiles([_file(tmp_path, "Metadata_Plate,f0\n1,0.5\n")])


@pytest.mark.parametrize("cell", ["#DIV/0!", '"1,234.5"', '"0,5"'])
def test_columns_with_a_cell_that_is_no_number_are_named(tmp_path: Path, cell: str) -> None:
    path = _file(tmp_path, f"cell_id,gene,f0,f1\na,g,1,{cell}\nb,3,2,3\nc,h,2,4\n")
    with pytest.warns(InputWarning, match=r"most are numbers: f1 \('" + cell.strip('"')):
        read_table(path)


def test_a_missing_number_is_said_with_its_column(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"column 'feat1': row 1 is NaN or infinite \(1 of 2 rows are\)"):
        read_table(_file(tmp_path, "cell_id,feat0,feat1\na,1,2\nb,1,#N/A\n"))
    with pytest.raises(InputError, match="Write decimal points and no separators of thousands"):
        read_table(_file(tmp_path, 'cell_id,feat0\na,"1,234.5"\n'))


def test_numbers_of_objects_are_no_features_of_profiles(tmp_path: Path) -> None:
    path = _file(tmp_path, "ImageNumber,ObjectNumber,Metadata_Plate,Nuclei_Area\n1,1,p,0.5\n1,2,p,1.5\n")
    with pytest.warns(InputWarning, match="objects in ImageNumber, ObjectNumber, which are taken for metadata"):
        assert read_profiles([path]).names == ("Nuclei_Area",)


def test_the_command_line_shows_a_note_alone(tmp_path: Path) -> None:
    path = _file(tmp_path, "cell_id,gene,area\na,g,0.5\nb,G,1.5\n")
    command = ["aggregate", str(path), "--by", "gene", "--output", str(tmp_path / "o.parquet")]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"Note: {path} has no columns feat0 …")
    assert lines[1].startswith("Note: Column gene: 'G' and 'g' differ in case alone and count as 2.")
    assert len(lines) == 2


def test_names_that_differ_in_case_are_said() -> None:
    with pytest.warns(InputWarning, match="Column plate: 'P1' and 'p1' differ in case alone"):
        wells = aggregate(_table(plate=["P1", "p1", "P1 "], well=["A1"] * 3), "well").table
    assert list(wells.cells["cell_id"]) == ["P1/A1", "p1/A1"]
    cells = _table(
        antibody=["a", "A", "b", "c"], locations=["Cytosol"] * 4, split=["train", "train", "validation", "test"]
    ).cells
    with pytest.warns(InputWarning, match="Column antibody: 'A' and 'a' differ"):
        label_cells(cells, class_scheme("31"))


def test_genes_of_a_map_that_differ_in_case_are_said(tmp_path: Path) -> None:
    write_parquet(_table(gene=["TP53", "Tp53", ""]), tmp_path / "t.parquet")
    with pytest.warns(InputWarning, match="Column gene: 'TP53' and 'Tp53' differ"):
        assert list(average_fields(tmp_path / "t.parquet").fields["gene"]) == ["TP53", "Tp53"]


def test_plates_written_as_floats_make_the_wells_of_the_plate() -> None:
    wells = aggregate(_table(plate=["1.0", "1", "01"], well=["A1"] * 3), "well").table
    assert list(wells.cells["cell_id"]) == ["01/A1", "1/A1"]


def test_rows_of_metadata_without_a_field_are_counted(tmp_path: Path) -> None:
    write_fields(tmp_path, 2)
    _file(tmp_path, "field_of_view,gene\n7_A0_1,a\n7_A1_1,b\n9_A1_1,c\n8_A1_1,c\n", "metadata.csv")
    found = list_fields(tmp_path, ReadingOptions())
    assert found.unused == {
        str(tmp_path / "metadata.csv"): "2 of the 4 fields of view that it names are not there: '8_A1_1', '9_A1_1'"
    }
    _file(tmp_path, "field_of_view,gene\n7_A0_1,a\n7_A1_1,b\n", "metadata.csv")
    assert not list_fields(tmp_path, ReadingOptions()).unused


@pytest.mark.parametrize("top", ['"1,024"', "1.5", "", "1e3"])
def test_boxes_of_no_whole_number_are_named(tmp_path: Path, top: str) -> None:
    path = _file(tmp_path, f"field_of_view,cell_id,top,left,height,width\nf,1,{top},2,3,4\n")
    with pytest.raises(FieldError, match=r"has '.*' in the column 'top' of field 'f', expected a whole number"):
        read_boxes(path)


def test_names_of_thousands_of_columns_fit_into_hdf5(tmp_path: Path) -> None:
    names = [f"column_{number}" for number in range(20_000)]
    with write_hdf5(tmp_path / "t.h5") as file:
        file.root.attrs["column-order"] = np.array(names, dtype=h5py.string_dtype())
    with h5py.File(tmp_path / "t.h5") as read:
        assert list(read.attrs["column-order"]) == names


def test_what_a_file_says_of_its_table_has_a_checksum(tmp_path: Path) -> None:
    write_parquet(_table(gene=["a", "b"]), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").provenance == {"model": "sound"}
    table = pq.read_table(tmp_path / "t.parquet")
    facts = table.schema.metadata[b"subcell_hf"]
    for changed in (facts.replace(b"sound", b"found"), facts.replace(b'"passes": []', b'"passes": [ ]')):
        pq.write_table(table.replace_schema_metadata({"subcell_hf": changed}), tmp_path / "t.parquet")
        if changed.count(b"sound"):  # the same facts, written otherwise
            read_table(tmp_path / "t.parquet")
        else:
            with pytest.raises(InputError, match="their checksum differs"):
                read_table(tmp_path / "t.parquet")
