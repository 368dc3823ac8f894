"""One schema: what is written comes back, parts join to the same bytes, and what is not sound is refused."""

import json
from dataclasses import replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from subcell_hf.errors import InputError
from subcell_hf.ontology import reported_locations
from subcell_hf.tables import parquet as table_parquet
from subcell_hf.tables.files import (
    EmbeddingTable,
    h5ad_from_parquet,
    iterate_parquet,
    join_parquet,
    read_table,
    top_locations,
    write_h5ad,
    write_parquet,
)


def make_table(cells: int = 11, width: int = 6, seed: int = 0, *, passes: bool = True) -> EmbeddingTable:
    generator = np.random.default_rng(seed)
    each = {name: generator.random((cells, 4), np.float32) for name in ("mito", "agp")} if passes else {}
    probabilities = np.mean(list(each.values()), axis=0) if passes else generator.random((cells, 4), np.float32)
    classes = ("Nucleoplasm", "Cytosol", "Nucleoli", "Negative")
    frame = pd.DataFrame(
        {
            "cell_id": [f"7_A1_{seed}_{number}" for number in range(cells)],
            "field_of_view": f"7_A1_{seed}",
            "gene": ["", *["ACTB"] * (cells - 1)],
            "label": np.arange(cells),
            "qc_area_um2": generator.random(cells),
            "qc_cut_by_border": generator.random(cells) < 0.5,
            **top_locations(probabilities, classes),
        }
    )
    embeddings = generator.standard_normal((cells, width)).astype(np.float32)
    return EmbeddingTable(frame, embeddings, probabilities, classes, each, {"model": "tiny", "seed": seed})


def assert_equal(one: EmbeddingTable, other: EmbeddingTable, *, ignore_order: bool = False) -> None:
    pd.testing.assert_frame_equal(one.cells, other.cells, check_dtype=False, check_like=ignore_order)
    np.testing.assert_array_equal(one.embeddings, other.embeddings)
    assert one.embeddings.dtype == other.embeddings.dtype == np.float32
    assert (one.probabilities is None) == (other.probabilities is None)
    if one.probabilities is not None:
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
    assert one.pass_probabilities.keys() == other.pass_probabilities.keys()
    for name, values in one.pass_probabilities.items():
        np.testing.assert_array_equal(values, other.pass_probabilities[name])
    assert (one.classes, dict(one.provenance)) == (other.classes, dict(other.provenance))


@pytest.mark.parametrize("passes", [True, False])
@pytest.mark.parametrize("suffix", ["parquet", "h5ad"])
def test_what_is_written_comes_back(tmp_path: Path, suffix: str, passes: bool) -> None:
    table = make_table(passes=passes)
    path = tmp_path / f"table.{suffix}"
    (write_parquet if suffix == "parquet" else write_h5ad)(table, path)
    assert_equal(read_table(path), table)


