"""How a command ends: plain sentences and documented codes, whatever happens to its process or its terminal."""

import gc
import io
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError, KilledWorkerError
from subcell_hf.inference.engine import embedding
from subcell_hf.inference.models.loading import CellEncoder, find_models
from subcell_hf.process import PatientStream, ending_plainly
from subcell_hf.simulation import simulate as simulation
from tests.inference.embedding_runs import run, save_tiny_model, write_fields

ROOT = Path(__file__).parents[2]
SUBCELL = (sys.executable, "-m", "subcell_hf.cli")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("x is 1, expected 2."), 2, "Error: x is 1, expected 2."),
        (PermissionError(13, "Permission denied", Path("out/a")), 2, "Error: out/a: Permission denied. Check its perm"),
        (
            PermissionError(13, "Permission denied"),
            2,
            "Error: Permission denied. The system names no file. Worker proc",
        ),
        (FileNotFoundError(2, "No such file or directory", "a", None, "b"), 2, "Error: b: No such file or dir"),
        (OSError("a sentence of ours"), 2, "Error: a sentence of ours"),
        (EOFError(), 2, "Error: A file is incomplete"),
        (MemoryError(), 2, "Error: Memory ran out"),
        (BrokenProcessPool("terminated abruptly"), 2, "Error: A worker process was killed, most likely for memory."),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. … out of shared memory."),
            2,
            "Error: A worker process ran out of shared memory (/dev/shm). Give the container more",
        ),
        (KilledWorkerError("A worker process was killed."), 2, "Error: A worker process was killed."),
        (ModuleNotFoundError("no", name="umap"), 2, "pip install 'subcell-hf[analysis]'"),
        (KeyboardInterrupt(), 130, "subcell was interrupted. Files that are complete are kept"),
    ],
)
def test_what_can_be_expected_ends_in_one_sentence(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, ending_plainly():
        raise error
    assert ended.value.exit_code == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_a_cache_that_cannot_be_written_is_named_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Libraries make their caches while they are imported, before anything is said of what the user gave."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(typer.Exit) as ended, ending_plainly():
        (tmp_path / "file" / "cache" / "dynamo").mkdir(parents=True)
    assert ended.value.exit_code == 2
    said = (
        f"Error: {tmp_path}/file/cache/dynamo: Not a directory. TORCHINDUCTOR_CACHE_DIR names that place: let it name"
    )
    assert capsys.readouterr().err == f"{said} a folder that can be written, or unset it.\n"


_ENDING = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count() > 0))
from subcell_hf.process import ending_plainly
with ending_plainly():
    print(gc.get_freeze_count())
"""


def test_all_objects_are_visited_rarely_in_a_command_and_not_at_its_end() -> None:
    before = gc.get_threshold()
    with ending_plainly():
        assert gc.isenabled()
        assert gc.get_threshold() == (*before[:2], 200)
    assert gc.get_threshold() == before
    ended = subprocess.run([sys.executable, "-c", _ENDING], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["0", "True"]


class _Killed(torch.utils.data.Dataset[int]):
    """Cells of which the first costs its reader's life, as the system's memory killer takes it."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_killed_reader_of_a_loader_ends_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, ending_plainly():
        next(iter(torch.utils.data.DataLoader(_Killed(), num_workers=1)))
    assert ended.value.exit_code == 2
    assert "Error: A worker process was killed, most likely for memory." in capsys.readouterr().err


