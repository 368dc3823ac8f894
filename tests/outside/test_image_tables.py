"""A row of a table that names one file for two channels, or one channel twice, is skipped with both named."""

import os
import unicodedata
from pathlib import Path

import pytest

from subcell_hf.images.fields_of_view import FieldError, ReadingOptions, find_fields
from tests.images.written_fields import COLOURS, label_mask, random_plane, write_hpa_field, write_png

OPTIONS = ReadingOptions(pixel_size_um=0.1)
HEADER = "r_image,y_image,b_image,g_image,mask,output_prefix\n"
GOOD = "a_red.png,a_yellow.png,a_blue.png,a_green.png,a_mask.png"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_hpa_field(tmp_path, "a")
    return tmp_path


def _problem(folder: Path, text: str) -> str:
    (folder / "list.csv").write_text(text)
    good, bad = find_fields(folder / "list.csv", OPTIONS)
    assert good.read().channels == COLOURS  # the other row is used
    with pytest.raises(FieldError) as caught:
        bad.read()
    return str(caught.value)


@pytest.mark.parametrize("spelt", ["a_yellow.png", "./a_yellow.png", "sub/../a_yellow.png", "link.png", "hard.png"])
def test_one_file_for_two_channels(folder: Path, spelt: str) -> None:
    (folder / "sub").mkdir()
    (folder / "link.png").symlink_to(folder / "a_yellow.png")
    os.link(folder / "a_yellow.png", folder / "hard.png")
    message = _problem(folder, f"{HEADER}{GOOD},0good\na_red.png,a_yellow.png,a_blue.png,{spelt},,1bad\n")
    assert "'1bad' has one file for yellow and green" in message
    assert "a_yellow.png" in message
    assert spelt.rpartition("/")[2] in message


def test_a_mask_is_no_channel(folder: Path) -> None:
    message = _problem(folder, f"{HEADER}{GOOD},0good\na_red.png,a_yellow.png,a_blue.png,a_mask.png,a_mask.png,1bad\n")
    assert "one file for green and mask" in message


def test_two_columns_for_one_channel(folder: Path) -> None:
    write_png(folder / "other.png", random_plane(9))
    header = HEADER.strip() + ",green\n"
    message = _problem(folder, f"{header}{GOOD},0good,\n{GOOD},1bad,other.png\n")
    assert "gives green in more than one column: g_image, green" in message


def test_two_columns_for_the_mask(folder: Path) -> None:
    write_png(folder / "labels.png", label_mask())
    header = HEADER.strip() + ",mask_image\n"
    message = _problem(folder, f"{header}{GOOD},0good,\n{GOOD},1bad,labels.png\n")
    assert "gives the mask in more than one column: mask, mask_image" in message


def test_in_folders_too(tmp_path: Path) -> None:
    write_hpa_field(tmp_path, "7_A1_1")
    (tmp_path / "7_A1_1_yellow.png").unlink()
    (tmp_path / "7_A1_1_yellow.png").symlink_to("7_A1_1_green.png")
    with pytest.raises(FieldError, match="one file for"):
        find_fields(tmp_path)[0].read()


def test_paths_of_a_table_are_found_in_either_spelling_of_accents(tmp_path: Path) -> None:
    stem = unicodedata.normalize("NFD", "café")
    write_hpa_field(tmp_path, stem)
    row = GOOD.replace("a_", "café_")
    (tmp_path / "list.csv").write_text(f"{HEADER}{row},x\n")
    (found,) = find_fields(tmp_path / "list.csv", OPTIONS)
    assert found.read().channels == COLOURS


def test_columns_in_capitals_are_colours(folder: Path) -> None:
    (folder / "t.csv").write_text(f"{HEADER.replace('r_', 'R_').replace('g_', 'Green_')}{GOOD},0good\n")
    assert find_fields(folder / "t.csv", OPTIONS)[0].read().channels == COLOURS
