"""Names that are not UTF-8, spell accents in two ways, or say the channel and the kind of file in other ways."""

import gzip
import io
import os
import unicodedata
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from subcell_hf.cells.cropping import CropSettings, crop_fields
from subcell_hf.images.fields_of_view import FieldError, ReadingOptions, find_fields
from tests.images.written_fields import random_plane, write_hpa_field, write_png
from tests.inference.embedding_runs import run, save_tiny_model

NFC, NFD = (unicodedata.normalize(form, "Küche_A1_1") for form in ("NFC", "NFD"))
SMALL = CropSettings(crop_px=32, output_px=16)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A sound field, a field with Latin-1 names, and a folder with such a name."""
    folder = tmp_path / "in"
    for name in ("7_A1_1", "7_A2_1"):
        write_hpa_field(folder, name)
    for path in folder.glob("7_A2_1_*"):
        path.rename(os.fsdecode(os.fsencode(path).replace(b"7_A2_1", b"caf\xe9_A2_1")))
    write_hpa_field(folder / "plate", "7_A3_1")
    (folder / "plate").rename(os.fsdecode(os.fsencode(folder) + b"/pl\xe4te"))
    return folder


def test_names_that_are_no_utf8_are_skipped_legibly(broken: Path, tmp_path: Path) -> None:
    for _ in range(2):  # and again, where the first run left its files
        report = crop_fields(broken, tmp_path / "out", settings=SMALL, progress=False)
        assert report.fields == 1
        assert set(report.skipped) == {"caf\\xe9_A2_1", "pl\\xe4te"}
    text = (tmp_path / "out/skipped.csv").read_text(encoding="utf-8")
    assert "is not UTF-8. Rename it" in text


def test_embedding_goes_on_without_them(broken: Path, tmp_path: Path) -> None:
    report = run(broken, save_tiny_model(tmp_path / "model"), tmp_path / "out")
    assert report.cells == 2
    assert {name for name, _ in report.skipped} == {"caf\\xe9_A2_1", "pl\\xe4te"}


def test_an_input_with_such_a_name_is_refused_in_a_sentence(broken: Path) -> None:
    (folder,) = [path for path in broken.iterdir() if path.is_dir()]
    with pytest.raises(FieldError, match=r"pl.xe4te is not UTF-8"):
        find_fields(folder)


@pytest.mark.parametrize(("on_disk", "in_table"), [(NFD, NFC), (NFC, NFD), (NFD, NFD)])
def test_metadata_find_their_field_however_accents_are_spelt(tmp_path: Path, on_disk: str, in_table: str) -> None:
    write_hpa_field(tmp_path, on_disk)
    (tmp_path / "metadata.csv").write_text(f"field_of_view,antibody,pixel_size_um\n{in_table},X,0.1\n")
    (found,) = find_fields(tmp_path)
    assert (found.name, found.read().metadata["antibody"]) == (NFC, "X")


def test_boxes_find_it_too(tmp_path: Path) -> None:
    write_hpa_field(tmp_path / "in", NFD, with_mask=False)
    (tmp_path / "in/metadata.csv").write_text(f"field_of_view,pixel_size_um\n{NFD},0.1\n")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(f"field_of_view,cell_id,top,left,height,width\n{NFD},5,10,10,20,20\n")
    report = crop_fields(tmp_path / "in", tmp_path / "out", settings=SMALL, boxes=boxes, progress=False)
    assert (report.cells, report.skipped) == (1, {})


def test_channels_and_masks_of_one_field_may_be_spelt_differently(tmp_path: Path) -> None:
    write_hpa_field(tmp_path, NFD)
    (tmp_path / f"{NFD}_mask.png").rename(tmp_path / f"{NFC}_mask.png")
    (tmp_path / f"{NFD}_red.png").rename(tmp_path / f"{NFC}_red.png")
    (found,) = find_fields(tmp_path)
    assert len(found.files) == 5


def test_one_channel_in_both_spellings_is_there_twice(tmp_path: Path) -> None:
    write_hpa_field(tmp_path, NFD)
    write_png(tmp_path / f"{NFC}_red.png", random_plane(9))
    with pytest.raises(FieldError, match="more than one file for red"):
        find_fields(tmp_path)[0].read()


@pytest.mark.parametrize("name", ["a-blue.tif", "a.blue.tif", "blue_a.tif", "blue/a.tif"])
def test_a_file_of_one_channel_says_how_it_is_to_be_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    tifffile.imwrite(tmp_path / name, random_plane(1))
    with pytest.raises(FieldError, match=r"one channel, and nothing says which.*name the files <field of view>_<chan"):
        find_fields(tmp_path)[0].read()


@pytest.mark.parametrize("suffix", [".png.gz", ".npy.gz", ".ome.tif.gz", ".PNG.GZ"])
def test_packed_images_of_any_kind_are_listed(tmp_path: Path, suffix: str) -> None:
    plane = random_plane(1)
    content = io.BytesIO()
    if ".npy" in suffix:
        np.save(content, plane)
    elif ".tif" in suffix:
        tifffile.imwrite(content, plane)
    else:
        content.write(imagecodecs.png_encode(plane))
    (tmp_path / f"800_A6_1_green{suffix}").write_bytes(gzip.compress(content.getvalue()))
    (field,) = find_fields(tmp_path)
    np.testing.assert_array_equal(field.read().pixels[0], plane)


@pytest.mark.parametrize(("first", "second"), [("DAPI", "GFP"), ("Hoechst", "H33342"), ("w1", "w2"), ("ch00", "ch01")])
def test_other_names_of_channels(tmp_path: Path, first: str, second: str) -> None:
    for number, name in enumerate((first, second)):
        write_png(tmp_path / f"x_{name.lower()}.png", random_plane(number))
    for found in find_fields(tmp_path, ReadingOptions(pixel_size_um=0.1)):
        with pytest.raises(FieldError, match=r"map your names of channels \(--channel-mapping"):
            found.read()
    options = ReadingOptions(channel_mapping={first: "blue", second: "green"}, pixel_size_um=0.1)
    (found,) = find_fields(tmp_path, options)
    assert (found.name, found.read().channels) == ("x", ("blue", "green"))


def test_names_of_channels_that_differ_in_case_alone(tmp_path: Path) -> None:
    for number, name in enumerate(("c1", "C1")):
        write_png(tmp_path / f"x_{name}.png", random_plane(number))
    (found,) = find_fields(tmp_path, ReadingOptions(channel_mapping={"C1": "blue", "c1": "green"}, pixel_size_um=0.1))
    np.testing.assert_array_equal(found.read().pixels, [random_plane(1), random_plane(0)])
