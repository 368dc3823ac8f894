"""File systems without locks: a warning, and everything finishes; the kernel itself refuses the locks here."""

import errno
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from subcell_hf.errors import InputError
from subcell_hf.storage.folder_lock import claim_folder
from subcell_hf.tables.files import read_table
from tests.forked import Forked
from tests.inference.embedding_runs import run, save_tiny_model, write_fields
from tests.outside.refused_locks import FLOCK

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in FLOCK, reason="the kernel's filter of calls is Linux's"
)


def without_locks(folder: Path, *words: str, **variables: str) -> str:
    """Run a command to its end; returns what it wrote."""
    command = ("-m", "tests.outside.refused_locks", "ENOLCK", *words)
    done = Forked(*command, log=folder / "log", cwd=folder, env=os.environ | variables)
    assert done.wait() == 0, done.output
    return done.output


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_folder_is_taken_with_one_warning(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    for _ in range(2):
        with claim_folder(tmp_path / "out"), claim_folder(tmp_path / "out", shared=True, wait=True):
            assert list((tmp_path / "out").iterdir()) == []
    assert len(caplog.messages) == 1
    assert os.strerror(code) in caplog.text
    assert "make sure that no other job writes there" in caplog.text


@pytest.mark.slow
def test_embed_finishes_with_all_tables(tmp_path: Path) -> None:
    fields, model = write_fields(tmp_path / "fields", 2), save_tiny_model(tmp_path / "model")
    run(fields, model, tmp_path / "expected")
    command = ("embed", "fields", "--model", "model", "--output", "out", "--precision", "fp32", "--device", "cpu")
    assert without_locks(tmp_path, *command, "--no-report").count("out cannot be locked") == 1
    for name in ("embeddings.parquet", "embeddings.h5ad"):
        assert list(read_table(tmp_path / "out" / name).cells["cell_id"]) == list(
            read_table(tmp_path / "expected" / name).cells["cell_id"]
        )
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".") or path.is_dir()]


@pytest.mark.slow
def test_processes_of_one_launch_finish_too(tmp_path: Path) -> None:
    write_fields(tmp_path / "fields", 4)
    save_tiny_model(tmp_path / "model")
    command = ("embed", "fields", "--model", "model", "--output", "out", "--precision", "fp32", "--device", "cpu")
    for rank in ("1", "0"):
        without_locks(tmp_path, *command, "--no-report", RANK=rank, WORLD_SIZE="2")
    assert len(read_table(tmp_path / "out")) == 8


@pytest.mark.slow
def test_an_h5ad_is_read_by_the_command_line_and_explained_to_a_program(tmp_path: Path) -> None:
    run(write_fields(tmp_path / "fields", 2), save_tiny_model(tmp_path / "model"), tmp_path / "out")
    without_locks(tmp_path, "aggregate", "out/embeddings.h5ad", "--by", "field", "--output", "fields.h5ad")
    assert len(read_table(tmp_path / "fields.h5ad")) == 2
    code = (
        "from tests.outside.refused_locks import refuse_locks; refuse_locks()\n"
        "from subcell_hf.tables.files import read_table; read_table('out/embeddings.h5ad')"
    )
    # A command that an earlier test ran in this process has set it.
    unset = {name: value for name, value in os.environ.items() if name != "HDF5_USE_FILE_LOCKING"}
    program = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env={**unset, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Set the environment variable HDF5_USE_FILE_LOCKING=FALSE" in program.stderr


def test_an_h5ad_that_cannot_be_written_leaves_the_tables_and_a_way_to_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("unable to lock file")

    fields, model = write_fields(tmp_path / "fields", 1), save_tiny_model(tmp_path / "model")
    monkeypatch.setattr("subcell_hf.inference.engine.parts.h5ad_from_parquet", refuse)
    with pytest.raises(InputError, match=r"embeddings.parquet is complete.*--no-h5ad"):
        run(fields, model, tmp_path / "out")
    assert run(fields, model, tmp_path / "out", h5ad=False).cells == 2
    assert len(read_table(tmp_path / "out")) == 2
