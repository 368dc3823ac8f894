"""Many processes started by a launcher: one table, exit codes a batch script can use, a kill that costs little."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.inference.engine.parts import PartsFolder
from subcell_hf.parallel.processes import Processes
from subcell_hf.tables.files import read_table
from tests.inference.embedding_runs import run, save_tiny_model, write_fields

ROOT = Path(__file__).parents[2]
LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "recipes/embed.py")
OPTIONS = ("--precision", "fp32", "--device", "cpu", "--no-report")


def launch(fields: Path, model: Path, output: Path) -> subprocess.Popen[str]:
    command = [*LAUNCH, str(fields), "--model", str(model), "--output", str(output), *OPTIONS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
def test_a_process_is_killed_and_the_same_command_goes_on(tmp_path: Path) -> None:
    model, fields = save_tiny_model(tmp_path / "model"), write_fields(tmp_path / "fields", 60)
    (fields / "7_A7_1_red.png").write_bytes(b"not a picture")
    run(fields, model, tmp_path / "one")
    first = launch(fields, model, tmp_path / "out")
    folder = PartsFolder(tmp_path / "out", 60)
    while first.poll() is None and sum(map(folder.is_done, range(60))) < 3:
        time.sleep(0.005)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split() if first.poll() is None else []
    if children:
        os.kill(int(children[0]), signal.SIGKILL)
    first.communicate()
    assert not children or first.returncode == 1 or folder.is_joined()
    second = launch(fields, model, tmp_path / "out")
    said, _ = second.communicate()
    assert second.returncode == 0, said
    assert "The tables are complete; skipped.csv lists the inputs that are not in them" in said
    assert (tmp_path / "out" / "skipped.csv").read_bytes() == (tmp_path / "one" / "skipped.csv").read_bytes()
    for name in ("embeddings.parquet", "embeddings.h5ad"):
        shared, alone = read_table(tmp_path / "out" / name), read_table(tmp_path / "one" / name)
        assert list(shared.cells["cell_id"]) == list(alone.cells["cell_id"])
        # This process may work with another number of threads than the launched ones.
        np.testing.assert_allclose(shared.embeddings, alone.embeddings, rtol=0, atol=1e-6)
    again = CliRunner().invoke(
        app, ["embed", str(fields), "--model", str(model), "--output", str(tmp_path / "out"), *OPTIONS]
    )
    assert again.exit_code == 3


@pytest.mark.parametrize("variable", ["TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION"])
def test_a_launcher_hears_of_success_though_inputs_were_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    model, fields = save_tiny_model(tmp_path / "model"), write_fields(tmp_path / "fields", 2)
    (fields / "7_A1_1_red.png").write_bytes(b"not a picture")
    command = ["embed", str(fields), "--model", str(model), "--output", str(tmp_path / "out"), *OPTIONS]
    monkeypatch.setenv(variable, "0")
    launched = CliRunner().invoke(app, command)
    assert launched.exit_code == 0, launched.output
    assert launched.stdout.endswith("The exit code is 0, because launchers take any other code for a failure.\n")
    assert "7_A1_1_red.png" in launched.stderr
    monkeypatch.delenv(variable)
    assert CliRunner().invoke(app, command).exit_code == 3


def test_tasks_of_slurm_share_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_PROCID", "0")  # a batch script without srun: no step of several tasks
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert Processes.of_environment() == Processes(0, 1, 0)
    model, fields = save_tiny_model(tmp_path / "model"), write_fields(tmp_path / "fields", 3)
    (fields / "7_A1_1_red.png").write_bytes(b"not a picture")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    for rank, ended in ((1, 0), (0, 3)):
        monkeypatch.setenv("SLURM_PROCID", str(rank))
        done = CliRunner().invoke(
            app, ["embed", str(fields), "--model", str(model), "--output", str(tmp_path / "out"), *OPTIONS]
        )
        assert done.exit_code == ended, done.output
    assert "4 cells; 1 input was skipped" in done.output


def test_the_slurm_script_shares_parts_and_keeps_its_word(tmp_path: Path) -> None:
    """With an `srun` that runs one task: what the script says and ends with."""
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/bash\necho "$@" > "$(dirname "$0")/said"\nexit "$(cat "$(dirname "$0")/code")"\n')
    srun.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "8"}
    script = str(ROOT / "recipes" / "slurm" / "embed.sbatch")
    for code, ended, words in ((0, 0, ""), (3, 0, "skipped.csv lists"), (2, 2, "")):
        (tmp_path / "code").write_text(str(code))
        done = subprocess.run(
            ["bash", script, "images", "--output", "out"], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == ended
        assert words in done.stdout
    assert "subcell embed --workers 7 images --output out" in (tmp_path / "said").read_text()
