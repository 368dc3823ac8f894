"""Files appear whole or not at all, also on a full disk."""

import errno
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from subcell_hf.storage.atomic import TEMPORARY_SUFFIX, remove_leftovers, write_atomically


def test_file_appears_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "übung é.bin"
    with write_atomically(path) as file:
        file.write(b"abc")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"abc"
    assert list(path.parent.iterdir()) == [path]


def test_error_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), write_atomically(path) as file:
        file.write(b"new" * (1 // 0))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    with write_atomically(tmp_path / "file") as file:
        file.write(b"x")
    assert (tmp_path / "file").stat().st_mode == plain.stat().st_mode


def test_long_names_work(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    with write_atomically(path) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / f".file.1234{TEMPORARY_SUFFIX}").write_bytes(b"x")
    (tmp_path / f"mine{TEMPORARY_SUFFIX}").write_bytes(b"x")
    assert remove_leftovers(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == [f"mine{TEMPORARY_SUFFIX}"]


FULL_DISK = """
import errno, resource, signal, sys
from pathlib import Path
from subcell_hf.storage.atomic import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with write_atomically(Path(sys.argv[1])) as file:
        file.write(bytes(1_000_000))
except OSError as error:
    assert error.errno == errno.EFBIG, error
    assert "could not be written" in str(error) and "Free some space" in str(error), error
    sys.exit(7)
"""


def test_full_disk_is_named_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], check=False)
    assert done.returncode == 7
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, where the machine lets us mount one."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_really_full_disk(small_disk: Path) -> None:
    (small_disk / "file").write_bytes(b"old")
    with pytest.raises(OSError, match="Free some space") as caught, write_atomically(small_disk / "file") as file:
        file.write(bytes(2_000_000))
    assert caught.value.errno == errno.ENOSPC
    assert (small_disk / "file").read_bytes() == b"old"
    assert [path.name for path in small_disk.iterdir()] == ["file"]
