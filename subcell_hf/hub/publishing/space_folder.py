"""Folders of Spaces, distinguished from those of models by their card, as on the Hub."""

from pathlib import Path

import yaml
from huggingface_hub import SpaceCard

from subcell_hf.errors import InputError
from subcell_hf.hub.publishing.push import Content, collect_files

_REQUIRED_FILES = ("README.md", "requirements.txt")


def read_sdk(folder: Path) -> str | None:
    """What a folder's Space is run by, such as `"gradio"`: the `sdk` in the metadata of its `README.md`.

    Returns:
        Its name; None where there is none, so that the folder is no Space.
    """
    card = folder / "README.md"
    if not card.is_file():
        return None
    try:
        sdk = SpaceCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=False).data.get("sdk")
    except (ValueError, TypeError, yaml.YAMLError):
        return None  # the check of a model's card, which comes next, says what is wrong with it
    return None if sdk is None else str(sdk)


def check_space(folder: Path) -> dict[str, Content]:
    """Make sure that a folder is a complete, harmless Space.

    Returns:
        Its files, by their path in the repository.

    Raises:
        InputError: If a file is missing, or there is a link or pickle.
    """
    files = collect_files(folder)
    app = SpaceCard((folder / "README.md").read_text(encoding="utf-8")).data.get("app_file") or "app.py"
    missing = sorted({*_REQUIRED_FILES, str(app)} - files.keys())
    if missing:
        raise InputError(f"{folder} lacks {', '.join(missing)}: give an output folder of `subcell export --space`.")
    return files
