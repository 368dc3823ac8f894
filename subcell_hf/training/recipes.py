"""Recipes: YAML files of arguments, given by path or, for those that come with the package, by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from subcell_hf.errors import InputError
from subcell_hf.shipped import shipped_folder
from subcell_hf.storage.plain_files import read_yaml

Job = Literal["pretrain", "finetune", "train_localization"]
"""Job of a recipe: the module of `subcell_hf.workflows` that runs it."""

RECIPE_FOLDERS = ("configs", "accelerate", "deepspeed", "slurm")
"""Files of the folder `recipes` that are part of the wheel: recipes, and files for launchers."""

_OTHER_JOBS: Mapping[str, Job] = {"finetune": "finetune", "localization": "train_localization"}
"""Recipes of other jobs than pretraining."""


@dataclass(frozen=True)
class Recipe:
    """A recipe that comes with the package.

    Attributes:
        name: What it is called on the command line and in Python.
        job: What it is for.
        summary: The first line of the file.
        path: The file.
    """

    name: str
    job: Job
    summary: str
    path: Path


def list_recipes(job: Job | None = None) -> tuple[Recipe, ...]:
    """List the recipes that come with the package.

    Args:
        job: Only those for this job.

    Returns:
        Recipes, sorted by job and name.
    """
    jobs = get_args(Job)
    found = [_describe(path) for path in (shipped_folder("recipes") / "configs").glob("*.yaml")]
    found = [recipe for recipe in found if job in (None, recipe.job)]
    return tuple(sorted(found, key=lambda recipe: (jobs.index(recipe.job), recipe.name)))


def find_recipe(recipe: str | Path, job: Job) -> Path:
    """The file of a recipe.

    Args:
        recipe: Path of a YAML file, or the name of a recipe that comes with the package.
        job: What it is for.

    Raises:
        InputError: If there is no such file; the message lists the names.
    """
    path, known = Path(recipe), {shipped.name: shipped.path for shipped in list_recipes(job)}
    if str(recipe) in known and not path.is_file():
        return known[str(recipe)]
    if not path.exists():
        raise InputError(
            f"There is no recipe {recipe}: give the path of a YAML file, or the name of a recipe that comes with the "
            f"package: {', '.join(known)}. `subcell recipes` describes them."
        )
    return path


def read_recipe(path: Path) -> dict[str, Any]:
    """Read the arguments in a recipe.

    Args:
        path: A YAML file.

    Returns:
        Name of an argument → its value.

    Raises:
        InputError: If the file cannot be read or does not hold arguments.
    """
    values = read_yaml(path)
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"{path} must consist of `name: value` lines, one argument each.")
    return values


def _describe(path: Path) -> Recipe:
    with path.open(encoding="utf-8") as file:
        summary = file.readline().removeprefix("#").strip()
    return Recipe(path.stem, _OTHER_JOBS.get(path.stem, "pretrain"), summary, path)
