"""Threads wait without holding a core, and workers share the cores; what the user has set stays."""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info

from subcell_hf.parallel import cores
from subcell_hf.parallel.worker_pool import WorkerPool

NAMES = (
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "KMP_BLOCKTIME",
    "OPENBLAS_THREAD_TIMEOUT",
    "OMP_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1", "OPENBLAS_THREAD_TIMEOUT": "18"}


def shared(monkeypatch: pytest.MonkeyPatch, usable: int = 2, visible: int = 2, **given: str) -> dict[str, str]:
    """The variables after `share_cores` on a machine of so many cores."""
    monkeypatch.setattr(cores, "usable_cores", lambda: usable)
    monkeypatch.setattr(cores, "_visible_cores", lambda: visible)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    cores.share_cores()
    return {name: os.environ[name] for name in NAMES if name in os.environ}


def test_threads_wait_for_microseconds_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shared(monkeypatch) == WAITING
    own = {"GOMP_SPINCOUNT": "7", "KMP_BLOCKTIME": "20", "OPENBLAS_THREAD_TIMEOUT": "26"}
    assert shared(monkeypatch, **own) == own
    found = shared(monkeypatch, OMP_WAIT_POLICY="ACTIVE")
    assert found == {"OMP_WAIT_POLICY": "ACTIVE", "OPENBLAS_THREAD_TIMEOUT": "18"}


def test_threads_are_no_more_than_the_cores_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    found = shared(monkeypatch, usable=3, visible=64)
    assert (found["OMP_NUM_THREADS"], found["NUMBA_NUM_THREADS"]) == ("3", "3")
    found = shared(monkeypatch, usable=3, visible=64, OMP_NUM_THREADS="5")
    assert (found["OMP_NUM_THREADS"], found["NUMBA_NUM_THREADS"]) == ("5", "5")


def test_importing_the_package_sets_the_variables_before_numpy_and_torch() -> None:
    text = "import os, sys, subcell_hf; print(os.environ['GOMP_SPINCOUNT'], {'numpy', 'torch'} & set(sys.modules))"
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    result = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "1000 set()\n"


def threads_of_a_worker() -> list[int]:
    """Threads of the matrix libraries of this process, and those that numba and OpenMP were given."""
    import numpy as np

    np.ones((2, 2)) @ np.ones((2, 2))
    given = [int(os.environ[name]) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")]
    return given + [library["num_threads"] for library in threadpool_info()]


@pytest.mark.parametrize("wanted", [None, "2", "2,1"])
def test_workers_divide_the_cores(wanted: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    if wanted is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    with WorkerPool(2) as pool:
        threads = pool.submit(threads_of_a_worker).result()
    assert len(threads) > 2
    assert set(threads) == {1}
    assert os.environ.get("OMP_NUM_THREADS") == wanted
    assert "NUMBA_NUM_THREADS" not in os.environ


def test_a_worker_has_no_more_threads_than_the_user_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 64)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with cores.dividing_cores(2):
        assert os.environ["OMP_NUM_THREADS"] == "4"
    with cores.dividing_cores(32):
        assert os.environ["OMP_NUM_THREADS"] == "2"
    with cores.dividing_cores(1000):
        assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.environ["OMP_NUM_THREADS"] == "4"


def test_threads_that_start_workers_at_once_leave_the_variables_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")

    def divide(number: int) -> None:
        with cores.dividing_cores(1000 + number):
            time.sleep(0.001)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(divide, range(40)))
    assert os.environ["OMP_NUM_THREADS"] == "4"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is missing")
@pytest.mark.parametrize("machine", [1, 2, 64])
def test_the_quickstart_takes_two_cores_at_most_and_one_where_there_is_one(machine: int, tmp_path: Path) -> None:
    fake = tmp_path / "nproc"
    fake.write_text(f"#!/bin/sh\necho {machine}\n")
    fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = ["make", "--dry-run", "--old-file=install", f"Q={tmp_path}", f"{tmp_path}/.pretrained"]
    root = Path(__file__).parents[2]
    text = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout
    cores = min(machine, 2)
    assert f"OMP_NUM_THREADS=1 .venv/bin/torchrun --standalone --nproc_per_node {cores} " in text
    assert text.count(f"--workers {cores}") == text.count("--workers") == 3
