"""The page of several encoders: neighbours and agreement as a naive loop finds them, and what it says of each."""

import json
import re
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from subcell_hf.errors import InputError
from subcell_hf.report.encoders_page import ENCODERS_PAGE, NEIGHBOURS, write_encoders_page
from subcell_hf.report.page import write_report
from subcell_hf.tables.files import EMBEDDINGS_FILE, EmbeddingTable, read_table, write_parquet
from subcell_hf.tables.run_record import ENCODERS_FILE, RUN_FILE
from tests.inference.example_output import write_example_output


def write_encoders(folder: Path) -> Path:
    """A run of two encoders; the second has embedded two cells less, in another order, as means over orientations."""
    first, second = write_example_output(folder / "subcell"), folder / "other"
    shutil.copytree(first, second)
    table = read_table(second)
    rows = np.random.default_rng(1).permutation(len(table))[2:]
    numbers = np.random.default_rng(2).normal(size=(len(rows), 5)).astype(np.float32) * [1, 1, 1000, 1, 0]
    cells = table.cells.iloc[rows].reset_index(drop=True)
    facts = {"models": [{"name": "other", "encoder": "other.py:build"}]}
    write_parquet(EmbeddingTable(cells, numbers.astype(np.float32), provenance=facts), second / EMBEDDINGS_FILE)
    run = json.loads((second / RUN_FILE).read_text())
    (second / RUN_FILE).write_text(json.dumps({**run, "orientations": 8}))
    (folder / ENCODERS_FILE).write_text(json.dumps({"format": 1, "encoders": ["subcell", "other"], "failed": {}}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_encoders(tmp_path_factory.mktemp("encoders") / "Plate <7>")
    assert write_encoders_page(folder) == folder / ENCODERS_PAGE
    return folder


def data_of(page: str) -> Any:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_neighbours_are_the_most_similar_cells(folder: Path) -> None:
    page = (folder / ENCODERS_PAGE).read_text()
    data = data_of(page)
    agreement = []
    for encoder in data["encoders"]:
        table = read_table(folder / encoder["name"])
        places = {cell_id: row for row, cell_id in enumerate(table.cells["cell_id"])}
        values = table.embeddings[[places[cell_id] for cell_id in data["ids"]]].astype(np.float64)
        if encoder["name"] == "other":  # no SubCell model: its numbers may have units
            spread = values.std(0)
            values = (values - values.mean(0))[:, spread > 0] / spread[spread > 0]
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        similar = values @ values.T
        np.fill_diagonal(similar, -2)
        for cell, found in enumerate(encoder["neighbours"]):
            assert len(set(found)) == NEIGHBOURS
            assert np.allclose(similar[cell, found], np.sort(similar[cell])[::-1][:NEIGHBOURS], atol=1e-5)
        agreement.append([set(found) for found in encoder["neighbours"]])
        assert len(encoder["x"]) == len(encoder["y"]) == len(data["ids"])
    shared = np.mean([len(one & other) / NEIGHBOURS for one, other in zip(*agreement, strict=True)])
    assert page.count(f">{shared:.2f}</td>") == 2
    assert page.count(">1.00</td>") == 2
    assert "Each number of other is standardized over these cells first" in page


def test_it_names_the_encoders_and_escapes_the_title(folder: Path) -> None:
    page = (folder / ENCODERS_PAGE).read_text()
    assert "Plate &lt;7&gt;" in page
    assert '<a href="other/report.html">other</a>' in page
    assert page.count("(mean of 8 orientations)</td>") == 1
    tables = [set(read_table(folder / name).cells["cell_id"]) for name in ("subcell", "other")]
    data = data_of(page)
    assert set(data["ids"]) <= tables[0] & tables[1]
    assert all(tile >= 0 for tile in data["tiles"])
    assert "top_location_1" in [column["name"] for column in data["columns"]]


def test_what_cannot_be_shown_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no encoders"):
        write_encoders_page(folder / "subcell")
    shutil.copytree(folder, tmp_path / "run")
    table = read_table(tmp_path / "run" / "other")
    cells = table.cells.assign(cell_id=[f"else {row}" for row in range(len(table))])
    write_parquet(EmbeddingTable(cells, table.embeddings), tmp_path / "run" / "other" / EMBEDDINGS_FILE)
    with pytest.raises(InputError, match="have no cell in common"):
        write_encoders_page(tmp_path / "run")


def test_both_pages_compare_the_cells_of_an_encoder_alike(folder: Path) -> None:
    compared = 0
    page = data_of((folder / ENCODERS_PAGE).read_text())
    for shown in page["encoders"]:
        own = data_of(write_report(folder / shown["name"]).read_text())
        place = {cell_id: number for number, cell_id in enumerate(page["ids"])}
        similar = [[place.get(own["ids"][cell]) for cell in cells] for cells in own["similar"]]
        for cell_id, found in zip(own["ids"], similar, strict=True):
            if cell_id in place and None not in found:
                assert found == shown["neighbours"][place[cell_id]]
                compared += 1
    assert compared > 58


def test_memory_of_the_pages_does_not_grow_with_the_embeddings(tmp_path: Path) -> None:
    peaks = []
    for cells in (4_000, 12_000):
        folder = tmp_path / str(cells)
        frame = pd.DataFrame({"cell_id": [f"c{cell}" for cell in range(cells)], "field_of_view": "f"})
        numbers = np.random.default_rng(0).normal(size=(cells, 512)).astype(np.float32)
        for name in ("one", "two"):
            (folder / name).mkdir(parents=True)
            (folder / name / "run.json").write_text("{}")
        write_parquet(EmbeddingTable(frame, numbers), folder / "one" / EMBEDDINGS_FILE)
        (folder / "two" / EMBEDDINGS_FILE).hardlink_to(folder / "one" / EMBEDDINGS_FILE)
        (folder / ENCODERS_FILE).write_text(json.dumps({"encoders": ["one", "two"]}))
        tracemalloc.start()
        write_encoders_page(folder, max_cells=10)
        write_report(folder / "one", max_cells=10)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < (12_000 - 4_000) * 512 * 4 / 3


def test_one_cell_without_pictures(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "run")
    for name in ("subcell", "other"):
        (tmp_path / "run" / name / "pictures.parquet").unlink()
    data = data_of(write_encoders_page(tmp_path / "run", max_cells=1).read_text())
    assert len(data["ids"]) == 1
    assert data["tiles"] == [-1]
    assert [encoder["neighbours"] for encoder in data["encoders"]] == [[[]], [[]]]
