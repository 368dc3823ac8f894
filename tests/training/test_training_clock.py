"""The time of a run is the sum of its stretches."""

import json
from pathlib import Path

import pytest

from subcell_hf.training.monitoring import training_clock
from subcell_hf.training.monitoring.training_clock import TrainingClock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, to be set by the test."""
    time_s = [100.0]
    monkeypatch.setattr(training_clock.time, "monotonic", lambda: time_s[0])
    return time_s


def write_record(folder: Path, hardware: dict[str, object]) -> Path:
    folder.mkdir()
    (folder / "training_record.json").write_text(json.dumps({"hardware": hardware}))
    return folder


def test_stretches_add_up_with_their_processes(now: list[float], tmp_path: Path) -> None:
    first = TrainingClock()
    assert first.read(2) == {}
    first.start(None)
    now[0] += 30
    checkpoint = write_record(tmp_path / "checkpoint-1", {"device": "cpu", **first.read(2)})
    now[0] += 1000  # killed; what came after the checkpoint is lost
    second = TrainingClock()
    second.start(checkpoint)
    now[0] += 10
    assert second.read(4) == {"runtime_s": 40.0, "device_s": 100.0}
    second.stop()
    now[0] += 500  # the final model is written
    assert second.read(4) == {"runtime_s": 40.0, "device_s": 100.0}
    second.start(None)  # anew
    now[0] += 5
    assert second.read(1) == {"runtime_s": 5.0, "device_s": 5.0}


def test_a_stretch_that_nobody_timed_makes_the_sum_unknown(now: list[float], tmp_path: Path) -> None:
    clock = TrainingClock()
    for checkpoint in (write_record(tmp_path / "old", {"device": "cpu", "processes": 1}), tmp_path / "bare"):
        clock.start(checkpoint)
        now[0] += 7
        assert clock.read(1) == {}
