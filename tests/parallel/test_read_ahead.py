"""Work in threads ahead of who asks for it: bounded, in any order, with its errors."""

import threading
import time

import pytest

from subcell_hf.parallel.read_ahead import ReadAhead


def test_results_belong_to_their_keys_whatever_ends_first() -> None:
    def work(key: int) -> int:
        time.sleep(0.002 * (key % 3))
        return key * key

    ahead = ReadAhead(work, threads=4, ahead=8)
    ahead.announce(range(40))
    assert [ahead.take(key) for key in range(40)] == [key * key for key in range(40)]
    assert ahead.take(41) == 41 * 41  # never announced


def test_no_more_is_begun_than_allowed() -> None:
    begun, lock = [], threading.Lock()

    def work(key: int) -> int:
        with lock:
            begun.append(key)
        return key

    ahead = ReadAhead(work, threads=2, ahead=3)
    ahead.announce(range(100))
    for key in range(20):
        assert ahead.take(key) == key
        with lock:
            assert len(begun) <= key + 1 + 3
    ahead.announce(range(50, 60))
    assert ahead.knows(50)
    assert not ahead.knows(30)
    assert ahead.take(50) == 50


def test_an_error_is_raised_where_its_result_is_asked_for() -> None:
    ahead = ReadAhead(lambda key: 1 // key, threads=2, ahead=4)
    ahead.announce([1, 0, 2])
    assert ahead.take(1) == 1
    with pytest.raises(ZeroDivisionError):
        ahead.take(0)
    assert ahead.take(2) == 0
