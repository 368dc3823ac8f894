"""What launchers and stray variables say about the number of processes: believed where possible, refused where not."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.parallel.processes import Processes
from subcell_hf.shards import streaming
from subcell_hf.training.finetuning.finetuning_arguments import parse_fine_tuning
from subcell_hf.training.finetuning.finetuning_resolution import resolve_fine_tuning
from subcell_hf.training.pretraining.arguments import parse_arguments
from subcell_hf.training.pretraining.resolution import resolve
from tests.inference.embedding_runs import save_tiny_model, write_fields

OPTIONS = ("--precision", "fp32", "--device", "cpu", "--no-report", "--no-h5ad")


class Terminal:
    """Standard input of someone who types."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_", "OMPI_", "PMI_")):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Processes()),
        ({"RANK": "3"}, Processes()),
        ({"WORLD_SIZE": "1"}, Processes()),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, Processes(1, 2, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Processes(1, 2, 0)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"},
         Processes(1, 4)),
        ({"PMI_RANK": "1", "PMI_SIZE": "3"}, Processes(1, 3)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Processes()),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "2"}, Processes(2, 4, 2)),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4", "WORLD_SIZE": "1"}, Processes()),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_PROCID": "0"}, Processes()),
    ],
)  # fmt: skip
def test_what_launchers_say(variables: dict[str, str], expected: Processes) -> None:
    assert Processes.of_environment(variables) == expected


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE is 'two', expected a whole number of at least 1"),
        ({"WORLD_SIZE": "0", "RANK": "0"}, "WORLD_SIZE is '0', expected"),
        ({"WORLD_SIZE": "-2", "RANK": "0"}, "WORLD_SIZE is '-2', expected"),
        ({"WORLD_SIZE": "", "RANK": "0"}, "WORLD_SIZE is '', expected"),
        ({"WORLD_SIZE": "2.0", "RANK": "0"}, "WORLD_SIZE is '2.0', expected"),
        ({"WORLD_SIZE": "²", "RANK": "0"}, "WORLD_SIZE is '²', expected"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK is '-1', expected a whole number of at least 0"),
        ({"WORLD_SIZE": "2", "RANK": ""}, "RANK is '', expected"),
        ({"WORLD_SIZE": "2", "RANK": "5"}, "RANK is 5 and WORLD_SIZE is 2: expected a rank from 0 to 1"),
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "x"}, "LOCAL_RANK is 'x', expected"),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "4"}, "expected a rank from 0 to 3"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_RANK is not set"),
    ],
)
def test_impossible_numbers_are_refused_in_one_sentence(
    variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        Processes.of_environment(variables)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(app, ["embed", str(tmp_path), "--model", "m", "--output", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert said in done.output


def test_a_shell_is_one_process_whatever_number_of_tasks_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """`srun --pty -n 4 bash` gives its first task the terminal, and the others end at once."""
    shell = {"SLURM_JOB_NAME": "bash", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}
    assert Processes.of_environment(shell) == Processes(0, 4)
    monkeypatch.setattr("sys.stdin", Terminal())
    assert Processes.of_environment(shell) == Processes()
    assert Processes.of_environment({**shell, "SLURM_PROCID": "1"}) == Processes(1, 4)
    assert Processes.of_environment({"PMI_SIZE": "4", "PMI_RANK": "0"}) == Processes()
    assert Processes.of_environment({"RANK": "0", "WORLD_SIZE": "2"}) == Processes(0, 2)
    monkeypatch.setattr("sys.stdin", None)  # a service has none
    assert Processes.of_environment(shell) == Processes(0, 4)


def test_a_share_of_the_work_is_announced_and_never_looks_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, fields, out = save_tiny_model(tmp_path / "model"), write_fields(tmp_path / "fields", 5), tmp_path / "out"
    command = ["embed", str(fields), "--model", str(model), "--output", str(out), *OPTIONS]
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "0")
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    lines = first.stderr.splitlines()
    assert "process 1 of 4, as SLURM_PROCID=0 and SLURM_STEP_NUM_TASKS=4 say" in lines[0]
    assert f"{out} is not complete: process 1 of 4 has finished its share, and 3 of 5 parts are left" in lines[-1]
    for line in (lines[0], lines[-1]):
        assert "put WORLD_SIZE=1 before the command" in line
    assert not (out / "embeddings.parquet").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    alone = CliRunner().invoke(app, command)
    assert alone.exit_code == 0, alone.output
    assert "holds 10 cells; 0 inputs were skipped" in alone.output
    assert "process 1 of" not in alone.output


def test_a_loader_and_a_training_refuse_impossible_numbers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stray WORLD_SIZE would leave a plain loop with a share of its cells."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match="RANK is not set"):
        streaming._process(None, None)
    monkeypatch.setenv("RANK", "7")
    with pytest.raises(InputError, match="expected a rank from 0 to 3"):
        resolve(parse_arguments([]))
    with pytest.raises(InputError, match="expected a rank from 0 to 3"):
        resolve_fine_tuning(parse_fine_tuning(["--init_checkpoint", "x", "--data", "y"]))
    monkeypatch.setenv("RANK", "3")
    assert streaming._process(None, None) == (3, 4)
