"""Folders behind `https://` and `s3://`, as paths."""

import errno
from functools import lru_cache
from importlib import import_module
from pathlib import Path, PosixPath
from typing import Any, Self

import fsspec

from subcell_hf.storage.downloads.persistence import read_persistently

SCHEMES = ("http", "https", "s3")
"""Kinds of URLs that are read as folders."""

SILENCE_S = 60.0
"""How long a web server may send nothing before the request is made again."""

_ABSENT = (403, 404, 410)
"""How servers answer for files that are not there; those that forbid to list a folder say 403."""


class RemotePath(PosixPath):
    """A file or folder behind a URL: a path in all that its name says, read through fsspec.

    `str` gives the URL. There is no listing of folders, which web servers do not have. S3 is read without credentials
    where there are none.
    """

    def __str__(self) -> str:
        scheme, *rest = self.parts
        return f"{scheme}//{'/'.join(rest)}"

    @property
    def scheme(self) -> str:
        """`https`, `http` or `s3`."""
        return self.parts[0].removesuffix(":")

    def absolute(self) -> Self:
        """The path itself."""
        return self

    def resolve(self, strict: bool = False) -> Self:
        """The path itself."""
        return self

    def read_bytes(self) -> bytes:
        """Content of the file.

        Raises:
            FileNotFoundError: If it is not there.
            UnreachableError: If the server does not answer, or answers with an error, again and again.
        """
        url, scheme = str(self), self.scheme
        system = fsspec.filesystem(scheme, **storage_options(scheme))

        def read() -> bytes:
            try:
                content: bytes = system.cat_file(url)
            except Exception as error:  # whatever the library behind the scheme raises
                if is_refused(error):
                    raise FileNotFoundError(errno.ENOENT, "not there, or not allowed to read", url) from error
                raise
            return content

        return read_persistently(read, url)

    def read_text(self, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
        """Content of the file as text."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def stat(self, *, follow_symlinks: bool = True) -> Any:
        """Nothing is known without reading.

        Raises:
            OSError: Always.
        """
        raise OSError(errno.ENOTSUP, "size and time of remote files are not known", str(self))

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether the file is there."""
        try:
            self.read_bytes()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """True: what is not there is found out when it is read."""
        return True

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """True, as `is_dir`."""
        return True


def is_refused(error: Exception) -> bool:
    """Whether a server says that a file is not there, or may not be read."""
    return isinstance(error, FileNotFoundError | PermissionError) or getattr(error, "status", None) in _ABSENT


def path_of(text: str | Path) -> Path:
    """A path, or the `RemotePath` of a URL; also of one whose double slash was lost in a path."""
    scheme, colon, rest = str(text).partition(":/")
    return RemotePath(f"{scheme}:/{rest}") if colon and scheme in SCHEMES else Path(text)


def storage_options(scheme: str) -> dict[str, Any]:
    """Options of fsspec for a scheme; S3 is read anonymously where there are no credentials.

    A web server may be slow, but not silent: a transfer has no limit as long as something arrives.

    Raises:
        ModuleNotFoundError: If the library for S3 is not installed.
    """
    if scheme == "s3":
        return {"anon": _lacks_credentials()}
    timeout = import_module("aiohttp").ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
    return {"client_kwargs": {"timeout": timeout}}


@lru_cache
def _lacks_credentials() -> bool:
    import_module("s3fs")  # fsspec's own message names no extra of ours
    return import_module("botocore.session").get_session().get_credentials() is None
