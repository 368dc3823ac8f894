"""Times of several ways to compute the same, taken in turn."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

_LEAST_ROUNDS, _MOST_ROUNDS = 3, 8
_BEATEN = (1.5, 1.4)
"""Times as long as the fastest that a way may take to be timed again, after the first round and after later ones: what
is run for the first time, and only once, may be slower by chance."""

_THREADS = Path("/proc/self/task")
"""Where Linux counts how long each thread of this process has waited for a core."""


def time_in_turn(
    runs: Mapping[str, Callable[[Tensor], object]], tokens: Tensor, budget_s: float, *, leave_out: bool = True
) -> dict[str, float]:
    """Time ways in several rounds, so that other work on the machine does not decide between them.

    Args:
        runs: Way → what it does with the tokens.
        tokens: Input of all of them.
        budget_s: After three rounds, no other begins when so many seconds are over.
        leave_out: Whether ways that are clearly slower than the fastest are not timed again.

    Returns:
        Way → its shortest time in seconds.
    """
    seconds = dict.fromkeys(runs, math.inf)
    left = list(runs)
    deadline = time.perf_counter() + budget_s
    for number in range(_MOST_ROUNDS):
        if number >= _LEAST_ROUNDS and time.perf_counter() > deadline:
            break
        for name in left:
            seconds[name] = min(seconds[name], seconds_of(runs[name], tokens))
        if leave_out:
            most = _BEATEN[min(number, 1)] * min(seconds.values())
            left = [name for name in left if seconds[name] <= most]
    return seconds


def seconds_of(run: Callable[[Tensor], object], tokens: Tensor) -> float:
    """Wall time of one call, until the device of the tokens has done it; on a CPU as if other programs did not run.

    On Linux the share of time in which threads wait for a core is left out: else a busy machine would decide by chance
    which of several ways is the fastest.

    Args:
        run: What to time.
        tokens: Its input.
    """
    if tokens.device.type == "cpu":
        waited, computed, started = _waited_s(), time.process_time(), time.perf_counter()
        run(tokens)
        spent, computed = time.perf_counter() - started, time.process_time() - computed
        waited = max(0.0, _waited_s() - waited)
        # What was waited while these numbers were read is no part of the call, which takes at least what it computed.
        least = computed / torch.get_num_threads()
        return max(least, spent * computed / (computed + waited)) if waited else spent
    torch.accelerator.synchronize(tokens.device)
    started = time.perf_counter()
    run(tokens)
    torch.accelerator.synchronize(tokens.device)
    return time.perf_counter() - started


def _waited_s() -> float:
    """Seconds that the threads of this process have waited for a core; 0 where the system does not count them."""
    waited_ns = 0
    for file in _THREADS.glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # a thread that has ended, or a system that counts otherwise
            waited_ns += int(file.read_text(encoding="ascii").split()[1])
    return waited_ns / 1e9
