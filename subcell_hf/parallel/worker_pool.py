"""The one pool of processes for work that is divided into jobs."""

import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, ParamSpec, TypeVar

from subcell_hf.parallel.cores import dividing_cores

Words = ParamSpec("Words")
Result = TypeVar("Result")

_CTRL_C = {signal.SIGINT}


class WorkerPool(ProcessPoolExecutor):
    """A pool of spawned processes, which inherit no locks or threads from whatever the caller has loaded.

    The usable cores are divided among them: torch, BLAS and numba start that many threads in each.

    Ctrl-C reaches every process of a terminal. The caller's handles it; those of the pool end without a traceback, at
    whatever moment of their start or work it comes.

    Args:
        workers: Number of processes.
        initializer: Function that each process calls first; it must be importable.
        initargs: Its arguments.
    """

    def __init__(
        self, workers: int, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
    ) -> None:
        self._workers = workers
        super().__init__(workers, multiprocessing.get_context("spawn"), _begin, (initializer, initargs))

    def submit(self, fn: Callable[Words, Result], /, *args: Words.args, **kwargs: Words.kwargs) -> Future[Result]:
        """Do a job in one of the processes, which are started as they are needed.

        Args:
            fn: Function to call; it must be importable.
            *args: Its arguments, which must be picklable.
            **kwargs: More of them.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _CTRL_C)  # a started process inherits what is blocked
        try:
            with dividing_cores(self._workers):
                return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _CTRL_C)
    if initializer is not None:
        initializer(*initargs)
