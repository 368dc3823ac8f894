"""The benchmark of views runs on small crops and prints what the others print."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "augment.py"


def test_it_ends_with_one_line_of_json() -> None:
    options = ["--cells", "4", "--size-px", "48", "--repeats", "1", "--threads", "1"]
    done = subprocess.run([sys.executable, BENCHMARK, *options], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["name"] == "augment"
    assert result["shape"] == [4, 4, 48, 48]
    assert set(result["figures"]) == {"multi_task", "contrastive"}
    assert result["ratio"] == min(figure["ratio"] for figure in result["figures"].values()) > 0
    assert "one crop and one channel at a time" in result["reference"]
