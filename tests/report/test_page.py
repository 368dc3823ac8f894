"""The page of a run: what it says, that it holds itself, and that no name of a cell is markup."""

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.report import page as report
from subcell_hf.report import summaries
from subcell_hf.report.columns import label_of, number_text, page_columns
from subcell_hf.report.page import write_report
from subcell_hf.tables.cell_pictures import iterate_pictures, write_pictures
from subcell_hf.tables.files import EmbeddingTable, read_table, write_parquet
from tests.inference.embedding_runs import save_tiny_model, write_fields
from tests.inference.example_output import HOSTILE, example_cells, write_example_output


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = write_report(write_example_output(tmp_path_factory.mktemp("report") / "out <i>put</i>"))
    return path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_cell_is_there_with_its_picture_and_place(page: str) -> None:
    data = data_of(page)
    assert data["ids"] == list(example_cells(60).cells["cell_id"])
    assert sorted(data["tiles"]) == list(range(60))
    assert len(data["x"]) == len(data["y"]) == 60
    assert min(data["x"] + data["y"]) >= 0
    assert max(data["x"] + data["y"]) <= 10_000
    assert "UMAP of the cosine between embeddings, 15 neighbours, seed 0" in page
    assert data["pictures"]["heads"] == 2
    located = next(column for column in data["columns"] if column["name"] == "top_location_1")
    assert set(located["levels"]) == {"Nucleoplasm", "Actin filaments", "Mitochondria", "Nucleoli"}
    assert located["colours"][located["levels"].index("Nucleoli")] == "#9c27b0"
    focus = next(column for column in data["columns"] if column["name"] == "qc_focus")
    assert focus["values"][3] is None


def test_similar_cells_are_those_of_the_largest_cosine(tmp_path: Path) -> None:
    folder = write_example_output(tmp_path / "out", 14)
    pictures = list(iterate_pictures(folder))
    write_pictures(pictures[:9], folder / "pictures.parquet")
    data = data_of(write_report(folder).read_text(encoding="utf-8"))
    directions = example_cells(14).embeddings
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cosines = directions @ directions.T
    for cell, similar in enumerate(data["similar"]):
        others = [n for n in np.argsort(-cosines[cell]) if n != cell and data["tiles"][n] >= 0]
        assert similar == others[:6]


@pytest.mark.slow
def test_counts_locations_skipped_and_run(page: str) -> None:
    text = html.unescape(re.sub(r"<[^>]*>", " ", page.split('<script type="application/json"')[0]))
    text = re.sub(r"\s+", " ", text)
    for words in (
        "60 cells 6 fields of view 2 plates 4 antibodies 3 genes 4 predicted locations 1 skipped",
        "Of 30 cells whose location was given, 30 (100 %) were predicted correctly.",
        "60 of 60 cells have a picture",
        "Nucleoli 15 25 %",
        "is truncated",
        "subcell embed images --model 'a <b>model</b>'",
        "Model name tiny revision abc channels red, dapi, blue, green Versions torch 2 Timings",
        "1,000 numbers from 0.5 to 999.5, median 500",
        "All settings Model: processor size · height 64 Arguments precision fp32",
        "red: microtubules blue: nucleus (DNA) green: protein of interest",
        "unknown for 1 cells",
        "0 in every cell",
    ):
        assert words in text, words


@pytest.mark.slow
def test_nothing_that_a_user_named_is_markup(page: str) -> None:
    assert HOSTILE not in page
    assert "<i>put</i>" not in page
    assert "<b>model</b>" not in page
    assert page.count("<script") == 2
    genes = next(column for column in data_of(page)["columns"] if column["name"] == "gene")
    assert HOSTILE in genes["levels"]


@pytest.mark.slow
def test_the_page_holds_itself(page: str) -> None:
    outside = page.replace("http-equiv", "")
    assert not re.findall(r"(?:https?:|//[a-z]|url\(|@import|src=|href=\"(?!#|data:))", outside.split("<style>")[0])
    assert "default-src 'none'" in page
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|https?://", page)


@pytest.mark.slow
def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    folder = write_example_output(tmp_path / "out", 20)
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first
    assert write_report(folder, seed=1).read_bytes() != first


def test_few_cells_are_laid_out_by_principal_components(tmp_path: Path) -> None:
    for cells in (1, 2, 14):
        page = write_report(write_example_output(tmp_path / str(cells), cells)).read_text(encoding="utf-8")
        assert f"PCA, since {cells} cells are too few for UMAP" in page
        assert len(data_of(page)["x"]) == cells


def test_without_classifier_and_pictures(tmp_path: Path) -> None:
    folder = write_example_output(tmp_path / "out", 12, classified=False, pictures=False)
    page = write_report(folder, title="Tuesday's plate").read_text(encoding="utf-8")
    assert "<h1>Tuesday&#39;s plate</h1>" in page
    assert 'id="locations"' not in page
    assert 'id="montage"' not in page
    assert "no classifier" in page
    assert set(data_of(page)["tiles"]) == {-1}


def test_a_bare_table_is_enough(tmp_path: Path) -> None:
    cells = pd.DataFrame({"cell_id": [f"c{i}" for i in range(20)], "field_of_view": ""})
    write_parquet(EmbeddingTable(cells, np.ones((20, 3), np.float32)), tmp_path / "embeddings.parquet")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "all embeddings are equal" in page.lower()
    assert data_of(page)["columns"] == []


