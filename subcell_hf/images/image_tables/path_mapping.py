"""Paths and addresses of a table → files here."""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from subcell_hf.images.listed_fields import FilePlace

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_WINDOWS = re.compile(r"[A-Za-z]:(/|$)|//")
_ESCAPED = ("http://", "https://")


class PathMapping:
    """Finds the files that a table names.

    Args:
        table: The table; relative paths start beside it.
        mapping: Folder, or beginning of an address, as the table has it → folder here. Either kind of slash will do,
            Windows paths are the same in any case of letters, and the longest one that fits is taken.
    """

    def __init__(self, table: Path, mapping: Mapping[str, str]):
        self._folder = table.parent
        places = {_normal(old): new for old, new in mapping.items()}
        self._places = sorted(places.items(), key=lambda pair: -len(pair[0]))

        self._found: dict[str, str] = {}

    def locate(self, text: str) -> FilePlace:
        """The file that a cell of the table names; an address that is not mapped as it is, which no disk holds."""
        text = _normal(text)
        folder, stroke, name = text.rpartition("/")
        folder = folder or stroke
        if folder not in self._found:
            self._found[folder] = str(self._locate_folder(folder))
        return FilePlace.below(self._found[folder], unquote(name) if text.startswith(_ESCAPED) else name)

    def _locate_folder(self, folder: str) -> Path:
        for old, new in self._places:
            if _compared(folder, old) == old or _compared(folder, old).startswith(f"{old}/"):
                rest = folder[len(old) :].lstrip("/")
                return Path(new) / (unquote(rest) if folder.startswith(_ESCAPED) else rest)
        if _ADDRESS.match(folder) or _WINDOWS.match(f"{folder}/"):
            return Path(folder)
        return self._folder / folder


def _compared(text: str, old: str) -> str:
    """A text in the case of letters that it is compared in."""
    if not (_WINDOWS.match(text) and _WINDOWS.match(old)):
        return text
    return old + text[len(old) :] if text[: len(old)].casefold() == old.casefold() else text


def _normal(text: str) -> str:
    """With `/` between folders and none at the end; `file:` addresses as the paths that they are."""
    text = text.strip().replace("\\", "/")
    if text[:5].lower() == "file:":
        text = unquote(re.sub(r"^file:/*", "/", text, flags=re.IGNORECASE))
        text = text[1:] if _WINDOWS.match(text[1:]) else text
    return text.rstrip("/")
