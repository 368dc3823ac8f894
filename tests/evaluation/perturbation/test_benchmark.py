import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.benchmark import (
    PerturbationSettings,
    add_mechanisms,
    evaluate_perturbation,
    find_controls,
    search_steps,
)
from subcell_hf.evaluation.perturbation.perturbation_report import write_report
from subcell_hf.evaluation.perturbation.postprocessing import PostProcessing, post_process, split_groups
from subcell_hf.settings import column_values
from subcell_hf.workflows.evaluation.run_field_benchmark import run_field_benchmark
from tests.evaluation.perturbation.simulated_profiles import simulate_wells, write_wells

SETTINGS = PerturbationSettings(
    group_column="Metadata_compound",
    plate_column="Metadata_Plate",
    controls=(("Metadata_control_type", "negcon"),),
    steps=PostProcessing(normalization="standardize", reference="controls"),
    null_size=1000,
)


def test_the_command_reproduces_the_published_values(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    data = real_data("perturbation_profiles")
    command = [
        "evaluate", "perturbation", str(data / "cpjump1_U2OS_48h_subset_profiles.csv.gz"),
        "--group-column", "Metadata_broad_sample", "--plate-column", "Metadata_Plate",
        "--control", "Metadata_control_type=negcon", "--negatives", "same-plate-controls",
        "--normalize", "none", "--output", str(tmp_path),
    ]  # fmt: skip
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0
    ours = pd.read_csv(tmp_path / "replicate_map.csv")
    assert ours.columns[0] == "Metadata_broad_sample"
    published = pd.read_csv(data / "published_map_22_compounds.csv")
    both = ours.merge(published, on="Metadata_broad_sample", validate="one_to_one")
    assert len(both) == len(ours) == len(published) == 22
    assert (both["mean_average_precision"] - both["published_map"]).abs().max() <= 1e-12
    profiles = data / "cpjump1_U2OS_48h_subset_profiles.csv.gz"
    report = run_field_benchmark("cpjump1", [profiles], tmp_path / "benchmark", null_size=100)
    (score,) = report.scores.values()
    assert score == pytest.approx(published["published_map"].mean(), abs=1e-12)


def test_planted_perturbations_and_mechanisms_are_found_and_shuffled_ones_are_not() -> None:
    result = evaluate_perturbation(simulate_wells(), replace(SETTINGS, mechanism_column="Metadata_moa"))
    replicates = result.summary["replicate_retrieval"]
    assert replicates["mean_average_precision"] > 0.95
    assert replicates["share_retrieved"] == 1.0
    assert replicates["nearest_neighbour_accuracy"] > 0.95
    assert result.summary["mechanism_retrieval"]["mean_average_precision"] > 0.8
    assert result.mechanisms is not None
    assert result.mechanisms["Metadata_moa"].tolist() == [f"mechanism {index}" for index in range(4)]
    assert result.summary["labels_shuffled"] < 0.5


def test_without_an_effect_every_score_is_at_chance() -> None:
    wells = simulate_wells(compounds=60, mechanisms=6, effect=0.0, controls=30)
    result = evaluate_perturbation(wells, replace(SETTINGS, mechanism_column="Metadata_moa"))
    for scores in (result.summary["replicate_retrieval"], result.summary["mechanism_retrieval"]):
        assert abs(scores["mean_normalized_average_precision"]) < 0.05
        assert scores["share_retrieved"] == 0.0
    chance = result.summary["replicate_retrieval"]["mean_average_precision"]
    assert result.summary["labels_shuffled"] == pytest.approx(chance, abs=0.05)
    assert (result.replicates["p_value"] < 0.05).mean() < 0.15


def test_shuffled_labels_bring_every_score_to_chance() -> None:
    wells = simulate_wells(compounds=60, mechanisms=6)
    generator = np.random.default_rng(0)
    treated = ~find_controls(wells, SETTINGS.controls)
    for plate in sorted(set(wells.column("Metadata_Plate"))):
        rows = np.flatnonzero(treated & (wells.column("Metadata_Plate") == plate))
        wells.metadata.loc[rows, "Metadata_compound"] = generator.permutation(wells.column("Metadata_compound")[rows])
    mechanisms = {f"compound {n}": f"mechanism {n % 6}" for n in range(60)}
    wells.metadata["Metadata_moa"] = [mechanisms.get(name) for name in wells.column("Metadata_compound")]
    result = evaluate_perturbation(wells, replace(SETTINGS, negatives="others", mechanism_column="Metadata_moa"))
    for scores in (result.summary["replicate_retrieval"], result.summary["mechanism_retrieval"]):
        assert abs(scores["mean_normalized_average_precision"]) < 0.05
        assert scores["share_retrieved"] == 0.0
    chance = result.summary["chance"]
    assert result.summary["replicate_retrieval"]["mean_average_precision"] == pytest.approx(chance, abs=0.05)
    assert result.summary["replicate_retrieval"]["nearest_neighbour_accuracy"] < 0.1


def test_treated_wells_that_are_alike_whatever_they_got_are_told_of(tmp_path: Path) -> None:
    wells = simulate_wells(compounds=30, effect=0.0)
    treated = ~find_controls(wells, SETTINGS.controls)
    features = wells.features + 5.0 * treated[:, None]  # the same for every compound
    result = evaluate_perturbation(wells.with_features(features), replace(SETTINGS, steps=PostProcessing()))
    assert result.summary["labels_shuffled"] > result.summary["chance"] + 0.05
    write_report(result, tmp_path)
    assert "Shuffled labels score above chance" in (tmp_path / "report.html").read_text()


def test_cells_become_wells() -> None:
    wells = simulate_wells()
    cells = wells.select(np.repeat(np.arange(len(wells)), 6))
    noise = np.random.default_rng(1).normal(size=cells.features.shape)
    noise -= noise.reshape(len(wells), 6, -1).mean(axis=1).repeat(6, axis=0)  # cancels within each well
    sites = [str(index % 2) for index in range(len(cells))]
    cells = replace(cells.with_features(cells.features + noise), metadata=cells.metadata.assign(Metadata_Site=sites))
    from_cells, from_wells = evaluate_perturbation(cells, SETTINGS), evaluate_perturbation(wells, SETTINGS)
    assert from_cells.summary["profiles"]["wells"] == len(wells)
    np.testing.assert_allclose(
        from_cells.replicates["mean_average_precision"], from_wells.replicates["mean_average_precision"], atol=1e-9
    )


def test_the_choice_of_steps_never_sees_what_is_reported() -> None:
    wells = simulate_wells(effect=0.6, plate_effect=3.0)
    settings = replace(SETTINGS, search_share=0.5, steps=PostProcessing())
    result = evaluate_perturbation(wells, settings)
    treated = np.where(find_controls(wells, SETTINGS.controls), None, wells.column("Metadata_compound"))
    choosing, reporting = split_groups(treated, 0.5, settings.seed)
    assert not choosing & reporting
    assert set(result.replicates["Metadata_compound"]) == reporting
    # Whatever is done to the reported compounds, the grid stays as it is.
    changed = wells.features.copy()
    rows = np.array([name in reporting for name in wells.column("Metadata_compound")])
    changed[rows] = np.random.default_rng(9).normal(size=changed[rows].shape) * 50
    again = evaluate_perturbation(wells.with_features(changed), settings)
    assert result.grid is not None
    assert again.grid is not None
    pd.testing.assert_frame_equal(result.grid, again.grid)
    assert result.summary["steps"] == again.summary["steps"]
    best = result.grid.iloc[0]
    assert best["gain"] == result.grid["gain"].max()
    assert best["gain"] == pytest.approx(best["mean_average_precision"] - best["labels_shuffled"])
    # Plates differ threefold: leaving them as they are cannot be best.
    assert best["normalization"] != "none" or best["sphering"] == "TVN"


def test_steps_that_cannot_work_are_listed_with_the_reason() -> None:
    wells = simulate_wells(controls=2)
    grid, steps = search_steps(wells, SETTINGS)
    failed = grid[grid["gain"].isna()]
    assert set(failed["sphering"]) == {"TVN"}
    assert failed["problem"].str.contains("needs 3 on every plate").all()
    assert steps.sphering != "TVN"


def test_steps_that_need_controls_say_so() -> None:
    wells = simulate_wells(controls=0)
    nobody = np.zeros(len(wells), dtype=bool)
    with pytest.raises(InputError, match="require control profiles"):
        post_process(wells, wells.column("Metadata_Plate"), nobody, PostProcessing(sphering="ZCA"))


def test_duplicated_controls_are_reported_and_change_nothing() -> None:
    wells = simulate_wells(controls=6)
    control = np.flatnonzero(find_controls(wells, SETTINGS.controls))
    features = wells.features.copy()
    features[control[1]] = features[control[0]]
    result = evaluate_perturbation(
        wells.with_features(features), replace(SETTINGS, steps=PostProcessing(sphering="ZCA-cor"))
    )
    assert result.summary["profiles"]["duplicated_control_wells"] == 1
    assert result.summary["replicate_retrieval"]["mean_average_precision"] > 0.9


def test_feature_selection_drops_repeated_features() -> None:
    wells = simulate_wells(features=10)
    doubled = wells.with_features(np.hstack([wells.features, wells.features]), [f"f{i}" for i in range(20)])
    nobody = np.zeros(len(wells), dtype=bool)
    steps = PostProcessing(select_features=True, normalization="none")
    assert len(post_process(doubled, wells.column("Metadata_Plate"), nobody, steps).names) == 10


def test_mechanisms_of_another_table(tmp_path: Path) -> None:
    wells = simulate_wells()
    table = tmp_path / "moa.csv"
    table.write_text("Metadata_compound,targets\ncompound 0,a|b\ncompound 1,b\n")
    added = add_mechanisms(wells, table, "Metadata_compound", "targets")
    assert added.column("targets")[:3].tolist() == ["a|b", "b", None]
    table.write_text("Metadata_compound,targets\ncompound 0,a\ncompound 0,b\n")
    with pytest.raises(InputError, match="more than one targets to 'compound 0'"):
        add_mechanisms(wells, table, "Metadata_compound", "targets")
    with pytest.raises(InputError, match="has no column 'moa'"):
        add_mechanisms(wells, table, "Metadata_compound", "moa")


def test_controls_are_named_by_column_and_value() -> None:
    assert column_values(["a=b=c"]) == (("a", "b=c"),)
    with pytest.raises(InputError, match="not of the form COLUMN=VALUE"):
        column_values(["negcon"])
    with pytest.raises(InputError, match="No row has 'DMSO' in column 'Metadata_control_type'; its values are negcon"):
        find_controls(simulate_wells(), (("Metadata_control_type", "DMSO"),))


def test_the_same_call_writes_the_same_bytes(tmp_path: Path) -> None:
    write_wells(simulate_wells(), str(tmp_path / "wells.csv"))
    noise = np.random.default_rng(0).normal(size=(len(simulate_wells()), 40))
    write_wells(simulate_wells().with_features(noise), str(tmp_path / "noise.csv"))
    digests = []
    for name in ("one", "two"):
        command = [
            "evaluate", "perturbation", str(tmp_path / "wells.csv"), "--group-column", "Metadata_compound",
            "--control", "Metadata_control_type=negcon", "--moa-column", "Metadata_moa", "--search-share", "0.5",
            "--null-size", "200", "--output", str(tmp_path / name), "--baseline", f"noise={tmp_path / 'noise.csv'}",
        ]  # fmt: skip
        assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
        files = sorted((tmp_path / name).iterdir())
        digests.append({file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files})
    assert digests[0] == digests[1]
    assert {"replicate_map.csv", "replicate_map.pdf", "replicate_map.png", "mechanism_map.csv", "grid.csv",
            "grid.pdf", "report.html", "report.json", "replicate_queries.csv"} <= digests[0].keys()  # fmt: skip
    page = (tmp_path / "one" / "report.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    comparison = json.loads((tmp_path / "one" / "report.json").read_text())["comparisons"][0]
    assert comparison["verdict"] == "better"
    assert "The profiles are better than noise" in page
