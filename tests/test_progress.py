"""Progress is a bar where somebody sees it move, and a line now and then elsewhere."""

import io
import sys

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


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    work(3)
    assert sys.stderr.getvalue().count("\r") >= 2
    assert "3/3 [" in sys.stderr.getvalue()
