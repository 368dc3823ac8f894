"""A run's folder belongs to one training at a time, and a new training wants one without another's results."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from subcell_hf.errors import InputError
from subcell_hf.training.runs.run_folder import claim_run_folder


@pytest.mark.parametrize("name", ["checkpoint-3", "model"])
def test_a_new_training_refuses_the_results_of_another(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    message = rf"contains {name} of an earlier training.*resume_from_checkpoint"
    with pytest.raises(InputError, match=message), claim_run_folder(tmp_path, resuming=False):
        pass
    with claim_run_folder(tmp_path, resuming=True):
        pass


def test_what_a_training_leaves_before_its_first_checkpoint_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for _ in range(2):
        with claim_run_folder(tmp_path, resuming=False):
            pass


def test_a_folder_in_use_is_refused_until_its_training_ends_however_it_ends(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib\n"
        "from subcell_hf.training.runs.run_folder import claim_run_folder\n"
        "with claim_run_folder(pathlib.Path(sys.argv[1]), resuming=False):\n"
        "    print('claimed', flush=True)\n"
        "    time.sleep(600)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "claimed\n"
        for resuming in (False, True):
            with (
                pytest.raises(InputError, match=rf"is in use: process {other.pid} on .* is writing there"),
                claim_run_folder(tmp_path, resuming=resuming),
            ):
                pass
    finally:
        other.kill()
        other.communicate()
    with claim_run_folder(tmp_path, resuming=False):
        pass


def test_a_file_system_without_locks_is_trained_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with claim_run_folder(tmp_path, resuming=False):
        (tmp_path / "model").mkdir()
    assert len(caplog.messages) == 1
    assert "No locks available" in caplog.messages[0]
    with pytest.raises(InputError, match="contains model"), claim_run_folder(tmp_path, resuming=False):
        pass