def test_windows_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks and flushed folders, on which every command relies, are those of POSIX."""
    monkeypatch.setattr("platform.system", lambda: "Windows")
    done = CliRunner().invoke(app, ["simulate", "--fields", "1", "--output", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert done.stderr == "Error: subcell runs on Linux and macOS. On Windows use it in WSL, the Linux of Windows.\n"
    assert not (tmp_path / "out").exists()


def test_sigterm_ends_as_ctrl_c_does_and_is_as_before_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with ending_plainly():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    with pytest.raises(typer.Exit) as ended:
        work()
    assert ended.value.exit_code == 143
    assert "subcell was terminated by SIGTERM. Files that are complete are kept" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_stopped_run_leaves_no_lock_and_no_traceback(tmp_path: Path, number: signal.Signals, workers: str) -> None:
    command = [*SUBCELL, "simulate", "--fields", "400", "--size-px", "256", "--output", "out", "--workers", workers]
    job = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Where the tests themselves run in the background of a shell, Ctrl-C is ignored by all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while job.poll() is None and not list((tmp_path / "out").glob("*_mask.png")):
        time.sleep(0.01)
    os.killpg(job.pid, number)  # as a terminal or Slurm does
    _, said = job.communicate()
    assert job.returncode == 128 + number, said
    assert "Traceback" not in said
    assert "Files that are complete are kept" in said
    # The record of a field is hidden beside it, and what a killed worker was writing is removed by the next run.
    hidden = {path.name for path in (tmp_path / "out").glob(".*") if path.is_file() and path.suffix != ".part"}
    fields = {path.name.removesuffix("_mask.png") for path in (tmp_path / "out").glob("*_mask.png")}
    assert hidden <= {f".{field}.json" for field in fields}


MOMENTS = {
    "waiting": "[task.result() for task in [pool.submit(time.sleep, 0.3), pool.submit(time.sleep, 0.3)]]",
    "starting": "pool.submit(int), pool.submit(int), time.sleep(0.1)",
}
PROGRAM = """
import time
from subcell_hf.parallel.worker_pool import WorkerPool

