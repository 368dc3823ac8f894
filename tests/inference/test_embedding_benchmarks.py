"""The benchmarks run end to end, small, and print what the others print."""

import json
from pathlib import Path

import pytest

from tests.forked import Forked

ROOT = Path(__file__).parents[2]
SMALL = {
    "embed": "--device cpu --size tiny --cells 2 --image-size-px 32 --rounds 1",
    "train_localization": "--device cpu --cells 200 --members 2 --epochs 1 --all",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_benchmark_prints_its_line(name: str, tmp_path: Path) -> None:
    run = Forked(str(ROOT / "benchmarks" / f"{name}.py"), *SMALL[name].split(), log=tmp_path / "log", cwd=ROOT)
    assert run.wait() == 0, run.output[-3000:]
    line = json.loads(run.output.splitlines()[-1])
    assert line["name"] == name
    assert line["ratio"] > 0
    assert line["figures"]["cells"] in (2, 200)
    assert line["reference"]
