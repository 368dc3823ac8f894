"""A slice of the fuzz run, and that the run itself finds what it looks for."""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz.mutations import SECRET, Canary, canary_marker, mutate_folder
from tests.fuzz.runner import MEMORY_LIMIT_BYTES, Case, Kind, run_cases, write_sound

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_no_damaged_file_raises_anything_but_our_errors(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--seed", "7", "--cases", "90", "--workers", "1", "--faults", tmp_path],
        capture_output=True, text=True, cwd=ROOT, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    counts = run.stdout.splitlines()[-1].split()
    assert counts[0] == "all"
    assert int(counts[1]) >= 90
    assert int(counts[3]) > 30  # refused: damage that no reader notices would show nothing


def write_numbers(folder: Path) -> None:
    (folder / "x.csv").write_text("1,2,3\n" * 20)


def raise_key_error(folder: Path) -> None:
    if folder.name != "sound":
        raise KeyError("x")


def hang(folder: Path) -> None:
    if folder.name != "sound":
        time.sleep(600)


def end_process(folder: Path) -> None:
    if folder.name != "sound":
        os._exit(3)


def fill_memory(folder: Path) -> None:
    if folder.name != "sound":
        np.ones(MEMORY_LIMIT_BYTES // 4)


def run_pickle(folder: Path) -> None:
    if folder.name != "sound":
        pickle.loads(pickle.dumps(Canary(canary_marker())))


def leave_folder(folder: Path) -> None:
    if folder.name != "sound":
        (folder.parent / SECRET).read_bytes()


FAULTS = {
    "KeyError": raise_key_error, "took longer": hang, "ended its process": end_process, "MemoryError": fill_memory,
    "ran code": run_pickle, SECRET: leave_folder,
}  # fmt: skip


@pytest.mark.parametrize("message", FAULTS)
def test_what_a_reader_does_wrong_is_found_and_kept(
    message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fuzz.runner.SECONDS_LIMIT", 1.0)
    monkeypatch.setenv("SUBCELL_FUZZ_CANARY", str(tmp_path / "work" / "canary"))
    kind = Kind("bad", {"numbers": write_numbers}, FAULTS[message])
    write_sound([kind], tmp_path / "work")
    case = Case("bad", 0, 3)
    for outcome in run_cases([case], [kind], tmp_path / "work", tmp_path / "faults", 1):
        assert (outcome.end, outcome.case) == ("fault", case)
        assert message in outcome.message
    assert message in (tmp_path / "faults" / "bad-0-3" / "fault.txt").read_text()


def test_the_same_number_makes_the_same_damage(tmp_path: Path) -> None:
    import random

    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_numbers(tmp_path / name)
        mutate_folder(tmp_path / name, frozenset(), random.Random("csv-0-5"))
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert made[0] == made[1]


def test_a_sound_input_that_is_refused_ends_the_run(tmp_path: Path) -> None:
    def refuse(_: Path) -> None:
        raise ValueError("refused")

    with pytest.raises(RuntimeError, match="sound input was not accepted"):
        write_sound([Kind("bad", {"numbers": write_numbers}, refuse)], tmp_path / "work")
