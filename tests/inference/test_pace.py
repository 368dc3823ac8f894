"""The pace of a run: said after a while, with the reason where it is far below the normal one."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from subcell_hf.inference.engine import embedding, pace
from subcell_hf.inference.engine.pace import Pace
from subcell_hf.parallel.cores import usable_cores
from tests.inference.embedding_runs import run, save_tiny_model, write_fields


@pytest.mark.parametrize(
    ("took", "said"),
    [
        (Pace(100, 10.0, 9.0, 1.0), ""),
        (Pace(0, 100.0, 9.0, 1.0), ""),
        (Pace(600, 100.0, 90.0, 10.0), "6 cells/s; about 10 are normal for this model on this machine."),
        (Pace(100, 100.0, 90.0, 10.0), "waited for images during 90% of the time: give more --workers"),
        (Pace(100, 100.0, 5.0, 20.0), "got 20% of the time of its cores"),
        (Pace(100, 100.0, 5.0, 98.0), "`subcell doctor` shows"),
    ],
)
def test_a_slow_run_says_why(took: Pace, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    text = took.describe(10.0, on_cpu=True)
    assert said in text
    assert bool(said) == bool(text)


def test_more_threads_than_cores_are_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1000)
    text = Pace(100, 100.0, 5.0, 98.0).describe(10.0, on_cpu=True)
    assert text.endswith(f"set OMP_NUM_THREADS={usable_cores()}.")
    assert "threads" not in Pace(100, 100.0, 5.0, 98.0).describe(10.0, on_cpu=False)


def test_time_is_counted_until_an_item_is_there() -> None:
    def items() -> Iterator[int]:
        time.sleep(0.05)
        yield 1

    took = Pace()
    began = time.perf_counter()
    for _ in took.waiting_for(items()):
        assert took.waited_s >= 0.05
        time.sleep(0.05)  # of the model, which does not count
    assert took.waited_s <= time.perf_counter() - began - 0.05


def test_a_run_says_its_pace_once_it_was_long_enough(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf_home"))
    caplog.set_level("INFO", "subcell_hf")
    model, fields = save_tiny_model(tmp_path / "model"), write_fields(tmp_path / "fields", 2)
    run(fields, model, tmp_path / "short")
    assert "are normal" not in caplog.text
    monkeypatch.setattr(pace, "SHORTEST_S", 0.0)
    monkeypatch.setattr(embedding, "SHORTEST_S", 0.0)
    run(fields, model, tmp_path / "long")
    assert "are normal for this model on this machine" in caplog.text
