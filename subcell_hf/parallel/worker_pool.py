"""The one pool of processes for work that is divided into jobs."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, ParamSpec, TypeVar

from subcell_hf.parallel.cores import dividing_cores

Words = ParamSpec("Words")
Result = TypeVar("Result")

Item = TypeVar("Item")

_CTRL_C = {signal.SIGINT}
_JOBS_AHEAD = 2
"""Jobs that each process of `map_ahead` has, or has done, before their results are asked for."""


class WorkerPool(ProcessPoolExecutor):
    """A pool of spawned processes, which inherit no locks or threads from whatever the caller has loaded.

    The usable cores are divided among them: torch, BLAS and numba start that many threads in each. They end with the
    caller's process, also if that is killed.

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


def map_ahead(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """Results in the order of the items, computed by processes ahead of who asks for them.

    Args:
        function: What to do; must be importable, or pickle with what it needs, and is sent to each process once.
        items: What to do it with; must pickle.
        workers: Processes; no more are started than there are items. 0: this one, without working ahead.

    Yields:
        One result for each item.
    """
    if not workers or not items:
        yield from map(function, items)
        return
    pool = WorkerPool(min(workers, len(items)), _keep, (function,))
    try:
        pending = deque[Future[Result]]()
        for item in items:
            pending.append(pool.submit(_work, item))
            if len(pending) > _JOBS_AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


_JOB: list[Callable[[Any], Any]] = []
"""In a process of `map_ahead`, its function."""


def _keep(function: Callable[[Any], Any]) -> None:
    _JOB.append(function)


def _work(item: Any) -> Any:
    return _JOB[0](item)


def _begin(initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _CTRL_C)
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent() -> None:
    """A process that waits for its next job would otherwise outlive one that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
