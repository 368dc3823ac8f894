"""Evaluation finds or makes the baselines of the very cells of a table, keeps them, and says where it cannot."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.data.cropping import CropSettings, crop_fields
from subcell_hf.evaluation.baselines import make_baselines
from subcell_hf.inference.tables import read_table
from tests.data.written_fields import write_hpa_field
from tests.inference.embedding_runs import save_tiny_model

LOCATIONS = ("Nucleoplasm", "Cytosol")
SPLITS = ("train", "train", "validation", "test")
FIELDS = 16


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 16 antibodies, a tiny model, and an embedding of all."""
    folder = tmp_path_factory.mktemp("home")
    rows = ["field_of_view,antibody,gene,locations,split,plate,well,compound"]
    for number in range(FIELDS):
        write_hpa_field(folder / "images", f"p_A{number}_1")
        split, location = SPLITS[number // 2 % 4], LOCATIONS[number % 2]
        compound = ("DMSO", "a", "b", "c")[number % 4]
        rows.append(f"p_A{number}_1,HPA{number},G{number},{location},{split},p{number // 8},A{number},{compound}")
    (folder / "images" / "metadata.csv").write_text("\n".join(rows) + "\n")
    save_tiny_model(folder / "model")
    return folder


def embed(home: Path, output: Path, source: Path | None = None, *more: str, model: str | None = None) -> Path:
    options = ["--no-report", "--no-h5ad", "--precision", "fp32", "--model", model or str(home / "model"), *more]
    result = CliRunner().invoke(app, ["embed", str(source or home / "images"), "--output", str(output), *options])
    assert result.exit_code == 0, result.output
    return output


def localize(table: Path, output: Path, *more: str, code: int = 0) -> tuple[str, dict[str, Any]]:
    options = ["--resamples", "20", "--no-learning-curve", "--heads", "linear", *more]
    command = ["evaluate", "localization", str(table), "--output", str(output), *options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == code, result.output
    return result.output, json.loads((output / "results.json").read_text()) if code == 0 else {}


@pytest.mark.slow
def test_baselines_are_made_once_and_reused(home: Path, tmp_path: Path) -> None:
    run = embed(home, tmp_path / "run")
    said, results = localize(run, tmp_path / "first")
    assert "Making baselines (untrained, features, pixels) of the same 32 cells" in said
    assert list(results["macro_map"]) == ["subcell", "untrained", "features", "pixels"]
    assert {row["other"] for row in results["comparisons"]} == {"untrained", "features", "pixels"}
    assert results["missing_baselines"] == []
    kept = sorted(path.name for path in (run / "baselines").iterdir())
    assert kept == ["features.parquet", "pixels.parquet", "untrained"]
    ids = read_table(run).cells["cell_id"].tolist()
    for name in ("untrained", "features.parquet", "pixels.parquet"):
        assert read_table(run / "baselines" / name).cells["cell_id"].tolist() == ids
    times = {path: path.stat().st_mtime_ns for path in (run / "baselines").rglob("*")}
    said, again = localize(run, tmp_path / "second")
    assert "are taken from" in said
    assert again == results
    assert {path: path.stat().st_mtime_ns for path in (run / "baselines").rglob("*")} == times


@pytest.mark.slow
def test_features_are_those_of_subcell_baselines_on_the_same_crops(home: Path, tmp_path: Path) -> None:
    """Crops cut as the tiny model wants them: 32 px of 0.32 um."""
    settings = CropSettings(crop_px=128, output_px=32)
    crop_fields(home / "images", tmp_path / "crops", settings=settings, progress=False)
    expected = make_baselines(tmp_path / "crops", progress=False)["features"]
    run = embed(home, tmp_path / "run", None, "--fields-of-view")
    localize(run, tmp_path / "of_images", "--baseline", f"untrained={run}")
    assert not (run / "baselines" / "untrained").exists()
    found = read_table(run / "baselines" / "features.parquet")
    assert found.cells["split"].tolist() == expected.cells["split"].tolist()
    assert found.provenance["features"] == expected.provenance["features"]
    np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=1e-3)
