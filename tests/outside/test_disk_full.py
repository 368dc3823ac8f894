"""A full disk is one sentence with a remedy and exit code 2, whatever was being written; nothing half-written is left.

A limit on the size of files stands for the disk, since it needs no rights; where the machine lets us mount a small
file system, a really full one is tried, too.
"""

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from recipes.pretrain import main as pretrain
from subcell_hf.cli import app
from subcell_hf.evaluation.plots import figure_of, save_figure
from subcell_hf.shards.sharding import ShardSettings
from subcell_hf.storage.full_disk import WatchedFile, naming_full_disk
from subcell_hf.storage.hdf5 import write_hdf5
from subcell_hf.tables.files import EmbeddingTable, read_table, write_h5ad
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
from tests.forked import Forked
from tests.hub.tiny_models import save_tiny, write_facts
from tests.inference.embedding_runs import save_tiny_model, write_fields
from tests.training.test_trainer import ROOT, SMALL


@contextmanager
def limited(limit_bytes: int) -> Iterator[None]:
    """No file of this process can grow beyond a limit."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name.endswith(".part")]


def table(rows: int = 300) -> EmbeddingTable:
    numbers = [str(number) for number in range(rows)]
    cells = pd.DataFrame({"cell_id": numbers, "field_of_view": "f", "gene": numbers, "count": range(rows)})
    return EmbeddingTable(cells, np.random.default_rng(0).random((rows, 64), np.float32))


# ---- Through what libraries make of it ----


class _SaidError(Exception):
    """An error of a library that hides the system's."""


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", errno.ENOSPC),
        ("IoError(Os { code: 122 }): os error 122", errno.EDQUOT),
        ("[enforce fail at inline_container.cc:664] . unexpected pos 128 vs 22", errno.ENOSPC),
        ("PytorchStreamWriter failed writing file data/0: file write failed", errno.ENOSPC),
        ("100000 requested and 109 written", errno.ENOSPC),
        ("[Errno 0] Error", errno.ENOSPC),
        ("cannot write: Disk quota exceeded", errno.EDQUOT),
        ("HDF5: errno = 27, error message = 'File too large'", errno.EFBIG),
    ],
)
def test_what_libraries_say_of_a_full_disk(said: str, number: int, tmp_path: Path) -> None:
    error = RuntimeError("saving failed")
    error.__context__ = _SaidError(said)
    with pytest.raises(OSError, match="Free some space") as caught, naming_full_disk(tmp_path / "model"):
        raise error
    assert caught.value.errno == number
    assert str(tmp_path / "model") in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [ValueError("os error 2"), FileNotFoundError("No space left on device.txt"), KeyError("x"), OSError(13, "no")],
)
def test_other_errors_pass(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, naming_full_disk(tmp_path / "model"):
        raise error
    assert caught.value is error


def test_a_file_remembers(tmp_path: Path) -> None:
    with limited(10_000), WatchedFile(tmp_path / "file", "w") as file:
        file.write(bytes(9_000))
        assert file.write(bytes(9_000)) == 1_000
        with pytest.raises(OSError, match="File too large"):
            file.write(b"1")
    assert file.failure is not None


@pytest.mark.parametrize("ending", ["pdf", "png"])
def test_figures(ending: str, tmp_path: Path) -> None:
    """matplotlib's writer of PDF fails a second time over its own failure."""
    with figure_of(60, 60) as (figure, axes):
        axes.plot(np.random.default_rng(0).random(2000))
    save_figure(figure, tmp_path / "whole" / "curve")
    limit = (tmp_path / "whole" / f"curve.{ending}").stat().st_size - 500
    (tmp_path / "full").mkdir()
    with limited(limit), pytest.raises(OSError, match="Free some space"):
        save_figure(figure, tmp_path / "full" / "curve")
    assert not hidden(tmp_path)
    assert not (tmp_path / "full" / f"curve.{ending}").exists()


# ---- HDF5 ----


def test_hdf5_ends_with_an_error_wherever_the_disk_is_full(tmp_path: Path) -> None:
    """Not with a segmentation fault: in a process of its own, at many sizes."""
    cells = table()
    write_h5ad(cells, tmp_path / "whole.h5ad")
    size = (tmp_path / "whole.h5ad").stat().st_size
    process = os.fork()
    if process == 0:
        failed = 0
        for limit in range(2_000, size, size // 40):
            with limited(limit):
                try:
                    write_h5ad(cells, tmp_path / "full.h5ad")
                except OSError as error:
                    failed += error.errno == errno.EFBIG and "Free some space" in str(error)
        os._exit(0 if failed == len(range(2_000, size, size // 40)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["whole.h5ad"]


def test_hdf5_files_can_be_read(tmp_path: Path) -> None:
    cells = table()
    write_h5ad(cells, tmp_path / "table.h5ad")
    found = read_table(tmp_path / "table.h5ad")
    np.testing.assert_array_equal(found.embeddings, cells.embeddings)
    assert list(found.cells["gene"]) == list(cells.cells["gene"])


def test_hdf5_needs_no_locks_of_the_file_system(tmp_path: Path) -> None:
    """Another process may have the file that is replaced open for reading, and even locked."""
    with write_hdf5(tmp_path / "a.h5") as file:
        file.root["x"] = 1
    with h5py.File(tmp_path / "a.h5", "r", locking=True), write_hdf5(tmp_path / "a.h5") as file:
        file.root["x"] = 2
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["x"][()] == 2


# ---- Commands ----


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_fields(folder / "fields", 2)
    save_tiny_model(folder / "model")
    save_tiny("SubCellForImageClassification", folder / "tiny")
    write_facts(folder)
    write_synthetic(
        folder / "shards",
        SyntheticCrops(antibodies=12, fields_per_antibody=2, cells_per_field=4, size_px=32),
        ShardSettings(split_fractions={"train": 0.7, "validation": 0.3}),
    )
    return folder


def command(name: str, inputs: Path, output: Path) -> list[str]:
    return {
        "embed": ["embed", str(inputs / "fields"), "--model", str(inputs / "model"), "--output", str(output)],
        "export": ["export", str(inputs / "tiny"), "--output", str(output), "--facts", str(inputs / "facts.yaml")],
        "untrained": ["untrained", str(inputs / "tiny"), "--output", str(output)],
        "baselines": ["baselines", str(inputs / "shards"), "--output", str(output)],
    }[name]


def check(result: Result, output: Path) -> None:
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Free some space or choose another folder, then run the same command again" in result.output
    assert not hidden(output.parent)


@pytest.mark.parametrize(
    ("name", "limit_bytes"),
    [
        ("embed", 9_000),
        ("embed", 25_000),
        ("export", 9_000),
        ("export", 60_000),
        ("untrained", 60_000),
        ("baselines", 20_000),
    ],
)
def test_commands(name: str, limit_bytes: int, inputs: Path, tmp_path: Path) -> None:
    """And the same command does it when there is room."""
    words = command(name, inputs, tmp_path / "out")
    with limited(limit_bytes):
        check(CliRunner().invoke(app, words), tmp_path / "out")
    assert CliRunner().invoke(app, words).exit_code == 0
    assert not hidden(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of so many kilobytes, or more if it is there, where the machine lets us mount one."""
    folder = tmp_path / "small disk"
    folder.mkdir()

    def mount(kilobytes: int) -> Path:
        options = f"size={kilobytes}k" + (",remount" if folder.is_mount() else "")
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(words, check=False, capture_output=True).returncode:
            pytest.skip("no right to mount a small file system")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(("name", "kilobytes"), [("embed", 60), ("embed", 110), ("export", 200)])
def test_a_disk_that_is_really_full(name: str, kilobytes: int, inputs: Path, small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(kilobytes)
    words = command(name, inputs, disk / "out")
    result = CliRunner().invoke(app, words)
    check(result, disk / "out")
    assert f"MB free in {disk}" in result.output.replace("\n", "")
    small_disk(50_000)
    assert CliRunner().invoke(app, words).exit_code == 0


# ---- Training ----


@pytest.mark.parametrize("limit_bytes", [20_000, 90_000], ids=["weights", "optimizer"])
def test_a_checkpoint_that_cannot_be_written(limit_bytes: int, inputs: Path, tmp_path: Path) -> None:
    """The recipe ends with one sentence, gives back the room that it took, and resumes from the checkpoint before."""
    words = [*SMALL, "--shards", str(inputs / "shards"), "--output_dir", str(tmp_path / "run"), "--max_steps", "2"]
    words += ["--save_steps", "1", "--warmup_epochs", "0", "--picture_epochs", "0", "--run_page", "false"]
    with limited(limit_bytes), pytest.raises(OSError, match="Free some space") as caught:
        pretrain(words)
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert "checkpoint-1" in str(caught.value)
    assert not list((tmp_path / "run").glob(".checkpoint*"))
    pretrain(words)
    assert (tmp_path / "run" / "model" / "config.json").is_file()


@pytest.mark.slow
def test_the_recipe_ends_with_exit_code_2(inputs: Path, tmp_path: Path) -> None:
    code = (
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    words = [*SMALL, "--shards", str(inputs / "shards"), "--output_dir", str(tmp_path / "run"), "--max_steps", "1"]
    words += ["--warmup_epochs", "0", "--save_steps", "1"]
    done = Forked("-c", code, str(ROOT / "recipes" / "pretrain.py"), *words, log=tmp_path / "log")
    assert done.wait() == 2, done.output[-2000:]
    assert "Traceback" not in done.output
    assert done.output.count("Free some space") >= 1
