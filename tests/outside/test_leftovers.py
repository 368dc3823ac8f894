"""What a killed run was writing is removed by the next run into the same place; what a live one writes is not."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from subcell_hf.errors import InputError
from subcell_hf.evaluation.plots import figure_of, save_figure
from subcell_hf.hub.publishing.export import export_model
from subcell_hf.hub.publishing.export_sources import ExportSources
from subcell_hf.storage.atomic import remove_leftovers, write_atomically
from subcell_hf.storage.folders import write_folder_atomically
from tests.forked import Forked
from tests.hub.tiny_models import save_tiny, write_facts

KILLED = """
import os, signal, sys
from pathlib import Path
from subcell_hf.storage import atomic, folders
call, at = sys.argv[1], int(sys.argv[2])
real, count = getattr(os, call), 0
def dying(*args, **kwargs):
    global count
    count += 1
    if count == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(os, call, dying)
"""


def kill_at(call: str, at: int, code: str, *words: Path) -> None:
    """Run code in a process that is killed at the nth call of a function of `os`."""
    command = [sys.executable, "-c", KILLED + textwrap.dedent(code), call, str(at), *map(str, words)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".*"))


def test_a_file_that_was_being_written(tmp_path: Path) -> None:
    code = "with atomic.write_atomically(Path(sys.argv[3])) as file:\n    file.write(b'x' * 100_000)"
    kill_at("fsync", 1, code, tmp_path / "report.html")
    assert len(hidden(tmp_path)) == 1
    with write_atomically(tmp_path / "other.csv") as file:  # any writer into the same folder
        file.write(b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["other.csv"]


def test_figures_of_an_evaluation(tmp_path: Path) -> None:
    code = """
    from subcell_hf.evaluation.plots import figure_of, save_figure
    with figure_of(40, 30) as (figure, axes):
        save_figure(figure, Path(sys.argv[3]))
    """
    kill_at("fsync", 1, code, tmp_path / "curves")
    assert hidden(tmp_path)
    with figure_of(40, 30) as (figure, _):
        save_figure(figure, tmp_path / "curves")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.pdf", "curves.png"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_folder_that_was_being_written(tmp_path: Path, call: str) -> None:
    code = """
    with folders.write_folder_atomically(sys.argv[3]) as folder:
        (folder / "model.safetensors").write_bytes(b"x")
    """
    kill_at(call, 1, code, tmp_path / "hub")
    assert [path for path in hidden(tmp_path) if path.endswith(".part")]
    with write_folder_atomically(tmp_path / "hub") as folder:
        (folder / "model.safetensors").write_bytes(b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 2])
def test_an_export_that_was_replacing_another(tmp_path: Path, at: int) -> None:
    """Killed before the old folder is set aside, and between that and the new one's name."""
    model, facts = save_tiny("SubCellModel", tmp_path / "model"), write_facts(tmp_path / "facts")
    export_model(model, tmp_path / "hub", sources=ExportSources(facts=facts))
    code = """
    from subcell_hf.hub.publishing.export import export_model
    from subcell_hf.hub.publishing.export_sources import ExportSources
    export_model(Path(sys.argv[3]), Path(sys.argv[4]), sources=ExportSources(facts=Path(sys.argv[5])))
    """
    words = (KILLED + textwrap.dedent(code), "rename", str(at), *map(str, (model, tmp_path / "hub", facts)))
    assert Forked("-c", *words, log=tmp_path / "log").wait() == -signal.SIGKILL
    assert hidden(tmp_path)
    export_model(model, tmp_path / "hub", sources=ExportSources(facts=facts))
    assert not hidden(tmp_path)
    assert (tmp_path / "hub" / "README.md").is_file()


def test_files_and_folders_of_a_live_run_stay(tmp_path: Path) -> None:
    code = """
    from subcell_hf.storage.atomic import write_atomically
    from subcell_hf.storage.folders import write_folder_atomically
    import sys
    from pathlib import Path
    folder = Path(sys.argv[1])
    with write_atomically(folder / "live") as file, write_folder_atomically(folder / "lives") as inside:
        file.write(b"whole")
        file.flush()
        (inside / "a").write_text("whole")
        print("ready", flush=True)
        sys.stdin.read()
    """
    live = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert live.stdout is not None
    assert live.stdout.readline() == "ready\n"
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))  # however old
    before = hidden(tmp_path)
    assert len(before) == 3  # the file, the folder, and the lock of its name
    assert remove_leftovers(tmp_path) == 0
    with write_atomically(tmp_path / "live") as file:
        file.write(b"of this process")
    in_use = pytest.raises(InputError, match=f"in use: process {live.pid}")
    with in_use, write_folder_atomically(tmp_path / "lives"):
        pass
    assert hidden(tmp_path) == before
    live.communicate("")
    assert live.returncode == 0
    assert (tmp_path / "live").read_bytes() == b"whole"
    assert (tmp_path / "lives" / "a").read_text() == "whole"
    assert not hidden(tmp_path)


def test_leftovers_of_another_machine_go_after_a_day(tmp_path: Path) -> None:
    """Its locks may not be known here."""
    left = tmp_path / ".table.csv.000000000000.part"
    for folder, age_s in ((tmp_path / "new", 60), (tmp_path / "old", 90_000)):
        folder.mkdir()
        (folder / left.name).write_bytes(b"x")
        os.utime(folder / left.name, (time.time() - age_s,) * 2)
        with write_atomically(folder / "table.csv") as file:
            file.write(b"x")
    assert hidden(tmp_path) == [left.name]
    assert (tmp_path / "new" / left.name).is_file()


def test_what_others_name_alike_stays(tmp_path: Path) -> None:
    names = [".download.part", ".hub.abcd.part", "film.0123456789ab.part", ".checkpoint-7.part"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (0, 0))
    with write_atomically(tmp_path / "table.csv") as file:
        file.write(b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "table.csv"])


def test_the_root_of_a_file_system_is_refused_with_a_remedy() -> None:
    """As the volume of a container is."""
    with pytest.raises(InputError, match="Choose a folder inside it, such as /model"), write_folder_atomically("/"):
        raise AssertionError("never begun")


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to("elsewhere")
    with write_folder_atomically(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "elsewhere" / "a").read_text() == "a"
    assert not hidden(tmp_path)
