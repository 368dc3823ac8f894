"""Folders as other systems and programs leave them: no image by mistake, and none is passed by silently."""

import csv
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from subcell_hf.cells.cropping import CropSettings, crop_fields
from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.images.fields_of_view import FieldError, FoundFields, ReadingOptions, list_fields
from subcell_hf.inference.sources.source_options import SourceOptions
from tests.images.written_fields import label_mask, random_plane, write_hpa_field, write_png
from tests.inference.embedding_runs import run, save_tiny_model

SMALL = CropSettings(crop_px=32, output_px=16)
STACKS = ReadingOptions(channel_names=("blue", "green"), pixel_size_um=0.1)


def _write_stack(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.stack([random_plane(seed), random_plane(seed + 1)]), photometric="minisblack")


def _problems(found: FoundFields) -> dict[str, str]:
    problems = {}
    for field in found.fields:
        try:
            field.read()
        except FieldError as error:
            problems[field.name] = str(error)
    return problems


@pytest.mark.parametrize(
    "leftover",
    [
        "@eaDir/7_A1_1_blue.png/SYNOPHOTO_THUMB_M.jpg",
        "@eaDir/7_A1_1_blue.png",
        ".thumbnails/7_A1_1_blue.png",
        "__MACOSX/7_A1_1_blue.png",
        "._7_A1_1_blue.png",
        ".ipynb_checkpoints/7_A1_1_blue.png",
        "#recycle/7_A1_1_blue.png",
        "#snapshot/day/7_A1_1_blue.png",
        ".snapshot/7_A1_1_blue.png",
        "$RECYCLE.BIN/7_A1_1_blue.png",
        "Thumbs.db",
        ".DS_Store",
    ],
)
def test_system_files_are_ignored(tmp_path: Path, leftover: str) -> None:
    write_hpa_field(tmp_path, "7_A1_1")
    path = tmp_path / leftover
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, random_plane(1, (20, 20)))
    found = list_fields(tmp_path)
    assert [field.name for field in found.fields] == ["7_A1_1"]
    assert (_problems(found), found.unused) == ({}, {})


def test_a_folder_is_no_image_but_may_hold_some(tmp_path: Path) -> None:
    write_hpa_field(tmp_path / "scan.tif", "7_A1_1")
    assert [field.name for field in list_fields(tmp_path).fields] == ["7_A1_1"]


@pytest.mark.parametrize("name", ["7_A1_1_thumb_blue.png", "7_A1_1_blue_thumbnail.png", "thumb_7_A1_1_blue.png"])
def test_thumbnails_are_left_out_and_listed(tmp_path: Path, name: str) -> None:
    write_hpa_field(tmp_path / "images", "7_A1_1")
    write_png(tmp_path / "images" / name, random_plane(1, (20, 20)))
    report = crop_fields(tmp_path / "images", tmp_path / "out", settings=SMALL, progress=False)
    assert (report.fields, report.skipped) == (1, {})
    with (tmp_path / "out/unused.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {"file": str(tmp_path / "images" / name), "reason": "a thumbnail, by its name"}


def test_words_with_thumb_in_them_are_names(tmp_path: Path) -> None:
    write_hpa_field(tmp_path, "Thumbelina_A1_1")
    assert len(list_fields(tmp_path).fields) == 1


@pytest.mark.parametrize("kind", ["vsi", "bmp", "oib", "IMS", "jp2"])
def test_kinds_that_are_not_read_are_listed(tmp_path: Path, kind: str) -> None:
    """As a channel or a field of its own, such a file is a skipped input; beside fields of channels it is an extra."""
    write_hpa_field(tmp_path / "planes", "7_A1_1")
    (tmp_path / f"planes/overview.{kind}").write_bytes(b"x")
    found = list_fields(tmp_path / "planes")
    assert _problems(found) == {}
    assert list(found.unused) == [str(tmp_path / f"planes/overview.{kind}")]
    for colour in ("red", "yellow", "blue", "green"):
        (tmp_path / f"planes/7_A2_1_{colour}.{kind}").write_bytes(b"x")
    problems = _problems(list_fields(tmp_path / "planes"))
    assert list(problems) == ["7_A2_1"]
    assert f".{kind.lower()} files are not read" in problems["7_A2_1"]
    _write_stack(tmp_path / "stacks/a.tif")
    (tmp_path / f"stacks/b.{kind}").write_bytes(b"x")
    assert list(_problems(list_fields(tmp_path / "stacks", STACKS))) == ["b"]


def test_a_folder_of_other_kinds_alone_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.vsi").write_bytes(b"x")
    assert ".vsi files are not read" in _problems(list_fields(tmp_path / "in"))["a"]


def test_earlier_outputs_inside_of_the_input_are_passed_by(tmp_path: Path) -> None:
    write_hpa_field(tmp_path, "7_A1_1")
    (tmp_path / "run/portable").mkdir(parents=True)
    write_png(tmp_path / "run/portable/cell_attention_map.png", random_plane(3))
    (tmp_path / "run/run.json").write_text("{}")
    assert [field.name for field in list_fields(tmp_path).fields] == ["7_A1_1"]


def test_linked_plates_are_followed_once(tmp_path: Path) -> None:
    write_hpa_field(tmp_path / "elsewhere/plate1", "7_A1_1")
    write_hpa_field(tmp_path / "in/plate2", "7_A2_1")
    (tmp_path / "in/a_link").symlink_to(tmp_path / "elsewhere/plate1")
    (tmp_path / "in/again").symlink_to(tmp_path / "elsewhere/plate1")
    (tmp_path / "in/same").symlink_to("plate2")
    (tmp_path / "in/plate2/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/up").symlink_to(tmp_path)
    found = list_fields(tmp_path / "in")
    assert [field.name for field in found.fields] == ["7_A1_1", "7_A2_1"]
    assert _problems(found) == {}
    assert sorted(Path(path).name for path in found.unused) == ["again", "loop", "same", "up"]


def test_a_folder_of_links_alone(tmp_path: Path) -> None:
    write_hpa_field(tmp_path / "elsewhere", "7_A1_1")
    (tmp_path / "in").mkdir()
    for path in (tmp_path / "elsewhere").iterdir():
        (tmp_path / "in" / path.name).symlink_to(path)
    (field,) = list_fields(tmp_path / "in").fields
    assert field.read().label_mask is not None
    (tmp_path / "linked").symlink_to(tmp_path / "in")
    assert len(list_fields(tmp_path / "linked").fields) == 1


def test_links_that_lead_nowhere_are_skipped_inputs(tmp_path: Path) -> None:
    write_hpa_field(tmp_path, "7_A1_1")
    write_hpa_field(tmp_path, "7_A2_1")
    (tmp_path / "7_A2_1_red.png").unlink()
    (tmp_path / "7_A2_1_red.png").symlink_to("gone.png")
    (tmp_path / "plate 3").symlink_to("/gone/plate 3")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "notes.txt").symlink_to("gone.txt")
    problems = _problems(list_fields(tmp_path))
    assert set(problems) == {"7_A2_1", "plate 3", "itself"}
    assert "leads nowhere" in problems["plate 3"]


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder in which this process has no more rights than anybody."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    if os.geteuid() == 0:
        os.seteuid(65_534)
        try:
            yield folder
        finally:
            os.seteuid(0)
    else:
        yield folder
    for path in folder.rglob("*"):
        path.chmod(0o777)
    shutil.rmtree(folder)


