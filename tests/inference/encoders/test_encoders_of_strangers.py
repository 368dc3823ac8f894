"""Encoders as users bring them: files with modules beside them, installed packages, odd paths and names."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from subcell_hf.cells.custom_functions import import_function
from subcell_hf.errors import InputError
from subcell_hf.inference.encoders.finding import find_encoders
from subcell_hf.inference.encoders.found_encoder import FoundEncoder
from subcell_hf.inference.encoders.specs import named_specs
from subcell_hf.tables.files import read_table
from tests.inference.embedding_runs import write_fields
from tests.inference.encoders.test_backbones import dinov2, save
from tests.inference.encoders.test_several_encoders import ENCODER_OF_THE_DOCS, run

WITH_A_MODULE_BESIDE = "from {module} import FACTOR\n" + ENCODER_OF_THE_DOCS.replace(
    "images.mean((2, 3)),", "FACTOR * images.mean((2, 3)),"
)


def found(text: str) -> FoundEncoder:
    (model,) = find_encoders(text)
    assert isinstance(model, FoundEncoder)
    return model


def first_value(model: FoundEncoder) -> float:
    value = model.build().encode(torch.ones(1, 2, 4, 4))[0, 0]
    return float(value)


def write(folder: Path, module: str, factor: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(f"FACTOR = {factor}\n")
    path = folder / "my_encoder.py"
    path.write_text(WITH_A_MODULE_BESIDE.format(module=module))
    return path


def test_a_file_imports_modules_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = write(tmp_path / "my models = 2", "factor_of_two", 2)
    before = found(f"{path}:build")
    assert first_value(before) == 2
    write(path.parent, "factor_of_two", 5)
    after = found(f"{path}:build")
    assert first_value(after) == 5
    assert before.checksum != after.checksum
    # Where another folder has a module of that name, neither is taken for the other.
    other = write(tmp_path / "other", "factor_of_two", 7)
    with pytest.raises(InputError, match=r"has the name of a module that is loaded from .*; give it another name"):
        find_encoders(f"{other}:build")


def test_what_hinders_a_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    for text, message in {
        "from .net import build": "ImportError: attempted relative import with no known parent package",
        "import argparse\nargparse.ArgumentParser(prog='x').parse_args(['--no'])": "SystemExit: 2",
        "def build(:": r"SyntaxError: .*mine.py, line 1",
        "import no_such_module": "ModuleNotFoundError: No module named 'no_such_module'",
        "build = 3": "is a int, expected a function",
        "def build(size): ...": r"cannot be built \(TypeError: .* missing 1 required positional argument: 'size'",
    }.items():
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            find_encoders(f"{path}:build")
    with pytest.raises(InputError, match="FileNotFoundError"):
        find_encoders(f"{tmp_path / 'none.py'}:build")


def test_an_installed_package_adds_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strangers_package.py").write_text(ENCODER_OF_THE_DOCS)
    information = tmp_path / "strangers_package-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers-package\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[subcell_hf.encoders]\nmoments = strangers_package:build\n")
    monkeypatch.syspath_prepend(tmp_path)
    model = found("mine=moments")
    assert (model.name, model.variant.channels) == ("mine", ("blue", "green"))
    assert first_value(model) == 1


def test_folders_with_colons_and_names_that_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    folder = save(dinov2(), tmp_path / r"C:\models\dino")
    assert found(f"dino={folder.name}").name == "dino"
    for text in ("a/b=features", "..=features", "=features"):
        with pytest.raises(InputError, match=f"The model {text!r} is n"):
            find_encoders(text)
    with pytest.raises(InputError, match="needs a name that no other has"):
        named_specs(["X=features", "x=features"])


def test_an_encoder_that_changed_is_refused_and_costs_the_others_nothing(tmp_path: Path) -> None:
    write_fields(tmp_path / "images", count=2)
    path = tmp_path / "my_encoder.py"
    path.write_text(ENCODER_OF_THE_DOCS)
    which = ["features=features,input_px=32", f"own={path}:build"]
    before = run(tmp_path, tmp_path / "run", which)
    assert not before.failed
    embeddings = read_table(tmp_path / "run" / "own").embeddings
    path.write_text(ENCODER_OF_THE_DOCS.replace("images.amax((2, 3))", "images.amin((2, 3))"))
    after = run(tmp_path, tmp_path / "run", which)
    assert list(after.reports) == ["features"]
    assert "holds a run with other inputs or settings (models: ['own " in after.failed["own"]
    assert np.array_equal(read_table(tmp_path / "run" / "own").embeddings, embeddings)


def test_a_file_is_found_by_any_spelling_of_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("def build(): ...")
    monkeypatch.chdir(tmp_path)
    assert import_function("mine.py:build") is import_function(f"{tmp_path}/./mine.py:build")
