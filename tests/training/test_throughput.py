"""Times are those of the phases, figures follow from them, and peaks are those of the data sheets."""

import time

import pytest
import torch
from transformers.trainer_callback import TrainerState

from subcell_hf.training.monitoring.terminal_progress import describe_log
from subcell_hf.training.monitoring.throughput import PHASES, StepClock, ThroughputMeter, known_peak, measured_peak

CPU = torch.device("cpu")


class Hands:
    """A clock that a test can set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    return Hands(monkeypatch)


def _step(meter: ThroughputMeter, hands: Hands, seconds: dict[str, float], cells: int) -> None:
    meter.clock.start()
    meter.count(cells)
    for phase in PHASES[:-1]:
        hands.now += seconds[phase]
        meter.clock.end(phase)
    hands.now += seconds["optimizer"]
    meter.finish_step()


def test_only_the_time_of_phases_counts(hands: Hands) -> None:
    clock = StepClock(CPU)
    clock.end("data")  # nothing was begun
    clock.start()
    hands.now += 1
    clock.end("data")
    hands.now += 2
    clock.end("forward")
    hands.now += 50  # a validation
    clock.start()
    hands.now += 4
    clock.end("data")
    assert clock.read() == {"data": 5.0, "forward": 2.0}
    assert clock.read() == {}


def test_figures_of_a_line_of_the_log(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subcell_hf.training.monitoring.throughput.device_peak", lambda *_: 1e9)
    meter = ThroughputMeter(CPU, "no", flops_per_cell=2e6)
    seconds = {"data": 0.1, "views": 0.2, "forward": 0.4, "backward": 0.8, "optimizer": 0.5}
    _step(meter, hands, dict.fromkeys(PHASES, 99.0), cells=7)  # warms up
    assert meter.read() == {}
    for _ in range(2):
        _step(meter, hands, seconds, cells=10)
        hands.now += 30
    figures = meter.read(processes=4)
    assert figures.pop("memory_gib") > 0.01
    expected = {"cells_per_s": 4 * 5.0, "step_s": 2.0, "mfu": 2e6 * 5 / 1e9}
    expected |= {f"{name}_s": value for name, value in seconds.items()}
    assert figures == pytest.approx(expected)
    assert meter.read() == {}


def test_peaks_of_known_devices() -> None:
    assert known_peak("NVIDIA H200", "bf16", tf32=True) == 989.4e12
    assert known_peak("NVIDIA H100 80GB HBM3", "no", tf32=True) == 494.7e12
    assert known_peak("NVIDIA H100 PCIe", "bf16", tf32=True) == 756e12
    assert known_peak("NVIDIA A100-SXM4-80GB", "no", tf32=False) == 19.5e12
    assert known_peak("NVIDIA L4", "fp16", tf32=True) == 121e12
    assert known_peak("NVIDIA L40S", "bf16", tf32=True) == 362e12
    assert known_peak("Tesla T4", "fp16", tf32=True) == 65e12
    assert known_peak("Some Other Card", "bf16", tf32=True) is None


def test_the_peak_of_a_cpu_is_measured_without_drawing() -> None:
    before = torch.get_rng_state()
    assert measured_peak("no", edge=128, repeats=2) > 1e8
    assert torch.equal(torch.get_rng_state(), before)


def test_lines_in_the_terminal_are_words() -> None:
    state = TrainerState(global_step=20, max_steps=400)
    logs = {"loss": 1.234567, "loss_cell_contrast": 0.5, "loss_probe": 0.25, "learning_rate": 1e-4, "grad_norm": 0.75}
    logs |= {"epoch": 2.5, "cells_per_s": 40.0, "step_s": 2.0, "mfu": 0.41}
    logs |= {"data_s": 0.2, "views_s": 0.2, "forward_s": 0.4, "backward_s": 1.0, "optimizer_s": 0.2}
    assert describe_log(logs, state) == (
        "step 20/400 · epoch 2.5 · loss 1.235 (cell_contrast 0.5, probe 0.25) · lr 1.00e-04 · gradient 0.75 · "
        "40 cells/s (data 10%, views 10%, forward 20%, backward 50%, optimizer 10%) · MFU 41%"
    )
    found = {"eval_loss": 0.03, "eval_macro_auprc": 0.5, "eval_label_ranking_average_precision": 0.6, "eval_top5": 0.9}
    assert describe_log(found | {"eval_cells": 64.0, "epoch": 2.5}, state) == (
        "step 20/400 · VALIDATION · macro AUPRC 0.5000 · label ranking 0.6000 · top-5 0.9000 · loss 0.0300 · 64 cells"
    )
    assert describe_log({"train_runtime": 3725.0}, state) == "step 20/400 · done in 1 h 2 min"
    assert describe_log({"something": 1.0}, state) == ""
