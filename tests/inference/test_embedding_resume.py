"""A run may be killed at any point: the same command goes on, and the tables are those of a run that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from subcell_hf.inference.embedding import Processes
from subcell_hf.inference.parts import PartsFolder
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


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(tmp_path: Path) -> None:
    model, fields = save_tiny_model(tmp_path / "model"), write_fields(tmp_path / "fields", 64)
    settings = {"batch_size": 2}
    run(fields, model, tmp_path / "whole", **settings)
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.inference.embedding_runs import run\n"
        "print('ready', flush=True)\n"
        "run(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), batch_size=2)\n"
    )
    command = [sys.executable, "-c", code, str(fields), str(model), str(tmp_path / "killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    generator = random.Random(0)
    kills = 0
    for _ in range(30):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=Path(__file__).parents[2])
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(generator.uniform(0.05, 0.6))
        ended = process.poll() is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        kills += not ended
        if ended or kills == 10:
            break
    run(fields, model, tmp_path / "killed", **settings)
    assert kills
    for name in TABLES:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
