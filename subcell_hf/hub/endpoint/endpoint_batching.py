"""Requests that come at the same time share forward passes.

Lies beside `handler.py` on the Hub and is self-contained like it.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from subcell_hf.hub.endpoint.endpoint_images import Pixels, RequestError

GATHER_S = 0.02  # longest wait for requests that are known to be on their way
Result = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One cell as sent: its planes `[height, width]` by channel, its mask, its pixel size."""

    planes: Mapping[str, Pixels]
    mask: Pixels | None
    pixel_size_um: float | None

    @property
    def kind(self) -> tuple[Any, ...]:
        """Cells of one kind may share a forward pass."""
        form = tuple((name, plane.shape, plane.dtype.str) for name, plane in sorted(self.planes.items()))
        return (*form, self.mask is None, self.pixel_size_um)


class MicroBatcher:
    """Lets cells of requests that come at the same time share forward passes.

    Args:
        run: Cells of one kind → one result each.
        max_batch: Cells of a forward pass.
        max_waiting: Cells that may wait; more are refused with status 503.
    """

    def __init__(self, run: Callable[[Sequence[Cell]], list[Result]], max_batch: int, max_waiting: int):
        self._run, self._max_batch, self._max_waiting = run, max_batch, max_waiting
        self._waiting: list[tuple[Cell, Future[Result]]] = []
        self._coming = 0  # requests that are being read
        self._changed = threading.Condition()
        self.forwards = 0
        threading.Thread(target=self._work, name="micro-batcher", daemon=True).start()

    def on_its_way(self) -> "_OnItsWay":
        """Announce, as a context, that a request is being read, so that others may wait for it a moment."""
        return _OnItsWay(self)

    def announce(self, change: int) -> None:
        """Count a request in or out."""
        with self._changed:
            self._coming += change
            self._changed.notify_all()

    def submit(self, cells: Sequence[Cell]) -> list["Future[Result]"]:
        """Queue the cells of a request.

        Raises:
            RequestError: With status 503, if too many are waiting.
        """
        futures: list[Future[Result]] = [Future() for _ in cells]
        with self._changed:
            if len(self._waiting) + len(cells) > self._max_waiting:
                raise RequestError(
                    f"The queue is full ({len(self._waiting)} of {self._max_waiting} cells); try again in a moment.",
                    503,
                )
            self._waiting += zip(cells, futures, strict=True)
            self._changed.notify_all()
        return futures

    def _collect(self) -> list[tuple[Cell, "Future[Result]"]]:
        with self._changed:
            while not self._waiting:
                self._changed.wait()
            deadline = time.monotonic() + GATHER_S
            while self._coming and len(self._waiting) < self._max_batch:
                if not self._changed.wait(deadline - time.monotonic()):
                    break
            kind = self._waiting[0][0].kind
            chosen = [entry for entry in self._waiting if entry[0].kind == kind][: self._max_batch]
            taken = {id(future) for _, future in chosen}
            self._waiting = [entry for entry in self._waiting if id(entry[1]) not in taken]
            return chosen

    def _work(self) -> None:
        while True:
            batch = self._collect()
            self._forward(batch)
            del batch  # or the last one's images would stay until the next request

    def _forward(self, batch: Sequence[tuple[Cell, "Future[Result]"]]) -> None:
        self.forwards += 1
        try:
            results = self._run([cell for cell, _ in batch])
        except Exception as error:
            if len(batch) > 1:  # find out whose cell it was, so that the others get their answers
                for entry in batch:
                    self._forward([entry])
            else:
                batch[0][1].set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)


class _OnItsWay:
    def __init__(self, batcher: MicroBatcher):
        self._batcher = batcher

    def __enter__(self) -> None:
        self._batcher.announce(1)

    def __exit__(self, *_: object) -> None:
        self._batcher.announce(-1)
