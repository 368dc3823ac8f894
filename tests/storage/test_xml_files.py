"""Records and elements of XML are those that the whole tree has, wherever the blocks of the parser end."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from subcell_hf.errors import InputError
from subcell_hf.storage.xml_files import read_xml_elements, read_xml_records, text_of

NAMES = ("URL", "Row", "Empty")
IMAGE = (
    '<a:Image Version="1" a:Ch="{n}"> own {n} <a:Well><a:URL>inner</a:URL></a:Well><a:URL>\n r{n}&amp;é.tif </a:URL>'
    "<a:URL>second</a:URL><a:Row>{n}<a:Image><a:URL>nested</a:URL></a:Image>9</a:Row><a:Empty/>tail</a:Image>\n"
)


def _index(count: int) -> str:
    images = "".join(IMAGE.format(n=n) for n in range(count))
    return f'<a:Index xmlns:a="urn:a"><!-- <a:Image/> --><a:Images>{images}</a:Images></a:Index>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1"])
def test_records_and_elements_are_those_of_the_tree(tmp_path: Path, encoding: str) -> None:
    path, text = tmp_path / "index.xml", _index(2000)  # several blocks
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    path.write_bytes(f'<?xml version="1.0" encoding="{declared}"?>{text}'.encode(encoding))
    for element in (tree := ElementTree.fromstring(text)).iter():
        element.tag = element.tag.rpartition("}")[2]
    expected = list(tree[0])

    records = list(read_xml_records(path, {"Image": NAMES}))
    assert [record.attributes for record in records] == [{"Version": "1", "Ch": str(n)} for n in range(2000)]
    assert [record.text for record in records] == [(image.text or "").strip() for image in expected]
    assert [record.texts for record in records] == [
        {name: text_of(image, name) for name in NAMES} for image in expected
    ]

    elements = list(read_xml_elements(path, "Image"))
    assert [[(part.tag, part.text, part.tail) for part in element.iter()][1:] for element in elements] == [
        [(part.tag, part.text, part.tail) for part in image.iter()][1:] for image in expected
    ]


PLAIN = "\n <Image Version='{n}' Ch=\"c\" ><URL a='1'>r{n}.tif</URL> <Row>{n}</Row><Empty /></Image>"
ODD = [
    "<!-- <Image> --><Image><URL>x</URL></Image>",
    "<Image Version='1' Ch=\"c\" ><URL a='1'>r&#x31;.tif</URL> <Row><![CDATA[<Row>2</Row>]]></Row><Empty /></Image>",
    "<Image Version='1' Ch=\"&lt;\" ><URL a='1'>\r\n r.tif</URL> <Row>7</Row><Empty /></Image>",
    "<Image Version='1' Ch=\"a\tb\" ><URL a='1'>r.tif</URL> <Row>7<b/></Row><Empty /></Image>",
    "<Image/><Image Version='2' />",
    "<Other><Image ><URL>\u00a0é </URL></Image ></Other>",
    "<Image><URL>one</URL><Row><!-- </Image> --></Row></Image>",
]


@pytest.mark.parametrize("block", [7, 64, 2**18])
def test_records_that_follow_others_of_their_shape_are_those_of_the_tree(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subcell_hf.storage.xml_files._BLOCK_CHARACTERS", block)
    images = "".join(PLAIN.format(n=n) + (ODD[n // 5 % len(ODD)] if n % 5 == 4 else "") for n in range(100))
    path, text = tmp_path / "index.xml", f"<Index>{images}</Index>"
    path.write_bytes(text.encode())
    expected = list(ElementTree.fromstring(text).iter("Image"))

    records = list(read_xml_records(path, {"Image": NAMES}))

    assert [record.attributes for record in records] == [image.attrib for image in expected]
    assert [record.texts for record in records] == [
        {name: text_of(image, name) for name in NAMES if image.find(name) is not None} for image in expected
    ]


@pytest.mark.parametrize("broken", ["<Row>5</Rov>", "<Row>\x01</Row>", "<Row>a]]>b</Row>", "<Row>&no;</Row>", "<Row>"])
def test_a_damaged_record_behind_sound_ones_is_refused(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "index.xml"
    sound = "".join(PLAIN.format(n=n) for n in range(5))
    path.write_text(f"<Index>{sound}{PLAIN.replace('<Row>{n}</Row>', broken)}{sound}</Index>")
    with pytest.raises(InputError, match="is not complete XML"):
        list(read_xml_records(path, {"Image": NAMES}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE x [<!ENTITY a "b">]><Index><Image><URL>&a;</URL></Image></Index>', "declares <!DOCTYPE"),
        ("<Index><Image><URL>&a;</URL></Image></Index>", "is not complete XML"),
        ("<Index><Image><URL>a</URL></Image>", "is not complete XML"),
        ('<?xml version="1.0" encoding="utf-9"?><Index/>', "is not text in its declared encoding utf-9"),
    ],
)
def test_what_is_no_plain_xml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "index.xml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        list(read_xml_records(path, {"Image": NAMES}))
    with pytest.raises(InputError, match=message):
        list(read_xml_elements(path, "Image"))
