"""XML that other people wrote: in any encoding that it declares, without entities and document types."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from subcell_hf.errors import InputError

_BLOCK_CHARACTERS = 2**20
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_DECLARED = re.compile(rb"""^<\?xml[^>]*encoding=["']([A-Za-z0-9._-]+)["']""")
_TYPE = re.compile(r"<!(?:DOCTYPE|ENTITY)", re.IGNORECASE)


def read_xml_elements(path: Path, *names: str) -> Iterator[Element]:
    """The elements of some names in a file, each complete, as they come; memory does not grow with the file's elements.

    Names have no namespace, neither in the arguments nor in the result. A matching element inside another one is part
    of that element and is not yielded separately.

    Args:
        path: The file.
        names: Of the elements wanted.

    Raises:
        InputError: If the file is no XML, declares entities or a document type, or is not in the encoding it declares.
        OSError: If it cannot be opened.
    """
    return parse_xml_elements(_decode(path), path, *names)


def parse_xml_elements(text: str, path: Path, *names: str) -> Iterator[Element]:
    """As `read_xml_elements`, of a text without its XML declaration.

    Args:
        text: The XML.
        path: The file that holds it, for messages.
        names: Of the elements wanted.

    Raises:
        InputError: If it is no XML, or declares entities or a document type.
    """
    if declared := _TYPE.search(text):
        raise InputError(f"{path} declares {declared[0]}; files with such declarations are not read.")
    parser: Any = ElementTree.XMLPullParser(("start", "end"))
    above: list[Element] = []
    inside = 0
    try:
        for start in range(0, len(text), _BLOCK_CHARACTERS):
            parser.feed(text[start : start + _BLOCK_CHARACTERS])
            for event, element in parser.read_events():
                if event == "start":
                    element.tag = element.tag.rpartition("}")[2]
                    inside += element.tag in names
                    above.append(element)
                    continue
                above.pop()
                inside -= element.tag in names
                if not inside and element.tag in names:
                    yield element
                if not inside and above:
                    above[-1].remove(element)
        parser.close()
    except ElementTree.ParseError as error:
        raise InputError(f"{path} is not complete XML ({error}). Copy the file again from its source.") from error


def text_of(element: Element, *names: str) -> str:
    """The text of the first child of one of these names; empty where there is none."""
    for name in names:
        found = element.find(name)
        if found is not None and found.text:
            return found.text.strip()
    return ""


def _decode(path: Path) -> str:
    data = path.read_bytes()
    declared = _DECLARED.match(data[:200])
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    encoding = encoding or (declared[1].decode() if declared else "utf-8")
    try:
        text = data.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        raise InputError(
            f"{path} is not text in its declared encoding {encoding} ({error}). Copy the file again."
        ) from error
    return re.sub(r"^\s*<\?xml[^>]*\?>", "", text)
