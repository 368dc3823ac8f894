"""Planes whose names a user's pattern describes are listed plate by plate."""

from pathlib import Path

from subcell_hf.images.fields_of_view import list_fields
from subcell_hf.images.folder_contents import list_images
from subcell_hf.images.layouts.named_files import compile_pattern, list_by_pattern
from subcell_hf.images.reading_options import ReadingOptions

PATTERN = r"(?P<plate>\w+?)-(?P<well>[A-P]\d\d)-(?P<channel>[a-z]+)(?:-z(?P<z>\w+))?\.tif"


def test_no_listing_holds_the_planes_of_two_plates(tmp_path: Path) -> None:
    """So that memory does not grow with their number; plates that are mixed in one folder, or spread, are no less."""
    for folder, plate, channel in [("a", "P1", "dna"), ("a", "P2", "dna"), ("b", "P1", "er"), ("b", "P3", "dna")]:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{plate}-A01-{channel}.tif").touch()
    (tmp_path / "notes.tif").touch()
    *plates, rest = list_by_pattern(list_images(tmp_path), compile_pattern(PATTERN))
    assert [{plane.plate for plane in listing.planes} for listing in plates] == [{"P1"}, {"P2"}, {"P3"}]
    assert [file.name for file in rest.left_out] == ["notes.tif"]
    fields = list_fields(tmp_path, ReadingOptions(pattern=PATTERN)).fields
    assert {item.listed.name: sorted(item.listed.channel_planes) for item in fields} == {
        "P1_A01": ["dna", "er"],
        "P2_A01": ["dna"],
        "P3_A01": ["dna"],
    }


def test_names_of_planes_are_ordered_alike_on_all_plates(tmp_path: Path) -> None:
    """`low` is below `top` on a plate without `low`, too."""
    for name in ("P1-A01-dna-zlow", "P1-A01-dna-ztop", "P2-A01-dna-ztop"):
        (tmp_path / f"{name}.tif").touch()
    *plates, _ = list_by_pattern(list_images(tmp_path), compile_pattern(PATTERN))
    assert [[plane.z for plane in listing.planes] for listing in plates] == [[0, 1], [1]]
