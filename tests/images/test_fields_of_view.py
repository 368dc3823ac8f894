"""Folders, tables and multi-channel files become fields of view, or errors that name the remedy."""

import shutil
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from subcell_hf.images.fields_of_view import (
    FieldError,
    ReadingOptions,
    find_fields,
    iterate_fields,
)
from subcell_hf.images.reading_options import parse_channel_mapping, parse_z_projection
from subcell_hf.ontology import PUBLISHED_PIXEL_SIZE_UM
from tests.images.written_fields import COLOURS, label_mask, random_plane, write_hpa_field, write_png


def _problem(source: Path, options: ReadingOptions | None = None) -> str:
    """Message of the only field of a source that cannot be read."""
    problems = []
    for found in find_fields(source, options):
        try:
            found.read()
        except FieldError as error:
            problems.append(str(error))
    assert len(problems) == 1, problems
    return problems[0]


def test_human_protein_atlas_folder(hpa_fields: Path) -> None:
    fields = list(iterate_fields(hpa_fields))
    assert [field.name for field in fields] == ["800_A6_1", "89_B5_1"]
    for field, size in zip(fields, (2048, 1728), strict=True):
        assert field.channels == COLOURS
        assert field.pixels.shape == (4, size, size)
        assert field.pixels.dtype == np.uint8
        assert field.pixel_size_um == PUBLISHED_PIXEL_SIZE_UM
        assert field.label_mask is None
    assert fields[0].metadata == {"plate": "800", "well": "A06", "sample": "1"}


def test_a_field_with_mask_and_two_channels(masked_field: Path) -> None:
    (field,) = iterate_fields(masked_field)
    assert field.channels == ("blue", "green")
    assert field.label_mask is not None
    assert np.unique(field.label_mask).tolist() == list(range(21))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_planes_arrive_unchanged(tmp_path: Path, dtype: str) -> None:
    planes = write_hpa_field(tmp_path / "Platte 7 – ä", "my_plate_7_B12_3", dtype=dtype)
    (field,) = iterate_fields(tmp_path, ReadingOptions(pixel_size_um=0.1))
    assert field.name == "my_plate_7_B12_3"
    assert field.metadata == {"plate": "my_plate_7", "well": "B12", "sample": "3"}
    assert field.pixels.dtype == dtype
    for channel, plane in zip(field.channels, field.pixels, strict=True):
        np.testing.assert_array_equal(plane, planes[channel])
    np.testing.assert_array_equal(field.label_mask, label_mask())


def test_channels_are_chosen_by_name_and_in_order(tmp_path: Path) -> None:
    planes = write_hpa_field(tmp_path)
    (field,) = iterate_fields(tmp_path, ReadingOptions(channels=("green", "blue")))
    assert field.channels == ("green", "blue")
    np.testing.assert_array_equal(field.pixels, np.stack([planes["green"], planes["blue"]]))


def test_other_names_of_channels_are_mapped(tmp_path: Path) -> None:
    for name in ("DAPI", "gfp"):
        write_png(tmp_path / f"7_A1_1_{name}.png", random_plane(len(name)))
    options = ReadingOptions(channel_mapping={"DAPI": "blue", "gfp": "green"}, pixel_size_um=0.1)
    (field,) = iterate_fields(tmp_path, options)
    assert field.channels == ("blue", "green")


def test_metadata_table_beside_the_images(tmp_path: Path) -> None:
    for name in ("7_A1_1", "7_A1_2"):
        write_hpa_field(tmp_path, name)
    table = tmp_path / "metadata.csv"
    table.write_text("field_of_view,antibody,pixel_size_um\n7_A1_1,HPA000001,0.1\nother,X,0.1\n")
    first, second = find_fields(tmp_path)
    assert first.metadata["antibody"] == "HPA000001"
    assert first.read().pixel_size_um == 0.1
    with pytest.raises(FieldError, match=r"'7_A1_2' has no rows in .*metadata\.csv, expected exactly one"):
        second.read()


def test_duplicate_names_are_refused(tmp_path: Path) -> None:
    for plate in ("a", "b"):
        write_hpa_field(tmp_path / plate, "7_A1_1")
    assert "'7_A1_1' is there 2 times" in _problem(tmp_path)


