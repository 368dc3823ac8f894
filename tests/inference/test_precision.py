"""The precision of a run: measured once for a machine, kept by the run, the same for all of its processes."""

import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from transformers import TrainingArguments

from subcell_hf.errors import InputError
from subcell_hf.inference.engine.embedding import Processes
from subcell_hf.inference.models import layer_times, timing
from subcell_hf.inference.models.layer_times import LayerShape, LayerTimes, cache_file, time_layer
from subcell_hf.inference.models.loading import find_models
from subcell_hf.inference.models.openvino_encoder import has_openvino
from subcell_hf.inference.models.precision import choose_precision
from subcell_hf.inference.models.timing import seconds_of, time_in_turn
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.storage.records import read_record, write_record
from subcell_hf.tables.files import read_table
from subcell_hf.tables.run_record import read_run
from subcell_hf.workflows.training_result import warn_of_slow_bf16
from tests.inference.embedding_runs import run, save_tiny_model, write_fields

CPU = torch.device("cpu")
TINY = LayerShape(16, 2, 32, 17, 3)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf_home"))
    return tmp_path / "hf_home"


def pretend(seconds: Mapping[str, float], batches: Mapping[int, float] | None = None) -> None:
    """Change what was measured of all shapes so far."""
    record = read_record(cache_file())
    assert record is not None
    changed = {"seconds": seconds, **({} if batches is None else {"batches": list(batches.items())})}
    entries = {key: {**entry, **changed} for key, entry in record["entries"].items()}
    write_record(cache_file(), {**record, "entries": entries})


def test_ways_take_turns_and_one_that_is_clearly_beaten_is_not_timed_again() -> None:
    calls: list[str] = []

    def way(name: str, work_s: float) -> Callable[[torch.Tensor], None]:
        def run(tokens: torch.Tensor) -> None:
            calls.append(name)
            compute(work_s)

        return run

    found = time_in_turn({"slow": way("slow", 0.05), "fast": way("fast", 0.001)}, torch.zeros(1), budget_s=0)
    assert calls == ["slow", "fast", "fast", "fast"]
    assert found["slow"] > 0.04 > found["fast"]


def compute(seconds: float) -> None:
    """Use so much processor time."""
    begun = time.thread_time()
    while time.thread_time() - begun < seconds:
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts how long threads wait for a core")
def test_time_in_which_another_program_has_the_core_is_left_out() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    other = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        other.stdout.readline()
        started = time.perf_counter()
        found = seconds_of(lambda _: compute(0.1), torch.zeros(1))
        assert found == pytest.approx(0.1, rel=0.2)
        assert time.perf_counter() - started > 1.2 * found
    finally:
        other.kill()
        other.wait()
        os.sched_setaffinity(0, cores)


def test_threads_of_which_the_system_says_nothing_have_not_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "_THREADS", tmp_path)
    assert timing._waited_s() == 0
    for name, content in {"1": "5 2000000000 1\n", "2": "", "3": "unknown unknown 0\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "schedstat").write_text(content)
    (tmp_path / "4").mkdir()  # of a thread that has ended
    assert timing._waited_s() == 2


def test_a_layer_is_measured_once_and_leaves_random_numbers_alone() -> None:
    state = torch.random.get_rng_state()
    found = time_layer(TINY, CPU)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(0 < seconds < math.inf for seconds in found.seconds.values())
    assert found.cosine["fp32"] == pytest.approx(1)
    assert found.cells_per_s("fp32") == pytest.approx(found.images / (3 * found.seconds["fp32"]))
    assert time_layer(TINY, CPU) == found
    pretend({"fp32": 1e-9, "bf16": 9.0})
    assert time_layer(TINY, CPU).seconds == {"fp32": 1e-9, "bf16": 9.0}
    again = time_layer(TINY, CPU, again=True).seconds
    assert again["fp32"] == 1e-9  # the shortest time that was ever measured
    assert again["bf16"] < 9


@pytest.mark.parametrize("damage", ["", "[]", '{"version": 1, "entries": {}, "record_sha256": "0"}'])
def test_a_cache_that_cannot_be_read_is_measured_anew(damage: str) -> None:
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text(damage)
    found = time_layer(TINY, CPU)
    assert time_layer(TINY, CPU) == found


def test_a_home_that_cannot_be_written_is_no_obstacle(home: Path) -> None:
    home.write_text("a file where a folder would be")
    assert time_layer(TINY, CPU).seconds["fp32"] > 0


def test_shapes_and_machines_do_not_share_times(monkeypatch: pytest.MonkeyPatch) -> None:
    time_layer(TINY, CPU)
    pretend({"fp32": 1e-9})
    assert time_layer(LayerShape(16, 2, 32, 18, 3), CPU).seconds["fp32"] > 1e-9
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert time_layer(TINY, CPU).seconds["fp32"] > 1e-9


def test_without_instructions_for_it_bf16_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_times, "_HOPELESS", 0.0)
    found = time_layer(TINY, CPU)
    assert found.fastest != "bf16"
    assert found.cells_per_s("bf16") is None
    assert found.explain().endswith("; bf16 takes many times as long")


