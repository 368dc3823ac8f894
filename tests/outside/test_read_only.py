"""Inputs and results that may be read and not written: the answer is given, and what is made goes elsewhere."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.storage import folder_lock
from subcell_hf.storage.folder_lock import claim_folder, is_writable
from tests.cells.synthetic_crops import write_synthetic

DENIED = "Permission denied"


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders in which nothing can be made; root, who runs many tests, is refused nothing by modes."""
    folders: list[Path] = []
    real = os.open

    def is_refused(path: object) -> bool:
        return isinstance(path, str | os.PathLike) and any(
            folder in Path(os.fspath(path)).absolute().parents
            for folder in folders  # type: ignore[arg-type]
        )

    def deny(path: object, flags: int, *arguments: object, **named: object) -> int:
        if flags & os.O_CREAT and is_refused(path):
            raise PermissionError(13, DENIED, str(path))
        return real(path, flags, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", deny)
    return folders


def test_an_inspection_gives_its_verdict_without_its_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> None:
        raise PermissionError(13, DENIED, "x")

    write_synthetic(tmp_path / "shards")
    monkeypatch.setattr("subcell_hf.workflows.shards.write_contact_sheet", deny)
    done = CliRunner().invoke(app, ["shards-inspect", str(tmp_path / "shards")])
    assert done.exit_code == 0
    assert "all files match the index." in done.stdout
    assert f"cannot be written ({DENIED}). Name another file with --contact-sheet" in done.stderr
    asked = CliRunner().invoke(
        app, ["shards-inspect", str(tmp_path / "shards"), "--contact-sheet", str(tmp_path / "sheet.png")]
    )
    assert asked.exit_code == 2
    assert "all files match the index." in asked.stdout


def test_the_name_of_a_picture_is_checked_before_the_inspection(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["shards-inspect", str(tmp_path / "none"), "--contact-sheet", "sheet.pdf"])
    assert done.exit_code == 2
    assert "A contact sheet is a .png or .html file" in done.output


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, refused: list[Path]) -> None:
    refused.append(tmp_path)
    message = f"out cannot be written .{DENIED}.. Choose another output"
    with pytest.raises(InputError, match=message), claim_folder(tmp_path / "out"):
        pass
    assert not (tmp_path / "out").exists()


def test_a_lock_that_another_user_left_behind_keeps_nobody_out(tmp_path: Path, refused: list[Path]) -> None:
    (tmp_path / folder_lock.LOCK_FILE).write_text("process 1 on elsewhere\n")
    refused.append(tmp_path)
    in_use = pytest.raises(InputError, match="in use: process 1 on elsewhere")
    with claim_folder(tmp_path), in_use, claim_folder(tmp_path):
        pass


def test_whether_a_folder_is_writable_is_known_before_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_writable(tmp_path / "new" / "newer")
    (tmp_path / "file").write_bytes(b"")
    assert not is_writable(tmp_path / "file" / "below")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert not is_writable(tmp_path / "new")
