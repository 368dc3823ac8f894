"""Files that indices and tables name → files on the disk: with either slash, and in any case of letters.

Instruments write their indices on Windows, where the case of letters in names does not matter. Copied to other systems,
folders and endings are often spelt differently from the index.
"""

import os
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from types import MappingProxyType

from subcell_hf.errors import InputWarning, counted
from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.file_names import normal_form
from subcell_hf.images.listed_fields import FilePlace


def file_beside(folder: str, text: str, known: Mapping[str, FilePlace] = MappingProxyType({})) -> FilePlace:
    r"""The file that an index names by a path from its folder, such as `Images\r01c01.tiff`.

    Args:
        folder: Where the index lies.
        text: With slashes or backslashes between folders.
        known: The names in the folder → their places, which take no memory a second time.
    """
    text = text.strip()
    if text in known:
        return known[text]
    return FilePlace.below(folder, str(Path(*PureWindowsPath(text).parts)) if "\\" in text else text)


class _Names(dict[str, Collection[str]]):
    """Folder → the names in it, read from the disk where they are first asked for."""

    def __missing__(self, folder: str) -> Collection[str]:
        try:
            with os.scandir(folder) as found:
                self[folder] = frozenset([entry.name for entry in found])
        except OSError:
            self[folder] = frozenset()
        return self[folder]


class FilesOnDisk:
    """Which files are there, folder by folder, without asking for every file.

    Args:
        root: Folder of the input; None: files may lie anywhere.
        names: Folder → the names in it, of folders that have been looked through.
    """

    def __init__(self, root: Path | None, names: Mapping[str, Collection[str]] | None = None):
        self._given = root
        self._root = None if root is None else Path(os.path.normpath(root.absolute()))
        self._names = _Names(names or {})
        self._spellings: dict[str, Mapping[str, Sequence[str]]] = {}
        self._inside: dict[str, bool] = {}
        self._renamed: dict[FilePlace, FilePlace] = {}

    def holds(self, file: FilePlace) -> bool:
        """Whether a file is there, under exactly this name."""
        return file.name in self._names[file.folder]

    def missing(self, files: Iterable[FilePlace]) -> list[FilePlace]:
        """Those of many files that are not there under exactly their names."""
        names = self._names
        return [file for file in files if file.name not in names[file.folder]]

    def is_inside(self, folder: str) -> bool:
        """Whether a folder lies in the input, by name alone: links within it lead where its user wants."""
        if self._root is None:
            return True
        if folder not in self._inside:
            self._inside[folder] = Path(os.path.normpath(Path(folder).absolute())).is_relative_to(self._root)
        return self._inside[folder]

    def find(self, file: FilePlace) -> FilePlace:
        """A file as it is called here: as given, or the one whose path differs in nothing but the case of letters.

        Args:
            file: As given where nothing like it is there.

        Raises:
            FieldError: If several files may be meant.
        """
        alike = [] if self.holds(file) else map(FilePlace.of, self._alike(file.path))
        found = [file._replace(folder=place.folder, name=place.name) for place in alike] or [file]
        if len(found) > 1:
            raise FieldError(
                f"{' and '.join(map(str, found))} are both called as {file} but for the case of letters. Rename or "
                "remove one of them."
            )
        if normal_form(str(found[0])) != normal_form(str(file)):
            self._renamed[file] = found[0]
        return found[0]

    def note_renamed(self) -> None:
        """Note which files were found under a name in another case of letters."""
        if self._renamed:
            number, (old, new) = len(self._renamed), next(iter(self._renamed.items()))
            warnings.warn(
                f"{counted(number, 'listed file has', 'listed files have')} another case of letters on the disk, such "
                f"as {new} for {old}; {'it is' if number == 1 else 'they are'} read.",
                InputWarning,
                stacklevel=3,
            )

    def _alike(self, path: Path) -> list[Path]:
        """All files whose paths differ from one in the case of letters at most."""
        if path in (path.parent, self._given, self._root):
            return [path]
        folders = self._alike(path.parent)
        if path.parent not in folders and self._names[str(path.parent)]:  # one that is found, but not listed above
            folders = [path.parent, *folders]
        return [
            folder / name for folder in folders for name in self._spellings_in(str(folder)).get(_key(path.name), ())
        ]

    def _spellings_in(self, folder: str) -> Mapping[str, Sequence[str]]:
        """Name without case → the names of a folder that are the same without it."""
        if folder not in self._spellings:
            spellings: dict[str, list[str]] = {}
            for name in sorted(self._names[folder]):
                spellings.setdefault(_key(name), []).append(name)
            self._spellings[folder] = spellings
        return self._spellings[folder]


def _key(name: str) -> str:
    return normal_form(name).casefold()
