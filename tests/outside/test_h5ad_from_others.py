"""AnnData files of other tools: nullable columns are read, integers stay whole, what is missing is named."""

from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.table import read_profiles
from subcell_hf.evaluation.proteome_map.field_means import average_fields
from subcell_hf.tables.files import EmbeddingTable, read_table, write_h5ad
from subcell_hf.tables.search.stored_cells import open_cells

CELLS = ("a", "b", "c")
NUMBERS = np.arange(6, dtype=np.float32).reshape(3, 2)


def _obs(**columns: object) -> pd.DataFrame:
    obs = pd.DataFrame(columns, index=pd.Index(CELLS, dtype=object))
    obs.columns = obs.columns.astype(object)
    texts = obs.select_dtypes("str").columns  # AnnData does not write those of Arrow
    return obs.astype(dict.fromkeys(texts, object))


def _write(path: Path, values: object, obs: pd.DataFrame | None = None, **parts: object) -> Path:
    variables = pd.DataFrame(index=pd.Index([f"f{n}" for n in range(2)], dtype=object))
    anndata.AnnData(values, _obs() if obs is None else obs, variables, **parts).write_h5ad(path)
    return path


def test_nullable_columns(tmp_path: Path) -> None:
    obs = _obs(
        gene=["NA", "None", "nan"],
        donor=pd.array([3, None, 12], dtype="Int64"),
        batch=[1.0, np.nan, 3.0],
        plate=[1, 2, 3],
        treated=pd.array([True, None, False], dtype="boolean"),
        weight=[0.5, 1.0, np.nan],
        code=pd.Categorical([1, 2, 1]),
        kind=pd.Categorical.from_codes([0, -1, 1], categories=pd.Index(["0012", "12"], dtype=object)),
        qc_area_um2=[1.5, 2.5, 3.5],
    )
    cells = read_table(_write(tmp_path / "n.h5ad", NUMBERS, obs)).cells
    assert list(cells["cell_id"]) == list(CELLS)
    assert list(cells["gene"]) == ["NA", "None", "nan"]
    assert list(cells["donor"]) == ["3", "", "12"]
    assert list(cells["batch"]) == ["1", "", "3"]
    assert list(cells["plate"]) == ["1", "2", "3"]
    assert list(cells["treated"]) == ["True", "", "False"]
    assert list(cells["weight"]) == ["0.5", "1", ""]
    assert list(cells["code"]) == ["1", "2", "1"]
    assert list(cells["kind"]) == ["0012", "", "12"]
    assert list(cells["qc_area_um2"]) == [1.5, 2.5, 3.5]
    for column, value, found in (("donor", "3", 1), ("donor", "3.0", 1), ("batch", "3", 1), ("plate", "2", 1)):
        assert len(average_fields(tmp_path / "n.h5ad", where={column: value}).cells) == found


@pytest.mark.parametrize("kind", [scipy.sparse.csr_matrix, scipy.sparse.csc_matrix, np.asarray, np.float64, np.int32])
def test_any_matrix_of_numbers(tmp_path: Path, kind: type) -> None:
    table = read_table(_write(tmp_path / "x.h5ad", kind(NUMBERS)))
    np.testing.assert_array_equal(table.embeddings, NUMBERS)
    assert table.embeddings.dtype == np.float32


def test_no_embedding_is_refused_by_name(tmp_path: Path) -> None:
    path = _write(tmp_path / "m.h5ad", None, obsm={"X_pca": NUMBERS}, layers={"raw": NUMBERS})
    with pytest.raises(
        InputError, match=r"m\.h5ad has no embedding: its X is missing.*obsm\['X_pca'\].*layers\['raw'\]"
    ):
        read_table(path)
    result = CliRunner().invoke(app, ["aggregate", str(path), "--by", "gene", "--output", str(tmp_path / "o.parquet")])
    assert (result.exit_code, "its X is missing" in result.output) == (2, True)
    holes = NUMBERS.copy()
    holes[1, 1] = np.nan
    with pytest.raises(InputError, match="row 1 is NaN"):
        read_table(_write(tmp_path / "h.h5ad", holes))


