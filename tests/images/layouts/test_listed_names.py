"""Indices name files as Windows does, with backslashes and in any case of letters; the disk has its own names."""

import csv
import shutil
from pathlib import Path

import pytest
import tifffile

from subcell_hf.errors import InputWarning
from subcell_hf.images.fields_of_view import find_fields, list_fields
from tests.images.layouts.test_hostile_plates import edit, problems, small_plate, write
from tests.images.layouts.written_containers import write_companion, written_pixels
from tests.images.layouts.written_plates import LAYOUTS

INDEXED = ("Harmony 5", "Harmony 7", "ImageXpress HCS.ai", "CellVoyager", "IN Cell", "scanR")
"""Layouts whose index names every file."""


def written(name: str, folder: Path) -> Path:
    folder.mkdir(parents=True)
    LAYOUTS[name].write(folder, small_plate())
    return folder


def images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".tif", ".tiff"))


@pytest.mark.parametrize("name", INDEXED)
def test_files_in_another_case_are_read_with_a_note(name: str, tmp_path: Path) -> None:
    folder = written(name, tmp_path / "in")
    expected = {field.name: field.files for field in find_fields(folder)}
    assert all(path.is_file() for files in expected.values() for path in files)
    listed = {path for files in expected.values() for path in files}
    renamed = {path: path.with_name(path.name.swapcase()) for path in listed}
    for old, new in renamed.items():
        old.rename(new)
    with pytest.warns(InputWarning, match=r"4 listed files have another case of letters on the disk, such as .*; they"):
        found = list_fields(folder)
    assert {field.name: field.files for field in found.fields} == {
        name: tuple(renamed[path] for path in files) for name, files in expected.items()
    }
    assert not problems(found)
    assert not set(map(str, renamed.values())) & found.unused.keys()
    assert found.fields[0].describe().channels


def test_companions_of_ome_tiff(tmp_path: Path) -> None:
    write_companion(tmp_path, written_pixels(1, 1, 2, 40, 50), ("DAPI", "GFP"))
    for path in images_in(tmp_path):
        path.rename(path.with_name(path.name.upper()))
    with pytest.warns(InputWarning, match="have another case of letters"):
        assert not problems(list_fields(tmp_path))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("Harmony 5", "<URL>r02", "<URL>Planes\\R02"),
        ("IN Cell", 'filename="B - 02(', 'filename="Planes\\b - 02('),
        ("scanR", 'FileName="B2-', 'FileName="Planes\\B2-'),
    ],
)
def test_folders_of_windows(name: str, old: str, new: str, tmp_path: Path) -> None:
    folder = written(name, tmp_path / "in")
    index = next(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() not in (".tif", ".tiff"))
    edit(index, (old, new), encoding="latin-1" if name == "IN Cell" else "utf-8")
    (index.parent / "planes").mkdir()
    for path in images_in(folder):
        path.rename(path.parent / "planes" / path.name)
    with pytest.warns(InputWarning, match="4 listed files have another case"):
        found = list_fields(folder)
    assert not problems(found)
    assert {path.parent.name for field in found.fields for path in field.files} == {"planes"}


def test_two_files_that_may_be_meant_are_refused_by_name(tmp_path: Path) -> None:
    index = write("Harmony 5", tmp_path / "in")
    lost = index.parent / "r02c02f01p01-ch1sk1fk1fl1.tiff"
    for name in ("R02c02f01p01-ch1sk1fk1fl1.tiff", "r02c02f01p01-ch1sk1fk1fl1.TIFF"):
        shutil.copy(lost, lost.with_name(name))
    assert not problems(list_fields(tmp_path / "in"))  # the name that the index gives is there
    lost.unlink()
    (problem,) = problems(list_fields(tmp_path / "in"))
    assert f"{index.parent}/R02c02f01p01-ch1sk1fk1fl1.tiff and {index.parent}/r02c02f01p01-ch1sk1fk1fl1.TIFF" in problem
    assert f"are both called as {lost} but for the case of letters. Rename or remove one of them." in problem


def test_a_folder_in_two_cases_is_ambiguous_only_where_both_hold_the_file(tmp_path: Path) -> None:
    index = write("Harmony 5", tmp_path / "in")
    edit(index, ("<URL>", "<URL>IMAGES\\"))
    for folder in ("Images", "images"):
        (index.parent / folder).mkdir()
    for number, path in enumerate(images_in(tmp_path / "in")):
        path.rename(path.parent / ("Images", "images")[number % 2] / path.name)
    with pytest.warns(InputWarning, match="4 listed files"):
        assert not problems(list_fields(tmp_path / "in"))
    one = images_in(tmp_path / "in")[0]
    shutil.copy(one, one.parent.parent / "images" / one.name)
    with pytest.warns(InputWarning, match="3 listed files"):
        (problem,) = problems(list_fields(tmp_path / "in"))
    assert "Rename or remove one of them" in problem


def test_tables_of_cellprofiler(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    row = {"Metadata_Plate": "P", "Metadata_Well": "A01", "Metadata_ImageResolutionX": "3e-7"}
    for channel in ("DNA", "ER"):
        tifffile.imwrite(tmp_path / "images" / f"a01_{channel.lower()}.tif", small_plate()["B02", 1]["blue"])
        row |= {f"FileName_{channel}": f"A01_{channel}.TIF", f"PathName_{channel}": "IMAGES\\"}
    with (tmp_path / "load_data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)
    with pytest.warns(InputWarning, match="2 listed files"):
        found = list_fields(tmp_path / "load_data.csv")
    assert not problems(found)
    assert found.fields[0].read().channels == ("DNA", "ER")


def test_tables_of_subcellportable(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a_b.tif", "a_g.tif"):
        tifffile.imwrite(tmp_path / "images" / name, small_plate()["B02", 1]["blue"])
    table = tmp_path / "path_list.csv"
    table.write_text("b_image,g_image,output_prefix\nImages\\A_b.TIF,images/a_g.tif,a\n")
    with pytest.warns(InputWarning, match="1 listed file has another case"):
        (field,) = list_fields(table).fields
    assert field.files == (tmp_path / "images" / "a_b.tif", tmp_path / "images" / "a_g.tif")
    shutil.copy(tmp_path / "images" / "a_b.tif", tmp_path / "images" / "A_B.tif")
    (problem,) = problems(list_fields(table))
    assert problem.startswith(f"Field 'a': {tmp_path / 'images'}/A_B.tif and {tmp_path / 'images'}/a_b.tif are both")
