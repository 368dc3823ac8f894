"""Damage to files: blind (bits, bytes, blocks) and by the format's own structure (headers, trees, members).

Every function takes the sound bytes and a generator of random numbers and returns damaged ones; the same generator
gives the same damage.
"""

import base64
import binascii
import gzip
import io
import json
import os
import pickle
import random
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

Random = random.Random

SECRET = "canary-secret"
"""Name of a file outside of every case: whoever opens it was led out of the folder."""

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"
EXTREMES = (0, 1, -1, 2, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
JSON_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 10**9, 2**31, 2**63, 2**64, 10**30, 0.5, -0.5, 1e-300, 1e300, float("nan"),
    float("inf"), "", "x", "../" + SECRET, f"../{SECRET}.safetensors", "pipe:touch canary-pipe", "é\u0000", "0", "1.0",
    "x" * 10_000, [], [[]], [0] * 1000, {}, {"x": None}, [1, "two", None], {"a": {"b": {"c": []}}},
)  # fmt: skip


class Canary:
    """Unpickled, it makes a folder: the proof that code of a file was run."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.marker,)


def canary_marker() -> str:
    """Where an unpickled canary makes its folder."""
    return os.environ.get("SUBCELL_FUZZ_CANARY", "canary-was-run")


def mutate(name: str, data: bytes, rng: Random) -> bytes:
    """Damage a file by the format that its name announces, or blindly.

    Args:
        name: The file's name.
        data: Its sound bytes.
        rng: Decides on the damage.
    """
    structural = next((damage for ending, damage in _BY_ENDING.items() if name.lower().endswith(ending)), None)
    if structural is not None and rng.random() < 0.65:
        try:
            return structural(data, rng)
        except Exception:  # damaged before, so that its structure can no longer be read
            return mutate_bytes(data, rng)
    return mutate_bytes(data, rng)


def mutate_bytes(data: bytes, rng: Random) -> bytes:
    """One to four kinds of blind damage."""
    if rng.random() < 0.06:
        return rng.choice((
            b"", b"\0" * min(len(data), 4096), LFS_POINTER, b"<!DOCTYPE html><html><body>404</body></html>",
            pickle.dumps(Canary(canary_marker())), b"\x80\x05", rng.randbytes(100), data + data,
        ))  # fmt: skip
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        content = rng.choice(_BLIND)(content, rng)
    return bytes(content)


def _place(content: bytearray, rng: Random) -> int:
    # Headers and footers decide more than pixels do.
    if not content:
        return 0
    where = rng.random()
    size = len(content)
    if where < 0.4:
        return rng.randrange(min(size, 512))
    if where < 0.55:
        return size - 1 - rng.randrange(min(size, 512))
    return rng.randrange(size)


def _flip(content: bytearray, rng: Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 8))):
        if content:
            content[_place(content, rng)] ^= 1 << rng.randrange(8)
    return content


def _set_byte(content: bytearray, rng: Random) -> bytearray:
    if content:
        content[_place(content, rng)] = rng.choice((0, 255, 127, 128, rng.randrange(256)))
    return content


def _truncate(content: bytearray, rng: Random) -> bytearray:
    return content[: _place(content, rng)]


def _zero_block(content: bytearray, rng: Random) -> bytearray:
    start, length = _place(content, rng), rng.choice((4, 16, 64, 512))
    content[start : start + length] = bytes(min(length, max(0, len(content) - start)))
    return content


def _insert(content: bytearray, rng: Random) -> bytearray:
    start = _place(content, rng)
    content[start:start] = rng.randbytes(rng.choice((1, 2, 8, 100)))
    return content


def _delete(content: bytearray, rng: Random) -> bytearray:
    start = _place(content, rng)
    del content[start : start + rng.choice((1, 2, 8, 100))]
    return content


def _duplicate(content: bytearray, rng: Random) -> bytearray:
    start, length = _place(content, rng), rng.choice((2, 16, 256))
    content[start:start] = content[start : start + length]
    return content


def _swap(content: bytearray, rng: Random) -> bytearray:
    one, other, length = _place(content, rng), _place(content, rng), rng.choice((1, 4, 32))
    block = content[one : one + length]
    content[one : one + length] = content[other : other + length]
    content[other : other + len(block)] = block
    return content


def _set_number(content: bytearray, rng: Random) -> bytearray:
    """An integer, as headers have them, becomes an extreme one."""
    width, order = rng.choice((2, 4, 4, 8)), rng.choice(("little", "big"))
    start = _place(content, rng) // 2 * 2
    value = rng.choice(EXTREMES) % 2 ** (8 * width)
    content[start : start + width] = value.to_bytes(width, order)
    return content


_BLIND: tuple[Callable[[bytearray, Random], bytearray], ...] = (
    _flip, _flip, _set_byte, _truncate, _zero_block, _insert, _delete, _duplicate, _swap, _set_number,
)  # fmt: skip


# ---- Pictures ----


def mutate_png(data: bytes, rng: Random) -> bytes:
    """Chunks with right checksums and wrong content."""
    chunks, position = [], 8
    while position + 8 <= len(data):
        (length,), kind = struct.unpack(">I", data[position : position + 4]), data[position + 4 : position + 8]
        chunks.append([kind, data[position + 8 : position + 8 + length]])
        position += 12 + length
    choice = rng.randrange(6)
    if choice <= 1:
        header = list(struct.unpack(">IIBBBBB", chunks[0][1]))
        field = rng.randrange(7)
        header[field] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255, 100_000, 2**31 - 1)) % 2 ** (32 if field < 2 else 8)
        chunks[0][1] = struct.pack(">IIBBBBB", *header)
    elif choice == 2:
        chunks.insert(rng.randrange(len(chunks) + 1), list(rng.choice(chunks)))
    elif choice == 3:
        del chunks[rng.randrange(len(chunks))]
    elif choice == 4:
        rng.shuffle(chunks)
    else:
        chunk = rng.choice(chunks)
        chunk[1] = mutate_bytes(chunk[1], rng)
    lie = rng.choice((0, 0, 0, 1, 2**31 - 1))
    parts = [data[:8]]
    for kind, content in chunks:
        crc = binascii.crc32(kind + content)
        parts.append(struct.pack(">I", (len(content) + lie) % 2**32) + kind + content + struct.pack(">I", crc))
    return b"".join(parts)


def mutate_tiff(data: bytes, rng: Random) -> bytes:
    """Entries of the directories: tag, type, count or value; chains of directories; the description."""
    content = bytearray(data)
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    head, count_kind, entry_bytes, word = (8, "Q", 20, "Q") if big else (4, "H", 12, "I")
    (offset,) = struct.unpack_from(order + word, data, head)
    directories = []
    while 0 < offset < len(data) and len(directories) < 20:
        (count,) = struct.unpack_from(order + count_kind, data, offset)
        start = offset + struct.calcsize(count_kind)
        directories.append((offset, start, count))
        offset = struct.unpack_from(order + word, data, start + count * entry_bytes)[0]
    offset, start, count = rng.choice(directories)
    entry = start + rng.randrange(count) * entry_bytes
    choice = rng.randrange(7)
    wide = struct.calcsize(word)
    if choice == 0:
        struct.pack_into(order + "H", content, entry, rng.choice((256, 257, 258, 259, 262, 273, 277, 278, 279, 322, 0)))
    elif choice == 1:
        struct.pack_into(order + "H", content, entry + 2, rng.choice((0, 1, 2, 3, 4, 5, 7, 11, 12, 13, 16, 99, 65535)))
    elif choice == 2:
        struct.pack_into(order + word, content, entry + 4, rng.choice(EXTREMES) % 2 ** (8 * wide))
    elif choice <= 4:
        struct.pack_into(order + word, content, entry + 4 + wide, rng.choice((*EXTREMES, offset)) % 2 ** (8 * wide))
    elif choice == 5:
        struct.pack_into(
            order + word,
            content,
            start + count * entry_bytes,
            rng.choice((offset, 1, 8, len(data), len(data) + 99, 2**31)),
        )
    else:
        for number in range(count):
            place = start + number * entry_bytes
            if struct.unpack_from(order + "H", content, place)[0] == 270:
                length = struct.unpack_from(order + word, content, place + 4)[0]
                where = struct.unpack_from(order + word, content, place + 4 + wide)[0]
                text = mutate_text(bytes(content[where : where + length]).rstrip(b"\0"), rng) + b"\0"
                struct.pack_into(order + word, content, place + 4, len(text))
                struct.pack_into(order + word, content, place + 4 + wide, len(content))
                content += text
    return bytes(content)


def mutate_npy(data: bytes, rng: Random) -> bytes:
    """The header's text, or objects in place of numbers."""
    if rng.random() < 0.15:
        file = io.BytesIO()
        np.save(file, np.array([[Canary(canary_marker())]], dtype=object), allow_pickle=True)
        return file.getvalue()
    length = struct.unpack("<H", data[8:10])[0]
    header = mutate_text(data[10 : 10 + length], rng)[:65000]
    if rng.random() < 0.5:
        header = header.ljust(length)[:length]
    return data[:8] + struct.pack("<H", len(header)) + header + data[10 + length :]