@pytest.mark.slow
def test_large_tables_are_shown_in_part_and_say_so(tmp_path: Path) -> None:
    folder = write_example_output(tmp_path / "out", 60, pictures=False)
    page = write_report(folder, max_cells=20).read_text(encoding="utf-8")
    assert "20 of 60 cells are shown" in page
    assert "<b>60</b> cells" in page
    shown = data_of(page)["ids"]
    assert len(shown) == 20
    assert shown == [cell_id for cell_id in example_cells(60).cells["cell_id"] if cell_id in set(shown)]


@pytest.mark.slow
def test_long_names_and_many_pictures_do_not_swell_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_example_output(tmp_path / "out", 60)
    monkeypatch.setattr(report, "_MAX_DATA_BYTES", 5000)
    monkeypatch.setattr(report, "_MAX_PICTURE_BYTES", 1000)
    monkeypatch.setattr(report, "_FEWEST_CELLS", 10)
    page = write_report(folder).read_text(encoding="utf-8")
    data = data_of(page)
    assert f"{len(data['ids'])} of 60 cells are shown" in page
    assert len(data["ids"]) in (15, 30)
    assert data["pictures"]["left_out"] == 60
    assert "0 of 60 cells have a picture" not in page  # an empty montage is left out


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"embeddings\.parquet"):
        write_report(tmp_path)
    write_parquet(example_cells(4).select(slice(0, 0)), tmp_path / "embeddings.parquet")
    with pytest.raises(InputError, match="without cells"):
        write_report(tmp_path)
    folder = write_example_output(tmp_path / "out", 4)
    with pytest.raises(InputError, match="is a file, expected the folder"):
        write_report(folder / "embeddings.parquet")
    (folder / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        write_report(folder)


def test_the_montage_takes_whole_and_certain_cells_of_several_fields() -> None:
    cells = example_cells(60).cells
    rows = summaries.choose_montage(cells, set(cells["cell_id"]))
    assert [row["cells"] for row in rows] == [15] * 4
    chosen = cells.set_index("cell_id").loc[rows[0]["cell_ids"]]
    assert set(chosen["top_location_1"]) == {rows[0]["name"]}
    assert chosen["field_of_view"].value_counts().max() <= 6
    whole = chosen[~chosen["qc_cut_by_border"]]
    for _, field in whole.groupby("field_of_view"):
        assert field["top_probability_1"].is_monotonic_decreasing
    everywhere = cells[cells["top_location_1"] == rows[0]["name"]]
    assert len(whole) == min(12, (~everywhere["qc_cut_by_border"]).sum())


def test_numbers_and_names_are_written_as_people_do() -> None:
    values = (0, 0.00001, 0.00012, 0.01234, 12.345, 2977.4, 3e12)
    assert [number_text(value) for value in values] == [
        "0",
        "1.00e-05",
        "0.00012",
        "0.0123",
        "12.3",
        "2,977",
        "3.00e+12",
    ]
    names = ("qc_area_um2", "qc_focus", "pixel_size_um", "qc_", "drug", "top_location_1")
    assert [label_of(name) for name in names] == [
        *("Area (µm²)", "Focus", "Pixel size (µm)", "qc_", "Drug", "Predicted location")
    ]


def test_columns_that_say_nothing_are_left_out() -> None:
    cells = example_cells(8).cells
    cells["note"] = ""
    names = [column["name"] for column in page_columns(cells)]
    assert "note" not in names
    assert "qc_empty_channels" not in names
    assert names.index("top_location_1") < names.index("gene") < names.index("qc_area_um2")


def test_the_command(tmp_path: Path) -> None:
    folder = write_example_output(tmp_path / "out", 5)
    run = CliRunner().invoke(app, ["report", str(folder)])
    assert run.exit_code == 0, run.output
    assert "report.html" in run.output
    assert (folder / "report.html").is_file()


def test_the_page_and_portable_files_come_with_the_run(tmp_path: Path) -> None:
    fields, model = write_fields(tmp_path / "fields"), save_tiny_model(tmp_path / "model")
    command = ["embed", str(fields), "--model", str(model), "--device", "cpu", "--no-h5ad"]
    run = CliRunner().invoke(app, [*command, "--output", str(tmp_path / "out"), "--portable"])
    assert run.exit_code == 0, run.output
    cells = read_table(tmp_path / "out").cells
    first = cells["top_location_1"].value_counts()
    assert f"{first.index[0]} ({first.iloc[0]})" in run.output
    assert data_of((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))["ids"] == list(cells["cell_id"])
    result = pd.read_csv(tmp_path / "out" / "portable" / "result.csv")
    assert list(result["id"]) == list(cells["cell_id"])
    assert len(list((tmp_path / "out" / "portable").glob("*_attention_map.png"))) == len(cells)
    quiet = CliRunner().invoke(app, [*command, "--output", str(tmp_path / "bare"), "--no-report"])
    assert quiet.exit_code == 0, quiet.output
    assert not (tmp_path / "bare" / "report.html").exists()


def test_missing_libraries_are_named_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subcell_hf.workflows.tables.find_spec", lambda name: None)
    run = CliRunner().invoke(app, ["embed", "images", "--model", "m", "--output", str(tmp_path / "out")])
    assert run.exit_code == 2
    assert "--no-report" in run.output
    assert not (tmp_path / "out").exists()
