"""How far a long job has come: a bar in a terminal or a notebook, a line now and then in the log of a cluster's job."""

import json
import sys
from typing import Any

from tqdm.auto import tqdm
from tqdm.std import tqdm as plain_tqdm

LINE_INTERVAL_S = 30.0
"""Seconds between two lines in a log."""

JSON_INTERVAL_S = 1.0
"""Seconds between two JSON objects for programs."""

_LINE = "{desc}: {n_fmt}/{total_fmt} {unit} [{elapsed} gone, {remaining} to go{postfix}]"


class _LinesOfLog:
    """Stream of a progress bar that is not shown on a terminal: each drawing becomes a separate line."""

    def write(self, drawn: str) -> int:
        text = drawn.strip()
        if text:
            sys.stderr.write(f"{text}\n")
        return len(drawn)

    def flush(self) -> None:
        sys.stderr.flush()


class _JsonBar(plain_tqdm):  # type: ignore[type-arg]
    """Bar that is drawn as one JSON object per line, for programs."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        facts = self.format_dict
        said = {
            "event": "progress", "job": facts["prefix"].rstrip(": "), "done": facts["n"], "total": facts["total"],
            "unit": facts["unit"], "elapsed_s": round(facts["elapsed"], 3),
        }  # fmt: skip
        self.fp.write(json.dumps(said, ensure_ascii=False))


_shown_as_json = False


def show_progress_as_json() -> None:
    """Write progress to stderr as one JSON object per line, also on a terminal, until the process ends."""
    global _shown_as_json
    _shown_as_json = True


def hide_weight_bars() -> None:
    """Switch off transformers' bars of weights that are read or written: over in a moment, they break into ours.

    Downloads keep theirs.
    """
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging

    downloads_shown = not are_progress_bars_disabled()
    logging.disable_progress_bar()
    if downloads_shown:
        enable_progress_bars()


def progress_bar(
    total: int | None, unit: str, description: str, *, shown: bool = True, done: int = 0, scaled: bool = False
) -> Any:
    """A bar for a job of known length, to be used in a `with` block.

    Off a terminal, where a bar would fill the log with its drawings, it is a line at the beginning, one each
    `LINE_INTERVAL_S`, and one at the end.

    Args:
        total: Steps of the job; None if that is unknown.
        unit: What a step is called.
        description: What the job is called.
        shown: Whether to show anything.
        done: Steps that were done before.
        scaled: Whether to show thousands and millions of steps with a prefix, as of bytes.

    Returns:
        A `tqdm` bar. `update(0)` redraws it where it is time to, with a text given by
        `set_postfix_str(…, refresh=False)`.
    """
    options: dict[str, Any] = {
        "total": total, "unit": unit, "desc": description, "miniters": 0, "disable": not shown, "initial": done,
        "unit_scale": scaled,
    }  # fmt: skip
    if _shown_as_json:
        return _JsonBar(**options, file=_LinesOfLog(), mininterval=JSON_INTERVAL_S)
    # By name: importing the class for notebooks imports IPython.
    in_notebook = any(parent.__module__ == "tqdm.notebook" for parent in tqdm.__mro__)
    if in_notebook or sys.stderr.isatty():
        return tqdm(**options)
    return tqdm(**options, file=_LinesOfLog(), mininterval=LINE_INTERVAL_S, bar_format=_LINE)
