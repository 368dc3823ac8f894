"""Files of this room that are copied into repositories, where they lie beside each other without this package."""

import re
from pathlib import Path

_ROOM = Path(__file__).parents[1]
_IMPORT = re.compile(r"^(\s*)from subcell_hf\.hub\.(?:\w+\.)+?(\w+) import ", re.MULTILINE)


def copied_text(file: str) -> str:
    """The text of a file as it goes into a repository: files that are copied with it are imported by their name alone.

    Args:
        file: Path within this room, such as `endpoint/endpoint_handler.py`.
    """
    return _IMPORT.sub(r"\1from \2 import ", (_ROOM / file).read_text(encoding="utf-8"))
