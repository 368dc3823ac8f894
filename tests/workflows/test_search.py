"""`subcell search` and `subcell_hf.search`: by cell, selection and image; as text, JSON and page."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import subcell_hf
from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.tables.files import read_table
from tests.images.written_fields import write_hpa_field
from tests.inference.embedding_runs import save_tiny_model, write_fields
from tests.inference.example_output import HOSTILE, write_example_output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_example_output(tmp_path_factory.mktemp("search") / "run")


def search(*words: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["search", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


def test_json_is_what_python_gives(run: Path) -> None:
    code, text, _ = search(run, "--cell", "1_A0_0", "-k", "3", "--json", "--exclude", "plate")
    found = subcell_hf.search(run, "1_A0_0", 3, exclude="plate")
    assert code == 0
    assert [(row["cell_id"], row["similarity"]) for row in json.loads(text)] == [
        (row.cell_id, row.similarity) for row in found.itertuples()
    ]
    assert set(found["plate"]) == {"2"}
    table = read_table(run)
    assert subcell_hf.search(table, table.embeddings[0], 1)["cell_id"].tolist() == ["1_A0_0"]
    assert "1_A0_0" not in set(subcell_hf.search(table, ["1_A0_0", "1_A2_8"], 60)["cell_id"])


def test_the_page_shows_query_and_cells(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    condition = f"gene == {HOSTILE!r}"
    code, text, _ = search(run, "--mean-of", condition, "-k", "4", "--output", page, "--where", "gene != ''")
    assert code == 0
    lines = text.splitlines()
    assert lines[0].split("\t")[:3] == ["cell_id", "similarity", "top_location_1"]
    content = page.read_text(encoding="utf-8")
    assert HOSTILE not in content
    assert content.count("data:image/png") == 4
    assert all(f"{line.split()[0]}</p>" in content for line in lines[1:5])
    code, _, _ = search(run, "--cell", "1_A0_0", "-k", "2", "--output", page)
    assert page.read_text(encoding="utf-8").count("data:image/png") == 3


def test_fewer_cells_than_wanted_are_warned_of(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = subcell_hf.search(run, "1_A0_0", 50, where="gene == 'TP53'")
    assert len(found) == 14
    assert "Only 14 cells of the 50 wanted" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cell", "nobody"], "has no cell 'nobody'"),
        ([], "consists of nothing"),
        (["--mean-of", "plate == '9'"], "No cell of"),
        (["--cell", "1_A0_0", "--index", "--exact"], "choose one"),
        (["--image", "missing.tif"], "missing.tif does not exist"),
        (["--cell", "1_A0_0", "--exclude", "well"], "no column well"),
    ],
)
def test_wrong_queries_are_refused(run: Path, words: list[str], message: str) -> None:
    code, _, error = search(run, *words)
    assert code == 2
    assert message in error


def test_an_image_is_embedded_as_the_table_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, images, run = save_tiny_model(tmp_path / "model"), tmp_path / "images", tmp_path / "run"
    subcell_hf.embed(str(write_fields(images)), model=model, output=run, precision="fp32", h5ad=False, progress=False)
    table = read_table(run)
    write_hpa_field(tmp_path / "one", "7_A1_1")
    found = subcell_hf.search(run, tmp_path / "one", 2)
    mine = table.embeddings[(table.cells["field_of_view"] == "7_A1_1").to_numpy()]
    mean = (mine / np.linalg.norm(mine, axis=1, keepdims=True)).sum(axis=0)
    expected = subcell_hf.search(run, mean, 2)
    assert np.allclose(found["similarity"], expected["similarity"], atol=1e-3)
    assert "has 2 cells; searching for cells like their mean" in caplog.text
    with pytest.raises(InputError, match="An image names no plate"):
        subcell_hf.search(run, tmp_path / "one", 2, exclude="plate")
    shutil.rmtree(model)
    save_tiny_model(model, seed=1)
    with pytest.raises(InputError, match=r"was embedded by .*model \(.*is now .*model \("):
        subcell_hf.search(run, tmp_path / "one", 2)
