"""Files of a folder are gathered into fields by their names alone."""

from pathlib import Path

from subcell_hf.images.folder_contents import list_images
from subcell_hf.images.layouts.channel_names import list_by_names
from subcell_hf.images.reading_options import ReadingOptions
from tests.images.written_fields import random_plane, write_hpa_field, write_png


def test_folders_are_searched_to_any_depth_but_not_into_crops(tmp_path: Path) -> None:
    write_hpa_field(tmp_path / "plate 1", "1_A1_1")
    write_hpa_field(tmp_path / "plate 2/deep", "2_A1_1")
    write_hpa_field(tmp_path / "crops/fields", "3_A1_1")
    write_hpa_field(tmp_path / ".trash", "4_A1_1")
    (tmp_path / "crops/crops.json").write_text("{}")
    assert [field.name for field in list_by_names(list_images(tmp_path), ReadingOptions()).fields] == [
        "1_A1_1",
        "2_A1_1",
    ]


def test_names_in_any_case_and_with_any_suffix(tmp_path: Path) -> None:
    for file in ("7_A1_1_Red.PNG", "7_A1_1_green.tif.gz", "7_A1_1_MASK.tiff"):
        write_png(tmp_path / file, random_plane(1))
    (field,) = list_by_names(list_images(tmp_path), ReadingOptions()).fields
    assert {name: path.name for name, path in field.channel_files.items()} == {
        "red": "7_A1_1_Red.PNG",
        "green": "7_A1_1_green.tif.gz",
    }
    assert field.mask_file == tmp_path / "7_A1_1_MASK.tiff"


def test_a_folder_without_channel_names_is_one_of_stacks(tmp_path: Path) -> None:
    for file in ("a.ome.tif", "b.tif", "b_mask.png", "c_mask.png"):
        write_png(tmp_path / file, random_plane(1))
    (tmp_path / "d.zarr/0").mkdir(parents=True)
    write_png(tmp_path / "d.zarr/0/not_a_field.png", random_plane(1))
    fields = {field.name: field for field in list_by_names(list_images(tmp_path), ReadingOptions()).fields}
    assert sorted(fields) == ["a", "b", "c_mask.png", "d"]
    assert fields["a"].mask_file is None
    assert fields["b"].mask_file == tmp_path / "b_mask.png"
    assert fields["d"].stack_file == tmp_path / "d.zarr"
    assert "mask without its image" in (fields["c_mask.png"].problem or "")


def test_names_that_end_in_no_channel_are_strays(tmp_path: Path) -> None:
    for file in ("7_A1_1_red.png", "A1_red.png", "_red.png", "7_A1_1_blue_red_green.jpg", "7_A1_1_composite.jpg"):
        write_png(tmp_path / file, random_plane(1))
    fields = list_by_names(list_images(tmp_path), ReadingOptions()).fields
    assert {field.name for field in fields if field.problem} == {"_red.png", "7_A1_1_composite.jpg"}
    # The website's composites end in a channel; as a field of their own they lack the other channels.
    assert {field.name for field in fields if not field.problem} == {"7_A1_1", "A1", "7_A1_1_blue_red"}
