"""A file that ends too early is named on the command line, never "Aborted." without a reason."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from subcell_hf.cli import app


def _cut(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode())[:-12])
    return path


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    frame = pd.DataFrame(np.random.default_rng(0).random((9, 3)), columns=["f0", "f1", "f2"])
    frame.assign(Metadata_Plate="1", Metadata_t=["a", "b", "c"] * 3).to_csv(tmp_path / "p.csv", index=False)
    return tmp_path / "p.csv"


def test_cut_tables_are_named(tmp_path: Path, profiles: Path) -> None:
    table = _cut(tmp_path / "cut.csv.gz", profiles.read_text())
    genes = _cut(tmp_path / "cut.txt.gz", "G0\nG1\n" * 99)
    common = ("--output", str(tmp_path / "out"), "--no-baselines", "--null-size", "100")
    evaluate = ("evaluate", "perturbation", "--group-column", "Metadata_t", "--negatives", "others", *common)
    commands = (
        (*evaluate, str(table)),
        (*evaluate, str(profiles), "--baseline", f"other={table}"),
        (*evaluate, str(profiles), "--moa-column", "moa", "--moa-table", str(table)),
        ("aggregate", str(table), "--by", "gene", "--output", str(tmp_path / "o.parquet")),
        ("portable", str(table), "--output", str(tmp_path / "o")),
        ("map", str(table), "--output", str(tmp_path / "m")),
        ("evaluate", "localization", str(table), "--output", str(tmp_path / "l"), "--classes", str(genes)),
        ("evaluate", "localization", str(profiles), "--output", str(tmp_path / "l"), "--metadata", str(table)),
    )
    for command in commands:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2, command
        assert "cut." in result.output, result.output
        assert "cannot be unpacked" in result.output
        assert "Aborted" not in result.output


def test_an_end_that_nobody_expected_has_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def end(*_: object, **__: object) -> None:
        raise EOFError("Compressed file ended before the end-of-stream marker was reached")

    monkeypatch.setattr("subcell_hf.workflows.tables.iterate_table", end)
    result = CliRunner().invoke(app, ("aggregate", "x.csv", "--by", "gene", "--output", str(tmp_path / "o.parquet")))
    assert result.exit_code == 2
    assert "Compressed file ended" in result.output
    assert "Aborted" not in result.output
