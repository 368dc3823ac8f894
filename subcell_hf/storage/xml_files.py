"""XML that other people wrote: in any encoding that it declares, without entities and document types.

Files are parsed block by block, and only what is asked for is kept: an index lists tens of thousands of images.
"""

import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from subcell_hf.errors import InputError

_BLOCK_CHARACTERS = 2**18
_HEAD_BYTES = 200
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_DECLARED = re.compile(rb"""^<\?xml[^>]*encoding=["']([A-Za-z0-9._-]+)["']""")


# Values as they are written, without what a parser would change or refuse.
_CONTROLS = r"\x00-\x1f\ufffe\uffff"
_TEXT = r"[^<>&\x00-\x08\x0b-\x1f\ufffe\uffff]*+"
_MARKUP = re.compile(r"(<(/?)([^\s<>/!?]+)[^<>]*?(/?)>)")
_VALUE = re.compile(r"""(["']).*?\1""")
_MOST_SHAPES = 8


class XmlRecord(NamedTuple):
    """An element of which only texts are wanted; they have no space around them.

    Attributes:
        tag: Its name.
        attributes: Name → value.
        text: Its own text, before any other element in it.
        texts: Name → text of the wanted elements directly in it, before any other element in them; the first of each.
    """

    tag: str
    attributes: dict[str, str]
    text: str
    texts: dict[str, str]


def read_xml_records(path: Path, wanted: Mapping[str, Collection[str]]) -> Iterator[XmlRecord]:
    """The elements of some names in a file as records, as they come; memory does not grow with the file.

    Names have no namespace, neither in the arguments nor in the result. A matching element inside another one is part
    of that element and is not yielded separately.

    Args:
        path: The file.
        wanted: Name of an element → names of the elements in it whose texts are wanted.

    Raises:
        InputError: If the file is no XML, declares entities or a document type, or is not in the encoding it declares.
        OSError: If it cannot be opened.
    """
    with _explained(path):
        yield from _read_records(_blocks_of(path), wanted)


def read_xml_elements(path: Path, *names: str) -> Iterator[Element]:
    """The elements of some names in a file, each complete, as they come; memory does not grow with their number.

    Names, of attributes as well, have no namespace, neither in the arguments nor in the result. A matching element
    inside another one is part of that element and is not yielded separately.

    Args:
        path: The file.
        names: Of the elements wanted.

    Raises:
        InputError: If the file is no XML, declares entities or a document type, or is not in the encoding it declares.
        OSError: If it cannot be opened.
    """
    found: list[Element] = []
    return _parse(_blocks_of(path), path, _element_parser(names, found), found)


def parse_xml_elements(text: str, path: Path, *names: str) -> Iterator[Element]:
    """As `read_xml_elements`, of a text.

    Args:
        text: The XML.
        path: The file that holds it, for messages.
        names: Of the elements wanted.

    Raises:
        InputError: If it is no XML, or declares entities or a document type.
    """
    found: list[Element] = []
    return _parse(iter((text,)), path, _element_parser(names, found), found)


def text_of(element: Element, *names: str) -> str:
    """The text of the first child of one of these names; empty where there is none."""
    for name in names:
        found = element.find(name)
        if found is not None and found.text:
            return found.text.strip()
    return ""


