"""Every command and example of the README runs: blocks in order and in one folder, then the commands that judge."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.tables.files import write_parquet
from subcell_hf.weights.fetching import MIRROR_VARIABLE
from subcell_hf.weights.published_variants import published_variants
from tests.evaluation.perturbation.simulated_profiles import simulate_wells, write_wells
from tests.evaluation.planted_tables import planted_cells, planted_table
from tests.weights.published_layout import draw_published_files, serve_bucket

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (\w.*\\\n(?:.*\\\n)*.*|\w.*)", README, flags=re.MULTILINE)
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_ci_calls_the_test_command_of_the_readme() -> None:
    assert "make test" in README
    assert "\nmake test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.slow
def test_examples_run(tmp_path: Path) -> None:
    """As a new user, with an empty home; the published weights come from a server on this machine, at small size."""
    work = tmp_path / "work"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    ran = 0
    with serve_bucket(draw_published_files()) as bucket:
        environment[MIRROR_VARIABLE] = bucket.url
        for language, text in BLOCKS:
            if text.startswith("make "):  # what runs this very test
                continue
            command = [sys.executable, "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
            run = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
            assert run.returncode == 0, f"{text}\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
            ran += 1
        assert len(bucket.requests) == len(published_variants()["mae-rybg"].files)  # each file is downloaded once
    assert ran >= 3
    assert (work / "results" / "report.html").is_file()


@pytest.mark.slow
def test_commands_that_judge_run(label_tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They want more cells than the README's other commands make."""
    monkeypatch.chdir(tmp_path)
    wells = simulate_wells()
    named = wells.metadata.rename(columns={"Metadata_compound": "Metadata_broad_sample"})
    write_wells(replace(wells, metadata=named), "profiles.csv.gz")
    shutil.copy(label_tables / "hpa_subcellular_location.tsv.gz", "subcellular_location.tsv.gz")
    genes = pd.read_csv("subcellular_location.tsv.gz", sep="\t")["Gene name"]
    cells = planted_cells()
    cells["gene"] = cells["gene"].str[1:].astype(int).map(genes)
    Path("embeddings").mkdir()
    write_parquet(planted_table(cells, 1.5), Path("embeddings", "embeddings.parquet"))
    commands = [shlex.split(text.replace("\\\n", " "))[1:] for text in COMMANDS if text.startswith("subcell ")]
    assert [command[:2] for command in commands] == [
        ["evaluate", "localization"],
        ["evaluate", "perturbation"],
        ["evaluate", "compare"],
        ["map", "embeddings"],
    ]
    for command in commands:
        done = CliRunner().invoke(app, command, catch_exceptions=False)
        assert done.exit_code == 0, f"{command}\n{done.output[-2000:]}"
        written = Path(command[command.index("--output") + 1])
        assert any(written.iterdir())
        if command[1] == "localization":
            for name in ("mae", "vit"):
                shutil.copytree(written, f"{written}_{name}")