def test_two_files_for_one_channel_are_refused(tmp_path: Path) -> None:
    write_hpa_field(tmp_path, "7_A1_1")
    shutil.copy(tmp_path / "7_A1_1_red.png", tmp_path / "7_A1_1_red.tif")
    assert "more than one file for red: 7_A1_1_red.png, 7_A1_1_red.tif" in _problem(tmp_path)


def test_a_field_that_lacks_a_channel_of_the_others_is_refused(tmp_path: Path) -> None:
    write_hpa_field(tmp_path, "7_A1_1")
    write_hpa_field(tmp_path, "7_A1_2", colours=("red", "blue", "green"))
    message = _problem(tmp_path)
    assert "'7_A1_2': channel yellow is missing: found blue, green, red, expected red, yellow, blue, green" in message
    assert "--channels" in message
    options = ReadingOptions(channels=("red", "blue", "green"))
    assert [field.channels for field in iterate_fields(tmp_path, options)] == [("red", "blue", "green")] * 2


def test_strays_among_the_images_are_reported(tmp_path: Path) -> None:
    write_hpa_field(tmp_path, "7_A1_1")
    write_png(tmp_path / "overview.png", random_plane(1))
    write_png(tmp_path / ".hidden.png", random_plane(1))
    (tmp_path / "notes.txt").write_text("no image")
    problem = _problem(tmp_path)
    assert "overview.png does not end in a channel" in problem
    assert "--channel-mapping" in problem


@pytest.mark.parametrize("name", ["mixed_img0", "cell", "a b_ü"])
def test_names_without_plate_and_well_are_fields_too(tmp_path: Path, name: str) -> None:
    planes = write_hpa_field(tmp_path, name)
    (field,) = iterate_fields(tmp_path, ReadingOptions(pixel_size_um=0.1))
    assert field.name == name
    assert "plate" not in field.metadata
    np.testing.assert_array_equal(field.pixels[field.channels.index("green")], planes["green"])


def test_channels_of_different_size_are_refused(tmp_path: Path) -> None:
    write_hpa_field(tmp_path, with_mask=False)
    write_png(tmp_path / "800_A6_1_green.png", random_plane(1, (64, 64)))
    message = _problem(tmp_path)
    assert "channels differ in size: red 64x72, yellow 64x72, blue 64x72, green 64x64" in message


def test_channels_of_different_bit_depth_are_refused(tmp_path: Path) -> None:
    write_hpa_field(tmp_path, with_mask=False)
    write_png(tmp_path / "800_A6_1_green.png", random_plane(1, dtype="uint16"))
    assert "channels differ in bit depth: red uint8, yellow uint8, blue uint8, green uint16" in _problem(tmp_path)


def test_one_constant_channel_is_kept_and_a_blank_field_refused(tmp_path: Path) -> None:
    write_hpa_field(tmp_path, with_mask=False)
    write_png(tmp_path / "800_A6_1_green.png", np.full((64, 72), 3, np.uint8))
    (field,) = iterate_fields(tmp_path)
    assert (field.pixels[3] == 3).all()
    for colour in COLOURS:
        write_png(tmp_path / f"800_A6_1_{colour}.png", np.zeros((64, 72), np.uint8))
    assert "every channel is constant" in _problem(tmp_path)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((64, 72), np.uint8), "is empty"),
        (np.full((64, 72), 0.5, np.float32), "dtype float32"),
        (np.ones((32, 36), np.uint8), r"shape (32, 36), expected (64, 72)"),
    ],
)
def test_bad_masks_name_field_and_file(tmp_path: Path, mask: Any, message: str) -> None:
    write_hpa_field(tmp_path, with_mask=False)
    tifffile.imwrite(tmp_path / "800_A6_1_mask.tif", mask)
    problem = _problem(tmp_path)
    assert "Field '800_A6_1': label mask" in problem
    assert "800_A6_1_mask.tif" in problem
    assert message in problem


def test_a_lossy_mask_is_refused(tmp_path: Path) -> None:
    write_hpa_field(tmp_path, with_mask=False)
    (tmp_path / "800_A6_1_mask.jpg").write_bytes(imagecodecs.jpeg_encode(random_plane(1)))
    assert "is not lossless" in _problem(tmp_path)


