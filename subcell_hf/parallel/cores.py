"""The cores that a process may use, and how it shares them with its workers and with other programs.

Libraries of numbers read environment variables when they are loaded, so `import subcell_hf` sets those that are missing
before anything else is imported. Whatever the user has set is left as it is.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock

_OPENMP = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1", "OPENBLAS_THREAD_TIMEOUT": "18"}
"""How long a thread waits for others before it leaves its core: turns in libgomp (OpenMP of torch from PyPI on Linux),
milliseconds in Intel's and LLVM's OpenMP (torch from conda, and on macOS), and the binary logarithm of cycles in
OpenBLAS (numpy and scipy).

By themselves they wait 300,000 turns, 200 ms and 2²⁶ cycles, in which a thread that has work waits for a core. With
these values a process that is alone is as fast: `benchmarks/results/sharing_cpu.json`, which has libgomp and OpenBLAS.
"""

_THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
"""OpenBLAS and MKL follow the first; numba does not, and sets the threads of torch to its own number."""

_ENVIRONMENT_LOCK = RLock()


def usable_cores() -> int:
    """Cores that this process may use: of the machine, by its affinity, and by the limit of its container."""
    cores = _visible_cores()
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, max(1, math.ceil(int(quota) / int(period))))
    with suppress(OSError, ValueError):
        quota_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text(encoding="ascii"))
        period_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text(encoding="ascii"))
        if quota_us > 0:
            cores = min(cores, max(1, math.ceil(quota_us / period_us)))
    return cores


def share_cores() -> None:
    """Let threads wait without holding a core, and start no more of them than there are usable cores.

    Libraries count cores by affinity, but not the limit of a container: with 2 of 64 cores torch starts 64 threads.
    """
    for name, value in _WAITING.items():
        if name not in _OPENMP or "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault(name, value)
    cores = usable_cores()
    if "OMP_NUM_THREADS" in os.environ:
        os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
    elif cores < _visible_cores():
        for name in _THREADS:
            os.environ.setdefault(name, str(cores))


@contextmanager
def dividing_cores(workers: int) -> Iterator[None]:
    """Give processes that are started meanwhile as many threads as each has cores.

    Args:
        workers: Processes that work at the same time.
    """
    with _ENVIRONMENT_LOCK:  # two threads would each take the other's values for those from before
        before = {name: os.environ.get(name) for name in _THREADS}
        share = max(1, usable_cores() // workers)
        os.environ.update({name: str(_at_most(share, value)) for name, value in before.items()})
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _at_most(share: int, wanted: str | None) -> int:
    """The threads of a worker; of a list, as `OMP_NUM_THREADS` may be, the first number is for the outermost level."""
    first = (wanted or "").split(",")[0].strip()
    return min(share, int(first)) if first.isascii() and first.isdigit() and int(first) else share


def _visible_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
