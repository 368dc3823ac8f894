"""`run.json`: what a finished run of `subcell embed` records of itself, beside its tables."""

from pathlib import Path
from typing import Any

from subcell_hf.errors import InputError
from subcell_hf.storage.plain_files import read_json

RUN_FILE = "run.json"
RUN_FORMAT = 2
"""Of `run.json`. Format 1, which has no such number, held what the command was given as texts in `arguments`."""


def read_run(folder: Path) -> dict[str, Any]:
    """Content of `run.json`; empty where there is none.

    Args:
        folder: Output folder of a run.

    Raises:
        InputError: If the file is damaged.
    """
    path, remedy = folder / RUN_FILE, "Copy the folder again, or embed into a new one (--output)."
    if not path.is_file():
        return {}
    content = read_json(path, remedy)
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: it is not a JSON object. {remedy}")
    return content