@pytest.mark.parametrize(("size", "said"), [(0.0, "0.0"), (65.0, "65.0"), (0.001, "0.001"), (float("nan"), "nan")])
def test_absurd_pixel_sizes_are_refused(tmp_path: Path, size: float, said: str) -> None:
    write_hpa_field(tmp_path, with_mask=False)
    message = _problem(tmp_path, ReadingOptions(pixel_size_um=size))
    assert f"pixel size is {said} um, expected 0.01 to 5.0 um" in message
    assert "--pixel-size-um" in message


def test_multi_channel_tiff_with_names_and_size(tmp_path: Path) -> None:
    pixels = np.stack([random_plane(seed, dtype="uint16") for seed in range(3)])
    facts = {"axes": "CYX", "PhysicalSizeX": 0.16, "PhysicalSizeY": 0.16, "Channel": {"Name": ["Green", "DAPI", "Cy5"]}}
    tifffile.imwrite(tmp_path / "my field.ome.tif", pixels, metadata=facts)
    write_png(tmp_path / "my field_mask.png", label_mask())
    options = ReadingOptions(channel_mapping={"DAPI": "blue", "Cy5": "mito"})
    (field,) = iterate_fields(tmp_path, options)
    assert field.name == "my field"
    assert field.channels == ("blue", "mito", "green")
    np.testing.assert_array_equal(field.pixels, pixels[[1, 2, 0]])
    assert field.pixel_size_um == pytest.approx(0.16)
    np.testing.assert_array_equal(field.label_mask, label_mask())


def test_multi_channel_files_without_names_or_size(tmp_path: Path) -> None:
    np.save(tmp_path / "stack.npy", np.stack([random_plane(1), random_plane(2)]).astype(np.float32))
    message = _problem(tmp_path / "stack.npy")
    assert "2 channels" in message
    assert "no channel names" in message
    assert "--channel-names" in message
    options = ReadingOptions(channel_names=("blue", "green"))
    assert "pixel size is unknown" in _problem(tmp_path / "stack.npy", options)
    options = ReadingOptions(channel_names=("blue", "green"), pixel_size_um=0.1)
    (field,) = iterate_fields(tmp_path / "stack.npy", options)
    assert field.pixels.dtype == np.float32
    repeated = ReadingOptions(channel_names=("blue", "Blue"), pixel_size_um=0.1)
    assert "'blue' more than once" in _problem(tmp_path / "stack.npy", repeated)


def test_arrays_with_their_channels_last(tmp_path: Path) -> None:
    planes = np.stack([random_plane(seed) for seed in range(4)], axis=-1)
    np.save(tmp_path / "cell.npy", planes)
    options = ReadingOptions(channel_names=("red", "green", "blue", "yellow"), pixel_size_um=0.1)
    (field,) = iterate_fields(tmp_path, options)
    assert field.channels == ("red", "yellow", "blue", "green")
    np.testing.assert_array_equal(field.pixels, np.moveaxis(planes, 2, 0)[[0, 3, 2, 1]])


def test_three_channels_that_were_stored_as_colours(tmp_path: Path) -> None:
    pixels = np.stack([random_plane(seed) for seed in range(3)])
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", planarconfig="separate")
    assert "colour composite" in _problem(tmp_path, ReadingOptions(pixel_size_um=0.1))
    options = ReadingOptions(pixel_size_um=0.1, channel_names=("red", "blue", "green"))
    (field,) = iterate_fields(tmp_path, options)
    np.testing.assert_array_equal(field.pixels, pixels)


def test_cell_painting_stack(cell_painting_field: Path) -> None:
    names = ("brightfield", "er", "agp", "mito", "dna", "rna")
    options = ReadingOptions(
        channels=("yellow", "blue", "mito"),
        channel_names=names,
        channel_mapping={"er": "yellow", "dna": "blue"},
        pixel_size_um=0.598,
    )
    (field,) = iterate_fields(cell_painting_field, options)
    stored = tifffile.imread(next(cell_painting_field.glob("*.tiff")))
    np.testing.assert_array_equal(field.pixels, stored[[1, 4, 3]])


