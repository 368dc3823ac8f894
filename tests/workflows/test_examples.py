"""The simulated plate to begin with, and the command that is printed for it."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.tables.files import read_table
from subcell_hf.workflows.examples import Examples, write_examples
from tests.inference.embedding_runs import save_tiny_model


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return write_examples(tmp_path_factory.mktemp("plate") / "first examples", progress=False)


def test_the_printed_command_embeds_every_cell(
    examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(examples.command)
    model = words.index("--model") + 1
    assert words[0] == "subcell"
    assert words[model] == "mae-rybg"
    words[model] = str(save_tiny_model(tmp_path / "model"))
    assert CliRunner().invoke(app, [*words[1:], "--no-report"]).exit_code == 0

    cells = read_table(tmp_path / "results").cells
    wells = cells.groupby(["plate", "well"])[["locations", "antibody", "cell_line", "replicate"]].nunique()
    assert len(wells) == examples.wells
    assert (wells == 1).all(axis=None)
    assert set(cells["replicate"]) == {"1", "2"}
    assert set(cells["pixel_size_from"]) == {"metadata"}
    assert set(cells["locations"]) == set(examples.locations)
    assert len(examples.locations) == 4
    assert cells.groupby("field_of_view").size().min() >= 2
    assert 16 <= len(cells) <= 80
    assert not (tmp_path / "results" / "unused.csv").exists()


def test_an_interrupted_call_is_completed_with_the_same_bytes(examples: Examples) -> None:
    files = {path: path.read_bytes() for path in examples.folder.iterdir()}
    examples.plate_map.unlink()
    (examples.folder / "1_A1_1_green.png").write_bytes(b"")
    done = CliRunner().invoke(app, ["examples", str(examples.folder)])
    assert done.exit_code == 0
    assert examples.command in done.stdout
    assert {path: path.read_bytes() for path in examples.folder.iterdir()} == files


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        write_examples(tmp_path, progress=False)
    with pytest.raises(InputError, match="is a file"):
        write_examples(tmp_path / "notes.txt", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
