"""The benchmarks of profiles and maps run from end to end on little data."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(name: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARKS / name), *arguments]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    result = json.loads(printed.splitlines()[-1])
    assert {"name", "ratio", "reference", "figures"} <= result.keys()
    assert result["ratio"] > 0
    return result


@pytest.mark.slow
def test_proteome_map(tmp_path: Path) -> None:
    options = ("--cells", "6000", "--width", "64", "--reference-cells", "2000")
    result = run("proteome_map.py", *options, "--folder", str(tmp_path / "b"))
    assert result["figures"]["genes"] == 62
    assert result["figures"]["best_agreement_with_places"] > 0.5
    assert result["figures"]["peak_gib"] < 2
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_perturbation() -> None:
    result = run("perturbation.py", "--compounds", "20", "--width", "32", "--repeats", "1")
    assert result["figures"]["wells"] == 80
    assert result["figures"]["share_of_equal_values"] > 0.95
