"""Blocks side by side: all of them done, once, and nothing left behind."""

import threading

import pytest
import torch

from subcell_hf.augmentation.batch_parts import run_blocks

BLOCKS = [(start, start + 2) for start in range(0, 40, 2)]


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_block_is_worked_on_once(threads: int) -> None:
    counts = torch.zeros(40)
    workers = set()

    def work(start: int, stop: int) -> None:
        counts[start:stop] += 1
        workers.add(threading.get_ident())

    run_blocks(work, BLOCKS)
    assert (counts == 1).all()
    assert len(workers) <= threads


def test_the_number_of_threads_stays(threads: int) -> None:
    seen = []
    run_blocks(lambda start, stop: seen.append(torch.get_num_threads()), BLOCKS)
    assert set(seen) == {1}
    assert torch.get_num_threads() == threads
    of_a_new_thread: list[int] = []
    thread = threading.Thread(target=lambda: of_a_new_thread.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert of_a_new_thread == [threads]


def test_few_blocks_share_the_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    seen = []
    run_blocks(lambda start, stop: seen.append(torch.get_num_threads()), BLOCKS[:2])
    torch.set_num_threads(before)
    assert seen == [2, 2]


def test_an_error_in_a_block_comes_through(threads: int) -> None:
    def work(start: int, stop: int) -> None:
        if start == 20:
            raise ValueError("block 20")

    with pytest.raises(ValueError, match="block 20"):
        run_blocks(work, BLOCKS)
    assert torch.get_num_threads() == threads