def _read_records(blocks: Iterator[str], wanted: Mapping[str, Collection[str]]) -> Iterator[XmlRecord]:
    """Parse records; those that follow directly on another, and are written like an earlier one, are not parsed."""
    found: list[XmlRecord] = []
    parser = _record_parser(wanted, found)
    opening = re.compile(rf"<((?:[^\s<>/:]+:)?(?:{'|'.join(map(re.escape, wanted))}))(?=[\s/>])")
    shapes: list[_Shape] = []
    tried, rest, is_behind_record = 0, "", False
    for block in blocks:
        text, place = rest + block, 0
        while True:
            before = -1
            while is_behind_record and before < place:
                before = place
                for shape in shapes:
                    place = shape.read(text, place, found)
            yield from found
            found.clear()
            start = opening.search(text, place)
            end = text.find(f"</{start[1]}>", place) if start else -1
            if start is None or end < 0:
                break
            last = end + len(start[1]) + 2
            parser.Parse(text[place:last])
            yield from found
            found.clear()
            parser.Parse(text[last : last + 1])
            is_behind_record, place = len(found) == 1, last + 1
            if is_behind_record and tried < _MOST_SHAPES:
                tried += 1
                shapes += filter(None, [_shape_of(text[start.start() : place], found[0], wanted[found[0].tag])])
            yield from found
            found.clear()
        rest = text[place:]
        if not is_behind_record or len(rest) > _BLOCK_CHARACTERS:
            parser.Parse(rest)
            yield from found
            found.clear()
            rest, is_behind_record = "", False
    parser.Parse(rest, True)
    yield from found


@dataclass(frozen=True)
class _Shape:
    """How a record is written, but for its values: what matches is well-formed, and needs no parser.

    Attributes:
        pattern: With a group for each value that is wanted.
        tag: Of the record.
        attributes: Names of its attributes, whose values are the first groups; its own text is the next.
        texts: Names of the elements whose texts are the other groups.
    """

    pattern: re.Pattern[str]
    tag: str
    attributes: Sequence[str]
    texts: Sequence[str]

    def read(self, text: str, place: int, found: list[XmlRecord]) -> int:
        """Append the records of this shape that follow each other from a place of a text; returns where they end."""
        match, own = self.pattern.match, len(self.attributes)
        while one := match(text, place):
            values, place = one.groups(), one.end()
            # Records without such elements are the most numerous.
            texts = dict(zip(self.texts, map(str.strip, values[own + 1 :]), strict=True)) if self.texts else {}
            said = dict(zip(self.attributes, values, strict=False))
            found.append(XmlRecord(self.tag, said, values[own].strip(), texts))
        return place


def _shape_of(text: str, record: XmlRecord, wanted: Collection[str]) -> _Shape | None:
    """The shape of a record, given as it is written and as it was parsed; None where it is not plain elements."""
    pattern, texts, depth = r"[ \t\r\n]*+", list[str](), 0
    for tag, closing, name, empty in _MARKUP.findall(text):
        plain, is_root, written = name.rpartition(":")[2], not (depth or closing), re.escape(tag)
        pattern += _VALUE.sub(_pattern_of_value, written) if is_root else written
        is_wanted = not closing and depth == 1 and plain in wanted and plain not in texts
        texts += [plain] if is_wanted else []
        depth += 0 if empty else -1 if closing else 1
        if is_wanted and empty:
            pattern += f"(){_TEXT}"
        elif depth:
            pattern += f"({_TEXT})" if is_root or is_wanted else _TEXT
    shape = _Shape(re.compile(pattern), record.tag, [*record.attributes], texts)
    alone: list[XmlRecord] = []
    try:
        _record_parser({record.tag: wanted}, alone).Parse(text, True)
    except expat.ExpatError:
        return None
    again: list[XmlRecord] = []
    is_whole = shape.read(text, 0, again) == len(text)
    return shape if is_whole and again == alone == [record] else None


def _pattern_of_value(written: re.Match[str]) -> str:
    """A group for the value of an attribute, whatever it is."""
    quote = written[1]
    return f"{quote}([^<&{quote}{_CONTROLS}]*+){quote}"


class _PlainNames(dict[str, str]):
    """A name as it is written → the name without its prefix."""

    def __missing__(self, name: str) -> str:
        self[name] = name.rpartition(":")[2]
        return self[name]


class _Children(dict[str, str | None]):
    """The name of an element as it is written → without its prefix where its text is wanted, else None."""

    def __init__(self, wanted: Collection[str]):
        super().__init__()
        self._wanted = wanted

    def __missing__(self, name: str) -> str | None:
        plain = name.rpartition(":")[2]
        self[name] = plain if plain in self._wanted else None
        return self[name]


