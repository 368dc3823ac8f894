"""Progress is a bar where somebody sees it move, and a line now and then elsewhere."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from subcell_hf import progress
from subcell_hf.progress import progress_bar


def work(steps: int) -> None:
    with progress_bar(steps, "parts", "embed") as bar:
        for _ in range(steps):
            bar.set_postfix_str("3.0 cells/s", refresh=False)
            bar.update(0)
            bar.update()


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    work(50)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("embed: 0/50 parts [00:00 gone")
    assert last.startswith("embed: 50/50 parts")
    assert last.endswith(", 3.0 cells/s]")
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
    work(5)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("/")[0] for line in lines][-2:] == ["embed: 5", "embed: 5"]
    assert all("\r" not in line and line.strip() for line in lines)
    with progress_bar(3, "parts", "embed", shown=False) as bar:
        bar.update(3)
    assert capsys.readouterr().err == ""


def test_programs_get_one_json_object_per_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_shown_as_json", False)  # set back after the test
    progress.show_progress_as_json()
    monkeypatch.setattr(progress, "JSON_INTERVAL_S", 0.0)
    work(5)
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["done"] for event in said] == sorted(event["done"] for event in said)
    assert said[0] | {"elapsed_s": 0} == {
        "event": "progress", "job": "embed", "done": 0, "total": 5, "unit": "parts", "elapsed_s": 0,
    }  # fmt: skip
    assert said[-1]["done"] == 5
    with progress_bar(None, "cells", "read") as bar:
        bar.update()
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["total"] is None


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    work(3)
    assert sys.stderr.getvalue().count("\r") >= 2
    assert "3/3 [" in sys.stderr.getvalue()


def test_bars_of_weights_can_be_hidden_and_downloads_keep_theirs(tmp_path: Path) -> None:
    code = (
        "from huggingface_hub.utils import are_progress_bars_disabled\n"
        "from subcell_hf.model.modeling_subcell import SubCellConfig, SubCellModel\n"
        "from subcell_hf.progress import hide_weight_bars\n"
        "import sys\n"
        "if sys.argv[2] == 'hidden':\n"
        "    hide_weight_bars()\n"
        "config = SubCellConfig(image_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)\n"
        "SubCellModel(config).save_pretrained(sys.argv[1])\n"
        "SubCellModel.from_pretrained(sys.argv[1])\n"
        "print(are_progress_bars_disabled())\n"
    )
    done = {
        how: subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), how], capture_output=True, text=True, check=True
        )
        for how in ("shown", "hidden")
    }
    assert "Loading weights" in done["shown"].stderr
    assert "weights" not in done["hidden"].stderr.lower()
    assert "shards" not in done["hidden"].stderr
    assert done["hidden"].stdout.endswith("False\n")
