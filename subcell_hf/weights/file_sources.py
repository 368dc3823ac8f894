"""Where published files come from: a server of the bucket's layout, or a folder of files that were copied by hand."""

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from subcell_hf.errors import InputError, counted
from subcell_hf.storage.downloads.files import FileFacts, download_file, facts_of_file, find_difference, look_up_file

_REQUESTS_AT_ONCE = 16


class FileServer:
    """Files below an address.

    Args:
        url: `https://…` or `http://…`.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith(("https://", "http://")):
            raise InputError(f"{url} is not the address of a server, expected https://… or a folder.")
        self.url = url.rstrip("/")
        self._marks: dict[str, str] = {}

    def __str__(self) -> str:
        """The address."""
        return self.url

    def sizes(self, keys: Iterable[str]) -> dict[str, int | None]:
        """Size in bytes of each file that is there; None where the server does not say."""
        wanted = list(keys)
        try:
            with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
                found = dict(zip(wanted, pool.map(look_up_file, map(self._address, wanted)), strict=True))
        except InputError as error:
            raise InputError(
                f"{error} Or give a folder of files that were copied by hand (subcell fetch --from FOLDER)."
            ) from error
        self._marks |= {key: about.etag for key, about in found.items() if about is not None}
        return {key: about.size_bytes for key, about in found.items() if about is not None}

    def mark(self, key: str) -> str:
        """The server's mark of the content of a file whose size was asked for; empty if it has none."""
        return self._marks[key]

    def bring(
        self, key: str, target: Path, known: FileFacts | None, advance: Callable[[int], object]
    ) -> tuple[Path, FileFacts]:
        """Download a file, with `advance` as in `download_file`; returns where it is, and what came."""
        target.parent.mkdir(parents=True, exist_ok=True)
        return target, download_file(self._address(key), target, known, advance=advance)

    def _address(self, key: str) -> str:
        return f"{self.url}/{quote(key)}"


class CopiedFiles:
    """Files in a folder: arranged as in the bucket, all in one folder, or in any other way that keeps their names.

    Args:
        folder: The folder; its sub-folders are searched, too.
        keys: Names of all published files, with their folders in the bucket.
    """

    def __init__(self, folder: Path, keys: Iterable[str]) -> None:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder. Give a folder of published files, or the address of a mirror.")
        self.folder = folder
        names = {Path(key).name: key for key in keys}
        self._found: dict[str, list[Path]] = {}
        for place, _, files in os.walk(folder):
            for name in sorted(names.keys() & set(files)):
                self._found.setdefault(names[name], []).append(Path(place) / name)
        self._facts: dict[Path, FileFacts] = {}

    def __str__(self) -> str:
        """The folder."""
        return str(self.folder)

    def sizes(self, keys: Iterable[str]) -> dict[str, int | None]:
        """Size in bytes of each file that is there."""
        return {key: self._found[key][0].stat().st_size for key in keys if key in self._found}

    def mark(self, key: str) -> str:
        """Checksum of a file."""
        return self._facts_of(self._found[key][0]).sha256

    def bring(
        self, key: str, target: Path, known: FileFacts | None, advance: Callable[[int], object]
    ) -> tuple[Path, FileFacts]:
        """Check a file, which stays where it is; returns where it is, and what it is."""
        first, *others = self._found[key]
        facts = self._facts_of(first)
        if different := [path for path in others if self._facts_of(path) != facts]:
            raise InputError(
                f"{first} and {different[0]} have the same name and another content. Remove the wrong one, or give a "
                "folder that holds only one of them."
            )
        if difference := find_difference(facts, known):
            raise InputError(f"{first} is not the file it should be: {difference}. Copy it again.")
        advance(facts.size_bytes)
        return first, facts

    def _facts_of(self, path: Path) -> FileFacts:
        if path not in self._facts:
            self._facts[path] = facts_of_file(path)
        return self._facts[path]


def name_missing(source: FileServer | CopiedFiles, missing: list[str], wanted: int) -> InputError:
    """The error that names files that a source does not have."""
    return InputError(
        f"{source} has {wanted - len(missing)} of {counted(wanted, 'file')}; {missing[0]}"
        f"{f' and {len(missing) - 1} more are' if len(missing) > 1 else ' is'} missing. Nothing was changed. Check the "
        "address or folder, or give another one."
    )


def refuse_twins(source: FileServer | CopiedFiles, wanted: Mapping[str, int | None], others: Iterable[str]) -> None:
    """Refuse files that have the content of another published file: one of them is not what its name says.

    Args:
        source: Where they are.
        wanted: Files that are about to be used, and their sizes in bytes.
        others: Names of the other published files.

    Raises:
        InputError: If a file has a twin.
    """
    sizes = {**source.sizes(others), **wanted}
    by_size: dict[int, list[str]] = {}
    for key, size in sizes.items():
        if size is not None:
            by_size.setdefault(size, []).append(key)
    for key, size in wanted.items():
        alike = [other for other in by_size.get(size or -1, ()) if other != key]
        mark = source.mark(key) if alike else ""
        twins = [other for other in alike if mark and source.mark(other) == mark]
        if twins:
            raise InputError(
                f"{source}: {key} has the same content as {twins[0]}, expected another model. The files were mixed up "
                "there; nothing was converted. Use another mirror or copy."
            )
