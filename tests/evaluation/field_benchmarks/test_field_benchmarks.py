"""Benchmarks of the field on planted data in their layouts; published values: perturbation/test_benchmark.py."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import constants
from huggingface_hub.repocard_data import model_index_to_eval_results
from sklearn.metrics import f1_score
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.evaluation.field_benchmarks.chammi import CHAMMI_SETS, METADATA_FILE, read_chammi, score_chammi
from subcell_hf.evaluation.field_benchmarks.definitions import KINDS, field_benchmarks
from subcell_hf.tables.files import EmbeddingTable, write_parquet
from subcell_hf.workflows.evaluation.run_field_benchmark import run_field_benchmark
from tests.evaluation.perturbation.simulated_profiles import simulate_wells, write_wells
from tests.evaluation.planted_tables import planted_cells, planted_table

ENCODER = {
    "name": "dino", "encoder": "facebook/dinov2-base", "licence": "Apache-2.0", "channels": ["red", "blue"],
    "crop_px": 448, "pixel_size_um": 0.16, "processor": {"do_mask": True}, "scaling": "channel", "source": "",
    "weights_sha256": "0",
}  # fmt: skip
"""What a run records of an encoder."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))


def write_jump(folder: Path) -> Path:
    """Profiles with the columns of the JUMP pilot."""
    path = folder / "profiles.csv"
    write_wells(simulate_wells(), str(path))
    frame = pd.read_csv(path, dtype=str)
    frame = frame.rename(columns={"Metadata_compound": "Metadata_broad_sample", "Metadata_moa": "Metadata_gene"})
    frame.to_csv(path, index=False)
    return path


def test_the_jump_pilot_runs_on_tables_of_its_layout(tmp_path: Path) -> None:
    path = write_jump(tmp_path)
    report = run_field_benchmark("cpjump1-mechanisms", [path], tmp_path / "out", null_size=100)
    assert report.scores["replicate_retrieval mean average precision"] > 0.9
    assert report.scores["mechanism_retrieval mean average precision"] > 0.7
    written = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert written["scores"] == report.scores
    assert "CC0-1.0" in (tmp_path / "out" / "benchmark.md").read_text()
    frame = pd.read_csv(path).drop(columns="Metadata_gene")
    frame.to_csv(path, index=False)
    with pytest.raises(InputError, match="has no column Metadata_gene, so it is not of cpjump1-mechanisms"):
        run_field_benchmark("cpjump1-mechanisms", [path], tmp_path / "other")


@pytest.mark.parametrize("name", ["hpa-31", "hpa-19"])
def test_localization_of_the_protein_atlas(name: str, tmp_path: Path) -> None:
    run, output = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    write_parquet(planted_table(planted_cells(), 2.0), run / "embeddings.parquet")
    (run / "run.json").write_text(json.dumps({"models": [ENCODER]}))
    report = run_field_benchmark(name, [run], output, resamples=10)
    value = report.scores["macro average precision"]
    assert 0.5 < value <= 1
    _, metadata, text = (output / "model_card.md").read_text().split("---\n", 2)
    block = yaml.safe_load((output / "model-index.yaml").read_text())
    assert yaml.safe_load(metadata)["model-index"] == block["model-index"]
    model, (result,) = model_index_to_eval_results(block["model-index"])
    assert (model, result.dataset_type, result.metric_value) == ("dino", name, round(value, 4))
    assert "facebook/dinov2-base" in text
    (file,) = json.loads((output / "benchmark.json").read_text())["files"].values()
    assert file["sha256"] == sha256((run / "embeddings.parquet").read_bytes()).hexdigest()