def test_what_may_not_be_read_is_a_skipped_input(unprivileged: Path) -> None:
    write_hpa_field(unprivileged, "7_A1_1")
    write_hpa_field(unprivileged, "7_A2_1")
    (unprivileged / "7_A2_1_green.png").chmod(0)
    write_hpa_field(unprivileged / "locked", "7_A3_1")
    (unprivileged / "locked").chmod(0)
    problems = _problems(list_fields(unprivileged))
    assert set(problems) == {"7_A2_1", "locked"}
    assert all("Permission denied" in problem for problem in problems.values())


def test_files_that_vanish_after_the_listing_end_no_run(tmp_path: Path) -> None:
    for well in ("A1", "A2"):
        write_hpa_field(tmp_path, f"7_{well}_1")
    found = list_fields(tmp_path)
    (tmp_path / "7_A2_1_green.png").unlink()
    assert list(_problems(found)) == ["7_A2_1"]


def test_one_folder_per_plate_with_equal_names(tmp_path: Path) -> None:
    for number, plate in enumerate(("plate1", "plate2")):
        (tmp_path / plate).mkdir()
        for name in ("A1_1", "A2_1"):
            for colour in ("blue", "green"):
                write_png(tmp_path / plate / f"{name}_{colour}.png", random_plane(10 * number + len(colour)))
            write_png(tmp_path / plate / f"{name}_mask.png", label_mask() * (number + 1))
    write_png(tmp_path / "plate2/A3_1_blue.png", random_plane(7))
    write_png(tmp_path / "plate2/A3_1_green.png", random_plane(8))
    names = ("plate1/A1_1", "plate1/A2_1", "plate2/A1_1", "plate2/A2_1")
    table = "".join(f"{name},{name}\n" for name in (*names, "A3_1"))  # A name that is there once needs no folder.
    (tmp_path / "metadata.csv").write_text("field_of_view,antibody\n" + table)
    found = list_fields(tmp_path, ReadingOptions(pixel_size_um=0.1))
    assert [field.name for field in found.fields] == [*names, "plate2/A3_1"]
    fields = [field.read() for field in found.fields]
    assert [field.metadata["antibody"] for field in fields] == [*names, "A3_1"]
    for field, factor in zip(fields[:4], (1, 1, 2, 2), strict=True):
        np.testing.assert_array_equal(field.label_mask, label_mask() * factor)
    reading = ReadingOptions(pixel_size_um=0.1)
    report = crop_fields(tmp_path, tmp_path.with_suffix(".out"), settings=SMALL, reading=reading, progress=False)
    assert (report.fields, list(report.skipped)) == (5, [])
    assert len(list((tmp_path.with_suffix(".out") / "fields").glob("*.json"))) == 5


