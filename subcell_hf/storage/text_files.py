"""Text that other people wrote: unpacked by its content, whatever Unicode says at its beginning, or refused by name."""

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO

from subcell_hf.errors import InputError

_BLOCK_BYTES = 2**20
_LEAST_LIMIT_BYTES = 2**26
_MOST_PACKED_FOLD = 200
"""Text is packed 3- to 100-fold; what unpacks to more may be made to fill the memory."""

# Longer marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_text(path: Path) -> str:
    """The text of a file; see `decode_text`.

    Raises:
        InputError: If the file is damaged, or not text of a known encoding.
        OSError: If it cannot be opened.
    """
    return decode_text(path.read_bytes(), str(path))


def decode_text(content: bytes, where: str) -> str:
    """Decode the bytes of a text file, without a byte order mark and with Unix line endings.

    What gzip, bzip2, xz, Zstandard, or zip with one member have packed is unpacked, whatever the file is called. A byte
    order mark says which Unicode it is; without one it is UTF-8. No other encoding is guessed.

    Args:
        content: The bytes of the file.
        where: What to call it in messages.

    Raises:
        InputError: If they are damaged, or not text of a known encoding.
    """
    data = _unpack(content, where)
    encoding, start = next(((name, len(mark)) for mark, name in _MARKS if data.startswith(mark)), ("utf-8", 0))
    try:
        text = data[start:].decode(encoding).lstrip("\ufeff")  # some tools write the mark twice
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, start + error.start) + 1
        raise InputError(
            f"{where} is not UTF-8 (byte 0x{data[start + error.start]:02x} in line {line}). Save it again as UTF-8, "
            "which Excel calls CSV UTF-8."
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{where} holds bytes that are not text (NUL in line {line}). Save it again as text in UTF-8.")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _unpack(data: bytes, where: str) -> bytes:
    """The bytes, unpacked where the first of them say that they are packed."""
    unpack = next((unpack for magic, unpack in _PACKED.items() if data.startswith(magic)), None)
    if unpack is None:
        return data
    most, unpacked = max(_LEAST_LIMIT_BYTES, _MOST_PACKED_FOLD * len(data)), io.BytesIO()
    try:
        with unpack(io.BytesIO(data)) as stream:
            while block := stream.read(_BLOCK_BYTES):
                unpacked.write(block)
                if unpacked.tell() > most:
                    raise InputError(
                        f"{where} unpacks to more than {most:,} bytes from {len(data):,}, as text does not. If it is "
                        "what you think it is, unpack it first."
                    )
        return unpacked.getvalue()
    except InputError:
        raise
    except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split()).rstrip(".") or "it ends too early"
        raise InputError(
            f"{where} cannot be unpacked: {reason}. It is damaged or incomplete: copy it again."
        ) from error


def _unzip(file: BinaryIO) -> IO[bytes]:
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    if len(names) != 1:
        raise ValueError(f"a zip archive of {len(names)} files (as Excel's workbooks are), expected one text")
    return archive.open(names[0])


def _unzstd(file: BinaryIO) -> Any:
    import pyarrow as pa

    return pa.input_stream(file, compression="zstd")


_PACKED: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _unzstd,
    b"PK\x03\x04": _unzip,
}
