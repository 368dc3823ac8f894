"""Groups of cells: means against pandas, counts, metadata, what is left out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.tables import aggregation
from subcell_hf.tables import parquet as table_parquet
from subcell_hf.tables.aggregation import aggregate
from subcell_hf.tables.files import EmbeddingTable, read_table, write_parquet
from subcell_hf.workflows import aggregate_table


def example_table(cells: int = 60) -> EmbeddingTable:
    rng = np.random.default_rng(5)
    antibody = rng.choice(["HPA1", "HPA2", "HPA3"], cells)
    gene = np.where(antibody == "HPA3", "G3", "G12")
    plate, well = rng.choice(["1", "2"], cells), rng.choice(["A1", "B2"], cells)
    probabilities = rng.random((cells, 4), dtype=np.float32)
    return EmbeddingTable(
        cells=pd.DataFrame(
            {
                "cell_id": [f"{plate[i]}_{well[i]}_{antibody[i]}_{i}" for i in range(cells)],
                "field_of_view": [f"{plate[i]}_{well[i]}_{antibody[i]}" for i in range(cells)],
                "antibody": antibody,
                "gene": gene,
                "plate": plate,
                "well": well,
                "cell_line": "U-2 OS",
                "qc_area_um2": rng.random(cells) * 100,
                "qc_empty_channels": "",
                "top_location_1": "stale",
            }
        ),
        embeddings=rng.normal(size=(cells, 7)).astype(np.float32),
        probabilities=probabilities,
        classes=("Cytosol", "Nucleoli", "Vesicles", "Negative"),
        pass_probabilities={"rna": probabilities / 2},
        provenance={"model": "m"},
    )


@pytest.mark.parametrize(
    ("by", "keys"),
    [("field", ["field_of_view"]), ("well", ["plate", "well"]), ("antibody", ["antibody"]), ("gene", ["gene"])],
)
def test_means_are_those_of_pandas(by: str, keys: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregation, "_ROWS_AT_ONCE", 16)  # several blocks
    table = example_table()
    result = aggregate(table, by).table
    grouped = pd.concat([table.cells[keys], pd.DataFrame(table.embeddings.astype(float))], axis=1).groupby(keys)
    np.testing.assert_allclose(result.embeddings, grouped.mean().to_numpy(), rtol=1e-6)
    assert list(result.cells["cell_count"]) == list(grouped.size())
    names = [name if isinstance(name, str) else "/".join(name) for name in grouped.mean().index]
    assert list(result.cells["cell_id"]) == names
    assert result.provenance["aggregation"] == {"by": by, "probabilities": "mean", "cells": 60}


def test_the_largest_probability_and_the_locations_that_follow() -> None:
    table = example_table()
    result = aggregate(table, "gene", probabilities="max").table
    rows = (table.cells["gene"] == "G3").to_numpy()
    assert table.probabilities is not None
    assert result.probabilities is not None
    expected = table.probabilities[rows].max(axis=0)
    np.testing.assert_array_equal(result.probabilities[1], expected)
    np.testing.assert_array_equal(result.pass_probabilities["rna"][1], expected / 2)
    assert result.cells["top_location_1"][1] == table.classes[int(expected.argmax())]
    assert result.cells["top_probability_1"][1] == expected.max()


def test_constant_metadata_stay_others_are_named() -> None:
    result = aggregate(example_table(), "antibody")
    cells = result.table.cells
    assert list(cells["cell_line"]) == ["U-2 OS"] * 3
    assert list(cells["gene"]) == ["G12", "G12", "G3"]
    assert set(result.dropped_columns) == {"field_of_view", "plate", "well"} - {"field_of_view"}
    assert list(cells["field_count"]) == [4, 4, 4]
    area = example_table().cells.groupby("antibody")["qc_area_um2"].mean()
    np.testing.assert_allclose(cells["qc_area_um2"], area)
    assert aggregate(example_table(), "gene").table.cells["antibody_count"].tolist() == [2, 1]


def test_the_order_of_cells_does_not_matter() -> None:
    table = example_table()
    shuffled = table.select(np.random.default_rng(0).permutation(len(table)))
    one, other = aggregate(table, "well").table, aggregate(shuffled, "well").table
    np.testing.assert_array_equal(one.embeddings, other.embeddings)
    pd.testing.assert_frame_equal(one.cells, other.cells)


@pytest.mark.parametrize("by", ["field", "well", "gene"])
def test_a_file_read_in_blocks_gives_what_the_whole_table_gives(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_parquet, "CELLS_PER_GROUP", 7)
    table = example_table()
    area = table.cells["qc_area_um2"].where(table.cells.index % 5 > 0)
    area[table.cells["gene"] == "G3"] = np.nan
    # Whole numbers of which a block of the file has no gaps, constant and not; a flag that some blocks lack.
    table = EmbeddingTable(
        table.cells.assign(
            qc_area_um2=area,
            passage=pd.Series([4] * 60).where(table.cells["gene"] == "G12"),
            day=np.arange(60),
            qc_whole=[True] * 30 + [None] * 30,
            gene=table.cells["gene"].where(table.cells.index != 33, ""),
        ),
        table.embeddings,
        table.probabilities,
        table.classes,
        table.pass_probabilities,
        table.provenance,
    )
    write_parquet(table, tmp_path / "cells.parquet")
    whole = aggregate(read_table(tmp_path / "cells.parquet"), by, probabilities="max")
    found = aggregate_table(tmp_path / "cells.parquet", by, tmp_path / "out.parquet", probabilities="max").aggregation
    pd.testing.assert_frame_equal(found.table.cells, whole.table.cells)
    np.testing.assert_array_equal(found.table.embeddings, whole.table.embeddings)
    np.testing.assert_array_equal(found.table.probabilities, whole.table.probabilities)
    assert (found.skipped, found.dropped_columns) == (whole.skipped, whole.dropped_columns)
    assert "day" in found.dropped_columns
    assert found.table.provenance == whole.table.provenance
    expected = table.cells[table.cells["gene"] != ""].groupby("gene")["qc_area_um2"].mean()
    if by == "gene":
        np.testing.assert_allclose(found.table.cells["qc_area_um2"], expected)
        np.testing.assert_array_equal(found.table.cells["passage"], [4, np.nan])


def test_a_cell_in_two_blocks_of_a_file_is_not_counted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_parquet, "CELLS_PER_GROUP", 7)
    table = example_table()
    write_parquet(table, tmp_path / "once.parquet")
    monkeypatch.setattr(table_parquet, "check_table", lambda table, _: table)
    write_parquet(table.select([*range(60), 3]), tmp_path / "twice.parquet")
    monkeypatch.undo()
    output = tmp_path / "wells.parquet"
    assert aggregate_table(tmp_path / "once.parquet", "well", output).cells == 60
    output.unlink()
    with pytest.raises(
        InputError, match=f"1 values of cell_id occur before, the first is '{table.cells['cell_id'][3]}'"
    ):
        aggregate_table(tmp_path / "twice.parquet", "well", output)
    assert not output.exists()


def test_cells_without_a_group_are_listed() -> None:
    table = example_table()
    table.cells.loc[[3, 4], "gene"] = ["", None]
    result = aggregate(table, "gene")
    assert result.skipped == {str(table.cells["cell_id"][i]): "no value in gene" for i in (3, 4)}
    assert result.table.cells["cell_count"].sum() == 58
    kept = table.select([i for i in range(60) if i not in (3, 4)])
    np.testing.assert_array_equal(result.table.embeddings, aggregate(kept, "gene").table.embeddings)


def test_what_cannot_be_grouped_is_refused() -> None:
    table = example_table()
    with pytest.raises(InputError, match="choose one of field, well, antibody, gene"):
        aggregate(table, "plate")
    with pytest.raises(InputError, match="no column 'gene'"):
        aggregate(EmbeddingTable(table.cells.drop(columns="gene"), table.embeddings), "gene")
    with pytest.raises(InputError, match="nothing to aggregate"):
        aggregate(EmbeddingTable(table.cells.assign(gene=""), table.embeddings), "gene")
    with pytest.raises(InputError, match="'mean' or 'max'"):
        aggregate(table, "gene", probabilities="median")
    mixed = table.cells.assign(model=["rybg", "bg"] * 30)
    with pytest.raises(InputError, match=r"embedded by 2 models \(.*bg.*\)"):
        aggregate(EmbeddingTable(mixed, table.embeddings), "gene")


def test_wells_without_plates_say_so() -> None:
    table = example_table()
    result = aggregate(EmbeddingTable(table.cells.drop(columns="plate"), table.embeddings), "well")
    assert list(result.table.cells["cell_id"]) == ["A1", "B2"]
    assert "same name count as one" in result.notes[0]


@pytest.mark.parametrize("ending", ["parquet", "h5ad"])
def test_the_command_writes_a_table_and_what_it_skipped(tmp_path: Path, ending: str) -> None:
    table = example_table()
    table.cells.loc[7, "gene"] = ""
    write_parquet(table, tmp_path / "cells.parquet")
    output = tmp_path / f"genes.{ending}"
    command = ["aggregate", str(tmp_path / "cells.parquet"), "--by", "gene", "--output", str(output)]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 3, run.output
    assert "2 rows, one per gene, from 59 cells" in run.output
    written = read_table(output)
    np.testing.assert_array_equal(written.embeddings, aggregate(table, "gene").table.embeddings)
    skipped = pd.read_csv(tmp_path / f"genes.{ending}.skipped.csv")
    assert list(skipped["cell_id"]) == [table.cells["cell_id"][7]]
    assert CliRunner().invoke(app, [*command[:-1], "genes.txt"]).exit_code == 2


def test_plate_maps_are_joined_by_plate_and_well(tmp_path: Path) -> None:
    write_parquet(example_table(), tmp_path / "cells.parquet")
    (tmp_path / "map.csv").write_text("plate;well;drug\n1;A01;DMSO\n1;B2;x\n2;A1;y\n3;A1;z\n")
    wells = tmp_path / "wells.parquet"
    command = ["aggregate", str(tmp_path / "cells.parquet"), "--by", "well", "--output", str(wells)]
    run = CliRunner().invoke(app, [*command, "--plate-map", str(tmp_path / "map.csv")])
    assert run.exit_code == 0
    assert "1 of the 4 wells of the images have no row in it: 2/B02; 1 of its plates have no image: 3" in run.output
    found = read_table(wells).cells
    assert dict(zip(found["cell_id"], found["drug"], strict=True)) == {
        "1/A1": "DMSO", "1/B2": "x", "2/A1": "y", "2/B2": "",
    }  # fmt: skip
    (tmp_path / "map.csv").write_text("well,gene\nA1,G9\n")
    run = CliRunner().invoke(app, [*command, "--plate-map", str(tmp_path / "map.csv")])
    assert run.exit_code == 2
    assert "of gene in well" in run.output
