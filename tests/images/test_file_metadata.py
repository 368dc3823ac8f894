"""Channel names and pixel sizes come out of OME-XML, ImageJ and plain TIFF tags as they went in."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from subcell_hf.images.decoders.file_metadata import ImageMetadata, is_sane_pixel_size, read_ome_xml
from subcell_hf.images.fields_of_view import find_fields
from subcell_hf.images.files import FieldError, read_image

PIXELS = np.zeros((2, 16, 16), np.uint16)


def test_ome_tiff(tmp_path: Path) -> None:
    facts = {"axes": "CYX", "PhysicalSizeX": 108.3, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.1083}
    tifffile.imwrite(tmp_path / "a.ome.tif", PIXELS, metadata={**facts, "Channel": {"Name": ["Hoechst", "FITC"]}})
    metadata = read_image(tmp_path / "a.ome.tif").metadata
    assert metadata.channel_names == ("Hoechst", "FITC")
    assert metadata.pixel_size_um == pytest.approx(0.1083)


def test_imagej_tiff(tmp_path: Path) -> None:
    facts = {"axes": "CYX", "unit": "um", "Labels": ["nuc", "prot"]}
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, imagej=True, resolution=(5, 5), metadata=facts)
    image = read_image(tmp_path / "a.tif")
    assert image.axes == "CYX"
    assert image.metadata.channel_names == ("nuc", "prot")
    assert image.metadata.pixel_size_um == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [((100_000, 100_000), "CENTIMETER", 0.1), ((72, 72), "INCH", None), ((127_000, 127_000), "INCH", 0.2)],
)
def test_baseline_tags_count_only_where_they_tell_a_microscope(
    tmp_path: Path, resolution: tuple[int, int], unit: str, expected: float | None
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS[0], resolution=resolution, resolutionunit=unit)
    assert read_image(tmp_path / "a.tif").metadata.pixel_size_um == (expected and pytest.approx(expected))


def test_pixels_that_are_not_square_are_refused(tmp_path: Path) -> None:
    facts = {"axes": "CYX", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.3, "Channel": {"Name": ["blue", "green"]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", np.arange(2 * 16 * 16, dtype=np.uint16).reshape(2, 16, 16), metadata=facts)
    with pytest.raises(FieldError, match=r"0\.1 x 0\.3 um, expected positive and square"):
        find_fields(tmp_path)[0].read()


def test_ome_xml_without_facts_says_nothing() -> None:
    text = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image><Pixels/></Image></OME>'
    (image,) = read_ome_xml(text, 1)
    assert image.metadata == ImageMetadata()
    with pytest.raises(ValueError, match="malformed"):
        read_ome_xml("<OME", 1)


@pytest.mark.parametrize(
    ("size", "sane"), [(0.01, True), (5.0, True), (0.0099, False), (5.1, False), (float("nan"), False), (-1.0, False)]
)
def test_sane_pixel_sizes(size: float, sane: bool) -> None:
    assert is_sane_pixel_size(size) is sane