def _record_parser(wanted: Mapping[str, Collection[str]], found: list[XmlRecord]) -> Any:
    """A parser that appends records; between them it calls nothing but `outside`."""
    parser, plain = _new_parser(), _PlainNames()
    children = {name: _Children(names) for name, names in wanted.items()}
    kept: Mapping[str, str | None] = {}
    tag, said, texts, parts = "", dict[str, str](), dict[str, str](), list[str]()
    # How many elements are open within the record, and the one whose text the parts are; the record's own is ''.
    depth = 0
    current: str | None = None

    def outside(name: str, attributes: dict[str, str]) -> None:
        nonlocal kept, tag, said, texts, current
        tag = plain[name]
        if tag in children:
            kept, current, texts = children[tag], "", {}
            said = {plain[name]: value for name, value in attributes.items()}
            parser.StartElementHandler, parser.EndElementHandler = inside, end
            parser.CharacterDataHandler = parts.append

    def inside(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, current
        if current is not None:
            texts.setdefault(current, "".join(parts).strip())
        depth += 1
        current = kept[name] if depth == 1 else None
        parts.clear()

    def end(name: str) -> None:
        nonlocal depth, current
        if current is not None:
            texts.setdefault(current, "".join(parts).strip())
            current = None
        if depth:
            depth -= 1
        else:
            parts.clear()
            found.append(XmlRecord(tag, said, texts.pop(""), texts))
            parser.StartElementHandler, parser.EndElementHandler = outside, None
            parser.CharacterDataHandler = None

    parser.StartElementHandler = outside
    return parser


def _element_parser(names: Collection[str], found: list[Element]) -> Any:
    """A parser that appends whole elements."""
    parser, plain = _new_parser(), _PlainNames()
    builder: Any = None
    depth = 0

    def outside(name: str, attributes: dict[str, str]) -> None:
        nonlocal builder
        if plain[name] in names:
            builder = TreeBuilder()
            parser.StartElementHandler, parser.EndElementHandler = inside, end
            parser.CharacterDataHandler = builder.data
            inside(name, attributes)

    def inside(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        builder.start(plain[name], {plain[name]: value for name, value in attributes.items()})

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(plain[name])
        if not depth:
            found.append(builder.close())
            parser.StartElementHandler, parser.EndElementHandler = outside, None
            parser.CharacterDataHandler = None

    parser.StartElementHandler = outside
    return parser


def _new_parser() -> Any:
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse
    return parser


def _refuse(*_: object) -> None:
    raise _DoctypeError


class _DoctypeError(Exception):
    """A file declares a document type."""


def _parse(blocks: Iterator[str], path: Path, parser: Any, found: list[Element]) -> Iterator[Element]:
    """Feed a parser, and yield what it finds."""
    with _explained(path):
        for block in blocks:
            parser.Parse(block)
            yield from found
            found.clear()
        parser.Parse("", True)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except _DoctypeError as error:
        raise InputError(f"{path} declares <!DOCTYPE; files with such declarations are not read.") from error
    except expat.ExpatError as error:
        raise InputError(f"{path} is not complete XML ({error}). Copy the file again from its source.") from error


def _blocks_of(path: Path) -> Iterator[str]:
    """The text of a file; space before its declaration, which XML does not allow, is left out."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        file.seek(0)
        declared = _DECLARED.match(head)
        encoding = next((name for mark, name in _MARKS if head.startswith(mark)), None)
        encoding = encoding or (declared[1].decode() if declared else "utf-8")
        try:
            text = io.TextIOWrapper(file, encoding, newline="\n")  # the parser itself knows ends of lines
            start = text.read(_BLOCK_CHARACTERS)
            yield re.sub(r"^\s*(?=<\?xml)", "", start)
            while block := text.read(_BLOCK_CHARACTERS):
                yield block
        except (UnicodeError, LookupError) as error:
            raise InputError(
                f"{path} is not text in its declared encoding {encoding} ({error}). Copy the file again."
            ) from error
