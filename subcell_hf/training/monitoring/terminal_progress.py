"""Progress of a run in the terminal."""

import math
from collections.abc import Mapping
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_callback import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)

from subcell_hf.training.monitoring.throughput import PHASES
from subcell_hf.training.runs.trainer_adapter import progress_bar

_VALIDATED = {
    "macro_auprc": "macro AUPRC",
    "label_ranking_average_precision": "label ranking",
    "top5": "top-5",
    "loss": "loss",
}


class ReadableProgress(ProgressCallback):
    """Trainer's progress bar, with lines of the log that can be read."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write a line above the bar and the loss beside it."""
        bar = progress_bar(self)
        if not state.is_world_process_zero or bar is None or logs is None:
            return
        line = describe_log(logs, state)
        if line:
            bar.write(line)
        if "loss" in logs:
            bar.set_postfix_str(f"loss {logs['loss']:.4g}", refresh=False)


class ReadablePrinter(PrinterCallback):
    """The same lines where there is no bar."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Print a line."""
        line = describe_log(logs or {}, state)
        if line and state.is_local_process_zero:
            print(line, flush=True)


def progress_callback(bar: bool) -> TrainerCallback:
    """The callback that shows progress.

    Args:
        bar: Whether there shall be a progress bar; else only lines.
    """
    return ReadableProgress() if bar else ReadablePrinter()


def describe_log(logs: Mapping[str, Any], state: TrainerState) -> str:
    """A line of the log in words; empty for what a person need not see there.

    Args:
        logs: Name → value, as Trainer logs them.
        state: Of the trainer.
    """
    where = f"step {state.global_step}/{state.max_steps}"
    if "loss" in logs:
        return " · ".join([where, f"epoch {logs.get('epoch') or 0:.4g}", *_training_parts(logs)])
    if "eval_macro_auprc" in logs:
        found = {label: logs[f"eval_{name}"] for name, label in _VALIDATED.items() if f"eval_{name}" in logs}
        parts = [f"{label} {'not defined' if math.isnan(x) else f'{x:.4f}'}" for label, x in found.items()]
        return " · ".join([where, "VALIDATION", *parts, f"{logs['eval_cells']:.0f} cells"])
    if "train_runtime" in logs:
        return f"{where} · done in {_duration(logs['train_runtime'])}"
    return ""


def _training_parts(logs: Mapping[str, Any]) -> list[str]:
    components = [f"{name[5:]} {value:.4g}" for name, value in logs.items() if name.startswith("loss_")]
    parts = [f"loss {logs['loss']:.4g}" + (f" ({', '.join(components)})" if components else "")]
    if "learning_rate" in logs:
        parts.append(f"lr {logs['learning_rate']:.2e}")
    if "grad_norm" in logs:
        parts.append(f"gradient {logs['grad_norm']:.3g}")
    if "cells_per_s" in logs:
        shares = [f"{name} {logs[f'{name}_s'] / logs['step_s']:.0%}" for name in PHASES]
        parts.append(f"{logs['cells_per_s']:.4g} cells/s ({', '.join(shares)})")
    if "mfu" in logs:
        parts.append(f"MFU {logs['mfu']:.0%}")
    return parts


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
