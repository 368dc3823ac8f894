"""Files over HTTP: resumed where they broke off, and complete under their name or not there at all."""

import hashlib
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from subcell_hf.errors import InputError
from subcell_hf.progress import progress_bar
from subcell_hf.storage.atomic import flush_to_disk, write_atomically


class _BrokenTransferError(OSError):
    """A transfer ended before the file did."""


_BLOCK_BYTES = 2**20
_TIMEOUT_S = 60.0
_ATTEMPTS = 5
_ATTEMPTS_TO_ASK = 3
_FIRST_WAIT_S = 1.0
_PARTIAL = 206
_NOT_SATISFIABLE = 416
_GONE = frozenset({403, 404, 410})
_SAYS_NOTHING = frozenset({403, 405, 501})  # to a question about a file, while the file itself may be had
_BROKEN = (_BrokenTransferError, urllib.error.URLError, HTTPException, TimeoutError, ConnectionError)
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


@dataclass(frozen=True)
class FileFacts:
    """What is known of a downloaded file.

    Attributes:
        size_bytes: Its length.
        sha256: Checksum of its content.
        etag: The server's mark of its content; empty where it gives none.
    """

    size_bytes: int
    sha256: str
    etag: str = ""


def download_file(
    url: str,
    target: Path,
    expected: FileFacts | None = None,
    *,
    progress: bool = True,
    advance: Callable[[int], object] | None = None,
) -> FileFacts:
    """Download a file.

    What has come before a transfer broke is kept beside the target and continued, if the server still has the same
    file. Amazon's mark of a file that was uploaded in one piece is its MD5 sum, which is compared.

    Args:
        url: `https://…` or `http://…`.
        target: File to write; its folder exists.
        expected: What the file must be, if that is known.
        progress: Whether to show progress on stderr.
        advance: Called with the number of further bytes that are here, instead of showing progress; negative where a
            file that had changed is downloaded from its beginning.

    Returns:
        What came.

    Raises:
        InputError: If the file is not there, the server cannot be reached, or another file came than was expected.
        OSError: If it cannot be written.
    """
    part = target.with_name(f"{target.name}.download")
    try:
        etag = str(_attempts(_ATTEMPTS)(_transfer, url, part, progress and advance is None, _Position(advance)))
    except _BROKEN as error:
        kept = part.stat().st_size if part.exists() else 0
        reason = getattr(error, "reason", None) or error
        raise InputError(
            f"{url} could not be downloaded: {reason}. {kept:,} bytes are kept in {part}; run the same command again "
            "when the network is available; it continues from there."
        ) from error
    facts = replace(facts_of_file(part), etag=etag)
    _check(facts, part, url, expected)
    flush_to_disk(part)
    part.replace(target)
    flush_to_disk(target.parent)
    _state_of(part).unlink(missing_ok=True)
    return facts


@dataclass(frozen=True)
class RemoteFile:
    """What a server says of a file.

    Attributes:
        size_bytes: Its length; None if the server does not say.
        etag: Mark of its content; empty if the server has none.
    """

    size_bytes: int | None
    etag: str


def look_up_file(url: str) -> RemoteFile | None:
    """Ask a server about a file without downloading it.

    Args:
        url: `https://…` or `http://…`.

    Returns:
        What the server says; None if it has no such file.

    Raises:
        InputError: If the server cannot be reached.
    """
    try:
        found: RemoteFile | None = _attempts(_ATTEMPTS_TO_ASK)(_ask, url)
    except _BROKEN as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(
            f"{url} could not be reached: {reason}. Run the same command again when the network is available."
        ) from error
    return found


