"""Search finds what a naive comparison of all cells finds: streamed, filtered, and by an index."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from subcell_hf.errors import InputError
from subcell_hf.tables.embedding_table import EmbeddingTable
from subcell_hf.tables.files import write_parquet
from subcell_hf.tables.search import index_building, index_files
from subcell_hf.tables.search.exact import mean_direction, search_exactly
from subcell_hf.tables.search.index import SearchIndex, index_folder
from subcell_hf.tables.search.index_building import TARGET_RECALL, build_index
from subcell_hf.tables.search.queries import SearchFilters, SearchQuery, rows_to_search, select_rows
from subcell_hf.tables.search.stored_cells import Floats, Mask, open_cells, read_embeddings

CELLS, WIDTH = 9000, 12


def table_of(count: int = CELLS) -> EmbeddingTable:
    rng = np.random.default_rng(0)
    group = rng.integers(40, size=count)
    embeddings = (rng.normal(size=(40, WIDTH))[group] + 0.3 * rng.normal(size=(count, WIDTH))).astype(np.float32)
    embeddings[7] = 0  # has no direction
    embeddings[11] = embeddings[10]
    cells = pd.DataFrame(
        {
            "cell_id": [f"c{number}" for number in range(count)],
            "field_of_view": [f"f{number // 10}" for number in range(count)],
            "plate": [f"P{number % 3}" for number in range(count)],
            "well": [("A1", "B2", "")[number % 7 // 3] for number in range(count)],
            "antibody": [f"HPA{number}" for number in group],
            "area": rng.random(count),
        }
    )
    return EmbeddingTable(cells, embeddings)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("search") / "cells.parquet"
    write_parquet(table_of(), path)
    return path


def naive(table: EmbeddingTable, direction: Floats, k: int, allowed: Mask) -> tuple[list[int], list[float]]:
    """All cosines, sorted."""
    found = []
    for row in np.flatnonzero(allowed):
        length = float(np.linalg.norm(table.embeddings[row]))
        if length:
            found.append((-float(table.embeddings[row] @ direction) / length, int(row)))
    found.sort(key=lambda pair: (round(pair[0], 6), pair[1]))
    return [row for _, row in found[:k]], [-value for value, _ in found[:k]]


@pytest.mark.parametrize("k", [1, 10, 6000])
def test_streamed_search_is_the_naive_one(path: Path, k: int) -> None:
    table, cells = table_of(), open_cells(path)
    allowed = np.arange(CELLS) % 2 == 0
    direction = mean_direction(cells, np.arange(CELLS) == 3)
    nearest = search_exactly(cells, direction, k, allowed)
    rows, similarities = naive(table, direction, k, allowed)
    assert np.allclose(nearest.similarities[0], similarities, atol=1e-6)
    assert nearest.rows[0, :1].tolist() == rows[:1]
    assert len({*nearest.rows[0].tolist(), *rows}) <= len(rows) + 2  # cosines that differ by rounding may change places
    assert nearest.rows.shape[1] == min(k, 4500)
    assert 7 not in nearest.rows[0]


def test_embeddings_of_some_cells_come_in_their_order(path: Path) -> None:
    rows = np.random.default_rng(1).permutation(CELLS)[:500]
    for cells in (open_cells(path), open_cells(table_of())):
        assert np.array_equal(read_embeddings(cells, rows), table_of().embeddings[rows])


def test_of_equal_cells_the_first_comes_first() -> None:
    cells = open_cells(table_of())
    nearest = search_exactly(cells, mean_direction(cells, np.arange(CELLS) == 11), 2, np.ones(CELLS, np.bool_))
    assert nearest.rows[0].tolist() == [10, 11]


def test_a_mean_gives_each_cell_the_same_weight() -> None:
    table = table_of(20)
    lengths = np.where(np.arange(20) == 1, 100, 1)[:, None].astype(np.float32)
    large = EmbeddingTable(table.cells, table.embeddings * lengths)
    chosen = np.arange(20) < 3
    assert np.allclose(mean_direction(open_cells(table), chosen), mean_direction(open_cells(large), chosen), atol=1e-6)
    with pytest.raises(InputError, match="no direction"):
        mean_direction(open_cells(table), np.arange(20) == 7)


def test_filters_leave_out_what_is_shared_or_unknown(path: Path) -> None:
    cells, frame = open_cells(path), table_of().cells
    query = np.isin(np.arange(CELLS), (0, 8))  # wells A1 of P0 and of P2
    allowed = rows_to_search(cells, SearchFilters("area > 0.5", ("well", "antibody")), query)
    for row in range(0, CELLS, 45):
        shares = frame.loc[[0, 8], "antibody"].eq(frame.antibody[row]).any()
        place = (frame.plate[row], frame.well[row])
        other = place not in {("P0", "A1"), ("P2", "A1")}
        assert allowed[row] == bool(frame.area[row] > 0.5 and not shares and frame.well[row] and other), row
    with pytest.raises(InputError, match="has no column gene"):
        rows_to_search(cells, SearchFilters(exclude=("gene",)), query)
    with pytest.raises(InputError, match="well is unknown"):
        rows_to_search(cells, SearchFilters(exclude=("well",)), np.arange(CELLS) == 6)
    with pytest.raises(InputError, match="expected one of plate, well"):
        SearchFilters(exclude=("colour",))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("plat == 'P1'", "'plat' is not defined"),
        ("plate", "not true or false"),
        ("area = 3", "not true or false"),
        ("plate ==", "cannot be evaluated"),
        ("@pd.read_csv('x')", "not allowed"),
        ("cell_id.__class__", "not allowed"),
        ("plate > 3", "cannot be evaluated"),
    ],
)
def test_wrong_conditions_name_the_columns(path: Path, expression: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as found:
        select_rows(open_cells(path), expression)
    assert "The columns are cell_id, field_of_view" in str(found.value)


def test_a_query_is_of_one_kind() -> None:
    for query in (SearchQuery(), SearchQuery(cells=("a",), mean_of="b")):
        with pytest.raises(InputError, match="expected one of cell ids"):
            query.check()


@pytest.fixture(scope="module")
def indexed(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("faiss", reason="the extra search is not installed")
    copy = tmp_path_factory.mktemp("indexed") / "cells.parquet"
    shutil.copy(path, copy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_building, "_CELLS_PER_PART", 2500)  # parts that end within row groups
        patch.setattr(index_files, "_FEW_CELLS", 100)
        facts = build_index(open_cells(copy))
    assert facts.recall >= TARGET_RECALL
    assert facts.effort.lists < facts.lists == 128
    return copy


@pytest.mark.parametrize("share", [1.0, 0.3, 0.002])
def test_an_index_finds_what_exact_search_finds(indexed: Path, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a filter leaves few cells: then all of them are compared."""
    monkeypatch.setattr(index_files, "_FEW_CELLS", 100)
    cells = open_cells(indexed)
    index, allowed = SearchIndex(cells), np.random.default_rng(1).random(CELLS) < share
    hits = []
    for row in range(100, 140):
        direction = mean_direction(cells, np.arange(CELLS) == row)
        exact, found = search_exactly(cells, direction, 10, allowed), index.search(direction, 10, allowed)
        hits.append(len(np.intersect1d(exact.rows, found.rows)) / exact.rows.size)
        assert found.rows.size == exact.rows.size
        assert allowed[found.rows].all()
        same = found.rows == exact.rows
        assert np.abs(found.similarities - exact.similarities)[same].max() < 5e-4
    assert np.mean(hits) >= (0.98 if share > 0.01 else 1.0)
    assert index.search(direction, 5000, np.arange(CELLS) < 30).rows.size == 29  # row 7 has no direction


