"""Benchmarks called from Python write the files that their commands write, and return what these say."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from subcell_hf.cells.cropping import CropSettings, crop_fields
from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.evaluation.baselines.baselines import BaselineSettings
from subcell_hf.evaluation.comparison.comparison_files import score_table
from subcell_hf.evaluation.comparison.embeddings import compare_models, read_predictions
from subcell_hf.evaluation.localization.benchmark import LocalizationSettings
from subcell_hf.evaluation.localization.labels import class_scheme
from subcell_hf.evaluation.perturbation.benchmark import PerturbationSettings
from subcell_hf.evaluation.perturbation.postprocessing import PostProcessing
from subcell_hf.evaluation.proteome_map.map import MapSettings
from subcell_hf.storage.folder_lock import claim_folder
from subcell_hf.tables.files import read_table, write_parquet
from subcell_hf.workflows.evaluation.benchmark_localization import benchmark_localization, make_predictors
from subcell_hf.workflows.evaluation.benchmark_perturbation import benchmark_perturbation
from subcell_hf.workflows.evaluation.compare_benchmarks import ComparedModel, compare_benchmarks
from subcell_hf.workflows.evaluation.map_proteome import map_proteome
from subcell_hf.workflows.evaluation.table_baselines import BaselineOptions, compute_baselines
from tests.evaluation.planted_tables import planted_cells, planted_table
from tests.evaluation.proteome_map.simulated_cells import simulate_cells
from tests.images.written_fields import write_hpa_field


def contents(folder: Path) -> dict[str, bytes]:
    """Path → bytes of all files of a folder; at least one."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found
    return found


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    cells = planted_cells(antibodies=24, cells_per_antibody=4)
    for name, signal in (("model", 1.5), ("poor", 0.2)):
        write_parquet(planted_table(cells, signal), folder / f"{name}.parquet")
    fewer = planted_table(cells, 1.0, seed=1)
    write_parquet(fewer.select(np.arange(len(cells) - 1)), folder / "fewer.parquet")
    return folder


def localize(tables: Path, output: Path, *, resamples: int = 20) -> None:
    """The benchmark of the model against one baseline, from Python."""
    settings = LocalizationSettings(class_scheme("31"), resamples=resamples, learning_fractions=())
    benchmark_localization(
        tables / "model.parquet",
        output,
        settings,
        predictors=make_predictors(("linear",)),
        baselines=BaselineOptions({"poor": tables / "poor.parquet"}, computed=()),
    )


def test_localization(tables: Path, tmp_path: Path) -> None:
    options = ["--resamples", 20, "--no-learning-curve", "--heads", "linear", "--no-baselines"]
    given = ["--baseline", f"poor={tables / 'poor.parquet'}"]
    said = run("evaluate", "localization", tables / "model.parquet", "--output", tmp_path / "command", *options, *given)
    localize(tables, tmp_path / "python")
    assert contents(tmp_path / "python") == contents(tmp_path / "command")
    results = json.loads((tmp_path / "python" / "results.json").read_text())
    for name, score in results["macro_map"].items():
        assert f"{name}: macro average precision {score:.3f} (linear)\n" in said
    assert list(results["macro_map"]) == ["subcell", "poor"]