def write_chammi(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Tables and metadata in the layout of CHAMMI, with planted classes."""
    generator = np.random.default_rng(seed)
    for name, facts in CHAMMI_SETS.items():
        rows, points = [], []
        for number in range(72):
            label, group = number % 4, number // 4 % 3
            split = ("Train", *facts.tasks)[number % (len(facts.tasks) + 1)]
            rows.append(
                {"file_path": f"{name}/cell_{number}.png", "Label": f"class {label}", "train_test_split": split,
                 **{task: split == task for task in facts.tasks}, "cell_type": f"line {group}", "Plate": f"P{group}"}
            )  # fmt: skip
            points.append(np.eye(4)[label] * 3 + generator.normal(0, 1, 4))
        (folder / "metadata" / name).mkdir(parents=True)
        pd.DataFrame(rows).to_csv(folder / "metadata" / name / METADATA_FILE, index=False)
        cells = pd.DataFrame({"cell_id": [f"cell_{n}" for n in range(72)], "field_of_view": ""})
        order = generator.permutation(72)
        table = EmbeddingTable(cells.iloc[order].reset_index(drop=True), np.array(points, np.float32)[order])
        (folder / "features").mkdir(exist_ok=True)
        write_parquet(table, folder / "features" / f"{name}.parquet")
    return folder / "features", folder / "metadata"


def test_chammi_equals_a_naive_loop(tmp_path: Path) -> None:
    features, metadata = write_chammi(tmp_path)
    collections = read_chammi(features, metadata)
    found = score_chammi(collections).set_index(["collection", "task"])
    assert list(found.index) == [(name, task) for name, facts in CHAMMI_SETS.items() for task in facts.tasks]
    for (name, task), row in found.iterrows():  # type: ignore[misc]
        facts, (embeddings, cells) = CHAMMI_SETS[name], collections[name]
        predicted, truth = [], []
        for cell in np.flatnonzero(cells["train_test_split"] == task):
            allowed = cells["train_test_split"] == "Train"
            if task == facts.left_out_task:
                column = cells[facts.left_out_column]
                allowed |= (cells["train_test_split"] == task) & (column != column[cell])
            known = np.flatnonzero(allowed)
            nearest = known[np.linalg.norm(embeddings[known] - embeddings[cell], axis=1).argmin()]
            predicted.append(cells["Label"][nearest])
            truth.append(cells["Label"][cell])
        assert row["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro", labels=np.unique(truth)))
        assert row["cells"] == len(truth)


def test_chammi_by_the_command(tmp_path: Path) -> None:
    features, metadata = write_chammi(tmp_path)
    words = ["benchmark", "chammi", str(features), str(metadata)]
    done = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "HPA Task_three macro F1" in done.output
    (result,) = yaml.safe_load((tmp_path / "out" / "model-index.yaml").read_text())["model-index"][0]["results"]
    assert [metric["type"] for metric in result["metrics"]] == ["f1"] * 10
    f1 = pd.read_csv(tmp_path / "out" / "chammi.csv").set_index(["collection", "task"])["macro_f1"]
    expected = f1["Allen", "Task_two"] / 3 + f1["HPA"][1:].sum() / 6 + f1["CP"][1:].sum() / 9
    assert f"CHAMMI score {expected:.4f}" in done.output
    (features / "CP.parquet").unlink()
    done = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "fewer")])
    assert done.exit_code == 3
    assert "no embeddings: CP" in done.output
    assert CliRunner().invoke(app, words).exit_code == 2
    path = metadata / "Allen" / METADATA_FILE
    original = path.read_text()
    path.write_text(original.replace("class 1", "class 2"))
    done = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "changed")])
    assert done.exit_code == 2
    assert "Allen/enriched_meta.csv has a changed checksum" in " ".join(done.output.split())
    path.write_text(original)
    frame = pd.read_csv(metadata / "HPA" / METADATA_FILE)
    frame.loc[0, "file_path"] = "HPA/other.png"
    frame.to_csv(metadata / "HPA" / METADATA_FILE, index=False)
    with pytest.raises(InputError, match=r"lacks 1 cell of .*, first 'other'"):
        read_chammi(features, metadata)


def test_every_benchmark_has_a_card() -> None:
    listed = CliRunner().invoke(app, ["benchmark"]).output
    for name, found in field_benchmarks().items():
        assert f"{name}: {found.title}" in listed
        assert found.kind in KINDS
        shown = CliRunner().invoke(app, ["benchmark", name]).output
        for word in (found.licence, found.citation, "download: ", "splits: ", "size: ", "checks: ", "protocol: "):
            assert word in shown
    with pytest.raises(InputError, match="expected one of cpjump1"):
        run_field_benchmark("jump", [], "out")
