"""Folders of data that come with the package: annotations, model cards and recipes."""

from pathlib import Path
from typing import Literal

ShippedFolder = Literal["annotations", "model_cards", "recipes"]


def shipped_folder(name: ShippedFolder) -> Path:
    """A folder that lies inside an installed package, and beside the package in a checkout or an editable install.

    Args:
        name: Which of them; `pyproject.toml` puts the same folders into the wheel.
    """
    package = Path(__file__).parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / name
