"""Recipes and launcher files can be listed and copied wherever the package is installed."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.training.recipes import RECIPE_FOLDERS, list_recipes
from subcell_hf.workflows.recipes import copy_recipes

RECIPES = Path(__file__).parents[2] / "recipes"


def test_every_recipe_is_listed_with_its_job() -> None:
    found = CliRunner().invoke(app, ["recipes"])
    assert found.exit_code == 0
    assert {recipe.path for recipe in list_recipes()} == {*(RECIPES / "configs").glob("*.yaml")}
    for recipe in list_recipes():
        assert f"{recipe.name} " in found.output
        assert recipe.summary in found.output
        assert f"-m subcell_hf.workflows.{recipe.job} " in found.output
        text = recipe.path.read_text(encoding="utf-8")
        assert f"-m subcell_hf.workflows.{recipe.job} " in text, "the file says how it is started"


def test_copies_refer_to_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["recipes", "--output", "training/mine"])
    assert found.exit_code == 0, found.output
    names = {path.relative_to(RECIPES) for name in RECIPE_FOLDERS for path in (RECIPES / name).rglob("*.*")}
    assert {path.relative_to("training/mine") for path in Path("training/mine").rglob("*.*")} == names
    assert {Path(line).relative_to("training/mine") for line in found.output.splitlines()} == names
    launch = yaml.safe_load(Path("training/mine/accelerate/deepspeed_zero2.yaml").read_text(encoding="utf-8"))
    assert Path(launch["deepspeed_config"]["deepspeed_config_file"]).is_file()
    with pytest.raises(InputError, match="not an empty folder"):
        copy_recipes("training/mine")