def _ask(url: str) -> RemoteFile | None:
    request = urllib.request.Request(url, method="HEAD", headers={"Accept-Encoding": "identity"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            length = response.headers.get("Content-Length", "")
            return RemoteFile(int(length) if length.isdecimal() else None, response.headers.get("ETag", ""))
    except urllib.error.HTTPError as error:
        if error.code in _SAYS_NOTHING:
            return RemoteFile(None, "")
        if error.code in _GONE:
            return None
        raise


def _attempts(most: int) -> Any:
    """Calls a function again while a network or server fails, with growing pauses."""
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

    return Retrying(
        stop=stop_after_attempt(most),
        wait=wait_exponential(_FIRST_WAIT_S, max=30.0),
        retry=retry_if_exception_type(_BROKEN),
        reraise=True,
    )


def facts_of_file(path: Path) -> FileFacts:
    """Size and checksum of a file on the disk."""
    return FileFacts(path.stat().st_size, _checksum(path, "sha256"))


class _Position:
    """How much of a file is here, reported as steps."""

    def __init__(self, advance: Callable[[int], object] | None) -> None:
        self._advance, self._reported = advance, 0

    def move(self, size_bytes: int) -> None:
        if self._advance is not None:
            self._advance(size_bytes - self._reported)
        self._reported = size_bytes


def _transfer(url: str, part: Path, progress: bool, position: _Position) -> str:
    """Bring the rest of a file; returns the server's mark of it."""
    state = _read_state(part)
    have = part.stat().st_size if part.exists() and state.get("url") == url and state.get("etag") else 0
    headers = {"Range": f"bytes={have}-", "If-Range": state["etag"]} if have else {}
    request = urllib.request.Request(url, headers={**headers, "Accept-Encoding": "identity"})
    try:
        response = _open(request)
    except urllib.error.HTTPError as error:
        if error.code == _NOT_SATISFIABLE:  # the file there is no longer than what is here
            part.unlink()
            raise _BrokenTransferError("the server refused to resume the transfer") from error
        raise
    with response:
        if response.status != _PARTIAL:  # the file has changed, or the server knows no ranges
            have = 0
        etag = response.headers.get("ETag", "")
        total = have + int(response.headers.get("Content-Length") or -have)
        with write_atomically(_state_of(part)) as file:
            file.write(json.dumps({"url": url, "etag": etag}).encode())
        name = Path(urlsplit(url).path).name
        with (
            progress_bar(total or None, "B", name, shown=progress, done=have, scaled=True) as bar,
            part.open("ab" if have else "wb") as file,
        ):
            position.move(have)
            while block := response.read1(_BLOCK_BYTES):  # what has come, so that it is kept if no more comes
                file.write(block)
                have += len(block)
                bar.update(len(block))
                position.move(have)
    size = part.stat().st_size
    if total and size != total:
        if size > total:
            part.unlink()
        raise _BrokenTransferError(f"the transfer broke off after {size:,} of {total:,} bytes")
    return str(etag)


def _open(request: urllib.request.Request) -> HTTPResponse:
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code in _GONE:
            raise InputError(
                f"{request.full_url} is not there (HTTP {error.code}). Check the address, or give another mirror."
            ) from error
        raise
    return response


def find_difference(facts: FileFacts, expected: FileFacts | None) -> str | None:
    """How a file differs from what it must be, in words; None if it does not, or nothing is known of it."""
    if expected is not None and facts.size_bytes != expected.size_bytes:
        return f"it has {facts.size_bytes:,} bytes, expected {expected.size_bytes:,}"
    if expected is not None and facts.sha256 != expected.sha256:
        return f"its SHA-256 is {facts.sha256}, expected {expected.sha256}"
    return None


def _check(facts: FileFacts, part: Path, url: str, expected: FileFacts | None) -> None:
    """Refuse, and remove, what is not the file that it should be."""
    difference = find_difference(facts, expected)
    whole = _MD5.fullmatch(facts.etag)
    if difference is None and whole and _checksum(part, "md5") != whole[1]:
        difference = f"its MD5 is not {whole[1]}, which the server gives"
    if difference is not None:
        part.unlink()
        _state_of(part).unlink(missing_ok=True)
        raise InputError(f"{url} is not the file it should be: {difference}. It was removed; nothing else was changed.")


def _checksum(path: Path, method: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, method).hexdigest()


def _state_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_state(part: Path) -> dict[str, Any]:
    try:
        state = json.loads(_state_of(part).read_bytes())
    except (OSError, ValueError):  # nothing has begun, or its beginning was lost: the file is brought anew
        return {}
    return state if isinstance(state, dict) else {}
