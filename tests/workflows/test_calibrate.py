"""`subcell calibrate`: the folder of a classifier carries sets, which pipeline and tables show."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline
from typer.testing import CliRunner

import subcell_hf
from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.inference.models.loading import find_models
from subcell_hf.model.locations_subcell import novelty_p_values
from subcell_hf.report import write_report
from subcell_hf.tables.embedding_table import EmbeddingTable
from subcell_hf.tables.files import read_table, write_parquet
from subcell_hf.workflows import CalibrationSettings, calibrate
from tests.inference.embedding_runs import run, save_tiny_model, write_fields

CLASSES = ("Nucleoplasm", "Cytosol", "Nucleoli", "Negative")


def write_table(path: Path, model: Path, antibodies: int = 60, training_cells: int = 2) -> None:
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
            "split": ["train" if n < training_cells else "test" for n in range(len(place))],
        }
    )
    found = find_models(str(model))[0]
    provenance = {"models": [{"name": str(model), "revision": None, "weights_sha256": found.checksum}]}
    embeddings = rng.normal(size=(len(place), 32)).astype(np.float32)
    write_parquet(EmbeddingTable(cells, embeddings, probabilities, CLASSES, provenance=provenance), path)


def test_a_calibrated_folder_shows_sets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, table, output = save_tiny_model(tmp_path / "model"), tmp_path / "t.parquet", tmp_path / "calibrated"
    write_table(table, model)
    result = CliRunner().invoke(app, ["calibrate", str(table), "--recall", "0.9", "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert "recall over antibodies is at least 0.9 (1.000 on 59 antibodies" in result.stdout
    assert "59 antibodies and 2 reference cells; expected at least 39 and 50. Tables will have no" in result.stderr
    assert "novelty" not in json.loads((output / "config.json").read_text())
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
    assert "calibrated on cells in one orientation" not in caplog.text
    averaged = subcell_hf.embed(pixels, output, precision="fp32", orientations=4, progress=False)
    assert "location_set" not in averaged.cells
    assert "calibrated on cells in one orientation, and this run averages over 4" in caplog.text
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
    cells = read_table(table)
    averaged = replace(cells, provenance={**cells.provenance, "orientations": 8})
    write_parquet(averaged, tmp_path / "averaged.parquet")
    with pytest.raises(InputError, match=r"averaged\.parquet are means over 8 orientations.*--orientations 1"):
        calibrate(tmp_path / "averaged.parquet", tmp_path / "other", CalibrationSettings(recall=0.9))
    shutil.rmtree(model)
    save_tiny_model(model, seed=1)
    with pytest.raises(InputError, match="is another model"):
        calibrate(table, tmp_path / "other", CalibrationSettings(recall=0.9))


def test_novelty_is_in_the_folder_the_table_and_the_pipeline(tmp_path: Path) -> None:
    """Random embeddings of the calibration are far from what the model makes of images, which a run says."""
    model, table = save_tiny_model(tmp_path / "model"), tmp_path / "t.parquet"
    write_table(table, model, antibodies=100, training_cells=60)
    output = tmp_path / "calibrated"
    calibrated = calibrate(table, output, CalibrationSettings(recall=0.9))
    assert calibrated.novelty_antibodies == 70
    assert "Novelty: p-values by 70 antibodies." in calibrated.describe()
    novelty = json.loads((output / "config.json").read_text())["novelty"]
    assert (novelty["antibodies"], novelty["reference_cells"]) == (70, 60)
    pixels = np.random.default_rng(1).integers(0, 255, (3, 4, 32, 32), np.uint8)
    embedded = subcell_hf.embed(pixels, output, precision="fp32", progress=False)
    expected = novelty_p_values(embedded.embeddings, novelty)
    np.testing.assert_array_equal(embedded.cells["novelty_p_value"], expected)
    located = pipeline("subcell-localization", model=str(output))(list(pixels), return_novelty=True)
    assert [item["novelty_p_value"] for item in located] == pytest.approx(expected.tolist())
    with pytest.raises(ValueError, match="novelty is not calibrated"):
        pipeline("subcell-localization", model=str(model))(pixels[0], return_novelty=True)

    fields = write_fields(tmp_path / "fields")
    run(fields, output, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    p_values = read_table(tmp_path / "run").cells["novelty_p_value"]
    assert record["novelty"]["share"] == pytest.approx((p_values <= 0.05).mean())
    page = write_report(tmp_path / "run").read_text()
    assert f'id="novelty">{record["novelty"]["share"]:.1%} of cells have a novelty_p_value' in page

    write_table(table, model, antibodies=100, training_cells=2)  # without training cells, calibrated again in place
    calibrate(table, output, CalibrationSettings(recall=0.9), model=str(output))
    assert "novelty" not in json.loads((output / "config.json").read_text())
