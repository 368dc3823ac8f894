"""What a walk through a folder of images finds out, for all that list it."""

import os
from pathlib import Path

import pytest

from subcell_hf.images import find_fields
from subcell_hf.images.folder_contents import list_images, recognised_by_names
from subcell_hf.images.layouts.named_files import compile_pattern


def test_names_are_judged_by_their_shapes(tmp_path: Path) -> None:
    for name in ("A01_s1.tif", "B12_s9.tif", "notes.tif"):
        (tmp_path / name).touch()
    content = list_images(tmp_path)
    assert content.shapes == {"A00_s0.tif": 1, "B00_s0.tif": 1, "notes.tif": 1}
    assert recognised_by_names(content, compile_pattern(r"[B-P]\d\d_(?P<channel>s\d)\.tif")) is None  # one of three
    assert (
        recognised_by_names(content, compile_pattern(r"[A-P]\d\d_(?P<channel>s\d)\.tif")) == "names such as A01_s1.tif"
    )


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_one_file_for_two_channels_is_found_where_names_may_be_links(tmp_path: Path, link: object) -> None:
    (tmp_path / "800_A1_1_red.png").write_bytes(b"no picture")
    assert not list_images(tmp_path).linked
    assert callable(link)
    link(tmp_path / "800_A1_1_red.png", tmp_path / "800_A1_1_blue.png")
    assert list_images(tmp_path).linked == {str(tmp_path)}
    (field,) = find_fields(tmp_path)
    assert "has one file for" in (field.listed.problem or "")
