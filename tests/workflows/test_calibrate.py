"""`subcell calibrate`: the folder of a classifier carries sets, which pipeline and tables show."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline
from typer.testing import CliRunner

import subcell_hf
from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.inference.models.loading import find_models
from subcell_hf.tables.embedding_table import EmbeddingTable
from subcell_hf.tables.files import write_parquet
from subcell_hf.workflows import CalibrationSettings, calibrate
from tests.inference.embedding_runs import save_tiny_model

CLASSES = ("Nucleoplasm", "Cytosol", "Nucleoli", "Negative")


def write_table(path: Path, model: Path, antibodies: int = 60) -> None:
    """Two cells of each antibody, whose location has the highest probability; one training cell that is wrong."""
    import pandas as pd

    rng = np.random.default_rng(0)
    place = np.repeat(rng.integers(4, size=antibodies), 2)
    probabilities = rng.random((len(place), 4), dtype=np.float32) * np.float32(0.2)
    probabilities[np.arange(len(place)), place] = 0.6
    probabilities[0] = 0
    cells = pd.DataFrame(
        {
            "cell_id": [f"c{n}" for n in range(len(place))],
            "field_of_view": "f",
            "antibody": [f"HPA{n // 2}" for n in range(len(place))],
            "locations": [CLASSES[n] for n in place],
            "split": ["train", "train", *["test"] * (len(place) - 2)],
        }
    )
    found = find_models(str(model))[0]
    provenance = {"models": [{"name": str(model), "revision": None, "weights_sha256": found.checksum}]}
    embeddings = rng.normal(size=(len(place), 8)).astype(np.float32)
    write_parquet(EmbeddingTable(cells, embeddings, probabilities, CLASSES, provenance=provenance), path)


def test_a_calibrated_folder_shows_sets(tmp_path: Path) -> None:
    model, table, output = save_tiny_model(tmp_path / "model"), tmp_path / "t.parquet", tmp_path / "calibrated"
    write_table(table, model)
    result = CliRunner().invoke(app, ["calibrate", str(table), "--recall", "0.9", "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert "recall over antibodies is at least 0.9 (1.000 on 59 antibodies" in result.stdout
    sets = json.loads((output / "config.json").read_text())["location_sets"]
    assert 0.58 < sets["threshold"] <= 0.6
    assert find_models(str(output))[0].checksum == find_models(str(model))[0].checksum

    pixels = np.random.default_rng(1).integers(0, 255, (2, 4, 32, 32), np.uint8)
    embedded = subcell_hf.embed(pixels, output, precision="fp32", progress=False)
    expected = [
        [n for n, p in zip(CLASSES, row, strict=True) if p >= sets["threshold"]] for row in embedded.probabilities
    ]
    assert embedded.cells["location_set"].tolist() == [";".join(names) for names in expected]
    assert embedded.cells["set_size"].tolist() == [len(names) for names in expected]
    assert "location_set" not in subcell_hf.embed(pixels, model, precision="fp32", progress=False).cells
    located = pipeline("subcell-localization", model=str(output))(list(pixels), return_location_set=True)
    assert [item["location_set"] for item in located] == expected
    with pytest.raises(ValueError, match="not calibrated"):
        pipeline("subcell-localization", model=str(model))(pixels[0], return_location_set=True)

    calibrate(table, model, CalibrationSettings(precision=0.9))  # in place
    assert json.loads((model / "config.json").read_text())["location_sets"]["measure"] == "precision"
    with pytest.raises(InputError, match="Exactly one of"):
        calibrate(table, output, CalibrationSettings())
    with pytest.raises(InputError, match="trained on the split train"):
        calibrate(table, model, CalibrationSettings(recall=0.9, split="train"))
    shutil.rmtree(model)
    save_tiny_model(model, seed=1)
    with pytest.raises(InputError, match="is another model"):
        calibrate(table, tmp_path / "other", CalibrationSettings(recall=0.9))