def test_localization_returns_what_it_found(tables: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report = benchmark_localization(
        tables / "model.parquet",
        tmp_path,
        LocalizationSettings(class_scheme("31"), resamples=10, learning_fractions=()),
        name="mine",
        predictors=make_predictors(("neighbours",)),
        baselines=BaselineOptions({"fewer": tables / "fewer.parquet"}),
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert report.page == tmp_path / "report.html"
    assert report.result.macro_map() == results["macro_map"]
    assert list(report.verdicts) == results["verdicts"] != []
    assert list(report.missing_baselines) == results["missing_baselines"] != []
    warned = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert report.missing_baselines[0] in warned
    assert f"1 cell was left out: see {tmp_path / 'left_out.csv'}." in warned
    assert len(report.result.left_out) == 1


def test_localization_refuses(tables: Path, tmp_path: Path) -> None:
    model = tables / "model.parquet"
    with pytest.raises(InputError, match="Unknown classifiers 'mlp,linear': expected linear, neighbours"):
        make_predictors(("mlp", "linear"))
    with pytest.raises(InputError, match="Unknown classifiers ''"):
        make_predictors(())
    assert [predictor.name for predictor in make_predictors(("linear",), ensemble_members=2)] == ["mlp", "linear"]
    with pytest.raises(InputError, match="the same name, 'subcell'"):
        benchmark_localization(model, tmp_path / "out", baselines=BaselineOptions({"subcell": model}))
    assert not (tmp_path / "out").exists()
    with claim_folder(tmp_path / "out"), pytest.raises(InputError, match="is in use"):
        benchmark_localization(model, tmp_path / "out")


def test_comparison(tables: Path, tmp_path: Path) -> None:
    localize(tables, tmp_path / "first", resamples=10)
    write_parquet(planted_table(planted_cells(24, 4), 0.5, seed=3), tables / "other.parquet")
    run("evaluate", "localization", tables / "other.parquet", "--output", tmp_path / "second", "--resamples", 10,
        "--no-learning-curve", "--heads", "linear", "--no-baselines")  # fmt: skip
    models = [f"a={tmp_path / 'first'}", f"b={tmp_path / 'second'}"]
    options = ["--resamples", 10, "--head", "linear", "--dataset-id", "me/cells"]
    said = run("evaluate", "compare", *models, "--output", tmp_path / "command", *options)
    named = [ComparedModel(tmp_path / "first", "a"), ComparedModel(tmp_path / "second", "b")]
    report = compare_benchmarks(named, tmp_path / "python", head="linear", dataset_id="me/cells", resamples=10)
    assert contents(tmp_path / "python") == contents(tmp_path / "command")
    assert said.startswith(f"{report.verdicts[0]}\n")
    assert report.comparison.models == ("a", "b")
    equal = compare_models([read_predictions(tmp_path / "first", name) for name in ("a", "twin")], resamples=9)
    assert score_table(equal)["Macro AP"].str.endswith("*").all()
    with pytest.raises(InputError, match="at least two models"):
        compare_benchmarks(named[:1], tmp_path / "one")


def test_perturbation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wells = pd.DataFrame({"compound": [*"aabbc", "DMSO", "DMSO"], "plate": "p", "well": list("1234567")})
    rng = np.random.default_rng(0)
    wells = wells.add_prefix("Metadata_").assign(one=rng.normal(size=7), two=rng.normal(size=7))
    wells.to_csv(tmp_path / "wells.csv", index=False)
    wells.assign(one=rng.normal(size=7)).to_csv(tmp_path / "other.csv", index=False)
    pd.DataFrame({"Metadata_compound": [*"abc"], "moa": [*"xxy"]}).to_csv(tmp_path / "moa.csv", index=False)
    columns = {"group": "Metadata_compound", "plate": "Metadata_plate", "well": "Metadata_well"}
    options = [word for name, column in columns.items() for word in (f"--{name}-column", column)]
    options += ["--control", "Metadata_compound=DMSO", "--null-size", "50", "--moa-column", "moa"]
    options += ["--normalize", "standardize"]
    options += ["--moa-table", str(tmp_path / "moa.csv"), "--baseline", f"other={tmp_path / 'other.csv'}"]
    command = ["evaluate", "perturbation", tmp_path / "wells.csv", "--output", tmp_path / "command"]
    said = run(*command, *options, code=3)
    settings = PerturbationSettings(
        "Metadata_compound", "Metadata_plate", "Metadata_well", controls=(("Metadata_compound", "DMSO"),),
        steps=PostProcessing(normalization="standardize"), mechanism_column="moa", null_size=50,
    )  # fmt: skip
    baselines = BaselineOptions({"other": tmp_path / "other.csv"})
    report = benchmark_perturbation(
        [tmp_path / "wells.csv"], tmp_path / "python", settings, mechanisms=tmp_path / "moa.csv", baselines=baselines
    )
    assert contents(tmp_path / "python") == contents(tmp_path / "command")
    assert report.comparisons[0]["sentence"] in said
    assert "contains profiles" in report.missing_baselines[0]
    assert report.missing_baselines[0] in caplog.messages
    assert len(report.result.left_out) == 1
    wrong = PerturbationSettings("Metadata_compound", "Metadata_plate")
    with pytest.raises(InputError, match="--moa-table requires --moa-column"):
        benchmark_perturbation([tmp_path / "wells.csv"], tmp_path / "no", wrong, mechanisms=tmp_path / "moa.csv")


def test_rows_of_one_well_are_named_as_no_replicates(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wells = pd.DataFrame({"compound": [*"aabb", "DMSO", "DMSO"], "plate": "p", "Well": list("122345")})
    numbers = np.random.default_rng(0).normal(size=(2, 6))
    wells.add_prefix("Metadata_").assign(one=numbers[0], two=numbers[1]).to_csv(tmp_path / "wells.csv", index=False)
    controls = (("Metadata_compound", "DMSO"),)
    for well_column, said in ((None, True), ("Metadata_Well", False)):
        caplog.clear()
        settings = PerturbationSettings(
            "Metadata_compound", "Metadata_plate", well_column, controls=controls, null_size=20
        )
        output = tmp_path / str(well_column)
        if well_column is None:
            benchmark_perturbation([tmp_path / "wells.csv"], output, settings, baselines=BaselineOptions(computed=()))
        else:  # wells with two compounds
            with pytest.raises(InputError, match="Metadata_compound"):
                benchmark_perturbation([tmp_path / "wells.csv"], output, settings)
        found = [text for text in caplog.messages if "2 of 6 rows share their plate and well (Metadata_Well)" in text]
        assert bool(found) == said


def test_map(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table, _, _ = simulate_cells(genes_per_part=2, parts=2, fields=2, cells=2, width=8)
    table.cells.loc[0, "gene"] = ""
    write_parquet(table, tmp_path / "cells.parquet")
    options = ["--components", 4, "--neighbours", 4, "--resolutions", "0.5,1", "--min-size", 2, "--title", "Tiny"]
    said = run("map", tmp_path / "cells.parquet", "--output", tmp_path / "command", *options)
    settings = MapSettings(components=4, neighbours=4, resolutions=(0.5, 1.0), min_size=2)
    caplog.set_level(logging.INFO, "subcell_hf")
    made = map_proteome(tmp_path / "cells.parquet", tmp_path / "python", settings, title="Tiny")
    assert contents(tmp_path / "python") == contents(tmp_path / "command")
    assert f"The map shows {len(made.genes)} genes from {made.summary['cells']} cells: open" in said
    assert any("1 cell is not on the map" in message and message in said for message in caplog.messages)
    with pytest.raises(InputError, match="Unknown hierarchy"):
        map_proteome(tmp_path / "cells.parquet", tmp_path / "no", MapSettings(hierarchy="flat"))


def test_classical_baselines(tmp_path: Path) -> None:
    for number in range(3):
        write_hpa_field(tmp_path / "images", f"7_A{number}_1")
    cut = CropSettings(crop_px=128, output_px=32)
    crop_fields(tmp_path / "images", tmp_path / "crops", settings=cut, progress=False)
    command = ["baselines", tmp_path / "crops", "--output", tmp_path / "command", "--components", 3, "--pixel-edge", 8]
    said = run(*command)
    settings = BaselineSettings(pixel_edge=8, components=3)
    written = compute_baselines(str(tmp_path / "crops"), tmp_path / "python", settings)
    assert contents(tmp_path / "python") == contents(tmp_path / "command")
    for name, baseline in written.items():
        assert baseline.path == tmp_path / "python" / f"{name}.parquet"
        assert read_table(baseline.path).embeddings.shape == (baseline.cells, baseline.width)
        assert f"{name}.parquet contains {baseline.cells} cells with {baseline.width} features each.\n" in said
    with pytest.raises(InputError, match="Choose a smaller pixel_edge"):
        compute_baselines(str(tmp_path / "crops"), tmp_path / "no", BaselineSettings(pixel_edge=64))
