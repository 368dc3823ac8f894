"""Two jobs into one folder: the second is refused at once, naming the first, and nothing is left behind."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.inference.engine.runs import claim_run
from subcell_hf.parallel.processes import Processes
from subcell_hf.storage import folder_lock
from subcell_hf.storage.folder_lock import claim_folder, claim_output
from subcell_hf.storage.folders import write_folder_atomically
from tests.forked import Forked
from tests.inference.embedding_runs import run, save_tiny_model, write_fields

HOLD = """
import sys, time
from pathlib import Path
from subcell_hf.storage.folder_lock import claim_folder
with claim_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes `out`."""
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield other
    finally:
        other.kill()
        other.communicate()


def test_the_second_job_is_refused_by_name_and_a_killed_one_keeps_nobody_out(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    out = tmp_path / "out"
    with (
        pytest.raises(InputError, match=f"in use: process {holder.pid} on {socket.gethostname()} is writing there"),
        claim_folder(out),
    ):
        pass
    holder.kill()
    holder.wait()
    assert files_in(out) == [".lock"]
    with claim_folder(out):
        assert str(os.getpid()) in (out / ".lock").read_text()
    assert files_in(out) == []


@pytest.mark.parametrize(
    "command",
    ["embed fields --model model", "crops fields", "shards crops", "simulate --fields 1",
     "map table.parquet", "evaluate localization table.parquet", "evaluate compare a b",
     "evaluate perturbation t --group-column g", "baselines crops", "portable table"],
)  # fmt: skip
def test_every_command_that_writes_a_folder_refuses_one_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_fields(tmp_path / "fields", 1)
    model = save_tiny_model(tmp_path / "model")
    if command.startswith("shards"):
        metadata = tmp_path / "fields" / "metadata.csv"
        [mask] = (tmp_path / "fields").glob("*_mask.png")
        metadata.write_text(f"field_of_view,antibody\n{mask.name.removesuffix('_mask.png')},HPA1\n")
        assert CliRunner().invoke(app, ["crops", "fields", "--output", "crops"]).exit_code == 0
    if command.startswith("portable"):
        run(tmp_path / "fields", model, tmp_path / "table", h5ad=False)
    with claim_folder(Path("out")):
        before = files_in(tmp_path)
        done = CliRunner().invoke(app, [*command.split(), "--output", "out"])
        assert done.exit_code == 2, done.output
        assert "out is in use: process" in done.output
        assert files_in(tmp_path) == before
    assert not Path("out").exists()


def test_a_link_to_nowhere_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "scratch")
    with (
        pytest.raises(InputError, match=r"out is a link to .*scratch, which does not exist"),
        claim_folder(tmp_path / "out"),
    ):
        pass
    (tmp_path / "scratch").mkdir()
    with claim_folder(tmp_path / "out"):
        pass


def test_processes_of_one_launch_share_a_folder_and_no_other_job_joins_them(tmp_path: Path) -> None:
    with claim_run(tmp_path, Processes(0, 2)), claim_run(tmp_path, Processes(1, 2)):
        for others in (Processes(), Processes(1, 2)):
            with pytest.raises(InputError, match="in use"), claim_run(tmp_path, others):
                pass
    assert files_in(tmp_path) == []
    with (
        claim_run(tmp_path, Processes()),
        pytest.raises(InputError, match="in use"),
        claim_run(tmp_path, Processes(0, 2)),
    ):
        pass


def test_who_waits_gets_the_folder_when_it_is_free(
    tmp_path: Path, holder: subprocess.Popen[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_lock, "_POLL_S", 0.01)
    entered: list[bool] = []

    def wait() -> None:
        with claim_folder(tmp_path / "out", wait=True):
            entered.append(True)

    waiting = Thread(target=wait)
    waiting.start()
    waiting.join(0.2)
    assert not entered
    holder.kill()
    waiting.join(30)
    assert entered
    assert f"waiting for process {holder.pid}" in caplog.text


def test_a_lock_that_was_removed_while_it_was_opened_keeps_nobody_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking, its last holder removes the file: the lock of a nameless file is none."""
    real, calls = folder_lock.try_lock, []

    def remove_first(descriptor: int, *, shared: bool = False) -> bool:
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(shared)
        return real(descriptor, shared=shared)

    monkeypatch.setattr(folder_lock, "try_lock", remove_first)
    with claim_folder(tmp_path):
        assert (tmp_path / ".lock").is_file()
        with pytest.raises(InputError, match="in use"), claim_folder(tmp_path):
            pass
    assert len(calls) == 3


def test_a_name_is_kept_beside_the_output(tmp_path: Path) -> None:
    long = tmp_path / ("é" * 100)
    refused = pytest.raises(InputError, match="new is in use")
    with claim_output(tmp_path / "new"), claim_output(long), refused, claim_output(tmp_path / "." / "new"):
        pass
    assert files_in(tmp_path) == []


def test_a_folder_that_appears_whole_is_written_by_one_job_at_a_time(tmp_path: Path) -> None:
    """So are models that are converted, exported or trained, and Spaces."""
    output = tmp_path / "model"
    with write_folder_atomically(output) as staging:
        (staging / "weights").write_text("ours")
        with pytest.raises(InputError, match="model is in use"), write_folder_atomically(output, replace=True):
            pass
    assert (output / "weights").read_text() == "ours"
    with pytest.raises(InputError, match="was filled by another job in the meantime"), write_folder_atomically(output):
        pass
    assert files_in(tmp_path) == ["model", "weights"]


def test_what_cannot_be_a_folder_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(InputError, match="is a file, expected a folder"), claim_folder(tmp_path / "file"):
        pass
    with pytest.raises(InputError, match="cannot be written"), claim_folder(tmp_path / "file" / "below"):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("command", ["embed", "crops"])
def test_two_real_jobs_at_the_same_time(tmp_path: Path, command: str) -> None:
    write_fields(tmp_path / "fields", 12)
    save_tiny_model(tmp_path / "model")
    options = ["--model", "model", "--no-report", "--device", "cpu"] if command == "embed" else []
    words = ["-m", "subcell_hf.cli", command, "fields", "--output", "out", *options]
    for turn in range(3):
        jobs = [Forked(*words, log=tmp_path / f"{turn}-{job}.log", cwd=tmp_path) for job in range(2)]
        codes = sorted(job.wait() for job in jobs)
        said = [job.output for job in jobs]
        assert codes in ([0, 0], [0, 2]), said
        if codes[1]:
            assert any("is in use: process" in text for text in said), said
        assert not [name for name in files_in(tmp_path / "out") if name == "parts" or name.startswith(".")]
        subprocess.run(["rm", "-r", str(tmp_path / "out")], check=True)
