"""A run may be killed at any point: the same command goes on, and the tables are those of a run that was not."""

import multiprocessing
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from subcell_hf.inference.engine.embedding import Processes
from subcell_hf.inference.engine.parts import PartsFolder
from tests.inference.embedding_runs import run, save_tiny_model, write_fields

TABLES = ("embeddings.parquet", "embeddings.h5ad", "pictures.parquet", "skipped.csv")


def test_finished_parts_are_kept(tmp_path: Path) -> None:
    model, fields = save_tiny_model(tmp_path / "model"), write_fields(tmp_path / "fields", 4)
    run(fields, model, tmp_path / "whole")
    report = run(fields, model, tmp_path / "two", processes=Processes(1, 2, 0))
    assert not report.complete
    folder = PartsFolder(tmp_path / "two", 4)
    assert [folder.is_done(part) for part in range(4)] == [False, True, False, True]
    (folder.folder / ".part-000000.parquet.0123abcd.part").write_bytes(b"left by a kill")
    assert run(fields, model, tmp_path / "two").resumed_parts == 2
    for name in TABLES:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted([*TABLES, "run.json"])


def _finished(folder: PartsFolder) -> int:
    return sum(folder.is_done(part) for part in range(folder.parts))


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(tmp_path: Path) -> None:
    model, fields = save_tiny_model(tmp_path / "model"), write_fields(tmp_path / "fields", 40)
    # A server that has imported everything: forks of it are at work at once, and have no threads of this process.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.inference.embedding_runs"])
    begin = partial(context.Process, target=run)
    whole = begin(args=(fields, model, tmp_path / "whole"))
    whole.start()
    whole.join()
    assert whole.exitcode == 0
    folder, moments, kills = PartsFolder(tmp_path / "killed", 40), random.Random(0), 0
    for _ in range(10):
        process = begin(args=(fields, model, tmp_path / "killed"))
        # Killed before, while or after it writes a part, counted from what the runs before it have left.
        awaited = _finished(folder) + moments.randint(0, 2)
        process.start()
        while process.exitcode is None and _finished(folder) < awaited:
            time.sleep(0.001)
        process.join(moments.uniform(0, 0.05))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    last = begin(args=(fields, model, tmp_path / "killed"))
    last.start()
    last.join()
    assert last.exitcode == 0
    assert kills >= 3  # where parts are written fast, ten kills may be more than there are parts
    for name in TABLES:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
