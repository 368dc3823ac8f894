"""The encoder of docs/encoders.md, from images to report, comparison and card."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.report.page import write_report
from subcell_hf.tables.files import read_table
from tests.images.written_fields import write_hpa_field
from tests.inference.embedding_runs import save_tiny_model
from tests.inference.encoders.test_several_encoders import ENCODER_OF_THE_DOCS

LOCATIONS = ("Nucleoplasm", "Cytosol", "Nucleoli")


def write_annotated_fields(folder: Path) -> pd.DataFrame:
    """Fields of seven antibodies with their locations; returns these and three splits."""
    rows = []
    for number in range(7):
        name = f"7_A{number}_1"
        write_hpa_field(folder, name)
        split = ("train", "train", "train", "validation", "test", "test", "test")[number]
        rows.append(
            {"field_of_view": name, "antibody": f"HPA{number}", "gene": f"G{number}", "split": split,
             "locations": LOCATIONS[number % 3]}
        )  # fmt: skip
    table = pd.DataFrame(rows)
    table.drop(columns="split").to_csv(folder / "metadata.csv", index=False)
    return table


def subcell(*words: str | Path, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done.output


def test_it_works_through_embed_resume_report_compare_and_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    annotated = write_annotated_fields(tmp_path / "images")
    save_tiny_model(tmp_path / "model")
    (tmp_path / "my_encoder.py").write_text(ENCODER_OF_THE_DOCS)
    models = ("--model", "moments=my_encoder.py:build", "--model", "subcell=model")
    words = ("embed", "images", *models, "--device", "cpu", "--no-report", "--output", "run")
    subcell(*words)
    written = (tmp_path / "run" / "moments" / "embeddings.parquet").stat().st_mtime_ns
    subcell(*words)  # complete already
    assert (tmp_path / "run" / "moments" / "embeddings.parquet").stat().st_mtime_ns == written

    subcell("report", "run")
    page = (tmp_path / "run" / "moments" / "report.html").read_text()
    assert re.search(r'Encoder: <b>moments</b> · <a href="../subcell/report.html">subcell</a>', page)
    assert "Scale and masking" in page
    assert '<a href="../index.html">side by side</a>' in page
    assert "Scores" not in (tmp_path / "run" / "index.html").read_text()
    subcell("report", "run", "--output", "page.html", code=2)

    words = ("evaluate", "compare", "run", "--output", "run/comparison", "--resamples", "20")
    assert "give a table of metadata by cell_id (--metadata)" in subcell(*words, code=2)
    cells = read_table(tmp_path / "run" / "moments").cells[["cell_id", "field_of_view"]]
    cells.merge(annotated[["field_of_view", "split"]]).to_csv("splits.csv", index=False)
    said = subcell(*words, "--metadata", "splits.csv")
    assert "moments, subcell: The microscope cannot be scored" in said
    assert said.count("The microscope cannot be scored") == 1
    assert re.search(r"<h2>Scores</h2>.*<td>moments</td>", (tmp_path / "run" / "index.html").read_text(), re.DOTALL)
    card = (tmp_path / "run" / "comparison" / "cards" / "moments.md").read_text()
    _, metadata, text = card.split("---\n", 2)
    values = yaml.safe_load(metadata)
    assert values["license"] == "mit"
    (entry,) = values["model-index"]
    assert entry["name"] == "moments"
    assert np.isfinite([result["metrics"][0]["value"] for result in entry["results"]]).all()
    assert "| numbers per cell | 6 |" in text
    assert "subcell embed IMAGES --model moments=my_encoder.py:build --output embeddings" in text


def test_a_run_of_one_model_links_to_no_other(tmp_path: Path) -> None:
    write_hpa_field(tmp_path / "images", "7_A1_1")
    (tmp_path / "my_encoder.py").write_text(ENCODER_OF_THE_DOCS)
    model = f"{tmp_path / 'my_encoder.py'}:build"
    subcell("embed", tmp_path / "images", "--model", model, "--no-report", "--output", tmp_path / "run")
    assert "Encoder:" not in write_report(tmp_path / "run").read_text()
