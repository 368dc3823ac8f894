"""CellProfiler's LoadData and nf-core's sample sheet as inputs: channels by columns, paths mapped, nothing guessed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from subcell_hf.errors import InputError
from subcell_hf.images.fields_of_view import FieldError, find_fields, list_fields
from subcell_hf.images.image_tables.path_mapping import PathMapping
from subcell_hf.images.reading_options import ReadingOptions, parse_path_mapping
from tests.images.written_fields import random_plane

CHANNELS = ("OrigDNA", "OrigER")


def _write_images(folder: Path, sites: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for site in range(sites):
        for number, channel in enumerate(CHANNELS):
            tifffile.imwrite(folder / f"f{site}_{channel}.tif", random_plane(site * 2 + number, dtype="uint16") | 1)


def _rows(folder: str, sites: int = 2, **more: str) -> pd.DataFrame:
    rows = []
    for site in range(sites):
        row = {"Metadata_Plate": "P1", "Metadata_Well": "b3", "Metadata_Site": str(site + 1), **more}
        for channel in CHANNELS:
            row |= {f"FileName_{channel}": f"f{site}_{channel}.tif", f"PathName_{channel}": folder}
        rows.append(row)
    return pd.DataFrame(rows)


def _write(rows: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        rows.to_parquet(path)
    else:
        rows.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["load_data.csv", "load_data.csv.gz", "load_data.parquet"])
def test_a_row_is_a_field_with_the_channels_that_its_columns_name(tmp_path: Path, name: str) -> None:
    _write_images(tmp_path / "images")
    size = {"Metadata_ImageResolutionX": "2.5e-07", "Metadata_ImageResolutionY": "2.5e-07", "Metadata_Batch": "7"}
    found = list_fields(_write(_rows("images", **size), tmp_path / name))
    assert (found.layout, [item.name for item in found.fields]) == (
        "CellProfiler LoadData",
        ["P1_B03_1", "P1_B03_2"],
    )
    field = found.fields[1].read()
    assert field.channels == CHANNELS
    assert (field.pixel_size_um, field.pixel_size_from) == (pytest.approx(0.25), "Metadata_ImageResolutionX")
    assert (field.metadata["well"], field.metadata["Metadata_Batch"]) == ("B03", "7")
    np.testing.assert_array_equal(field.pixels[0], tifffile.imread(tmp_path / "images" / "f1_OrigDNA.tif"))


@pytest.mark.parametrize(
    ("written", "old"),
    [
        ("C:\\Data\\Plate 1\\", "c:/data"),
        ("\\\\server\\share\\Plate 1", "\\\\SERVER\\share"),
        ("s3://bucket/set/Plate 1/", "s3://bucket/set/"),
        ("/home/ubuntu/bucket/Plate 1", "/home/ubuntu/bucket"),
        ("from/elsewhere/Plate 1", "from/elsewhere"),
    ],
)
def test_folders_of_other_machines_are_mapped(tmp_path: Path, written: str, old: str) -> None:
    _write_images(tmp_path / "here" / "Plate 1")
    table = _write(_rows(written), tmp_path / "load_data.csv")
    problem = str(find_fields(table)[0].listed.problem)
    assert "2 of 2 listed planes are not on the disk" in problem
    assert "--path-mapping" in problem
    mapping = parse_path_mapping([f"{old}={tmp_path / 'here'}"])
    options = ReadingOptions(path_mapping=mapping, pixel_size_um=0.5)
    assert all(item.read().channels == CHANNELS for item in find_fields(table, options))


def test_the_longest_mapping_wins_and_folders_match_as_a_whole(tmp_path: Path) -> None:
    places = PathMapping(tmp_path / "t.csv", {"s3://b/a": "/one", "s3://b/a/c/": "/two", "https://h/x": "/web"})
    assert places.locate("s3://b/a/c/i.tif").path == Path("/two/i.tif")
    assert places.locate("s3://b/a/cc/i.tif").path == Path("/one/cc/i.tif")
    assert str(places.locate("s3://b/ab/i.tif")).startswith("s3:")
    assert places.locate("https://h/x/a%20b.tif").path == Path("/web/a b.tif")
    assert places.locate("file:///data/a%20b.tif").path == Path("/data/a b.tif")
    assert places.locate("images\\i.tif").path == tmp_path / "images" / "i.tif"
    assert places.locate("i.tif").path == tmp_path / "i.tif"
    assert places.locate("/i.tif").path == Path("/i.tif")
    assert PathMapping(tmp_path / "t.csv", {"C:": "/c"}).locate("c:\\i.tif").path == Path("/c/i.tif")
    with pytest.raises(InputError, match="is not OLD=NEW"):
        parse_path_mapping(["s3://b"])


def test_addresses_are_files_where_they_are_mapped(tmp_path: Path) -> None:
    _write_images(tmp_path / "here")
    rows = pd.DataFrame({f"URL_{channel}": [f"s3://bucket/f0_{channel}.tif"] for channel in CHANNELS})
    table = _write(rows, tmp_path / "load_data.csv")
    (item,) = find_fields(table)
    assert item.listed.files_missing == ("s3://bucket/f0_OrigDNA.tif", "s3://bucket/f0_OrigER.tif")
    options = ReadingOptions(path_mapping={"s3://bucket": str(tmp_path / "here")}, pixel_size_um=0.5)
    (item,) = find_fields(table, options)
    assert item.name == "f0_OrigDNA"
    assert item.read().channels == CHANNELS


def test_illumination_functions_divide_on_request_and_are_mentioned_otherwise(tmp_path: Path) -> None:
    _write_images(tmp_path)
    for channel in ("DNA", "ER"):
        np.save(tmp_path / f"Illum{channel}.npy", np.full((64, 72), 1 + len(channel), np.float64))
    functions = {f"FileName_Illum{channel}": f"Illum{channel}.npy" for channel in ("DNA", "ER")}
    table = _write(_rows("", **functions), tmp_path / "load_data.csv")
    plain = list_fields(table, ReadingOptions(pixel_size_um=0.5))
    assert "are not applied; --illumination" in plain.unused[str(table)]
    assert plain.fields[0].read().pixels.dtype == np.uint16
    lit = list_fields(table, ReadingOptions(pixel_size_um=0.5, illumination=True))
    assert not lit.unused
    pixels = lit.fields[0].read().pixels
    assert pixels.dtype == np.float32
    expected = np.stack(
        [tifffile.imread(tmp_path / f"f0_{channel}.tif") / by for channel, by in (("OrigDNA", 4), ("OrigER", 3))]
    )
    np.testing.assert_allclose(pixels, expected, rtol=1e-6)
    assert tmp_path / "IllumER.npy" in lit.fields[0].files  # a run begins anew where it has changed


def test_a_function_that_is_missing_or_cannot_be_right_is_the_fields_problem(tmp_path: Path) -> None:
    _write_images(tmp_path, sites=1)
    options = ReadingOptions(pixel_size_um=0.5, illumination=True)
    np.save(tmp_path / "IllumDNA.npy", np.zeros((64, 72)))
    table = _write(_rows("", 1, FileName_IllumDNA="IllumDNA.npy"), tmp_path / "load_data.csv")
    with pytest.raises(FieldError, match="channel OrigER has no illumination function in row 1"):
        find_fields(table, options)[0].read()
    only = ReadingOptions(pixel_size_um=0.5, illumination=True, channels=("OrigDNA",))
    with pytest.raises(FieldError, match="not above 0"):
        find_fields(table, only)[0].read()
    np.save(tmp_path / "IllumDNA.npy", np.ones((2, 2)))
    with pytest.raises(FieldError, match=r"has the shape \(2, 2\), its images \(64, 72\)"):
        find_fields(table, only)[0].read()
    table = _write(_rows("", 1, FileName_IllumDNA="gone.npy"), tmp_path / "load_data.csv")
    assert "gone.npy" in str(find_fields(table, only)[0].listed.problem)
    table = _write(_rows("", 1), tmp_path / "load_data.csv")
    assert "has no illumination function" in str(find_fields(table, options)[0].listed.problem)


def test_frames_and_series_say_which_plane_of_a_file(tmp_path: Path) -> None:
    pages = np.stack([random_plane(number, dtype="uint16") for number in range(3)])
    tifffile.imwrite(tmp_path / "stack.tif", pages, metadata=None, photometric="minisblack")
    with tifffile.TiffWriter(tmp_path / "series.ome.tif", ome=True) as writer:
        writer.write(pages[:1], photometric="minisblack")
        writer.write(pages[1:], photometric="minisblack")
    row = {"FileName_A": "stack.tif", "Frame_A": "2", "Series_A": "0", "FileName_B": "series.ome.tif"}
    table = _write(pd.DataFrame([{**row, "Frame_B": "1", "Series_B": "1"}]), tmp_path / "load_data.csv")
    (item,) = find_fields(table, ReadingOptions(pixel_size_um=0.5))
    np.testing.assert_array_equal(item.read().pixels, np.stack([pages[2], pages[2]]))
    table = _write(pd.DataFrame([{**row, "Frame_B": "9", "Series_B": "1"}]), tmp_path / "load_data.csv")
    with pytest.raises(FieldError, match="has 2 planes in its image 1"):
        find_fields(table, ReadingOptions(pixel_size_um=0.5))[0].read()
    table = _write(pd.DataFrame([{**row, "Frame_A": "x"}]), tmp_path / "load_data.csv")
    assert "Frame_A is 'x' in row 1" in str(find_fields(table)[0].listed.problem)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"Metadata_ImageResolutionX": "1e-7", "Metadata_ImageResolutionY": "2e-7"}, "pixels are 0.1 x 0.2 um"),
        ({"Metadata_ImageResolutionX": "wide"}, "expected metres"),
        ({"Metadata_Row": "4", "Metadata_Col": "3"}, "gives the well b3, and row 4, column 3, which is D03"),
    ],
)
def test_what_contradicts_itself_is_the_fields_problem(tmp_path: Path, more: dict[str, str], problem: str) -> None:
    _write_images(tmp_path)
    (first, _) = find_fields(_write(_rows("", **more), tmp_path / "load_data.csv"))
    assert problem in str(first.listed.problem)


def test_rows_and_columns_name_a_well_and_rows_of_one_field_are_its_planes(tmp_path: Path) -> None:
    _write_images(tmp_path)
    rows = _rows("").drop(columns="Metadata_Well").assign(Metadata_Row="C", Metadata_Col="11", Metadata_Site="1")
    (item,) = find_fields(_write(rows, tmp_path / "load_data.csv"))
    assert item.name == "P1_C11_1"
    assert "has several planes 0 of channel OrigDNA: f0_OrigDNA.tif, f1_OrigDNA.tif" in str(item.listed.problem)
    stack = _write(rows.assign(Metadata_PlaneID=["1", "2"]), tmp_path / "load_data.csv")
    (item,) = find_fields(stack, ReadingOptions(z_projection="max", pixel_size_um=0.5))
    planes = [tifffile.imread(tmp_path / f"f{site}_OrigDNA.tif") for site in range(2)]
    np.testing.assert_array_equal(item.read().pixels[0], np.maximum(*planes))


def test_one_file_is_not_two_channels(tmp_path: Path) -> None:
    _write_images(tmp_path)
    rows = _rows("")
    rows.loc[0, "FileName_OrigER"] = "f0_OrigDNA.tif"
    problems = [item.listed.problem for item in find_fields(_write(rows, tmp_path / "load_data.csv"))]
    assert "has one file for OrigDNA and OrigER" in str(problems[0])
    assert problems[1] is None


def test_rows_without_images_are_named(tmp_path: Path) -> None:
    _write_images(tmp_path)
    rows = _rows("")
    rows.loc[1, [f"FileName_{channel}" for channel in CHANNELS]] = ""
    problems = [item.listed.problem for item in find_fields(_write(rows, tmp_path / "load_data.csv"))]
    assert any("Row 2 of" in str(problem) and "names no image" in str(problem) for problem in problems)


def test_a_sample_sheet_has_one_row_per_plane(tmp_path: Path) -> None:
    _write_images(tmp_path)
    rows = [
        {"channel": channel, "path": f"s3://b/f{site}_{channel}.tif", "plate": "P", "well": "A01", "site": site}
        for site in range(2)
        for channel in CHANNELS
    ]
    table = _write(pd.DataFrame(rows).assign(source="s1", row=1, col=1), tmp_path / "samplesheet.csv")
    options = ReadingOptions(path_mapping={"s3://b": str(tmp_path)}, pixel_size_um=0.5)
    fields = find_fields(table, options)
    assert [item.name for item in fields] == ["P_A01_0", "P_A01_1"]
    assert fields[0].read().channels == CHANNELS
    assert fields[0].metadata["source"] == "s1"


def test_options_of_tables_are_refused_where_they_mean_nothing(tmp_path: Path) -> None:
    _write_images(tmp_path)
    with pytest.raises(FieldError, match="is no table"):
        list_fields(tmp_path, ReadingOptions(illumination=True))
    with pytest.raises(FieldError, match="is no table"):
        list_fields(tmp_path, ReadingOptions(path_mapping={"a": "b"}))
    table = _write(_rows(""), tmp_path / "load_data.csv")
    with pytest.raises(FieldError, match="--pattern is for the names of files in one"):
        list_fields(table, ReadingOptions(pattern="(?P<channel>.)"))
    pd.DataFrame({"b_image": ["f0_OrigDNA.tif"], "output_prefix": ["x"]}).to_csv(tmp_path / "list.csv", index=False)
    with pytest.raises(FieldError, match="lists no illumination functions"):
        list_fields(tmp_path / "list.csv", ReadingOptions(illumination=True))
