"""The localization benchmark finds planted locations, no shuffled ones, and says plainly which model is better."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.evaluation.comparison.embeddings import compare_models, model_index, read_predictions
from subcell_hf.evaluation.localization.benchmark import LocalizationResult, LocalizationSettings, evaluate
from subcell_hf.evaluation.localization.labels import class_scheme
from subcell_hf.evaluation.localization.probes import LinearProbe, NeighbourProbe
from subcell_hf.evaluation.localization.ranking import summarize
from subcell_hf.tables.files import EmbeddingTable, write_parquet
from tests.evaluation.planted_tables import planted_cells, planted_table

SETTINGS = LocalizationSettings(class_scheme("31"), resamples=60, learning_fractions=(0.25, 1.0))


@pytest.fixture(scope="module")
def result() -> LocalizationResult:
    cells = planted_cells()
    tables = {
        "good": planted_table(cells, 1.5, plate_signal=1.5),
        "poor": planted_table(cells, 0.0, seed=1),
        "twin": planted_table(cells, 1.5, plate_signal=1.5),
    }
    return evaluate(tables, [LinearProbe(), NeighbourProbe()], SETTINGS)


def test_scores_are_those_of_the_probabilities(result: LocalizationResult) -> None:
    targets = result.labelled.targets[result.test]
    assert result.models == ("good", "poor", "twin")
    for item in result.scored:
        expected = summarize(targets, item.mean_probabilities)
        rows = result.summary[(result.summary["model"] == item.model) & (result.summary["head"] == item.head)]
        found = rows[rows["level"] == "cell"].set_index("metric")["value"]
        assert found.to_dict() == pytest.approx(expected)
    assert set(result.summary["level"]) == {"cell", "field", "antibody", "gene"}
    units = result.summary.groupby("level")["units"].first()
    assert units.to_dict() == {"cell": 128, "field": 32, "antibody": 16, "gene": 16}
    assert (result.summary["classes_scored"] == 4).all()
    assert (result.summary["low"] <= result.summary["value"]).all()


def test_planted_locations_are_found_and_the_verdicts_say_so(result: LocalizationResult) -> None:
    scores = result.macro_map()
    assert scores["good"] > 0.8
    assert scores["poor"] < 0.6  # a third of the cells have each location
    assert scores["twin"] == scores["good"]
    table = result.comparisons[(result.comparisons["level"] == "cell") & (result.comparisons["head"] == "linear")]
    verdicts = table.set_index(["other", "metric"])["verdict"]
    assert verdicts["poor", "macro_map"] == verdicts["poor", "coverage_error"] == "better"
    assert verdicts["twin", "macro_map"] == "not better"
    assert (table["p_holm"] >= table["p_value"]).all()


def test_plates_and_cell_lines_are_read_off_where_they_show(result: LocalizationResult) -> None:
    plates = result.batches.set_index("model")["balanced_accuracy"]
    assert plates["good"] > 0.7
    assert plates["poor"] < 0.5
    assert (result.batches["chance"] == 0.25).all()
    lines = result.cell_lines.set_index("model")["balanced_accuracy"]
    assert abs(lines["good"] - 0.5) < 0.2


def test_learning_curves_grow(result: LocalizationResult) -> None:
    curve = result.learning[result.learning["model"] == "good"]
    assert curve["antibodies"].tolist() == [6, 24]
    assert curve["macro_map"].is_monotonic_increasing


def test_shuffled_labels_fall_to_the_null() -> None:
    cells = planted_cells(antibodies=96)
    shuffled = cells.copy()
    names = cells["antibody"].unique()
    first = cells.groupby("antibody")["locations"].first()
    moved = dict(zip(names, np.random.default_rng(0).permutation(first[names].to_numpy()), strict=True))
    shuffled["locations"] = cells["antibody"].map(moved)
    table = planted_table(cells, 1.5)
    learnt = EmbeddingTable(shuffled, table.embeddings)
    found = evaluate(
        {"m": learnt}, [LinearProbe()], LocalizationSettings(class_scheme("31"), 20, learning_fractions=())
    )
    row = found.summary[(found.summary["level"] == "cell") & (found.summary["metric"] == "macro_auc")].iloc[0]
    assert abs(row["value"] - 0.5) < 0.15
    assert evaluate({"m": table}, [LinearProbe()], SETTINGS).macro_map()["m"] > 0.8


def test_seeds_are_reported_as_mean_and_deviation() -> None:
    class Noisy:
        name = "noisy"

        def fit_predict(self, *arrays: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
            rng = np.random.default_rng(0)
            return rng.random((3, len(arrays[4]), arrays[1].shape[1])).astype(np.float32)

    found = evaluate({"m": planted_table(planted_cells(), 1.0)}, [Noisy()], SETTINGS)
    row = found.summary[(found.summary["level"] == "cell") & (found.summary["metric"] == "macro_map")].iloc[0]
    targets, item = found.labelled.targets[found.test], found.scored[0]
    by_seed = [summarize(targets, one)["macro_map"] for one in item.probabilities]
    assert row["seeds"] == 3
    assert row["seed_mean"] == pytest.approx(np.mean(by_seed))
    assert row["seed_sd"] == pytest.approx(np.std(by_seed, ddof=1))


def test_probabilities_of_a_table_are_scored_beside() -> None:
    cells = planted_cells()
    table, scheme = planted_table(cells, 1.0), class_scheme("31")
    probabilities = np.random.default_rng(0).random((len(cells), 35)).astype(np.float32)
    classes = ("x", "y", "z", "Rods & Rings", *scheme.classes)
    found = evaluate({"m": EmbeddingTable(cells, table.embeddings, probabilities, classes)}, [LinearProbe()], SETTINGS)
    assert found.heads == ("linear", "classifier")
    own = next(item for item in found.scored if item.head == "classifier")
    rows = (cells["split"] == "test").to_numpy()
    np.testing.assert_array_equal(own.probabilities[0], probabilities[rows][:, 4:])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    cells = planted_cells()
    write_parquet(planted_table(cells, 1.5), folder / "good.parquet")
    bare = cells[["cell_id", "field_of_view"]]
    for name, signal in (("poor", 0.0), ("fair", 0.6)):
        table = planted_table(cells, signal, seed=2)
        write_parquet(EmbeddingTable(bare, table.embeddings), folder / f"{name}.parquet")
    return folder


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def run_localization(folder: Path, model: str, output: str, *more: str, code: int = 0) -> str:
    options: Sequence[str] = ("--resamples", "50", "--no-learning-curve", "--heads", "linear", *more)
    return run("localization", folder / f"{model}.parquet", "--output", folder / output, *options, code=code)


@pytest.mark.slow
def test_command_writes_the_same_report_twice(written: Path) -> None:
    options = ("--baseline", f"features={written / 'poor.parquet'}", "--baseline", f"pixels={written / 'fair.parquet'}")
    said = run_localization(written, "good", "first", *options)
    assert "subcell is better than features" in said
    run_localization(written, "good", "second", *options)
    files = sorted(path.relative_to(written / "first") for path in (written / "first").rglob("*") if path.is_file())
    for name in files:
        assert (written / "first" / name).read_bytes() == (written / "second" / name).read_bytes(), name
    results = json.loads((written / "first" / "results.json").read_text())
    assert list(results["macro_map"]) == ["subcell", "features", "pixels"]
    assert all(isinstance(value, float) for value in results["macro_map"].values())
    page = (written / "first" / "report.html").read_text()
    assert results["verdicts"][0] in page.replace("&#43;", "+")
    assert "http" not in page.replace("http-equiv", "")
    for name in ("scores", "classes", "calibration", "confusion", "batches"):
        assert (written / "first" / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    summary = pd.read_csv(written / "first" / "summary.csv")
    cell = summary[(summary["model"] == "subcell") & (summary["level"] == "cell") & (summary["metric"] == "macro_map")]
    assert cell["value"].iloc[0] == pytest.approx(results["macro_map"]["subcell"])


@pytest.mark.slow
def test_command_runs_the_published_classifier(written: Path) -> None:
    said = run_localization(written, "good", "mlp", "--seeds", "2")
    results = json.loads((written / "mlp" / "results.json").read_text())
    assert results["head"] == "mlp"
    assert results["macro_map"]["subcell"] > 0.7, said
    row = next(row for row in results["scores"] if row["head"] == "mlp" and row["level"] == "cell")
    assert row["seeds"] == 2
    assert row["seed_sd"] > 0


@pytest.mark.slow
def test_a_cell_that_a_baseline_lacks_is_listed(written: Path) -> None:
    cells = planted_cells()
    table = planted_table(cells, 0.0).select(slice(0, len(cells) - 2))
    write_parquet(table, written / "short.parquet")
    options = ("--baseline", f"short={written / 'short.parquet'}")
    run_localization(written, "good", "short", *options, code=3)
    left_out = pd.read_csv(written / "short" / "left_out.csv")
    assert left_out["cell_id"].tolist() == cells["cell_id"].tolist()[-2:]
    assert set(left_out["reason"]) == {"not in the table short"}


def test_wrong_options_are_explained(written: Path) -> None:
    assert "Unknown classifiers" in run_localization(written, "good", "x", "--heads", "svm", code=2)
    assert "the same name, 'subcell'" in run_localization(written, "good", "x", "--baseline", "subcell=x", code=2)
    assert "lacks the columns" in run_localization(written, "poor", "x", code=2)


@pytest.mark.slow
def test_models_are_compared_pair_by_pair(written: Path) -> None:
    known = written / "known.csv"
    planted_cells().drop(columns="field_of_view").to_csv(known, index=False)
    for model in ("good", "poor", "fair"):
        run_localization(written, model, f"of_{model}", "--name", model, "--metadata", str(known))
    folders = [written / f"of_{model}" for model in ("good", "fair", "poor")]
    output = written / "compared"
    said = run("compare", *folders[:2], f"bad={folders[2]}", "--output", output, "--resamples", "99")
    assert "good is better than bad" in said
    pairs = pd.read_csv(output / "pairs.csv")
    assert set(zip(pairs["model"], pairs["other"], strict=True)) == {("good", "fair"), ("good", "bad"), ("fair", "bad")}
    block = (output / "model-index" / "good.yaml").read_text()
    scores = pd.read_csv(output / "scores.csv")
    assert "type: local/cells" in block
    best = scores[(scores["model"] == "good") & (scores["level"] == "cell") & (scores["metric"] == "macro_map")]
    assert f"value: {best['value'].iloc[0]:.4f}".rstrip("0") in block
    assert "**" in (output / "table.md").read_text()
    assert r"\textbf" in (output / "table.tex").read_text()
    assert (output / "comparison.pdf").is_file()
    predictions = [read_predictions(folder) for folder in folders]
    index = model_index(compare_models(predictions, resamples=9), "poor", dataset_id="a/b", dataset_name="Cells")
    assert index["model-index"][0]["name"] == "poor"
    assert {metric["type"] for metric in index["model-index"][0]["results"][0]["metrics"]} >= {"macro_map", "lrap"}
    with pytest.raises(InputError, match="has no classifier 'mlp'"):
        read_predictions(folders[0], head="mlp")
    with pytest.raises(InputError, match="at least two models"):
        compare_models(predictions[:1])


def test_nothing_to_evaluate_is_refused() -> None:
    with pytest.raises(InputError, match="at least one table"):
        evaluate({}, [LinearProbe()], SETTINGS)
    with pytest.raises(InputError, match="resamples is 0"):
        LocalizationSettings(class_scheme("31"), resamples=0)
