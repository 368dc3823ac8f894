"""Parts of a batch side by side on the cores of a CPU."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from subcell_hf.parallel.freed_memory import keep_freed_memory

Block = tuple[int, int]
"""First cell of a block and the one behind its last."""


def run_blocks(work: Callable[[int, int], None], blocks: Sequence[Block]) -> None:
    """Do some work on every block; on several at a time where torch may use several threads.

    torch divides each operation among its threads and waits for the slowest at the end of each. A few hundred short
    operations on a block that fits a core's cache are faster when every thread does all of them on a separate block;
    operations that torch never divides, such as copying rows, then also use all threads.

    Args:
        work: Called with the bounds of each block, in any order and from several threads.
        blocks: Bounds of the blocks.
    """
    keep_freed_memory()
    threads = torch.get_num_threads()
    workers = min(threads, len(blocks))
    if workers == 1:
        for start, stop in blocks:
            work(start, stop)
        return
    # The number of threads is one per thread that asks, and that of new threads; the latter is set back.
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
        done = pool.map(lambda block: work(*block), blocks)
        try:
            list(done)
        finally:
            torch.set_num_threads(threads)
