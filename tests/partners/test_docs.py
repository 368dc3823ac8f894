"""The examples of docs/partners.md run, in order and in one folder."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image
from typer.testing import CliRunner

from subcell_hf.cli import app
from tests.cells.partners.test_h5sc import write_h5sc
from tests.hub.tiny_models import write_facts
from tests.images.written_fields import COLOURS
from tests.workflows.simulated_run import Run

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "partners.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python|groovy)( title=\"\S+\")?\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def work(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, single cells of scPortrait, a dataset, a model and what a card must say."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(run.images, folder / "images")
    shutil.copytree(run.model, folder / "model")
    write_facts(folder)
    pictures = (*COLOURS, "mask")
    rows = [
        {name: {"bytes": (run.images / f"{field}_{name}.png").read_bytes(), "path": None} for name in pictures}
        for field in run.fields
    ]
    dataset = Dataset.from_list(rows, features=Features(dict.fromkeys(pictures, Image())))
    (folder / "fields").mkdir()
    dataset.to_parquet(folder / "fields/train-00000-of-00001.parquet")
    write_h5sc(folder / "single_cells.h5sc", 3, ("nucleus", "cytosol", "DNA", "red", "yellow", "green"))
    return folder


def test_examples_run(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    names: dict[str, object] = {}
    ran = 0
    for language, title, text in BLOCKS:
        if title:
            continue
        if language == "python":
            exec(text, names)
        else:
            for line in text.splitlines():
                done = CliRunner().invoke(app, shlex.split(line)[1:])
                assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception}"
        ran += 1
    assert ran >= 15
    assert (work / "exported" / "bioimageio.zip").is_file()
    assert len(names["table"]) == len(names["crops"].cells)  # type: ignore[arg-type, attr-defined]


def test_snakemake_runs_the_rule_once(work: Path) -> None:
    (work / "bin").mkdir()
    command = work / "bin" / "subcell"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -W ignore -m subcell_hf.cli --json-progress "$@"\n')
    command.chmod(0o755)
    (snakefile,) = (text for _, title, text in BLOCKS if "Snakefile" in title)
    (work / "Snakefile").write_text(snakefile)
    path = f"{work / 'bin'}:{os.environ['PATH']}"
    environment = {"PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(work), "OMP_NUM_THREADS": "1"}

    def snakemake() -> str:
        words = [sys.executable, "-m", "snakemake", "--cores", "1", "plate/run.json"]
        done = subprocess.run(words, cwd=work, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    first = snakemake()
    assert (work / "plate" / "embeddings.parquet").is_file()
    assert '{"event": "progress", "job": ' in first
    written = (work / "plate" / "run.json").stat().st_mtime_ns
    snakemake()
    assert (work / "plate" / "run.json").stat().st_mtime_ns == written


def test_the_command_for_nextflow_works_on_links_where_home_cannot_be_written(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (process,) = (text for _, title, text in BLOCKS if "main.nf" in title)
    (script,) = re.findall(r'"""\s*(.*?)\s*"""', process, flags=re.DOTALL)
    command, accepted = script.split(" || ")
    assert accepted == r"[ \$? -eq 3 ]"
    for name in ("images", "model"):
        (tmp_path / name).symlink_to(work / name)
        command = command.replace(f"${{{name}}}", name)
    before = sorted((work / "images").iterdir())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/proc/nobody")
    done = CliRunner().invoke(app, shlex.split(command)[1:], input="")
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "plate").iterdir()} >= {"run.json", "embeddings.parquet"}
    assert {path.name for path in tmp_path.iterdir()} == {"images", "model", "plate"}
    assert sorted((work / "images").iterdir()) == before
