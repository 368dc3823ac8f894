"""The benchmarks run end to end, small, and print what the others print."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = {
    "embed": "--device cpu --size tiny --cells 2 --image-size-px 32 --rounds 1",
    "train_localization": "--device cpu --cells 200 --members 2 --epochs 1 --all",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_benchmark_prints_its_line(name: str) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *SMALL[name].split()]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    line = json.loads(run.stdout.splitlines()[-1])
    assert line["name"] == name
    assert line["ratio"] > 0
    assert line["figures"]["cells"] in (2, 200)
    assert line["reference"]
