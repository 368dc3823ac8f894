"""Screens with known truth from files to hits, and input that is refused."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.evaluation.screening import ScreenSettings
from subcell_hf.evaluation.screening.screen_text import methods_text
from subcell_hf.simulation import simulate_screen, write_screen
from subcell_hf.workflows import ScreenReport, screen_plates

QUICK = ScreenSettings(permutations=199, judge_batches=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("screen")
    write_screen(1, folder)
    return folder


@pytest.fixture(scope="module")
def report(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ScreenReport:
    settings = ScreenSettings(permutations=1000, judge_batches=False, correct_position=True)
    output = tmp_path_factory.mktemp("out")
    return screen_plates([folder / "profiles.parquet"], output, settings, plate_maps=[folder / "plate_map.csv"])


def test_hits_are_mostly_those_that_are_true(report: ScreenReport, folder: Path) -> None:
    truth = pd.read_csv(folder / "truth.csv")
    hits = pd.read_csv(report.page.parent / "hits.csv").merge(truth, on="treatment", suffixes=("", "_true"))
    assert len(hits) == len(truth) == 56
    called, active = hits["active"], hits["active_true"]
    assert (called & active).sum() >= 0.6 * active.sum()
    assert (called & ~active).sum() <= 2
    assert not (called & hits["toxic_only"]).any()
    assert (hits["q_count"][hits["toxic_only"]] < 0.05).all()
    known = hits[hits["ec50"].notna()]
    assert len(known) >= 4
    assert (known["ec50_low"].le(known["ec50_true"]) & known["ec50_high"].ge(known["ec50_true"])).mean() > 0.7


def test_failed_controls_and_edges_are_found(report: ScreenReport, folder: Path) -> None:
    results = json.loads((report.page.parent / "results.json").read_text())
    failed = {f"{plate}/{well}" for plate, well in simulate_screen(1).failed_controls}
    assert len(failed & set(results["failed_controls"])) >= 0.8 * len(failed)
    assert len(results["failed_controls"]) <= len(failed) + 2
    worst = pd.Series([name.split("/")[0] for name in failed]).value_counts().index[0]
    assert "controls failed" in results["plates_to_repeat"][worst]
    edge, after = results["positions"][0], results["positions_corrected"][0]
    assert edge["effect"] == "edge"
    assert edge["p_value"] <= 0.01
    assert after["p_value"] > 0.05


def test_the_page_is_one_file_that_loads_nothing(report: ScreenReport) -> None:
    page = report.page.read_text(encoding="utf-8")
    assert "treatments are active" in page
    assert "data:image/png;base64," in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert report.sentence.split(" are active")[0] in page.replace("<strong>", "")
    profiles = pd.read_parquet(report.page.parent / "profiles.parquet")
    assert list(profiles.columns[:2]) == ["Metadata_Plate", "Metadata_Well"]


def test_the_mean_average_precision_is_that_of_copairs_on_the_written_profiles(report: ScreenReport) -> None:
    from copairs.map import average_precision

    profiles = pd.read_parquet(report.page.parent / "profiles.parquet")
    name = report.result.hits["treatment"].iloc[0]
    role = profiles["Metadata_role"]
    kept = profiles[(profiles["Metadata_treatment"] == name) | (role == "control")].reset_index(drop=True)
    features = kept.filter(regex="^feature_").to_numpy()
    theirs = average_precision(
        kept[["Metadata_Plate", "Metadata_role", "Metadata_treatment"]],
        features,
        ["Metadata_treatment"],
        [],
        ["Metadata_Plate"],
        ["Metadata_role"],
        progress_bar=False,
    )
    expected = theirs.loc[kept["Metadata_role"] == "treated", "average_precision"].mean()
    assert abs(report.result.hits["mean_average_precision"].iloc[0] - expected) < 1e-9


def test_the_same_seed_gives_the_same_screen(folder: Path, tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["simulate", "--screen", "--seed", "1", "--output", str(tmp_path)]).exit_code == 0
    for name in ("profiles.parquet", "plate_map.csv", "truth.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert list(pd.read_csv(tmp_path / "truth.csv").columns) == ["treatment", "active", "ec50", "toxic_only"]
    wrong = CliRunner().invoke(app, ["simulate", "--screen", "--fields", "3", "--output", str(tmp_path)])
    assert wrong.exit_code == 2


def _small(plates: int = 2, wells: int = 12) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Profiles of cells in few wells, and their plate map: two treatments, four wells of DMSO."""
    generator = np.random.default_rng(0)
    places = [(f"p{plate}", f"A{well + 1:02d}") for plate in range(plates) for well in range(wells)]
    treatment = (["a"] * 4 + ["b"] * 4 + ["DMSO"] * (wells - 8)) * plates
    control = (["", "", "", "", "", "", "", ""] + ["negcon"] * (wells - 8)) * plates
    table = pd.DataFrame(places, columns=["plate", "well"])
    features = pd.DataFrame(generator.normal(size=(len(table), 5)), columns=[f"f{number}" for number in range(5)])
    profiles = pd.concat([table.rename(columns={"plate": "Metadata_Plate", "well": "Metadata_Well"}), features], axis=1)
    return profiles, table.assign(treatment=treatment, control_type=control, dose=[1, 1, 2, 2] * (len(table) // 4))


def _screen(profiles: pd.DataFrame, plate_map: pd.DataFrame, folder: Path, settings: ScreenSettings) -> ScreenReport:
    profiles.to_csv(folder / "profiles.csv", index=False)
    plate_map.to_csv(folder / "map.csv", index=False)
    return screen_plates([folder / "profiles.csv"], folder / "out", settings, plate_maps=[folder / "map.csv"])


def test_cells_are_averaged_to_wells_and_counted(tmp_path: Path) -> None:
    profiles, plate_map = _small()
    cells = pd.concat([profiles, profiles, profiles], ignore_index=True)
    cells.loc[:23, "f0"] += 3.0
    wells = _screen(cells.assign(ObjectNumber=np.repeat([1, 2, 3], len(profiles))), plate_map, tmp_path, QUICK).result
    assert wells.summary["rows_are_cells"]
    assert set(wells.wells["cell_count"]) == {3}
    # Without names of cells these could be three plates of one name; a number per well is none of cells.
    unnamed = cells.assign(Metadata_cell_count=70)
    said = replace(QUICK, rows_are_cells=True)
    pd.testing.assert_frame_equal(_screen(unnamed, plate_map, tmp_path, said).result.hits, wells.hits)
    with pytest.raises(InputError, match="Leave out --count-column or --rows-are-cells"):
        _screen(unnamed, plate_map, tmp_path, replace(said, count_column="cell_count"))
    fields = cells.assign(Metadata_Site=np.repeat([1, 2, 3], len(profiles)))
    without = _screen(fields, plate_map, tmp_path, QUICK).result
    assert not without.summary["rows_are_cells"]
    assert "cell_count" not in without.wells
    assert np.allclose(without.processed.features, wells.processed.features)
    plain = _screen(profiles, plate_map, tmp_path, QUICK).result
    assert plain.summary["rows_are_cells"] is False
    assert np.allclose(wells.processed.features, plain.processed.features)  # a shift of all wells is normalised away
    assert "cell_count" not in plain.wells
    assert plain.hits["explained_by_count"].isna().all()


Change = Callable[[pd.DataFrame, pd.DataFrame], tuple[pd.DataFrame, pd.DataFrame]]

REFUSED: dict[str, tuple[Change, str]] = {
    "no control": (lambda p, m: (p, m.assign(control_type="")), "No column 'control_type'|No row has 'negcon'"),
    "text as dose": (lambda p, m: (p, m.assign(dose="10 uM")), r"dose of well p0/A01 is '10 uM', expected a number"),
    "no treatments": (lambda p, m: (p, m.drop(columns="treatment")), "no column 'treatment'"),
    "two treatments": (
        lambda p, m: (p, pd.concat([m, m.iloc[:1].assign(treatment="b")])),
        "says 'a' and 'b' of treatment in well A01",
    ),
    "another plate": (lambda p, m: (p, m.assign(plate="q" + m["plate"])), "says nothing of any well"),
    "one replicate": (
        lambda p, m: (p, m.assign(treatment=np.where(m["control_type"] == "negcon", "DMSO", m["plate"] + m["well"]))),
        "the only well of its treatment",
    ),
    # The second plate has the barcode of the first: its wells would be averaged with other ones.
    "a barcode twice": (
        lambda p, m: (pd.concat([p, p[p["Metadata_Plate"] == "p1"].assign(Metadata_Plate="p0")]), m),
        r"2 rows for well A01 of plate 'p0' \(12 wells so\), expected one row per well",
    ),
    "every barcode twice": (
        lambda p, m: (pd.concat([p, p.assign(f0=p["f0"] + 1)]), m),
        r"2 rows for well A01 of plate 'p0' \(24 wells so\).*use --rows-are-cells",
    ),
    "every barcode twice, with the numbers that pandas gives rows": (
        lambda p, m: (pd.concat([p, p]).assign(Metadata_cell_id=range(2 * len(p))), m),
        r"\(24 wells so\)",
    ),
    "every barcode twice, with numbers of cells": (
        lambda p, m: (pd.concat([p, p]).assign(Metadata_cell_count=9, ObjectNumber=[1] * len(p) + [2] * len(p)), m),
        r"\(24 wells so\)",
    ),
    "every field twice": (
        lambda p, m: (pd.concat([p.assign(Metadata_Site=s) for s in (1, 2, 1)]), m),
        r"2 rows for well A01 of plate 'p0', Metadata_Site '1' \(24 wells so\)",
    ),
    "a well twice": (lambda p, m: (pd.concat([p, p.iloc[:1]]), m), "2 rows for well A01 of plate 'p0' .1 well so"),
    "constant features": (
        lambda p, m: (p.assign(**{f"f{number}": 1.0 for number in range(5)}), m),
        "fewer than two of them different",
    ),
    "missing numbers": (lambda p, m: (p.assign(f0=np.nan), m), "1 features: f0"),
    "wells without names": (lambda p, m: (p.drop(columns="Metadata_Well"), m), "no column of wells"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_input_is_refused_in_one_message(name: str, tmp_path: Path) -> None:
    change, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        _screen(*change(*_small()), tmp_path, QUICK)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.csv"))


def test_a_plate_in_two_tables_does_not_count_twice(tmp_path: Path) -> None:
    profiles, _ = _small()
    paths = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for path in paths:
        profiles.to_csv(path, index=False)
    with pytest.raises(InputError, match=r"both in .*one\.csv and in .*two\.csv"):
        screen_plates(paths, tmp_path / "out", QUICK)


@pytest.mark.parametrize(("plates", "said"), [(1, "the treatment's other wells, in"), (2, "on other plates (")])
def test_the_methods_say_where_directions_come_from(plates: int, said: str, tmp_path: Path) -> None:
    report = _screen(*_small(plates), tmp_path, ScreenSettings(permutations=99, judge_batches=False))
    assert said in methods_text(report.result)


def test_wells_that_cannot_be_tested_are_listed_and_set_the_exit_code(tmp_path: Path) -> None:
    profiles, plate_map = _small()
    plate_map.loc[plate_map["plate"] == "p1", "control_type"] = ""  # no controls there
    plate_map.loc[0, "treatment"] = ""
    profiles.to_csv(tmp_path / "profiles.csv", index=False)
    plate_map.to_csv(tmp_path / "map.csv", index=False)
    command = ["screen", "profiles.csv", "--plate-map", "map.csv", "--output", "out", "--permutations", "99"]
    words = [str(tmp_path / word) if "." in word or word == "out" else word for word in command]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 3, result.output
    wells = pd.read_csv(tmp_path / "out" / "wells.csv")
    assert wells["left_out"].value_counts().to_dict() == {"no sound control on its plate": 12, "no treatment": 1}


def test_counts_can_be_ignored_and_few_controls_are_named(tmp_path: Path) -> None:
    profiles, plate_map = _small(plates=1)
    profiles["Metadata_cell_count"] = "many"
    plate_map["control_type"] = np.where(plate_map["well"] == "A09", "negcon", "")
    settings = ScreenSettings(permutations=99, judge_batches=False, count_column="none")
    report = _screen(profiles, plate_map, tmp_path, settings)
    assert not report.result.summary["counts_known"]
    # One of four wells and a control can be the control in five ways.
    assert report.result.hits.set_index("treatment")["least_p_value"]["a"] == 0.2
    # One control has no spread, in which an effect could be measured.
    assert report.result.hits[["effect", "p_monotone"]].isna().all(axis=None)
    assert "too few wells and controls to be significant" in report.page.read_text()
    with pytest.raises(InputError, match="'many' as the number of cells"):
        _screen(profiles, plate_map, tmp_path, QUICK)


def test_steps_fitted_on_controls_compare_with_other_controls(tmp_path: Path) -> None:
    from subcell_hf.evaluation.perturbation import PostProcessing

    profiles, plate_map = _small(wells=24)
    steps = PostProcessing(sphering="ZCA")
    result = _screen(profiles, plate_map, tmp_path, ScreenSettings(steps=steps, permutations=99)).result
    roles = result.wells["role"].value_counts()
    assert roles["control (fitted on)"] == 16
    assert roles["control"] + roles.get("failed control", 0) == 16


@pytest.mark.slow
def test_few_hits_of_several_screens_are_false_and_intervals_of_ec50_hold() -> None:
    """A small version of benchmarks/screen_truth.py, whose figures are from a hundred screens."""
    from benchmarks.screen_truth import judge

    settings = ScreenSettings(permutations=400, judge_batches=False)
    judged = pd.DataFrame([judge(seed, settings) for seed in (200, 201, 202)]).sum()
    assert judged["false"] <= 0.15 * judged["hits"]
    assert judged["found"] >= 0.6 * judged["active"]
    assert judged["toxic_called"] <= 0.15 * judged["toxic"]
    assert judged["ec50_covered"] >= 0.85 * judged["ec50_identified"] > 10
    assert judged["edge_found"] == 3
