"""`subcell push` tells a Space from a model and brings it where Spaces go."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from huggingface_hub import constants
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.hub.publishing.space_folder import read_sdk
from tests.hub.loopback_hub import Fault, LoopbackHub

Command = Callable[..., Result]
KEY = ("space", "me/demo")


@pytest.fixture
def command(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    return lambda *words: CliRunner().invoke(app, list(words))


@pytest.fixture
def space(tmp_path: Path) -> Path:
    folder = tmp_path / "space"
    (folder / "examples").mkdir(parents=True)
    (folder / "README.md").write_text("---\ntitle: Cells\nsdk: gradio\napp_file: app.py\n---\n# Cells\n")
    (folder / "app.py").write_text("print('hello')\n")
    (folder / "requirements.txt").write_text("gradio\n")
    (folder / "examples" / "red.png").write_bytes(b"red")
    return folder


def test_a_dry_run_names_a_space_and_makes_none(space: Path, hub: LoopbackHub, command: Command) -> None:
    shown = command("push", str(space), "me/demo", "--dry_run")
    assert shown.exit_code == 0, shown.output
    assert "space me/demo, revision main, a new repository" in shown.output
    assert "To upload: 4 of 4 files" in shown.output
    assert not hub.repositories


def test_a_space_arrives_and_only_changes_travel_again(space: Path, hub: LoopbackHub, command: Command) -> None:
    assert command("push", str(space), "me/demo", "--private").exit_code == 0
    made = hub.repositories[KEY]
    assert (made.private, made.sdk, len(made.messages)) == (True, "gradio", 1)
    assert made.files.keys() == {"README.md", "app.py", "requirements.txt", "examples/red.png"}
    (space / "app.py").write_text("print('hello again')\n")
    again = command("push", str(space), "me/demo")
    assert "To upload: 1 of 4 files" in again.output
    assert made.files["app.py"].content == b"print('hello again')\n"
    branch = command("push", str(space), "me/demo", "--revision", "next")
    assert branch.exit_code == 2
    assert "--create-revision" in branch.output
    assert command("push", str(space), "me/demo", "--revision", "next", "--create-revision").exit_code == 0
    assert "next" in made.branches


def test_a_push_of_a_space_that_fails_leaves_the_old_commit(space: Path, hub: LoopbackHub, command: Command) -> None:
    assert command("push", str(space), "me/demo").exit_code == 0
    before = hub.repositories[KEY].branches["main"]
    (space / "app.py").write_text("print('never')\n")
    hub.faults.append(Fault("POST .*/commit/", 400))
    failed = command("push", str(space), "me/demo")
    assert failed.exit_code == 2
    assert "branch is unchanged" in failed.output
    assert hub.repositories[KEY].branches["main"] == before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda folder: (folder / "app.py").unlink(), "lacks app.py"),
        (lambda folder: (folder / "weights.pth").write_bytes(b"x"), "may be a pickle"),
        (lambda folder: (folder / "secret").symlink_to("/etc/hostname"), "is a link"),
        (lambda folder: (folder / "README.md").write_text("---\nlicense: mit\n---\n"), "lacks config.json"),
        (lambda folder: (folder / "README.md").write_text("---\nsdk: [\n---\n"), "lacks config.json"),
    ],
    ids=["no app", "pickle", "link", "no space", "broken card"],
)
def test_what_is_no_space_stays_here(
    space: Path, change: Callable[[Path], object], expected: str, hub: LoopbackHub, command: Command
) -> None:
    change(space)
    refused = command("push", str(space), "me/demo")
    assert refused.exit_code == 2
    assert expected in refused.output
    assert not hub.repositories


def test_a_folder_without_a_card_is_no_space(tmp_path: Path) -> None:
    assert read_sdk(tmp_path) is None
    assert read_sdk(tmp_path / "nowhere") is None