def mutate_gzip(inner: str) -> Callable[[bytes, Random], bytes]:
    """Damage inside of a sound gzip stream, or a stream of endless zeros."""

    def damage(data: bytes, rng: Random) -> bytes:
        if rng.random() < 0.1:
            return gzip.compress(bytes(300_000_000), 1)
        return gzip.compress(mutate(inner, gzip.decompress(data), rng), 1)

    return damage


# ---- Text ----

_NUMBERS = ("0", "-1", "1e999", "nan", "99999999999", "9" * 5000, "", "0x10", "1,5", "٣", "1e-320", "⅓")
_WORDS = ("", "None", "nan", f"../{SECRET}", "x" * 5000, "é", "\u202e", "=cmd()", "|O", "O8", "NULL")
XML_BOMB = (
    '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "lollollollollol">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 12}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + f'<!ENTITY secret SYSTEM "../{SECRET}">]>'
)


def mutate_text(data: bytes, rng: Random) -> bytes:
    """Numbers, words, lines and encodings of any text."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return mutate_bytes(data, rng)
    choice = rng.randrange(14)
    if choice <= 2:
        numbers = list(re.finditer(r"-?\d+(\.\d+)?", text))
        if numbers:
            match = rng.choice(numbers)
            value = rng.choice(
                ("0", "-1", "1e999", "nan", "99999999999", "9" * 5000, "", "0x10", "1,5", "٣", "1e-320", "⅓")
            )
            text = text[: match.start()] + value + text[match.end() :]
    elif choice <= 4:
        words = list(re.finditer(r"[A-Za-z_]{2,}", text))
        if words:
            match = rng.choice(words)
            value = rng.choice(
                ("", "None", "nan", f"../{SECRET}", "x" * 5000, "é", "\u202e", "=cmd()", "|O", "O8", "NULL")
            )
            text = text[: match.start()] + value + text[match.end() :]
    elif choice == 5:
        lines = text.splitlines(keepends=True)
        rng.shuffle(lines)
        text = "".join(lines)
    elif choice == 6:
        lines = text.splitlines(keepends=True)
        line = rng.randrange(len(lines)) if lines else 0
        lines[line:line] = lines[line : line + 1] * rng.choice((1, 2, 100))
        text = "".join(lines)
    elif choice == 7:
        place = rng.randrange(len(text) + 1)
        text = text[:place] + rng.choice("\0\"',;\n\r\t<&{[)\ufeff") + text[place:]
    elif choice == 8:
        return rng.choice((
            b"\xef\xbb\xbf" + data, text.encode("utf-16"), text.encode("utf-16-le"), data + b"\xff\xfe",
            text.encode("cp1252", "replace") + "é".encode("cp1252"), text.replace("\n", "\r").encode(),
        ))  # fmt: skip
    elif choice == 9:
        text = text.replace(",", rng.choice((";", "\t", "|", ",,")))
    elif choice == 10:
        text = XML_BOMB + re.sub(r"^<\?xml.*?\?>", "", text).replace("</", rng.choice(("&i;", "&secret;")) + "</", 1)
    elif choice == 11:
        text = text[: rng.randrange(len(text) + 1)]
    elif choice == 12:
        text += text
    else:
        return mutate_bytes(data, rng)
    return text.encode(errors="surrogatepass")


def mutate_tree(value: Any, rng: Random) -> Any:
    """One change somewhere in nested lists and mappings."""
    places: list[tuple[Any, Any]] = []
    seen: set[int] = set()

    def walk(node: Any) -> None:
        if id(node) in seen or not isinstance(node, dict | list):
            return  # a YAML bomb holds the same list again and again
        seen.add(id(node))
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            places.append((node, key))
            walk(child)

    walk(value)
    if not places or rng.random() < 0.05:
        return rng.choice(JSON_VALUES)
    node, key = rng.choice(places)
    choice = rng.randrange(6)
    if choice == 0:
        del node[key]
    elif choice == 1 and isinstance(node, dict):
        node[rng.choice(("extra", "", "__class__", "auto_map", key + "_", "format"))] = rng.choice(JSON_VALUES)
    elif choice == 2 and isinstance(node, list):
        node.insert(rng.randrange(len(node) + 1), rng.choice((*JSON_VALUES, node[key])))
    elif choice == 3:
        other, place = rng.choice(places)
        if isinstance(other, dict | list) and (place in other if isinstance(other, dict) else place < len(other)):
            node[key] = json.loads(json.dumps(other[place]))
    else:
        node[key] = rng.choice(JSON_VALUES)
    return value


def mutate_json(data: bytes, rng: Random) -> bytes:
    """The tree, its text, or what no tree can say: deep nesting, long numbers, names that occur twice."""
    choice = rng.randrange(10)
    if choice == 0:
        return mutate_text(data, rng)
    if choice == 1:
        return rng.choice((
            b"[" * 100_000, b'{"a":' * 50_000, b"9" * 6000, b'"\\ud800"', b"null", b"[]", b"{}", b'"text"', b"NaN",
            data.replace(b"{", b'{"\\ud800": 1, ', 1), data.replace(b"{", b'{"model_type": "vit", ', 1),
        ))  # fmt: skip
    tree = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = mutate_tree(tree, rng)
    return json.dumps(tree).encode()


def mutate_yaml(data: bytes, rng: Random) -> bytes:
    """The tree, its text, or YAML's own: tags that run code, aliases that multiply, aliases of themselves."""
    choice = rng.randrange(10)
    if choice <= 1:
        return mutate_text(data, rng)
    if choice == 2:
        bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        )
        tag = f"!!python/object/apply:os.mkdir [{canary_marker()}]"
        return rng.choice((
            bomb.encode() + data, data + bomb.encode(), tag.encode(), data + f"\nextra: {tag}\n".encode(),
            b"&a [*a]", b"a: &a {b: *a}\n", b"[" * 5000, b"- " * 5000, b"", b"--- 1\n--- 2\n", b"? [a]\n: 1\n",
            b"1: 2\n",
        ))  # fmt: skip
    tree = yaml.safe_load(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = mutate_tree(tree, rng)
    return yaml.safe_dump(tree, sort_keys=False).encode(errors="surrogatepass")


# ---- Containers ----


def mutate_zip(data: bytes, rng: Random) -> bytes:
    """Members with right checksums and wrong content, names or order."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    number = rng.randrange(len(members))
    name, content = members[number]
    choice = rng.randrange(8)
    if choice <= 1:
        members[number] = (name, mutate(name, content, rng))
    elif choice == 2:
        pickled = next((n for n, (name, _) in enumerate(members) if name.endswith(".pkl")), number)
        members[pickled] = (members[pickled][0], pickle.dumps(Canary(canary_marker())))
    elif choice == 3:
        largest = max(range(len(members)), key=lambda n: len(members[n][1]))
        name, content = members[largest]
        members[largest] = (name, content[:-4] + rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\xff\xff")))
    elif choice == 4:
        del members[number]
    elif choice == 5:
        members[number] = (rng.choice(("../" + name, "/tmp/" + name, name + "x", "", "data.pkl")), content)
    elif choice == 6:
        pickled = next((n for n, (name, _) in enumerate(members) if name.endswith(".pkl")), number)
        members[pickled] = (members[pickled][0], mutate_bytes(members[pickled][1], rng))
    else:
        rng.shuffle(members)
    file = io.BytesIO()
    with zipfile.ZipFile(
        file, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def mutate_safetensors(data: bytes, rng: Random) -> bytes:
    """The header's tree with a right length, or numbers that are none."""
    (length,) = struct.unpack("<Q", data[:8])
    header, tensors = data[8 : 8 + length], bytearray(data[8 + length :])
    if rng.random() < 0.3:
        place = rng.randrange(len(tensors) // 4) * 4
        tensors[place : place + 4] = rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\xff" * 4))
    else:
        header = mutate_json(header, rng)
    return struct.pack("<Q", len(header)) + header + bytes(tensors)


def mutate_tar(data: bytes, rng: Random) -> bytes:
    """Members that lead elsewhere, are links or devices, or whose sizes lie."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = [(info, archive.extractfile(info).read()) for info in archive if info.isreg()]
    number = rng.randrange(len(members))
    info, content = members[number]
    choice = rng.randrange(7)
    if choice == 0:
        info.name = rng.choice((f"../{SECRET}", "/tmp/x", info.name + ".pyd", "x" * 90, info.name.replace(".", "..")))
    elif choice == 1:
        info.type, info.linkname = rng.choice((tarfile.SYMTYPE, tarfile.LNKTYPE)), f"../{SECRET}"
        members[number] = (info, b"")
    elif choice == 2:
        info.type = rng.choice((tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE))
        members[number] = (info, b"")
    elif choice == 3:
        members[number] = (info, mutate(info.name, content, rng))
    elif choice == 4:
        del members[number]
    elif choice == 5:
        members.insert(number, (info, pickle.dumps(Canary(canary_marker()))))
    else:
        rng.shuffle(members)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def mutate_body(data: bytes, rng: Random) -> bytes:
    """A request: its tree, or a file in it."""
    tree = json.loads(data)
    if rng.random() < 0.5:
        return mutate_json(data, rng)
    cell = tree["inputs"] if isinstance(tree["inputs"], dict) else rng.choice(tree["inputs"])
    name = rng.choice([name for name, value in cell.items() if isinstance(value, str)])
    content = base64.b64decode(cell[name])
    ending = {b"\x89P": ".png", b"\x93N": ".npy"}.get(content[:2], ".tif")
    cell[name] = base64.b64encode(mutate("x" + ending, content, rng)).decode()
    return json.dumps(tree).encode()


_BY_ENDING: dict[str, Callable[[bytes, Random], bytes]] = {
    ".csv.gz": mutate_gzip("x.csv"),
    ".tif.gz": mutate_gzip("x.tif"),
    ".png": mutate_png,
    ".tif": mutate_tiff,
    ".tiff": mutate_tiff,
    ".npy": mutate_npy,
    ".body.json": mutate_body,
    ".json": mutate_json,
    ".zattrs": mutate_json,
    ".zarray": mutate_json,
    ".zgroup": mutate_json,
    ".yaml": mutate_yaml,
    ".csv": mutate_text,
    ".tsv": mutate_text,
    ".pth": mutate_zip,
    ".npz": mutate_zip,
    ".safetensors": mutate_safetensors,
    ".tar": mutate_tar,
}


def mutate_folder(folder: Path, spared: frozenset[str], rng: Random) -> str:
    """Damage one to three files of a folder, or what lies under a name; says what was done."""
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in spared)
        if not files:
            break
        path = rng.choice(files)
        damage = rng.random()
        if damage < 0.03:
            path.unlink()
            done.append(f"{path.name} removed")
        elif damage < 0.045:
            path.unlink()
            path.symlink_to(folder / "nowhere")
            done.append(f"{path.name} a link to nowhere")
        elif damage < 0.06:
            path.unlink()
            path.mkdir()
            done.append(f"{path.name} a folder")
        elif damage < 0.075:
            path.write_bytes(rng.choice(files).read_bytes())
            done.append(f"{path.name} with another file's content")
        else:
            path.write_bytes(mutate(path.name, path.read_bytes(), rng))
            done.append(f"{path.name} mutated")
    return ", ".join(done)
