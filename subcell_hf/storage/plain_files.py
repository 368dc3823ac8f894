"""JSON, YAML and lists of others → plain data, or one sentence that names the file; nothing in them is ever run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from subcell_hf.errors import InputError
from subcell_hf.storage.text_files import decode_text

FETCH_AGAIN = "Fetch it again, or write it again."

_LFS_BEGINNING = b"version https://git-lfs.github.com/spec/"
_MOST_ENTRIES = 100_000
_MOST_LETTERS = 500


def read_json(path: Path, remedy: str = FETCH_AGAIN) -> Any:
    """Read a JSON file, with or without a byte order mark.

    Args:
        path: The file.
        remedy: What to do where it cannot be read, as a sentence.

    Returns:
        Plain data.

    Raises:
        InputError: If it is missing, no UTF-8, no JSON, or nested too deeply.
    """
    return parse_json(_read_bytes(path, remedy), str(path), remedy)


def parse_json(content: bytes | str, where: str, remedy: str = FETCH_AGAIN) -> Any:
    """Parse the content of a JSON file; see `read_json`.

    Args:
        content: The file's content.
        where: What to call it in messages.
        remedy: What to do where it cannot be read, as a sentence.

    Raises:
        InputError: As `read_json`.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        got = one_line(error) if content.strip() else "it is empty"
        raise InputError(f"{where} is damaged or not JSON ({got}). {remedy}") from error


def read_yaml(path: Path, remedy: str = "Correct the file.") -> Any:
    """Read a YAML file, with or without a byte order mark, without any tag that builds objects.

    Args:
        path: The file.
        remedy: What to do where it cannot be read, as a sentence.

    Returns:
        Plain data.

    Raises:
        InputError: If it is missing, no UTF-8 or no YAML, or its aliases repeat so much that it would fill memory.
    """
    content = _read_bytes(path, remedy)
    try:
        values = yaml.safe_load(content.decode("utf-8-sig"))
        entries = _count_entries(values, {}, set())
    except Exception as error:  # beside its own errors, PyYAML lets through whatever a damaged number or date raises
        raise InputError(f"{path} is not valid YAML ({one_line(error)}). {remedy}") from error
    if entries > _MOST_ENTRIES:
        raise InputError(
            f"{path} repeats itself by aliases to {entries:,} entries, expected at most {_MOST_ENTRIES:,}. {remedy}"
        )
    return values


def read_lines(path: Path, remedy: str = "Save it as UTF-8 text, one name per line.") -> list[str]:
    """Read a list of names; empty lines and spaces around names are left out.

    Args:
        path: Text file with one name per line, see `decode_text`.
        remedy: What to do where there is none, as a sentence.

    Raises:
        InputError: If it is missing, or no text of a known encoding.
    """
    text = decode_text(_read_bytes(path, remedy), str(path))
    return [line.strip() for line in text.split("\n") if line.strip()]


def refuse_lfs_pointer(path: Path, content: bytes) -> None:
    """Refuse a file that Git has not fetched.

    Args:
        path: The file.
        content: Its first bytes.

    Raises:
        InputError: If it is a pointer of Git LFS.
    """
    if content.startswith(_LFS_BEGINNING):
        raise InputError(
            f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its folder, or download it again."
        )


@contextmanager
def explaining(where: Path | str, remedy: str = FETCH_AGAIN) -> Iterator[None]:
    """Whatever the values of a file make a constructor raise becomes one sentence that names the file.

    Args:
        where: The file.
        remedy: What to do, as a sentence.

    Raises:
        InputError: For any exception; `InputError`s are raised unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # anything that wrong types, shapes and sizes lead to in libraries
        raise InputError(f"{where} cannot be used: {one_line(error).rstrip('.')}. {remedy}") from error


def one_line(error: BaseException) -> str:
    """An error's text in one line of bounded length; its kind, where it has no text."""
    words = " ".join(str(error).split())
    return words[:_MOST_LETTERS] if words else type(error).__name__


def _read_bytes(path: Path, remedy: str) -> bytes:
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path} is a link to {path.readlink()}, which does not exist. {remedy}")
    if not path.is_file():
        raise InputError(f"The file {path} does not exist. {remedy}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. {remedy}") from error
    refuse_lfs_pointer(path, content[:100])
    return content


def _count_entries(node: Any, known: dict[int, int], above: set[int]) -> int:
    """Entries of nested lists and mappings, an alias counted wherever it is used."""
    if not isinstance(node, list | dict):
        return 1
    if id(node) in above:
        raise ValueError("an alias contains itself")
    if id(node) not in known:
        above.add(id(node))
        children = node.values() if isinstance(node, dict) else node
        known[id(node)] = 1 + sum(_count_entries(child, known, above) for child in children)
        above.discard(id(node))
    return known[id(node)]
