"""The command that lists and copies training recipes; the trainings themselves are started by a launcher."""

from itertools import groupby
from pathlib import Path

import typer


def recipes(*, output: Path | None = None) -> None:
    """List the training recipes, or copy them to change them.

    Args:
        output: Copy recipes and files for accelerate, DeepSpeed and Slurm to this folder; new or empty.
    """
    from subcell_hf.training.recipes import list_recipes
    from subcell_hf.workflows.recipes import copy_recipes

    if output is not None:
        files = copy_recipes(output)
        typer.echo("\n".join(map(str, files)))
        return
    for job, found in groupby(list_recipes(), key=lambda recipe: recipe.job):
        typer.echo(f"accelerate launch -m subcell_hf.workflows.{job} RECIPE [--name value …], where RECIPE is")
        for recipe in found:
            typer.echo(f"  {recipe.name:<27} {recipe.summary}")
    typer.echo("or the path of a YAML file. --output FOLDER copies these recipes and files for launchers.")