def test_an_embedding_in_obsm_is_given_by_its_place(tmp_path: Path) -> None:
    """Every command takes it, beside an X of something else or none."""
    other = pd.DataFrame(NUMBERS * 3, pd.Index(CELLS, dtype=object), pd.Index(["p", "q"], dtype=object))
    obs = _obs(gene=["A", "A", "B"], antibody=["h", "h", "k"])
    path = _write(tmp_path / "m.h5ad", None, obs, obsm={"X_scVI": NUMBERS * 2, "X_frame": other})
    for name, factor in (("X_scVI", 2), ("X_frame", 3)):
        table = read_table(path / "obsm" / name)
        np.testing.assert_array_equal(table.embeddings, NUMBERS * factor)
        assert list(table.cells["gene"]) == ["A", "A", "B"]
        assert table.provenance["read_from"] == f"{path}/obsm/{name}"
        np.testing.assert_array_equal(read_profiles([path / "obsm" / name]).features, NUMBERS * factor)
        assert open_cells(path / "obsm" / name).width == 2
        assert len(average_fields(path / "obsm" / name).fields) == 2
    with pytest.raises(InputError, match=r"has no obsm\['X_pca'\]\. Give one that is there: .*m\.h5ad/obsm/X_scVI"):
        read_table(path / "obsm" / "X_pca")
    with pytest.raises(InputError, match=r"give the embedding in obsm, such as .*m\.h5ad/obsm/X_frame"):
        read_table(path)
    with pytest.raises(InputError, match=r"n\.h5ad does not exist"):
        read_profiles([tmp_path / "n.h5ad" / "obsm" / "X_pca"])


def test_obs_that_repeats_a_cell_is_refused(tmp_path: Path) -> None:
    obs = _obs()
    obs.index = pd.Index(["a", "a", "b"], dtype=object)
    with pytest.raises(InputError, match="cell_id occur before, the first is 'a'"):
        read_table(_write(tmp_path / "t.h5ad", NUMBERS, obs))


def test_columns_of_obs_that_look_like_ids_are_kept(tmp_path: Path) -> None:
    obs = _obs(id=["7", "8", "9"], cell_id=["x", "y", "z"], field_of_view=["f", "f", "g"])
    cells = read_table(_write(tmp_path / "t.h5ad", NUMBERS, obs)).cells
    assert (list(cells["cell_id"]), list(cells["id"])) == (list(CELLS), ["7", "8", "9"])
    assert list(cells["field_of_view"]) == ["f", "f", "g"]


def test_our_own_columns_keep_their_kind(tmp_path: Path) -> None:
    cells = pd.DataFrame({"cell_id": CELLS, "field_of_view": "f", "label": [1, 2, 3], "depth": [0.5, 1.0, 1.5]})
    write_h5ad(EmbeddingTable(cells, NUMBERS), tmp_path / "t.h5ad")
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.h5ad").cells, cells, check_dtype=False)


def test_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    path = _write(tmp_path / "t.h5ad", NUMBERS, _obs(plate=[1, 2, 3]))
    content = path.read_bytes()
    for kept in (0, 4, 200, len(content) // 2, len(content) - 9):
        (tmp_path / "cut.h5ad").write_bytes(content[:kept])
        with pytest.raises(InputError, match=r"cut\.h5ad cannot be read as AnnData") as raised:
            read_table(tmp_path / "cut.h5ad")
        assert "\n" not in str(raised.value)
    for position in range(8, len(content), len(content) // 60):
        changed = bytearray(content)
        changed[position] ^= 255
        (tmp_path / "flipped.h5ad").write_bytes(changed)
        try:
            read_table(tmp_path / "flipped.h5ad")
        except InputError:
            continue
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["images"] = NUMBERS
    with pytest.raises(InputError, match=r"other\.h5ad"):
        read_table(tmp_path / "other.h5ad")


def test_a_damage_that_would_never_end_is_refused(tmp_path: Path) -> None:
    """HDF5 steps through its texts by their sizes, and stays in place where the free space after them has none."""
    path = tmp_path / "t.h5ad"
    table = EmbeddingTable(pd.DataFrame({"cell_id": ["a", "b"], "field_of_view": "f"}), np.ones((2, 3), np.float32))
    write_h5ad(table, path)
    data = bytearray(path.read_bytes())
    place = data.index(b"GCOL\1") + 16
    while int.from_bytes(data[place : place + 2], "little"):
        place += 16 + (int.from_bytes(data[place + 8 : place + 16], "little") + 7) // 8 * 8
    data[place + 8 : place + 16] = bytes(8)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"t\.h5ad.*free space of 0 bytes"):
        read_table(path)