def test_z_stacks_of_a_folder_need_a_choice(tmp_path: Path) -> None:
    stack = np.stack([random_plane(seed) for seed in range(3)])
    for colour, planes in (("blue", stack), ("green", stack[:, ::-1])):
        tifffile.imwrite(tmp_path / f"7_A1_1_{colour}.tif", planes, imagej=True, metadata={"axes": "ZYX"})
    assert "Z-stack of 3 planes" in _problem(tmp_path)
    (field,) = iterate_fields(tmp_path, ReadingOptions(z_projection="max"))
    np.testing.assert_array_equal(field.pixels[0], stack.max(axis=0))


def _write_csv(tmp_path: Path, text: str) -> Path:
    planes = {f"{name}.png": number for number, name in enumerate(("mt", "er", "nuc", "prot", "prot2"))}
    for name, number in planes.items():
        write_png(tmp_path / name, random_plane(number))
    (tmp_path / "path_list.csv").write_text(text)
    return tmp_path / "path_list.csv"


@pytest.mark.parametrize(
    "text",
    [
        "r_image,y_image,b_image,g_image,output_prefix,antibody\nmt.png,,nuc.png,prot.png,a/cell1_,HPA1\n#x,,y,z,c2,\n",
        "#r_image,y_image,b_image,g_image,output_folder,output_prefix,antibody\nmt.png,,nuc.png,prot.png,a,cell1_,HPA1\n",
        "r,b,g,output_prefix,antibody\nmt.png,nuc.png,prot.png,a/cell1_,HPA1\n",
    ],
)
def test_tables_of_subcellportable(tmp_path: Path, text: str) -> None:
    path = _write_csv(tmp_path, text)
    (field,) = iterate_fields(path, ReadingOptions(pixel_size_um=0.1))
    assert field.name == "a/cell1"
    assert field.channels == ("red", "blue", "green")
    np.testing.assert_array_equal(field.pixels, [random_plane(number) for number in (0, 2, 3)])
    assert field.metadata == {"antibody": "HPA1"}


def test_table_with_masks_and_further_proteins(tmp_path: Path) -> None:
    write_png(tmp_path / "labels.png", label_mask())
    text = "b_image,g_image,mito_image,output_prefix,mask,pixel_size_um\nnuc.png,prot.png,prot2.png,c,labels.png,0.2\n"
    (field,) = iterate_fields(_write_csv(tmp_path, text))
    assert field.channels == ("blue", "mito", "green")
    assert field.pixel_size_um == 0.2
    assert field.metadata == {"pixel_size_um": "0.2"}
    np.testing.assert_array_equal(field.label_mask, label_mask())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b_image,g_image,output_prefix\nnuc.png,gone.png,c\n", "gone.png"),
        ("b_image,g_image,output_prefix\nnuc.png,prot.png,\n", "Row 1 of"),
        ("b_image,g_image,output_prefix\nnuc.png,,c\n", "expected"),
        ("b_image,g_image,output_prefix\nnuc.png,prot.png,c\nnuc.png,prot2.png,c\n", "'c' is there 2 times"),
    ],
)
def test_bad_rows(tmp_path: Path, text: str, message: str) -> None:
    options = ReadingOptions(pixel_size_um=0.1, channels=("blue", "green"))
    assert message in _problem(_write_csv(tmp_path, text), options)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,c\n1,2\n", "expected r_image, y_image"), ("r_image,output_prefix\n#mt.png,c\n", "no row")],
)
def test_bad_tables(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FieldError, match=message):
        find_fields(_write_csv(tmp_path, text))


def test_sources_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match="does not exist"):
        find_fields(tmp_path / "none")
    with pytest.raises(FieldError, match="holds no image"):
        find_fields(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(FieldError, match="neither a folder"):
        find_fields(tmp_path / "a.txt")


def test_texts_of_the_command_line() -> None:
    assert parse_channel_mapping(["DAPI=blue", " Alexa 488 = green "]) == {"DAPI": "blue", "Alexa 488": "green"}
    with pytest.raises(ValueError, match="'DAPI' is not NAME=COLOUR"):
        parse_channel_mapping(["DAPI"])
    assert [parse_z_projection(text) for text in (None, "max", "mean", "12")] == [None, "max", "mean", 12]
    with pytest.raises(ValueError, match="'-1'"):
        parse_z_projection("-1")