def test_folders_of_different_names_keep_them(tmp_path: Path) -> None:
    write_hpa_field(tmp_path / "plate1", "7_A1_1")
    write_hpa_field(tmp_path / "plate2", "8_A1_1")
    (tmp_path / "metadata.csv").write_text("field_of_view,antibody\n7_A1_1,X\nplate2/8_A1_1,Y\n")
    found = list_fields(tmp_path)
    assert [field.name for field in found.fields] == ["7_A1_1", "8_A1_1"]
    assert [field.metadata["antibody"] for field in found.fields] == ["X", "Y"]


def test_equal_names_of_single_files_and_of_folders_in_folders(tmp_path: Path) -> None:
    for number, name in enumerate(("day1/s1.tif", "day2/s1.tif", "day2/deep/s1.tif", "s1.tif")):
        _write_stack(tmp_path / name, 10 * number)
    names = [field.name for field in list_fields(tmp_path, STACKS).fields]
    assert names == ["day1/s1", "day2/deep/s1", "day2/s1", "s1"]


def test_copies_are_refused_whatever_else_is_there(tmp_path: Path) -> None:
    _write_stack(tmp_path / "a/s1.tif")
    _write_stack(tmp_path / "b/s1.tif")
    assert "is there 2 times" in _problems(list_fields(tmp_path, STACKS))["s1"]
    _write_stack(tmp_path / "c/s1.tif", 5)
    found = list_fields(tmp_path, STACKS)
    assert [field.name for field in found.fields] == ["a/s1", "b/s1", "c/s1"]
    assert _problems(found) == {"b/s1": "Field 'b/s1' is a copy of 'a/s1'. Remove one of them."}


@pytest.mark.parametrize(
    "name",
    [
        "AssayPlate_T0001F001L01A01Z01C01.tif",
        "A - 1(fld 1 wv DAPI - DAPI).tif",
        "B2--W00014--P00001--Z00000--T00000--405 nm #1.tif",
    ],
)
def test_names_of_microscopes_are_not_taken_for_one_stain(tmp_path: Path, name: str) -> None:
    tifffile.imwrite(tmp_path / name, random_plane(1))
    (problem,) = _problems(list_fields(tmp_path, ReadingOptions(channel_names=("blue",), pixel_size_um=0.1))).values()
    assert "one for each channel" in problem
    assert "the index that describes them is not there. Copy " in problem
    assert "<field of view>_<channel>" in problem


def test_numbers_of_channels_are_not_taken_for_a_stain(tmp_path: Path) -> None:
    options = ReadingOptions(channel_names=("blue",), pixel_size_um=0.1)
    for name in ("harmony/r01c01f01p01-ch1sk1fk1fl1.tiff", "metaxpress/exp_A01_s1_w2.TIF"):
        (tmp_path / name).parent.mkdir()
        tifffile.imwrite(tmp_path / name, random_plane(1))
    with pytest.raises(FieldError, match=r"without its index.* Copy Index\.idx\.xml"):
        list_fields(tmp_path / "harmony", options)
    (field,) = list_fields(tmp_path / "metaxpress", options).fields
    assert list(field.listed.channel_planes) == ["w2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def test_embed_lists_what_it_does_not_use(model: Path, tmp_path: Path) -> None:
    write_hpa_field(tmp_path / "in", "7_A1_1")
    (tmp_path / "in/scan.czi").write_bytes(b"x")
    command = ["embed", str(tmp_path / "in"), "--model", str(model), "--output", str(tmp_path / "out"), "--no-report"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "Not used, listed in unused.csv (1):\n  " in result.output
    with (tmp_path / "out/unused.csv").open(newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == [str(tmp_path / "in/scan.czi")]


def test_shards_of_images_list_it_too(tmp_path: Path) -> None:
    write_hpa_field(tmp_path / "in", "7_A1_1")
    (tmp_path / "in/scan.czi").write_bytes(b"x")
    (tmp_path / "in/metadata.csv").write_text("field_of_view,antibody\n7_A1_1,X\n")
    command = ["shards", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--split-by", "none"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "scan.czi" in result.output
    assert "scan.czi" in (tmp_path / "out/unused.csv").read_text()


def test_nothing_usable_is_exit_code_2_and_binds_no_folder(model: Path, tmp_path: Path) -> None:
    write_hpa_field(tmp_path / "in", "mine")
    command = ["crops", str(tmp_path / "in"), "--output", str(tmp_path / "crops"), "--crop-size-px", "32"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "Nothing was cropped: 1 of 1 fields were skipped" in result.output
    assert "pixel size is unknown" in (tmp_path / "crops/skipped.csv").read_text()
    assert CliRunner().invoke(app, [*command, "--pixel-size-um", "0.1"]).exit_code == 0
    with pytest.raises(InputError, match="No cell could be embedded"):
        run(tmp_path / "in", model, tmp_path / "out")
    assert (tmp_path / "out/skipped.csv").is_file()
    report = run(tmp_path / "in", model, tmp_path / "out", SourceOptions(reading=ReadingOptions(pixel_size_um=0.1)))
    assert (report.cells, report.skipped) == (2, ())
