"""Times of several ways to compute the same, taken in turn."""

import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_FIRST_ROUNDS, _LEAST_ROUNDS, _MOST_ROUNDS = 2, 3, 8


def time_in_turn(
    runs: Mapping[str, Callable[[Tensor], object]], tokens: Tensor, budget_s: float, beaten: float = 1.4
) -> dict[str, float]:
    """Time ways in several rounds, so that other work on the machine does not decide between them.

    Args:
        runs: Way → what it does with the tokens.
        tokens: Input of all of them.
        budget_s: After three rounds, no other begins when so many seconds are over.
        beaten: Ways that take more than so many times as long as the fastest are not timed again after two rounds.

    Returns:
        Way → its shortest time in seconds.
    """
    seconds = dict.fromkeys(runs, math.inf)
    deadline = time.perf_counter() + budget_s
    for number in range(_MOST_ROUNDS):
        if number >= _LEAST_ROUNDS and time.perf_counter() > deadline:
            break
        for name, run in runs.items():
            if number < _FIRST_ROUNDS or seconds[name] <= beaten * min(seconds.values()):
                seconds[name] = min(seconds[name], seconds_of(run, tokens))
    return seconds


def seconds_of(run: Callable[[Tensor], object], tokens: Tensor) -> float:
    """Wall time of one call, until the device of the tokens has done it.

    Args:
        run: What to time.
        tokens: Its input.
    """
    accelerator = torch.accelerator if tokens.device.type != "cpu" else None
    if accelerator is not None:
        accelerator.synchronize(tokens.device)
    started = time.perf_counter()
    run(tokens)
    if accelerator is not None:
        accelerator.synchronize(tokens.device)
    return time.perf_counter() - started
