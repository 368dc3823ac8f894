"""Files that instruments wrote, from public repositories, are listed as their metadata say, or refused by name."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from subcell_hf.images.fields_of_view import FoundFields, list_fields
from tests.conftest import REAL_DATA

SETS = REAL_DATA / "vendor"
if not SETS.is_dir():
    pytest.skip("../shared/data/vendor with files of real instruments is missing", allow_module_level=True)


@dataclass(frozen=True)
class Listed:
    """What a set holds, as `SOURCES.md` beside it says.

    Attributes:
        folder: Of the set.
        layout: Begins the name of the layout.
        wells: All of them.
        sites: Of every well.
        channels: In the instrument's order.
        pixel_size_um: None where the layout's metadata do not say it.
        problem: Part of every field's problem; None where the fields can be read.
        left_out: Names of files that are left out.
    """

    folder: str
    layout: str
    wells: tuple[str, ...]
    sites: tuple[str, ...]
    channels: tuple[str, ...]
    pixel_size_um: float | None
    problem: str | None = None
    left_out: frozenset[str] = field(default_factory=frozenset)


EXPECTED = (
    Listed(
        "phenix_harmonyv5_jump_BR00121482", "Opera Phenix", ("A01",), ("1",),
        ("Alexa 647", "Alexa 568", "488 long", "Alexa 488", "HOECHST 33342", "Brightfield"), 0.5979760809567617,
        "6 planes are listed, 4 of them are not on the disk",
    ),
    Listed(
        "phenix_harmonyv5_BR00122249_indexonly", "Opera Phenix", ("A01",), ("1",),
        ("Digital Phase Contrast", "Brightfield high", "488 650", "Alexa 488", "Alexa 568", "Alexa 647"), 0.598,
        "6 planes are listed, 6 of them are not on the disk",
    ),
    Listed(
        "phenix_harmonyv7_indexonly", "Opera Phenix", ("A01",), ("1",),
        ("Alexa 488", "Alexa 568", "Alexa 488 Em 650", "405ex, 570-630-em)", "Alexa 647", "HOECHST 33342",
         "Brightfield"), 0.296688132474701, "7 planes are listed, 7 of them are not on the disk",
    ),
    Listed(
        "operetta_cls_indexonly", "Opera Phenix", ("C03",), ("1", "2"), ("Fluorescein (FITC)",), 1.1959521619135234,
        "1 planes are listed, 1 of them are not on the disk",
    ),
    Listed(
        "imagexpress_exported_htd/9987_Plate_3420", "ImageXpress", ("B02",), ("1",), ("DAPI",), None,
    ),
    Listed(
        "imagexpress_exported_htd/9987_Plate_3434", "ImageXpress", ("B02", "B03"), ("1", "2"),
        ("DAPI", "FITC", "Texas Red", "Cy5"), None, "of them are not on the disk",
        # The projection, and the wavelengths that were taken once and copied.
        frozenset({"ZStep_0/9987_B02_s1_w1.TIF", "ZStep_1/9987_B02_s1_w2.TIF", "ZStep_1/9987_B02_s1_w3.TIF"}),
    ),
    Listed(
        "imagexpress_exported_htd/9987_Plate_3435", "ImageXpress", ("B02", "B03"), ("1", "2"),
        ("DAPI", "FITC", "Texas Red", "Cy5"), None, "of them are not on the disk",
    ),
    Listed(
        "imagexpress_hcsai_jdce_metaonly", "ImageXpress HCS.ai", ("C05",), ("0",), ("DAPI",), 1.294,
        "1 planes are listed, 1 of them are not on the disk",
    ),
    Listed(
        "cellvoyager_cv8000", "Yokogawa CellVoyager", ("D08", "E03", "F08"), ("1", "2", "3", "4"),
        ("Ch1 405 BP445/45", "Ch2 488 BP525/50"), 0.325, None,
        frozenset({
            "DC_DCAM#1_CAM3.tif", "DC_DCAM#2_CAM4.tif", "SC_BP445-45_20x v2_M01_CH01.tif",
            "SC_BP525-50_20x v2_M01_CH02.tif", "SC_BP600-37_20x v2_M01_CH03.tif", "SC_BP676-29_20x v2_M01_CH04.tif",
        }),
    ),
    Listed(
        "cellvoyager_cv7000_projection_metaonly", "Yokogawa CellVoyager", ("C03", "C04", "D03", "D04", "E03"),
        tuple("123456789"), ("Ch1 405 BP445/45", "Ch3 561 BP600/37", "Ch4 640 BP676/29"), 0.10833333333333334,
        "3 planes are listed, 3 of them are not on the disk",
    ),
    Listed(
        "yokogawa_cq3k_metaonly", "Yokogawa CellVoyager", ("C05", "F09"), ("1",),
        ("Ch1_ConfocalFluorescence_405nm/100mW_BP447/60",), 0.32283699215257772,
        "1 planes are listed, 1 of them are not on the disk",
    ),
    Listed(
        "yokogawa_cv7000_err_metaonly", "Yokogawa CellVoyager", ("B03",), ("1",), ("Ch1",), 0.1625,
        "1 planes are listed, 1 of them are not on the disk",
    ),
    Listed(
        "incell6000_xdce_metaonly", "IN Cell Analyzer", ("C03", "D03"), ("1", "2"),
        ("UV - DAPI", "Blue - FITC", "Green - dsRed", "Red - Cy5"), 0.1625,
        "4 planes are listed, 4 of them are not on the disk",
    ),
    Listed(
        "scanr_ome_metaonly", "scanR", ("B02",), ("1",), ("405 nm #1",), 0.325,
        "1 planes are listed, 1 of them are not on the disk",
    ),
    Listed(
        "biotek_gen5_nf1", "BioTek Cytation", ("F07",), ("2",), ("DAPI", "GFP", "RFP"), None, None,
        frozenset({
            "F7_01_1_2_DAPI_001_MaskNuclei.tiff", "F7_01_3_2_RFP_001_MaskCells.tiff",
            "F7_01_3_2_RFP_001_MaskCytoplasm.tiff",
        }),
    ),
    Listed("cellomics_arrayscan_examplehuman", "Cellomics", ("D03",), ("0",), ("d0", "d1", "d2"), None),
)  # fmt: skip


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda expected: expected.folder)
def test_a_set_is_listed_as_its_metadata_say(expected: Listed) -> None:
    found = list_fields(SETS / expected.folder)
    assert found.layout.startswith(expected.layout)
    assert {(item.metadata["well"], item.metadata["site"]) for item in found.fields} == {
        (well, site) for well in expected.wells for site in expected.sites
    }
    for item in found.fields:
        assert tuple(item.listed.channel_planes) == expected.channels
        assert item.listed.pixel_size_um == (expected.pixel_size_um and pytest.approx(expected.pixel_size_um, 1e-3))
        assert (expected.problem is None) == (item.listed.problem is None)
        assert expected.problem is None or expected.problem in str(item.listed.problem)
    assert {name for name in expected.left_out if not _is_left_out(found, name)} == set()
    assert len(found.unused) == len(expected.left_out)


def _is_left_out(found: FoundFields, name: str) -> bool:
    return any(Path(path).as_posix().endswith(name) for path in found.unused)