def test_a_table_without_classifier_comes_back(tmp_path: Path) -> None:
    table = EmbeddingTable(make_table().cells[["cell_id", "field_of_view"]], make_table().embeddings)
    write_parquet(table, tmp_path / "embeddings.parquet")
    assert_equal(read_table(tmp_path), table)
    h5ad_from_parquet(tmp_path / "embeddings.parquet", tmp_path / "e.h5ad")
    assert_equal(read_table(tmp_path / "e.h5ad"), table)


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_parquet(make_table(), tmp_path / f"{name}.parquet")
        write_h5ad(make_table(), tmp_path / f"{name}.h5ad")
    for suffix in ("parquet", "h5ad"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_the_schema_says_what_is_in_it(tmp_path: Path) -> None:
    write_parquet(make_table(), tmp_path / "t.parquet")
    schema = pq.read_schema(tmp_path / "t.parquet")
    facts = json.loads(schema.metadata[b"subcell_hf"])
    assert facts["schema_version"] == 1
    assert facts["classes"] == ["Nucleoplasm", "Cytosol", "Nucleoli", "Negative"]
    assert facts["passes"] == ["mito", "agp"]
    assert facts["provenance"] == {"model": "tiny", "seed": 0}
    assert str(schema.field("embedding").type) == "fixed_size_list<element: float>[6]"
    assert str(schema.field("probabilities_agp").type) == "fixed_size_list<element: float>[4]"
    assert str(schema.field("gene").type) == "string"


def test_scanpy_reads_the_h5ad(tmp_path: Path) -> None:
    table = make_table()
    write_parquet(table, tmp_path / "t.parquet")
    h5ad_from_parquet(tmp_path / "t.parquet", tmp_path / "t.h5ad")
    data = anndata.read_h5ad(tmp_path / "t.h5ad")
    assert data.shape == (11, 6)
    assert list(data.obs_names) == list(table.cells["cell_id"])
    assert list(data.obs["gene"].astype(str)) == list(table.cells["gene"])
    np.testing.assert_array_equal(data.obsm["probabilities"], table.probabilities)
    assert json.loads(data.uns["subcell_hf"])["provenance"]["model"] == "tiny"


@pytest.mark.parametrize("cuts", [[11], [1, 4, 6], [3, 3, 3, 2]])
def test_joined_bytes_do_not_depend_on_the_cuts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuts: list[int]
) -> None:
    monkeypatch.setattr(table_parquet, "CELLS_PER_GROUP", 4)
    table, parts, start = make_table(), [], 0
    for number, cells in enumerate(cuts):
        parts.append(tmp_path / f"{number}.parquet")
        write_parquet(table.select(slice(start, start + cells)), parts[-1])
        start += cells
    assert join_parquet(parts, tmp_path / "joined.parquet") == 11
    write_parquet(table, tmp_path / "one.parquet")
    join_parquet([tmp_path / "one.parquet"], tmp_path / "rejoined.parquet")
    assert (tmp_path / "joined.parquet").read_bytes() == (tmp_path / "rejoined.parquet").read_bytes()
    assert_equal(read_table(tmp_path / "joined.parquet"), table, ignore_order=True)
    blocks = list(iterate_parquet(tmp_path / "joined.parquet", 4))
    assert [len(block) for block in blocks] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate([block.embeddings for block in blocks]), table.embeddings)


def test_parts_may_know_different_things(tmp_path: Path) -> None:
    one, other = make_table(seed=1), make_table(seed=2)
    one = replace(one, cells=one.cells.drop(columns="gene").assign(plate="7", qc_saturation=None))
    other = replace(other, cells=other.cells.assign(qc_saturation=0.5))
    write_parquet(one, tmp_path / "1.parquet")
    write_parquet(other, tmp_path / "2.parquet")
    join_parquet([tmp_path / "1.parquet", tmp_path / "2.parquet"], tmp_path / "all.parquet")
    cells = read_table(tmp_path / "all.parquet").cells
    assert list(cells["plate"]) == ["7"] * 11 + [""] * 11
    assert list(cells["gene"]) == [""] * 12 + ["ACTB"] * 10
    assert cells["qc_saturation"].isna().sum() == 11
    assert cells["qc_saturation"].iloc[-1] == 0.5


def test_select_takes_masks_positions_and_slices() -> None:
    table = make_table()
    mask = np.arange(len(table)) % 2 == 0
    for rows in (mask, np.flatnonzero(mask), slice(None, None, 2), [0, 2, 4, 6, 8, 10]):
        assert_equal(table.select(rows), table.select(mask))
    assert list(table.select([3, 1]).cells["label"]) == [3, 1]
    assert len(table.select([])) == 0
    np.testing.assert_array_equal(
        table.select([3, 1]).pass_probabilities["agp"], table.pass_probabilities["agp"][[3, 1]]
    )


