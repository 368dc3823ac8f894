"""Every command and every Python example of the README runs, in order, in one folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_ci_calls_the_test_command_of_the_readme() -> None:
    assert "make test" in README
    assert "\nmake test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.slow
def test_examples_run(shared: Path, tmp_path: Path) -> None:
    for file in (shared / "fixtures" / "small_rybg").iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "2"}
    ran = 0
    for language, text in BLOCKS:
        if text.startswith("make "):  # what runs this very test
            continue
        command = [sys.executable, "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, f"{text}\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
        ran += 1
    assert ran >= 3
