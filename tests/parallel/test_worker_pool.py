"""Processes that work ahead give results in order, stop when nobody asks any more, and end with the caller's."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from subcell_hf.parallel.worker_pool import map_ahead

ROOT = Path(__file__).parents[2]


def number_and_process(number: int) -> tuple[int, int]:
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number, os.getpid()


def test_results_come_in_order_from_as_many_processes_as_are_needed() -> None:
    found = list(map_ahead(number_and_process, [3, 1, 2], 2))
    assert [number for number, _ in found] == [3, 1, 2]
    assert os.getpid() not in {process for _, process in found}
    assert list(map_ahead(number_and_process, [5], 0)) == [(5, os.getpid())]
    assert list(map_ahead(number_and_process, [], 2)) == []
    some = map_ahead(number_and_process, [1, -1, 2], 8)
    assert next(some)[0] == 1
    with pytest.raises(ValueError, match="-1 is negative"):
        next(some)


PROGRAM = """
import os, time
from subcell_hf.parallel.worker_pool import WorkerPool

if __name__ == "__main__":
    with WorkerPool(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""


def test_no_process_outlives_a_caller_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(PROGRAM, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    job = subprocess.Popen([sys.executable, "job.py"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    worker = int(job.stdout.readline())
    job.kill()
    job.wait()
    for _ in range(300):
        if not is_running(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("The process that waits for a job is still there.")


def is_running(process: int) -> bool:
    """Whether a process exists and has not ended; who adopts it may collect it later."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


READING = """
import sys
import subcell_hf.inference.encoders.encoder_variants, subcell_hf.inference.sources.cell_sources
import subcell_hf.inference.sources.published_crops, subcell_hf.inference.sources.shard_cells
print(sorted({"torch", "transformers.modeling_utils", "numba", "sklearn"} & sys.modules.keys()))
"""


def test_processes_that_read_import_neither_torch_nor_transformers() -> None:
    """Which takes five seconds of a core in each of them."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", READING], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