@pytest.mark.parametrize(
    ("bf16_s", "cosine", "expected"),
    [
        (0.8, 0.9999, "bf16"),
        (0.97, 0.9999, "fp32"),
        (1.3, 0.9999, "fp32"),
        (0.5, 0.99, "fp32"),
        (0.5, math.nan, "fp32"),
    ],
)
def test_the_fastest_accurate_precision_is_taken(bf16_s: float, cosine: float, expected: str) -> None:
    times = LayerTimes(TINY, 1, {"fp32": 1.0, "bf16": bf16_s}, {"fp32": 1.0, "bf16": cosine})
    assert times.fastest == expected


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        ({}, 64),
        ({64: 6.4, 32: 3.2, 128: 12.0}, 64),
        ({64: 6.4, 32: 2.8, 128: 12.0}, 32),
        ({64: 6.4, 32: 3.2, 128: 11.0, 512: 40.0}, 512),
        ({32: 0.1}, 64),  # nothing to compare with
    ],
)
def test_the_batch_that_is_clearly_the_fastest_is_taken(batches: dict[int, float], expected: int) -> None:
    assert LayerTimes(TINY, 32, {"fp32": 1.0}, {"fp32": 1.0}, batches).batch_size == expected


def test_a_run_takes_the_measured_batch_unless_another_is_given(tmp_path: Path) -> None:
    model, fields = save_tiny_model(tmp_path / "model"), write_fields(tmp_path / "fields", 1)
    measured = time_layer(LayerShape.of_model(find_models(str(model))[0]), CPU)
    assert 64 in measured.batches
    assert set(measured.batches) <= {32, 64, 128, 256, 512}  # as far as there was time
    pretend({"fp32": 1.0}, {64: 64.0, 16: 8.0})
    run(fields, model, tmp_path / "measured")
    assert read_run(tmp_path / "measured")["batch_size"] == 16
    run(fields, model, tmp_path / "given", batch_size=3)
    assert read_run(tmp_path / "given")["batch_size"] == 3


def test_a_training_in_bf16_warns_where_fp32_is_faster(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = SubCellConfig.from_size("tiny", image_size=32)
    training = TrainingArguments(str(tmp_path), bf16=True, use_cpu=True)
    time_layer(LayerShape.of_config(config), CPU)
    pretend({"fp32": 1.0, "bf16": 0.9})
    warn_of_slow_bf16(training, config)
    assert not caplog.records
    pretend({"fp32": 1.0, "bf16": 1.1})
    warn_of_slow_bf16(TrainingArguments(str(tmp_path), use_cpu=True), config)
    assert not caplog.records
    warn_of_slow_bf16(training, config)
    (record,) = caplog.records
    assert re.search(r"bf16 is slower than fp32 on this CPU: .*fp32 \S+ ms, bf16 \S+ ms.*Omit --bf16", record.message)


def test_ways_are_chosen_among_those_that_are_allowed() -> None:
    seconds = {"fp32": 1.0, "bf16": 0.6, "openvino": 0.8, "openvino_bf16": 0.5}
    times = LayerTimes(TINY, 1, seconds, {**dict.fromkeys(seconds, 1.0), "openvino_bf16": 0.99})
    assert times.fastest == "bf16"
    assert times.fastest_of(["fp32", "openvino"]) == "openvino"
    assert times.explain().endswith("openvino_bf16 500 ms; openvino_bf16 is not accurate here")


@pytest.mark.skipif(not has_openvino(), reason="needs the extra cpu")
def test_openvino_is_taken_by_itself_where_it_is_faster(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, fields = save_tiny_model(tmp_path / "model"), write_fields(tmp_path / "fields", 2)
    caplog.set_level("INFO", "subcell_hf")
    choose_precision("auto", find_models(str(model)), CPU)
    pretend({"fp32": 1.0, "openvino": 0.5})
    first = run(fields, model, tmp_path / "out", processes=Processes(0, 2), precision="auto")
    assert not first.complete
    assert "Precision fp32 on OpenVINO: time of a layer per image: fp32" in caplog.text
    pretend({"fp32": 0.5, "openvino": 1.0})
    with pytest.raises(InputError, match="engine backend: 'openvino' in that run, 'torch' now"):
        run(fields, model, tmp_path / "out", precision="auto", engine_backend="torch")
    assert run(fields, model, tmp_path / "out", processes=Processes(1, 2), precision="auto").complete
    assert read_run(tmp_path / "out")["device"] == "openvino:CPU"
    pretend({"fp32": 1.0, "openvino": 0.5})
    run(fields, model, tmp_path / "torch", precision="auto", engine_backend="torch")
    run(fields, model, tmp_path / "exact")  # a precision that is named is torch's
    assert read_run(tmp_path / "torch")["device"] == read_run(tmp_path / "exact")["device"] == "cpu"
    tables = [read_table(tmp_path / name).embeddings for name in ("out", "torch")]
    np.testing.assert_allclose(*tables, atol=1e-4)


def test_a_run_keeps_its_precision_whatever_is_measured_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, fields = save_tiny_model(tmp_path / "model"), write_fields(tmp_path / "fields", 2)
    caplog.set_level("INFO", "subcell_hf")
    found = find_models(str(model))
    choose_precision("auto", found, CPU)
    pretend({"fp32": 1.0, "bf16": 0.5})
    first = run(fields, model, tmp_path / "out", processes=Processes(0, 2), precision="auto")
    assert not first.complete
    assert "Precision bf16: time of a layer per image: fp32" in caplog.text
    pretend({"fp32": 0.5, "bf16": 1.0})  # as on another machine of the launch
    second = run(fields, model, tmp_path / "out", processes=Processes(1, 2), precision="auto")
    assert second.complete
    assert read_run(tmp_path / "out")["precision"] == "bf16"
    assert run(fields, model, tmp_path / "out", precision="auto").complete
    assert "Precision bf16: as this run began" in caplog.text
    assert not list((tmp_path / "out").glob(".*"))
    run(fields, model, tmp_path / "new", precision="auto")
    assert read_run(tmp_path / "new")["precision"] == "fp32"
