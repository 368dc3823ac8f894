"""Copies, to be changed, of the recipes and launcher files that come with the package."""

from pathlib import Path

from subcell_hf.errors import InputError
from subcell_hf.shipped import shipped_folder
from subcell_hf.storage.folders import write_folder_atomically
from subcell_hf.training.recipes import RECIPE_FOLDERS


def copy_recipes(output: str | Path) -> tuple[Path, ...]:
    """Copy the recipes and the files of launchers: for accelerate, DeepSpeed and Slurm.

    Args:
        output: Folder to write; new or empty. Files that refer to each other do so through this path, relative to the
            folder in which training is started if it is relative.

    Returns:
        The files.

    Raises:
        InputError: If the folder is not empty.
    """
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an empty folder. Choose another output.")
    source = shipped_folder("recipes")
    files = sorted(path for name in RECIPE_FOLDERS for path in (source / name).iterdir() if path.is_file())
    with write_folder_atomically(folder) as staging:
        for file in files:
            copy = staging / file.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            text = file.read_text(encoding="utf-8").replace("recipes/", f"{folder.as_posix()}/")
            copy.write_text(text, encoding="utf-8")
    return tuple(folder / file.relative_to(source) for file in files)
