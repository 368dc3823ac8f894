"""Profiles with gaps: what cannot be scored is counted and named, on the terminal, in the report, in a file."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from subcell_hf.cli import app


def _plates(features: int = 6) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    centre = {name: generator.normal(0, 1.5, features) for name in ("DMSO", "a", "b", "c")}
    rows = []
    for plate in ("P1", "P2"):
        for well in range(16):
            group = ("DMSO", "a", "b", "c")[well % 4]
            numbers = generator.normal(0, 1, features) + centre[group]
            place = {"Metadata_Plate": plate, "Metadata_Well": f"A{well:02d}", "Metadata_t": group}
            rows.append({**place, **{f"f{n}": value for n, value in enumerate(numbers)}})
    return pd.DataFrame(rows)


def _evaluate(frame: pd.DataFrame, folder: Path, *options: str) -> Result:
    frame.to_csv(folder / "p.csv", index=False)
    command = ["evaluate", "perturbation", str(folder / "p.csv"), "--group-column", "Metadata_t", "--null-size", "200"]
    command += ["--control", "Metadata_t=DMSO", "--no-baselines", "--output", str(folder / "out"), *options]
    return CliRunner().invoke(app, command, catch_exceptions=False)


def _left_out(folder: Path) -> tuple[pd.DataFrame, dict[str, object]]:
    report = json.loads((folder / "out" / "report.json").read_text())
    return pd.read_csv(folder / "out" / "left_out.csv", keep_default_na=False), report["left_out"]


def test_a_complete_table_leaves_nothing_out(tmp_path: Path) -> None:
    result = _evaluate(_plates(), tmp_path)
    assert result.exit_code == 0
    wells, described = _left_out(tmp_path)
    assert not len(wells)
    assert described == {"wells": 0, "reasons": {}, "groups": {}}
    assert "not scored" not in (tmp_path / "out" / "report.html").read_text()


def test_a_plate_without_controls_is_counted(tmp_path: Path) -> None:
    frame = _plates()
    result = _evaluate(frame[(frame["Metadata_Plate"] == "P1") | (frame["Metadata_t"] != "DMSO")], tmp_path)
    assert result.exit_code == 3
    assert "12 wells were not scored (12: no control on its plate)" in result.output
    wells, described = _left_out(tmp_path)
    assert set(wells["plate"]) == {"P2"}
    assert set(wells["reason"]) == {"no control on its plate"}
    assert list(wells["well"])[:2] == ["A01", "A02"]
    assert described == {"wells": 12, "reasons": {"no control on its plate": 12}, "groups": {}}
    assert "12 wells were not scored" in (tmp_path / "out" / "report.html").read_text()


def test_groups_that_vanish_are_named(tmp_path: Path) -> None:
    frame = _plates()
    single = frame[frame["Metadata_t"] == "c"].head(1)
    nameless = frame[frame["Metadata_t"] == "c"].tail(2).assign(Metadata_t="")
    result = _evaluate(pd.concat([frame[frame["Metadata_t"] != "c"], single, nameless]), tmp_path)
    assert result.exit_code == 3
    assert "1 group has no score: c." in result.output
    wells, described = _left_out(tmp_path)
    assert sorted(wells["reason"]) == ["no other well of its group", *["no value in Metadata_t"] * 2]
    assert described["groups"] == {"c": ["no other well of its group"]}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--positives", "other-plates"), "no well of its group on another plate"),
        (("--negatives", "other-plates-others"), "no well of another group on another plate"),
    ],
)
def test_every_task_says_what_is_missing(tmp_path: Path, options: tuple[str, ...], reason: str) -> None:
    frame = _plates()
    other = frame["Metadata_Plate"] == "P2"
    group = "c" if "positives" in options[0] else "a"
    kept = frame[~other | (frame["Metadata_t"].isin(["DMSO", "a"]) if group == "a" else frame["Metadata_t"] != "c")]
    result = _evaluate(kept, tmp_path, *options)
    assert result.exit_code == 3
    assert set(_left_out(tmp_path)[0]["reason"]) == {reason}


def test_mechanisms_that_are_unknown_or_single_are_named(tmp_path: Path) -> None:
    (tmp_path / "moa.csv").write_text("Metadata_t,moa\na,None\nb,None|x\n")
    result = _evaluate(_plates(), tmp_path, "--moa-column", "moa", "--moa-table", str(tmp_path / "moa.csv"))
    assert result.exit_code == 2  # all perturbations with a mechanism share one
    frame = pd.concat([_plates(), _plates().assign(Metadata_t=lambda f: f["Metadata_t"] + "2")])
    frame = frame.assign(Metadata_Well=[f"W{n}" for n in range(len(frame))]).replace({"DMSO2": "DMSO"})
    (tmp_path / "moa.csv").write_text("Metadata_t,moa\na,None\na2,None\nb,y\nb2,y\nc,x\n")
    result = _evaluate(frame, tmp_path, "--moa-column", "moa", "--moa-table", str(tmp_path / "moa.csv"))
    assert "1 group has no mechanism: c2." in result.output
    assert "1 mechanisms were not scored, each with a single group: x." in result.output
    described = _left_out(tmp_path)[1]
    assert (described["groups_without_mechanism"], described["mechanisms_not_scored"]) == (["c2"], ["x"])
    assert list(pd.read_csv(tmp_path / "out" / "mechanism_map.csv", keep_default_na=False)["moa"]) == ["None", "y"]


def test_groups_of_one_table_only_are_counted(tmp_path: Path) -> None:
    frame = _plates()
    frame[frame["Metadata_t"] != "b"].to_parquet(tmp_path / "other.parquet", index=False)
    result = _evaluate(frame, tmp_path, "--baseline", f"other={tmp_path / 'other.parquet'}")
    assert "1 groups that only one of them scores are left out" in result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["comparisons"][0]["groups_left_out"] == ["b"]


def test_words_for_missing_are_groups_in_every_format(tmp_path: Path) -> None:
    frame = _plates().replace({"Metadata_t": {"a": "None", "b": "NA", "c": "nan"}})
    scores = {}
    for ending in ("csv", "parquet"):
        path = tmp_path / f"words.{ending}"
        frame.to_parquet(path, index=False) if ending == "parquet" else frame.to_csv(path, index=False)
        command = ["evaluate", "perturbation", str(path), "--group-column", "Metadata_t", "--null-size", "200"]
        command += ["--control", "Metadata_t=DMSO", "--no-baselines", "--output", str(tmp_path / ending)]
        assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
        scores[ending] = (tmp_path / ending / "replicate_map.csv").read_text()
    assert scores["csv"] == scores["parquet"]
    assert [line.split(",")[0] for line in scores["csv"].splitlines()[1:]] == ["NA", "None", "nan"]


def test_wells_that_share_a_name_are_refused_for_what_they_are(tmp_path: Path) -> None:
    result = _evaluate(_plates().assign(Metadata_Well="A01"), tmp_path)
    assert result.exit_code == 2
    assert "Rows of one well (Metadata_Plate, Metadata_Well) differ in 'Metadata_t'" in result.output
