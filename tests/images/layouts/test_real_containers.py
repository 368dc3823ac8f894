"""Files that hold many images, from public repositories, are listed as `SOURCES.md` beside them says."""

from dataclasses import dataclass

import numpy as np
import pytest

from subcell_hf.images.fields_of_view import FieldError, find_fields, list_fields
from subcell_hf.images.reading_options import ReadingOptions
from tests.conftest import REAL_DATA

SETS = REAL_DATA / "vendor"
if not SETS.is_dir():
    pytest.skip("../shared/data/vendor with files of real instruments is missing", allow_module_level=True)

LEICA = "LeicaLASX_wavelength-sweep_example"
EARLY = "20241003_experiment_488_7_640_3_1"


@dataclass(frozen=True)
class Listed:
    """What a file or folder holds.

    Attributes:
        path: Of it.
        fields: Names of its fields.
        wells: Of the fields; empty where they have none.
        channels: Channel → how many Z-planes it has.
        pixel_size_um: None where the metadata do not say it.
        problems: Parts of what is wrong with every field.
    """

    path: str
    fields: tuple[str, ...]
    wells: tuple[str, ...]
    channels: dict[str, int]
    pixel_size_um: float | None
    problems: tuple[str, ...] = ()


EXPECTED = (
    Listed(
        "nikon_nd2", ("cluster_t0", "cluster_t1", "cluster_t2"), (),
        {"5-FAM/pH 9.0": 10, "FM 4-64/2% CHAPS": 10}, 0.16780898323268245,
    ),
    Listed(
        "zeiss_czi/WellD6-7_S2.czi", ("WellD6-7_S2_D06_1", "WellD6-7_S2_D07_1"), ("D06", "D07"), {"AF488": 1}, 0.1
    ),
    Listed("zeiss_czi/DAPI_GFP.czi", ("DAPI_GFP",), (), {"DAPI": 1, "GFP": 1}, None),
    Listed(
        "leica_lif",
        (f"{LEICA}_x_y_lambdaEmi", f"{LEICA}_x_y_lambdaExc", *(f"{LEICA}_x_y_z_t_lambdaEmi_t{t}" for t in (0, 1))),
        (), {}, 0.104814, ("entries along the axis", "wavelength), which are no channels"),
    ),
    Listed("ometiff_multi_image", tuple(f"multiseries_{n}" for n in range(6)), (), {}, None),
)  # fmt: skip


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda expected: expected.path)
def test_a_set_is_listed_as_its_metadata_say(expected: Listed) -> None:
    found = list_fields(SETS / expected.path)
    assert tuple(item.name for item in found.fields) == expected.fields
    assert tuple(item.metadata["well"] for item in found.fields if "well" in item.metadata) == expected.wells
    for item in found.fields:
        planes = {channel: len(stack) for channel, stack in item.listed.channel_planes.items()}
        assert not expected.channels or planes == expected.channels
        assert item.listed.pixel_size_um == (expected.pixel_size_um and pytest.approx(expected.pixel_size_um, 1e-5))
        assert (item.listed.problem is None) == (not expected.problems)
        assert all(problem in str(item.listed.problem) for problem in expected.problems)
    assert not found.unused


def test_a_companion_set_is_listed_or_refused_by_name() -> None:
    found = list_fields(SETS / "ometiff_companion_metaonly")
    assert found.layout.startswith("OME-TIFF with a companion")
    assert [item.name for item in found.fields] == [*(f"{EARLY}_t{time}" for time in range(6)), "c3_z33"]
    *early, late = found.fields
    for item in early:
        assert list(item.listed.channel_planes) == ["Channel1", "Channel2"]
        assert item.listed.pixel_size_um == 0.16
        assert f"Image {EARLY!r} (files 20240729_" in str(item.listed.problem)
        assert "announces SizeT 5, and its TiffData lists time points up to 5" in str(item.listed.problem)
    assert {channel: len(stack) for channel, stack in late.listed.channel_planes.items()} == {
        "Conf640": 33, "Conf561": 33, "Conf405": 33
    }  # fmt: skip
    assert late.listed.pixel_size_um == 0.0649555549
    assert "99 of 99 listed planes are not on the disk: c3_z33_w1Conf640.ome.tif" in str(late.listed.problem)


def test_pixels_of_real_files_are_read() -> None:
    mapping = {"5-FAM/pH 9.0": "green", "FM 4-64/2% CHAPS": "red", "AF488": "green"}
    options = ReadingOptions(channel_mapping=mapping, z_projection=4)
    field = find_fields(SETS / "nikon_nd2", options)[1].read()
    assert (field.channels, field.pixels.shape, field.pixels.dtype) == (("red", "green"), (2, 31, 38), np.uint16)
    sharpest = find_fields(SETS / "nikon_nd2", ReadingOptions(channel_mapping=mapping, z_projection="focus"))
    assert all(item.read().pixels.any() for item in sharpest)  # though whole planes of the file are dark
    for item, shape in zip(find_fields(SETS / "zeiss_czi/WellD6-7_S2.czi", options), [(1, 440, 544)] * 2, strict=True):
        assert item.read().pixels.shape == shape
    (item,) = find_fields(SETS / "zeiss_czi/DAPI_GFP.czi")
    with pytest.raises(FieldError, match="pixel size is unknown"):
        item.read()


def test_positions_on_the_stage_are_kept() -> None:
    fields = find_fields(SETS / "zeiss_czi/WellD6-7_S2.czi")
    places = [(item.metadata["stage_x_um"], item.metadata["stage_y_um"]) for item in fields]
    assert places == [("49500", "35500"), ("58500", "35500")]


def test_images_of_an_ome_tiff_have_their_pixel_size() -> None:
    options = ReadingOptions(channel_names=("blue", "green", "yellow", "red"))
    sizes = {item.read().pixel_size_um for item in find_fields(SETS / "ometiff_multi_image", options)}
    assert sizes == {0.6499999761581421}
