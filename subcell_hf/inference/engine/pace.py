"""How fast a run was, beside what is normal on the machine, and what held it up."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from subcell_hf.parallel.cores import usable_cores

SHORTEST_S = 20.0
"""Seconds below which a run says nothing of its pace: loading and warming up would be most of it."""

_FAR_BELOW = 0.5
_READING = 0.4
_OWN_CORES = 0.7


@dataclass
class Pace:
    """What a run took.

    Attributes:
        cells: Cells embedded.
        seconds: Wall time.
        waited_s: Of it, time in which the model had nothing to do, because reading and cropping had not finished.
        cpu_s: Processor time of all threads of this process.
    """

    cells: int = 0
    seconds: float = 0.0
    waited_s: float = 0.0
    cpu_s: float = 0.0

    def start(self) -> None:
        """Begin to measure."""
        self.seconds, self.cpu_s = -time.perf_counter(), -time.process_time()

    def stop(self) -> None:
        """End it."""
        self.seconds += time.perf_counter()
        self.cpu_s += time.process_time()

    def waiting_for(self, items: Iterator[Any]) -> Iterator[Any]:
        """Hand out items, and count the time until each was there.

        Args:
            items: Batches.
        """
        while True:
            began = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.waited_s += time.perf_counter() - began
            yield item

    def describe(self, normal: float | None, *, on_cpu: bool) -> str:
        """The rate beside the normal one, and why it is far below; empty for a run that was short, or of nothing.

        Args:
            normal: Cells per second that the model would embed if nothing held it up; None if it is not known.
            on_cpu: Whether the model runs on the CPU.
        """
        if self.seconds < SHORTEST_S or not self.cells or normal is None:
            return ""
        rate = self.cells / self.seconds
        text = f"{rate:.3g} cells/s; about {normal:.3g} are normal for this model on this machine."
        return text if rate >= _FAR_BELOW * normal else f"{text} {self._reason(on_cpu)}"

    def _reason(self, on_cpu: bool) -> str:
        threads, cores = torch.get_num_threads(), usable_cores()
        waiting = self.waited_s / self.seconds
        if waiting > _READING:
            return (
                f"The model waited for images during {waiting:.0%} of the time: give more --workers, or put the images "
                "on a faster disk."
            )
        if on_cpu and threads > cores:
            return f"{threads} threads share {cores} cores: set OMP_NUM_THREADS={cores}."
        used = self.cpu_s / (self.seconds * min(threads, cores))
        if on_cpu and used < _OWN_CORES:
            return f"It got {used:.0%} of the time of its cores; the rest went to other programs or to --workers."
        return "`subcell doctor` shows what slows this machine down."