if __name__ == "__main__":
    with WorkerPool(2) as pool:
        {moment}
        print("now", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("moment", MOMENTS)
def test_processes_that_wait_or_start_end_without_a_word(tmp_path: Path, moment: str) -> None:
    """Ctrl-C comes at any moment; only the process that the user started says so."""
    (tmp_path / "job.py").write_text(PROGRAM.format(moment=MOMENTS[moment]), encoding="utf-8")
    job = subprocess.Popen(
        [sys.executable, "job.py"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "now\n"
    os.killpg(job.pid, signal.SIGINT)
    _, said = job.communicate()
    assert job.returncode == -signal.SIGINT
    assert said.startswith("Traceback")
    assert said.count("Traceback") == 1, said
    assert said.count("job.py") == 1


def failing(code: int) -> io.TextIOWrapper:
    class Sink(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, _: object) -> int:
            raise OSError(code, os.strerror(code))

    return io.TextIOWrapper(io.BufferedWriter(Sink()), encoding="ascii")


def test_a_stream_that_fails_ends_no_work() -> None:
    stream = PatientStream(failing(28))
    for _ in range(3):
        stream.write("something\n")
        stream.flush()
    assert stream.failure is not None
    assert stream.failure.errno == 28
    assert stream.encoding == "ascii"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("reader", ["gone", "full"])
def test_the_work_is_finished_though_nobody_reads_or_the_log_is_full(tmp_path: Path, reader: str) -> None:
    command = [*SUBCELL, "simulate", "--fields", "1", "--size-px", "256", "--output", "out"]
    with Path("/dev/full").open("w") as full:
        job = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=full if reader == "full" else subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    if job.stdout is not None:
        job.stdout.close()
    assert job.stderr is not None
    said = job.stderr.read().decode()
    job.stderr.close()
    assert job.wait() == (2 if reader == "full" else 0), said
    assert ("What was said could not be written: No space left on device" in said) == (reader == "full")
    assert "Traceback" not in said
    assert "Broken pipe" not in said
    assert (tmp_path / "out" / "metadata.csv").is_file()


def test_a_terminal_that_lacks_a_letter_gets_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    with ending_plainly():
        typer.echo("é → \udce9")
    assert raw.getvalue() == b"\xe9 \\u2192 \\udce9\n"


def test_notes_and_warnings_of_the_package_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    package, own = logging.getLogger("subcell_hf"), logging.NullHandler()
    workflow, before = logging.getLogger("subcell_hf.workflows.any"), package.level
    package.addHandler(own)
    try:
        with ending_plainly():
            workflow.debug("of no interest")
            workflow.info("%d cells", 3)
            workflow.warning("Note: look here")
            workflow.error("and here")
            logging.getLogger("another.package").info("not ours")
        captured = capsys.readouterr()
        assert captured.out == "3 cells\n"
        assert captured.err == "Note: look here\nand here\n"
        assert own in package.handlers
        assert (package.level, len(package.handlers)) == (before, 1)
    finally:
        package.removeHandler(own)


def test_a_note_that_cannot_be_written_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", failing(28))
    monkeypatch.setattr("sys.stderr", None)
    done: list[bool] = []

    def work() -> None:
        with ending_plainly():
            logging.getLogger("subcell_hf.workflows.any").info("a note")
            logging.getLogger("subcell_hf.workflows.any").warning("a warning")
            done.append(True)

    with pytest.raises(typer.Exit) as ended:
        work()
    assert done
    assert ended.value.exit_code == 2


def test_closed_streams_are_no_place_for_data(tmp_path: Path) -> None:
    """With standard error closed, the first file that is opened would become standard error."""
    command = f'"{sys.executable}" -m subcell_hf.cli simulate --fields 1 --size-px 256 --output out <&- >&- 2>&-'
    assert subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, env=ENVIRONMENT, check=False).returncode == 0
    assert (tmp_path / "out" / "metadata.csv").read_text().startswith("field_of_view,")


def test_names_that_begin_with_a_dash_or_end_with_a_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_fields(tmp_path / "-fields", 1)
    for number, words in enumerate((["--", "-fields"], ["./-fields/"])):
        done = CliRunner().invoke(app, ["crops", "--output", f"out{number}/", *words])
        assert done.exit_code == 0, done.output
        assert (tmp_path / f"out{number}" / "crops.parquet").is_file()


def test_the_home_folder_is_understood_where_the_shell_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_fields(tmp_path / "home" / "fields", 1)
    done = CliRunner().invoke(app, ["crops", "~/fields", "--output=~/out"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "home" / "out" / "crops.parquet").is_file()
    assert not (tmp_path / "~").exists()


def test_what_vanishes_while_a_command_runs_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that another program removes meanwhile are made again by writing, with a part of the files only."""
    real_part, real_field = embedding.write_part, simulation._write_field

    def write_part(*arguments: Any) -> None:
        if (tmp_path / "out" / "parts" / "part-000000.json").exists():
            shutil.rmtree(tmp_path / "out")
        real_part(*arguments)

    def write_field(planned: Any, settings: Any, output: Path) -> None:
        shutil.rmtree(output)
        real_field(planned, settings, output)

    monkeypatch.setattr(embedding, "write_part", write_part)
    monkeypatch.setattr(simulation, "_write_field", write_field)
    fields, model = write_fields(tmp_path / "fields", 3), save_tiny_model(tmp_path / "model")
    with pytest.raises(InputError, match=r"[12] of 3 finished parts .* were removed while this ran"):
        run(fields, model, tmp_path / "out")
    with pytest.raises(InputError, match="were removed while this ran"):
        simulation.simulate_dataset(2, 0, tmp_path / "simulated", size_px=256, progress=False)
    monkeypatch.undo()
    assert run(fields, model, tmp_path / "out").cells == 6


def test_a_model_that_is_replaced_before_it_is_loaded_is_refused(tmp_path: Path) -> None:
    """Weights are loaded when the first cells come, maybe hours after they were identified."""
    [found] = find_models(str(save_tiny_model(tmp_path / "model")))
    CellEncoder(found, torch.device("cpu"), "fp32")
    save_tiny_model(tmp_path / "model", seed=1)
    with pytest.raises(InputError, match="holds other weights than when this run began"):
        CellEncoder(found, torch.device("cpu"), "fp32")
