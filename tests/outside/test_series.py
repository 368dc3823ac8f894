"""Files that hold several images: every position is a field, thumbnails and levels of pyramids are none."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from subcell_hf.images.fields_of_view import FieldError, ReadingOptions, find_fields
from subcell_hf.images.files import read_image
from subcell_hf.model.image_files_subcell import read_file
from tests.images.written_fields import COLOURS, label_mask, write_png
from tests.outside.written_zarr import stack

FIRST, SECOND = stack(1), stack(2)
SMALL = np.ascontiguousarray(FIRST[:, ::4, ::4])
FACTS = {"axes": "CYX", "Channel": {"Name": list(COLOURS)}, "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1}
OPTIONS = ReadingOptions(channel_names=COLOURS, pixel_size_um=0.1)


def _ome_tiff(path: Path, *images: npt.NDArray[Any] | tuple[npt.NDArray[Any], dict[str, Any]], **options: Any) -> Path:
    with tifffile.TiffWriter(path, ome=True) as file:
        for image in images:
            pixels, facts = image if isinstance(image, tuple) else (image, {})
            file.write(pixels, photometric="minisblack", metadata={**FACTS, **facts}, **options)
    return path


def test_every_position_of_an_ome_tiff_is_a_field(tmp_path: Path) -> None:
    scaled = {"PhysicalSizeX": 0.2, "PhysicalSizeY": 0.2, "Channel": {"Name": list(COLOURS[::-1])}}
    path = _ome_tiff(tmp_path / "x.ome.tif", FIRST, (SECOND, scaled))
    first, second = (field.read() for field in find_fields(path))
    assert (first.name, second.name) == ("x_0", "x_1")
    np.testing.assert_array_equal(first.pixels, FIRST)
    np.testing.assert_array_equal(second.pixels, SECOND[::-1])  # its channels have other names, in reverse
    assert (first.pixel_size_um, second.pixel_size_um) == pytest.approx((0.1, 0.2))


def test_positions_have_masks_and_metadata_of_their_own(tmp_path: Path) -> None:
    _ome_tiff(tmp_path / "x.ome.tif", FIRST, SECOND)
    _ome_tiff(tmp_path / "y.ome.tif", SECOND)
    write_png(tmp_path / "x_1_mask.png", label_mask((64, 64)))
    (tmp_path / "metadata.csv").write_text("field_of_view,antibody\nx_0,HPA1\nx_1,HPA2\ny,HPA3\n")
    fields = [field.read() for field in find_fields(tmp_path)]
    assert [(field.name, field.metadata["antibody"]) for field in fields] == [
        ("x_0", "HPA1"),
        ("x_1", "HPA2"),
        ("y", "HPA3"),
    ]
    assert [field.label_mask is not None for field in fields] == [False, True, False]


def test_a_mask_of_the_whole_file_is_not_used_for_one_position(tmp_path: Path) -> None:
    _ome_tiff(tmp_path / "x.ome.tif", FIRST, SECOND)
    write_png(tmp_path / "x_mask.png", label_mask((64, 64)))
    unused = [field for field in find_fields(tmp_path) if field.listed.problem]
    assert len(unused) == 1
    assert "x_mask.png" in str(unused[0].listed.problem)


def test_names_of_positions_do_not_collide_silently(tmp_path: Path) -> None:
    _ome_tiff(tmp_path / "x.ome.tif", FIRST, SECOND)
    _ome_tiff(tmp_path / "x_0.ome.tif", SECOND)
    problems = [field.listed.problem for field in find_fields(tmp_path)]
    assert sum("'x_0' is there 2 times" in str(problem) for problem in problems) == 1


@pytest.mark.parametrize("first", [True, False])
def test_a_small_image_beside_is_skipped_with_its_reason(tmp_path: Path, first: bool) -> None:
    path = _ome_tiff(tmp_path / "x.ome.tif", *((SMALL, FIRST) if first else (FIRST, SMALL)))
    fields = find_fields(path)
    small, large = fields if first else fields[::-1]
    np.testing.assert_array_equal(large.read().pixels, FIRST)
    with pytest.raises(FieldError, match=r"16 x 16 px beside 64 x 64 px.*may be a thumbnail"):
        small.read()


@pytest.mark.parametrize("name", ["Thumbnail", "label image", "macro", "Overview"])
def test_images_that_are_called_thumbnails_are_none(tmp_path: Path, name: str) -> None:
    (field,) = find_fields(_ome_tiff(tmp_path / "x.ome.tif", (SMALL, {"Name": name}), FIRST))
    assert field.name == "x"
    np.testing.assert_array_equal(field.read().pixels, FIRST)


def test_levels_of_a_pyramid_are_no_fields(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "x.ome.tif", ome=True) as file:
        file.write(FIRST, photometric="minisblack", metadata=FACTS, subifds=2, tile=(16, 16))
        for step in (2, 4):
            file.write(
                np.ascontiguousarray(FIRST[:, ::step, ::step]), photometric="minisblack", subfiletype=1, tile=(16, 16)
            )
    (field,) = find_fields(tmp_path / "x.ome.tif")
    np.testing.assert_array_equal(field.read().pixels, FIRST)


@pytest.mark.parametrize("reduced_first", [True, False])
def test_pages_marked_as_reduced_are_thumbnails(tmp_path: Path, reduced_first: bool) -> None:
    """As scanners write them: a page for the image, another of lower resolution with NewSubfileType 1."""
    pages = [(FIRST, 0), (np.ascontiguousarray(FIRST[:, ::5, ::5]), 1)]
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        for pixels, kind in pages[::-1] if reduced_first else pages:
            file.write(
                np.moveaxis(pixels, 0, -1),
                photometric="minisblack",
                planarconfig="contig",
                extrasamples=[0, 0, 0],
                subfiletype=kind,
                metadata=None,
            )
    (field,) = find_fields(tmp_path / "x.tif", OPTIONS)
    assert field.name == "x"
    np.testing.assert_array_equal(field.read().pixels, FIRST)


def test_a_transparency_mask_is_no_field(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(FIRST, photometric="minisblack", planarconfig="separate", extrasamples=[0, 0, 0], metadata=None)
        file.write(np.ones((64, 64), bool), photometric="mask", subfiletype=4, metadata=None)
    (field,) = find_fields(tmp_path / "x.tif", OPTIONS)
    np.testing.assert_array_equal(field.read().pixels, FIRST)


def test_plain_tiffs_with_images_of_several_sizes(tmp_path: Path) -> None:
    larger = stack(3, size=80)
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        for pixels in (FIRST, larger):
            file.write(pixels, photometric="minisblack", contiguous=False)
    first, second = find_fields(tmp_path / "x.tif", OPTIONS)
    np.testing.assert_array_equal(first.read().pixels, FIRST)
    np.testing.assert_array_equal(second.read().pixels, larger)


def test_planes_written_one_by_one_are_channels_of_one_image(tmp_path: Path) -> None:
    """tifffile begins a series at every `write`; a field of one plane is none."""
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        for plane in FIRST:
            file.write(plane, photometric="minisblack")
    (field,) = find_fields(tmp_path / "x.tif", OPTIONS)
    np.testing.assert_array_equal(field.read().pixels, FIRST)
    np.testing.assert_array_equal(read_file(tmp_path / "x.tif").pixels, FIRST)


def test_channels_in_files_of_their_own_hold_one_image_each(tmp_path: Path) -> None:
    for colour, plane in zip(COLOURS, FIRST, strict=True):
        with tifffile.TiffWriter(tmp_path / f"1_A1_1_{colour}.tif") as file:
            file.write(plane)
            if colour == "green":
                file.write(plane[:50])
    (field,) = find_fields(tmp_path)
    with pytest.raises(FieldError, match=r"1_A1_1_green\.tif holds 2 images \(shapes \(64, 64\), \(50, 64\)\)"):
        field.read()


def _set_of_files(folder: Path, images: int, prefix: str = "f") -> list[Path]:
    """An OME-TIFF set as Bio-Formats writes it: every file describes all images, and holds one channel or image."""
    per_image = len(COLOURS) // images if images == 1 else len(COLOURS)
    xml = ""
    for image in range(images):
        places = "".join(
            f'<TiffData FirstC="{c}" IFD="{c if images > 1 else 0}" PlaneCount="1"><UUID '
            f'FileName="{prefix}{image if images > 1 else c}.ome.tif">urn:uuid:{image if images > 1 else c}</UUID>'
            "</TiffData>"
            for c in range(per_image)
        )
        names = "".join(f'<Channel ID="Channel:{image}:{c}" Name="{name}"/>' for c, name in enumerate(COLOURS))
        xml += (
            f'<Image ID="Image:{image}" Name="{image}"><Pixels ID="Pixels:{image}" DimensionOrder="XYCZT" '
            f'Type="uint16" SizeX="64" SizeY="64" SizeC="4" SizeZ="1" SizeT="1" PhysicalSizeX="0.1" '
            f'PhysicalSizeY="0.1">{names}{places}</Pixels></Image>'
        )
    files = []
    for number in range(images if images > 1 else len(COLOURS)):
        text = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{number}">{xml}</OME>'
        pixels = (FIRST, SECOND)[number] if images > 1 else FIRST[number]
        tifffile.imwrite(
            folder / f"{prefix}{number}.ome.tif", pixels, photometric="minisblack", description=text, metadata=None
        )
        files.append(folder / f"{prefix}{number}.ome.tif")
    return files


def test_a_set_with_one_image_per_file_gives_each_once(tmp_path: Path) -> None:
    _set_of_files(tmp_path, 2)
    first, second = find_fields(tmp_path)
    assert (first.name, second.name) == ("f0", "f1")
    np.testing.assert_array_equal(first.read().pixels, FIRST)
    np.testing.assert_array_equal(second.read().pixels, SECOND)


def test_sets_whose_images_have_equal_names_share_a_folder(tmp_path: Path) -> None:
    for prefix in ("f", "g"):
        _set_of_files(tmp_path, 2, prefix)
    fields = find_fields(tmp_path)
    assert [field.name for field in fields] == ["f0", "f1", "g0", "g1"]
    for field, pixels in zip(fields, (FIRST, SECOND, FIRST, SECOND), strict=True):
        np.testing.assert_array_equal(field.read().pixels, pixels)


def test_a_renamed_file_is_itself(tmp_path: Path) -> None:
    """Its OME-XML names the file as it was called before."""
    files = _set_of_files(tmp_path, 1)
    with tifffile.TiffFile(files[0]) as tiff:
        text = str(tiff.pages.first.description)
    for number, path in enumerate(files):
        text = text.replace(
            f'IFD="0" PlaneCount="1"><UUID FileName="f{number}', f'IFD="{number}" PlaneCount="1"><UUID FileName="f'
        ).replace(f"urn:uuid:{number}", "urn:uuid:0")
        path.unlink()
    tifffile.imwrite(tmp_path / "new.ome.tif", FIRST, photometric="minisblack", description=text, metadata=None)
    (field,) = find_fields(tmp_path)
    assert field.name == "new"
    np.testing.assert_array_equal(field.read().pixels, FIRST)


def test_a_set_with_one_channel_per_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = _set_of_files(tmp_path, 1)
    monkeypatch.chdir(tmp_path)  # the files that are named lie here, and are not looked for
    for path in files:
        with pytest.raises(FieldError, match="one of several files that make up an OME-TIFF"):
            read_image(path)


# --- channels that are stored along another axis ---------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["ZYX", "TYX", "TZYX", "TZCYX"])
@pytest.mark.parametrize("ome", [True, False])
def test_as_many_names_as_planes_mean_channels(tmp_path: Path, axes: str, ome: bool) -> None:
    path = tmp_path / f"x{'.ome' if ome else ''}.tif"
    shape = [4 if axis == ("T" if axes == "TYX" else "Z") else 1 for axis in axes[:-2]]
    tifffile.imwrite(path, FIRST.reshape(*shape, 64, 64), photometric="minisblack", metadata={"axes": axes})
    (field,) = find_fields(path, OPTIONS)
    np.testing.assert_array_equal(field.read().pixels, FIRST)


def test_other_numbers_of_names_are_told_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x.ome.tif"
    tifffile.imwrite(path, FIRST, photometric="minisblack", metadata={"axes": "ZYX"})
    for names in (COLOURS[:3], ()):
        (field,) = find_fields(path, ReadingOptions(channel_names=names, pixel_size_um=0.1))
        with pytest.raises(FieldError, match=r"If they are its channels, name all 4 \(--channel-names\)"):
            field.read()


def test_channels_beside_planes_are_not_confused(tmp_path: Path) -> None:
    """Four channels and four planes: the names are those of the channels, and the planes are projected."""
    path = tmp_path / "x.ome.tif"
    both = np.stack([FIRST + step for step in range(4)])
    tifffile.imwrite(path, both, photometric="minisblack", metadata={"axes": "ZCYX"})
    (field,) = find_fields(path, ReadingOptions(channel_names=COLOURS, pixel_size_um=0.1, z_projection="max"))
    np.testing.assert_array_equal(field.read().pixels, both.max(axis=0))
    (field,) = find_fields(path, OPTIONS)
    with pytest.raises(FieldError, match="Z-stack of 4 planes"):
        field.read()


def test_a_projection_that_is_asked_for_is_made(tmp_path: Path) -> None:
    path = tmp_path / "x.ome.tif"
    tifffile.imwrite(path, FIRST, photometric="minisblack", metadata={"axes": "ZYX"})
    (field,) = find_fields(path, ReadingOptions(channel_names=COLOURS, pixel_size_um=0.1, z_projection="max"))
    with pytest.raises(FieldError, match=r"has 1 channel .* and 4 channel names"):
        field.read()


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix", [".tif", ".TIF", ".Tiff", ".btf", ".tf2", ".tf8", ".ome.btf", ".OME.TF8", ".ome.tf2"]
)
def test_every_suffix_of_tiff_is_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    tifffile.imwrite(path, FIRST, photometric="minisblack", bigtiff="f" in suffix[-3:-1], ome=False, metadata=None)
    for source in (tmp_path, path):
        (field,) = find_fields(source, OPTIONS)
        assert field.name == "x"
        np.testing.assert_array_equal(field.read().pixels, FIRST)