def test_portable_results_are_read(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    features, probabilities = generator.random((3, 12)), generator.random((3, 31))
    frame = pd.DataFrame({"id": ["a", "b", "c"], "top_class_name": "Cytosol", "top_class": 4})
    frame = frame.join(pd.DataFrame(probabilities, columns=[f"prob{n:02d}" for n in range(31)]))
    frame = frame.join(pd.DataFrame(features, columns=[f"feat{n:04d}" for n in range(12)]))
    frame.to_csv(tmp_path / "result.csv", index=False)
    table = read_table(tmp_path / "result.csv")
    assert list(table.cells["cell_id"]) == ["a", "b", "c"]
    assert table.classes == reported_locations()
    np.testing.assert_allclose(table.embeddings, features, rtol=1e-6)
    np.testing.assert_allclose(table.probabilities, probabilities, rtol=1e-6)
    assert list(table.cells["top_class_name"]) == ["Cytosol"] * 3

    with h5py.File(tmp_path / "portable.h5ad", "w") as h5:
        h5.attrs["created_by"] = "SubCellPortable"
        h5["X"], h5["obs/index"], h5["obsm/probabilities"] = features, np.array(["a", "b", "c"], "S"), probabilities
    again = read_table(tmp_path / "portable.h5ad")
    np.testing.assert_array_equal(again.embeddings, table.embeddings)
    assert (list(again.cells["cell_id"]), again.classes) == (["a", "b", "c"], table.classes)


def test_tables_of_other_tools_are_read(tmp_path: Path) -> None:
    (tmp_path / "n.csv").write_text("cell_id,embedding_1,embedding_0,gene\nx,1.5,0.5,A\ny,3,2,\n")
    table = read_table(tmp_path / "n.csv")
    np.testing.assert_array_equal(table.embeddings, [[0.5, 1.5], [2, 3]])
    assert list(table.cells["gene"]) == ["A", ""]
    (tmp_path / "profiles.csv").write_text("Metadata_Well,Metadata_Site,Cells_Area,Nuclei_X\nA01,1,5,6\nA02,2,7,8\n")
    table = read_table(tmp_path / "profiles.csv")
    np.testing.assert_array_equal(table.embeddings, [[5, 6], [7, 8]])
    assert list(table.cells.columns) == ["cell_id", "field_of_view", "Metadata_Well", "Metadata_Site"]
    np.savez(
        tmp_path / "a.npz", embeddings=np.eye(3), gene=np.array(["A", "B", "C"]), cell_id=np.array(["x", "y", "z"])
    )
    table = read_table(tmp_path / "a.npz")
    assert (list(table.cells["cell_id"]), list(table.cells["gene"])) == (["x", "y", "z"], ["A", "B", "C"])


def test_what_is_not_sound_is_refused(tmp_path: Path) -> None:
    table = make_table()
    path = tmp_path / "t.parquet"
    with pytest.raises(InputError, match="cell_id occur before, the first is '7_A1_0_0'"):
        write_parquet(table.select([0, 1, 0]), path)
    broken = table.embeddings.copy()
    broken[7, 2] = np.nan
    with pytest.raises(InputError, match="row 7 is NaN"):
        write_parquet(replace(table, embeddings=broken), path)
    with pytest.raises(InputError, match=r"probabilities_mito has shape \(11, 4\), expected 11 cells x 2"):
        write_parquet(replace(table, classes=("a", "b")), path)
    with pytest.raises(InputError, match=r"embedding has shape \(10, 6\)"):
        write_parquet(replace(table, embeddings=table.embeddings[:10]), path)
    assert not path.exists()
    other = replace(make_table(seed=3), embeddings=np.ones((11, 5), np.float32))
    write_parquet(table, tmp_path / "1.parquet")
    write_parquet(other, tmp_path / "2.parquet")
    with pytest.raises(InputError, match="expected one width"):
        join_parquet([tmp_path / "1.parquet", tmp_path / "2.parquet"], path)


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    write_parquet(make_table(), tmp_path / "t.parquet")
    arrow = pq.read_table(tmp_path / "t.parquet")
    newer = json.loads(arrow.schema.metadata[b"subcell_hf"]) | {"schema_version": 99}
    pq.write_table(arrow.replace_schema_metadata({"subcell_hf": json.dumps(newer)}), tmp_path / "new.parquet")
    with pytest.raises(InputError, match="schema version 99"):
        read_table(tmp_path / "new.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-40])
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_table(tmp_path / "cut.parquet")
    with pytest.raises(InputError, match=r"contains no embeddings\.parquet"):
        read_table(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "t.csv").write_text("id,feat0000\na,1\nb,\n")
    with pytest.raises(InputError, match="row 1 is NaN"):
        read_table(tmp_path / "t.csv")
