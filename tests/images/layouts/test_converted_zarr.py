"""Folders that bioformats2raw writes: what it says in the OME-XML alone is read there."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import zarr

from subcell_hf.images.field_source import FieldSource
from subcell_hf.images.fields_of_view import FieldError, ReadingOptions, find_fields
from tests.outside.written_zarr import describe, stack, write_image, write_plate

NAMES = ("Hoechst", "Tubulin", "ER", "Protein")
PLATE = (
    '<Plate ID="Plate:0" Name="P"><Well ID="Well:0" Row="1" Column="2"><WellSample ID="S:0" Index="0">'
    '<ImageRef ID="Image:1"/></WellSample><WellSample ID="S:1" Index="1"><ImageRef ID="Image:0"/></WellSample></Well>'
    "</Plate>"
)


def write_xml(
    root: Path, images: int, names: Sequence[str] = NAMES, size: str = "0.1", plate: str = "", series: object = None
) -> None:
    """Write the group `OME` as bioformats2raw does; the names differ between images by their number."""
    described = "".join(
        f'<Image ID="Image:{number}"><Pixels ID="Pixels:{number}" SizeC="{len(names)}" SizeX="64" SizeY="64" SizeZ="1" '
        f'SizeT="1" DimensionOrder="XYZCT" Type="uint16" PhysicalSizeX="{size}" PhysicalSizeY="{size}">'
        + "".join(f'<Channel ID="C:{number}:{n}" Name="{name} {number}"/>' for n, name in enumerate(names))
        + "</Pixels></Image>"
        for number in range(images)
    )
    (root / "OME").mkdir(exist_ok=True)
    (root / "OME" / "METADATA.ome.xml").write_text(
        f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{plate}{described}</OME>'
    )
    if series is not None:
        (root / "OME" / ".zattrs").write_text(json.dumps({"series": series}))
        (root / "OME" / ".zgroup").write_text('{"zarr_format": 2}')


def change(image: Path, *, labels: Sequence[str] | None, with_unit: bool = True) -> None:
    """Give an image other labels, or none, and no unit of its pixel size."""
    facts = json.loads((image / ".zattrs").read_text())
    facts.pop("omero", None)
    if labels is not None:
        facts["omero"] = {"channels": [{"label": label} for label in labels]}
    if not with_unit:
        facts["multiscales"][0]["axes"] = [{"name": axis["name"]} for axis in facts["multiscales"][0]["axes"]]
    (image / ".zattrs").write_text(json.dumps(facts))


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """Two series whose attributes say neither channels nor pixel size."""
    root = zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    for number in range(2):
        write_image(root.create_group(str(number)), stack(number))
        change(tmp_path / "x.zarr" / str(number), labels=None, with_unit=False)
    return tmp_path / "x.zarr"


def facts_of(field: FieldSource) -> tuple[tuple[str, ...], float | None]:
    described = field.describe()
    return described.channels, described.pixel_size_um


def named(number: int) -> tuple[str, ...]:
    return tuple(f"{name} {number}" for name in NAMES)


def test_names_and_pixel_size_of_series(converted: Path) -> None:
    write_xml(converted, 2, size="0.2")
    fields = find_fields(converted)
    assert [field.name for field in fields] == ["x_0", "x_1"]
    assert [facts_of(field) for field in fields] == [(named(0), 0.2), (named(1), 0.2)]
    options = ReadingOptions(channel_mapping={"Hoechst 1": "blue", "Protein 1": "green"}, channels=("blue", "green"))
    read = find_fields(converted / "1", options)[0].read()
    np.testing.assert_array_equal(read.pixels, stack(1)[[0, 3]])
    assert read.pixel_size_um == 0.2


def test_the_order_of_series_is_that_of_the_group(converted: Path) -> None:
    write_xml(converted, 2, series=["1", "0"])
    assert [facts_of(field)[0] for field in find_fields(converted)] == [named(1), named(0)]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([f"Channel {n}" for n in range(4)], named(0)),  # made up by bioformats2raw
        (list("abcd"), tuple("abcd")),
        (["a", *(f"Channel {n}" for n in range(1, 4))], ("a", "Channel 1", "Channel 2", "Channel 3")),
    ],
)
def test_labels_of_the_image_come_first(labels: list[str], expected: tuple[str, ...], converted: Path) -> None:
    write_xml(converted, 2)
    change(converted / "0", labels=labels)
    assert facts_of(find_fields(converted)[0])[0] == expected


def test_pixel_sizes_that_contradict_each_other(converted: Path) -> None:
    write_xml(converted, 2, size="0.2")
    write_image(zarr.open_group(converted, mode="r+").create_group("0", overwrite=True), stack(0))
    change(converted / "0", labels=None)
    assert facts_of(find_fields(converted)[1]) == (named(1), 0.2)
    with pytest.raises(FieldError, match=r"x\.zarr/0 say that a pixel is 0\.1 um, OME/METADATA\.ome\.xml says 0\.2 um"):
        find_fields(converted)[0].read()
    assert find_fields(converted, ReadingOptions(pixel_size_um=0.1))[0].read().pixel_size_um == 0.1


def test_wells_of_series_without_folders_of_wells(converted: Path) -> None:
    write_xml(converted, 2, plate=PLATE)
    found = {field.name: (dict(field.metadata), facts_of(field)[0]) for field in find_fields(converted)}
    assert found == {
        "P_B03_1": ({"plate": "P", "well": "B03", "site": "1"}, named(1)),
        "P_B03_2": ({"plate": "P", "well": "B03", "site": "2"}, named(0)),
    }
    (only,) = find_fields(converted / "0")
    assert only.name == "P_B03_2"


@pytest.mark.parametrize(("described", "listed"), [(3, ["0", "1"]), (2, ["1"])])
def test_images_that_cannot_be_told_apart_are_not_described(converted: Path, described: int, listed: list[str]) -> None:
    """One has other names than the other: nothing is taken from the OME-XML by its position."""
    write_xml(converted, described, series=listed)
    found = [facts_of(field) for field in find_fields(converted)]
    assert found == [((), None)] * len(found)


@pytest.mark.parametrize("version", [2, 3])
def test_names_of_a_plate(tmp_path: Path, version: int) -> None:
    plate = tmp_path / "p.zarr"
    write_plate(plate, [stack(1), stack(2)], version, wells=["A/1", "B/2"])
    places = [f"{well}/{site}" for well in ("A/1", "B/2") for site in (0, 1)]
    for place in places:
        group = zarr.open_group(plate / place, mode="r+")
        describe(group, {**(group.attrs["ome"] if version == 3 else group.attrs), "omero": {}}, version)  # type: ignore[dict-item]
    write_xml(plate, 4, series=places)
    assert [facts_of(field) for field in find_fields(plate)] == [(named(number), 0.1) for number in range(4)]


def test_xml_that_changes_or_is_damaged(converted: Path) -> None:
    write_xml(converted, 2)
    assert facts_of(find_fields(converted)[0])[0] == named(0)
    write_xml(converted, 2, names=tuple("abcd"))
    file = converted / "OME" / "METADATA.ome.xml"
    os.utime(file, ns=(1, 1))
    assert facts_of(find_fields(converted)[0])[0] == ("a 0", "b 0", "c 0", "d 0")
    file.write_text(file.read_text()[:-20])
    os.utime(file, ns=(2, 2))
    with pytest.raises(FieldError, match=r"METADATA\.ome\.xml is not complete XML"):
        find_fields(converted)[0].read()
