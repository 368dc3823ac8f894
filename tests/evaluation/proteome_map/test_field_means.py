from pathlib import Path

import numpy as np
import pytest

from subcell_hf.errors import InputError
from subcell_hf.evaluation.proteome_map import field_means
from subcell_hf.evaluation.proteome_map.field_means import average_fields
from subcell_hf.tables.files import EmbeddingTable, write_h5ad, write_parquet
from tests.evaluation.proteome_map.simulated_cells import simulate_cells


@pytest.fixture(scope="module")
def table() -> EmbeddingTable:
    made, _, _ = simulate_cells(genes_per_part=2, width=8)
    order = np.random.default_rng(0).permutation(len(made))  # cells of a field lie apart
    return made.select(order)


def expected_means(table: EmbeddingTable) -> dict[str, np.ndarray]:
    names = table.cells["field_of_view"].to_numpy()
    return {name: table.embeddings[names == name].mean(axis=0, dtype=np.float64) for name in set(names)}


def test_parquet_in_blocks_and_other_tables_give_the_same_means(
    table: EmbeddingTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(field_means, "_CELLS_AT_ONCE", 37)
    write_parquet(table, tmp_path / "embeddings.parquet")
    write_h5ad(table, tmp_path / "table.h5ad")
    expected = expected_means(table)
    for path in (tmp_path, tmp_path / "embeddings.parquet", tmp_path / "table.h5ad"):
        means = average_fields(path, ["plate", "nowhere"])
        assert len(means.fields) == len(expected)
        assert means.fields["cells"].sum() == len(table) == len(means.cells)
        assert "plate" in means.fields.columns
        assert "nowhere" not in means.fields.columns
        for name, row in zip(means.fields["field_of_view"], means.embeddings, strict=True):
            np.testing.assert_allclose(row, expected[name], atol=1e-6)
        field_of_cell = means.fields["field_of_view"].to_numpy()[means.cells["field"].to_numpy()]
        assert field_of_cell.tolist() == table.cells["field_of_view"].tolist()


def test_cells_that_do_not_belong_are_counted(table: EmbeddingTable, tmp_path: Path) -> None:
    cells = table.cells.copy()
    cells.loc[:2, "gene"] = ""
    write_parquet(EmbeddingTable(cells, table.embeddings), tmp_path / "t.parquet")
    means = average_fields(tmp_path / "t.parquet", where={"cell_line": "U2OS"})
    elsewhere = int((cells["cell_line"] != "U2OS").sum())
    nameless = int((cells["cell_line"][:3] == "U2OS").sum())
    assert means.left_out == {"cell_line is not U2OS": elsewhere, "without a gene": nameless}
    assert means.fields["cells"].sum() == len(table) - elsewhere - nameless


def test_what_is_missing_is_named(table: EmbeddingTable, tmp_path: Path) -> None:
    write_parquet(table, tmp_path / "t.parquet")
    with pytest.raises(InputError, match="has no column 'species'"):
        average_fields(tmp_path / "t.parquet", where={"species": "human"})
    with pytest.raises(InputError, match=r"No cells of .* remain for the map \(cell_line is not HeLa: "):
        average_fields(tmp_path / "t.parquet", where={"cell_line": "HeLa"})
    write_parquet(EmbeddingTable(table.cells.drop(columns="gene"), table.embeddings), tmp_path / "g.parquet")
    with pytest.raises(InputError, match="has no column gene"):
        average_fields(tmp_path / "g.parquet")
