"""Work of one kind, done in threads ahead of who asks for its results."""

import weakref
from collections.abc import Callable, Hashable, Iterable
from multiprocessing.pool import AsyncResult, ThreadPool
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class ReadAhead(Generic[Key, Value]):
    """Hands out results in whatever order they are asked for, and works on the next ones meanwhile.

    Its threads end with the program, also in the middle of their work, so that an interrupted program ends at once. It
    may be asked by several threads, such as those of another one whose work needs its results.

    Args:
        work: What is done for a key; called in a thread, and free of Python's lock for most of its time.
        threads: How many.
        ahead: Most results that are begun or wait for who asks for them, which bounds the memory.
    """

    def __init__(self, work: Callable[[Key], Value], threads: int, ahead: int) -> None:
        self._work, self._ahead = work, ahead
        self._lock, self._pool = Lock(), ThreadPool(threads)
        self._begun: dict[Key, AsyncResult[Value]] = {}
        self._waiting: dict[Key, None] = {}
        weakref.finalize(self, self._pool.terminate)

    def announce(self, keys: Iterable[Key]) -> None:
        """Say what will be asked for next, in order; takes the place of what was announced before."""
        with self._lock:
            self._waiting = dict.fromkeys(keys)
            self._begun = {key: result for key, result in self._begun.items() if key in self._waiting}
            for key in self._begun:
                del self._waiting[key]
            self._begin()

    def knows(self, key: Key) -> bool:
        """Whether a key was announced and not yet asked for."""
        with self._lock:
            return key in self._begun or key in self._waiting

    def take(self, key: Key) -> Value:
        """The result for a key, announced or not; raises what its work has raised."""
        with self._lock:
            self._waiting.pop(key, None)
            result = self._begun.pop(key, None) or self._pool.apply_async(self._work, (key,))
            self._begin()
        return result.get()

    def _begin(self) -> None:
        while self._waiting and len(self._begun) < self._ahead:
            key = next(iter(self._waiting))
            del self._waiting[key]
            self._begun[key] = self._pool.apply_async(self._work, (key,))