def test_a_build_resumes_and_keeps_what_is_sound(indexed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = index_folder(indexed)
    monkeypatch.setattr(index_building, "_CELLS_PER_PART", 2500)
    monkeypatch.setattr(index_files, "_FEW_CELLS", 100)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    damaged = folder / "part-00001.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"part-00001.npy has .* bytes, expected"):
        SearchIndex(open_cells(indexed))
    (folder / "index.json").unlink()
    with pytest.raises(InputError, match="no complete index"):
        SearchIndex(open_cells(indexed))
    facts = build_index(open_cells(indexed))
    changed = [name for name, time in before.items() if (folder / name).stat().st_mtime_ns != time]
    assert changed == ["part-00001.npy"]
    assert facts.recall >= TARGET_RECALL


def test_a_changed_table_is_refused_and_a_copy_is_not(indexed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "cells.parquet"
    shutil.copy(indexed, copy)
    shutil.copytree(index_folder(indexed), index_folder(copy))
    assert SearchIndex(open_cells(copy)).facts.cells == CELLS
    write_parquet(table_of().select(slice(0, CELLS - 1)), copy)
    with pytest.raises(InputError, match=r"has changed since .*9000 cells"):
        SearchIndex(open_cells(copy))
    other = table_of()
    other.embeddings[0] *= 2
    write_parquet(other, copy)
    with pytest.raises(InputError, match="has changed"):
        SearchIndex(open_cells(copy))


def test_only_files_have_an_index() -> None:
    pytest.importorskip("faiss", reason="the extra search is not installed")
    with pytest.raises(InputError, match="no Parquet file"):
        build_index(open_cells(table_of(30)))
