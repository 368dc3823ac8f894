"""Files that instruments wrote, from public repositories, are listed as their metadata say, or refused by name."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from subcell_hf.errors import InputError
from subcell_hf.images.fields_of_view import FieldError, FoundFields, list_fields
from subcell_hf.images.image_tables.plate_maps import join_plate_maps, read_plate_map
from subcell_hf.images.reading_options import ReadingOptions
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
        "4 of 6 listed planes are not on the disk",
    ),
    Listed(
        "phenix_harmonyv5_BR00122249_indexonly", "Opera Phenix", ("A01",), ("1",),
        ("Digital Phase Contrast", "Brightfield high", "488 650", "Alexa 488", "Alexa 568", "Alexa 647"), 0.598,
        "6 of 6 listed planes are not on the disk",
    ),
    Listed(
        "phenix_harmonyv7_indexonly", "Opera Phenix", ("A01",), ("1",),
        ("Alexa 488", "Alexa 568", "Alexa 488 Em 650", "405ex, 570-630-em)", "Alexa 647", "HOECHST 33342",
         "Brightfield"), 0.296688132474701, "7 of 7 listed planes are not on the disk",
    ),
    Listed(
        "operetta_cls_indexonly", "Opera Phenix", ("C03",), ("1", "2"), ("Fluorescein (FITC)",), 1.1959521619135234,
        "1 of 1 listed plane is not on the disk",
    ),
    Listed(
        "imagexpress_exported_htd/9987_Plate_3420", "ImageXpress", ("B02",), ("1",), ("DAPI",), None,
    ),
    Listed(
        "imagexpress_exported_htd/9987_Plate_3434", "ImageXpress", ("B02", "B03"), ("1", "2"),
        ("DAPI", "FITC", "Texas Red", "Cy5"), None, "listed planes are not on the disk",
        # The projection, and the wavelengths that were taken once and copied.
        frozenset({"ZStep_0/9987_B02_s1_w1.TIF", "ZStep_1/9987_B02_s1_w2.TIF", "ZStep_1/9987_B02_s1_w3.TIF"}),
    ),
    Listed(
        "imagexpress_exported_htd/9987_Plate_3435", "ImageXpress", ("B02", "B03"), ("1", "2"),
        ("DAPI", "FITC", "Texas Red", "Cy5"), None, "listed planes are not on the disk",
    ),
    Listed(
        "imagexpress_hcsai_jdce_metaonly", "ImageXpress HCS.ai", ("C05",), ("0",), ("DAPI",), 1.294,
        "1 of 1 listed plane is not on the disk",
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
        "3 of 3 listed planes are not on the disk",
    ),
    Listed(
        "yokogawa_cq3k_metaonly", "Yokogawa CellVoyager", ("C05", "F09"), ("1",),
        ("Ch1_ConfocalFluorescence_405nm/100mW_BP447/60",), 0.32283699215257772,
        "1 of 1 listed plane is not on the disk",
    ),
    Listed(
        "yokogawa_cv7000_err_metaonly", "Yokogawa CellVoyager", ("B03",), ("1",), ("Ch1",), 0.1625,
        "1 of 1 listed plane is not on the disk",
    ),
    Listed(
        "incell6000_xdce_metaonly", "IN Cell Analyzer", ("C03", "D03"), ("1", "2"),
        ("UV - DAPI", "Blue - FITC", "Green - dsRed", "Red - Cy5"), 0.1625,
        "4 of 4 listed planes are not on the disk",
    ),
    Listed(
        "scanr_ome_metaonly", "scanR", ("B02",), ("1",), ("405 nm #1",), 0.325,
        "1 of 1 listed plane is not on the disk",
    ),
    Listed(
        "biotek_gen5_nf1", "BioTek Cytation", ("F07",), ("2",), ("DAPI", "GFP", "RFP"), None, None,
        frozenset({
            "F7_01_1_2_DAPI_001_MaskNuclei.tiff", "F7_01_3_2_RFP_001_MaskCells.tiff",
            "F7_01_3_2_RFP_001_MaskCytoplasm.tiff",
        }),
    ),
    Listed(
        "loaddata_jump_cpg0016/load_data.csv", "CellProfiler LoadData", tuple(f"A{c:02d}" for c in range(1, 25)),
        tuple("123456789"), ("OrigAGP", "OrigDNA", "OrigER", "OrigMito", "OrigRNA"), None,
        "5 of 5 listed planes are not on the disk",
    ),
    Listed(
        "loaddata_jump_parquet/test_BR00126114_load_data_with_illum.parquet", "CellProfiler LoadData", ("A01",),
        ("1", "2"), ("OrigAGP", "OrigDNA", "OrigER", "OrigMito", "OrigRNA"), None,
        "such as --path-mapping s3://cellpainting-gallery/cpg0016-jump/source_4/images/",
        frozenset({"test_BR00126114_load_data_with_illum.parquet"}),  # its illumination functions
    ),
    Listed(
        "loaddata_nfcore_s3/load_data.csv", "CellProfiler LoadData", ("A01",), ("1",),
        ("OrigBrightfield_L", "OrigBrightfield_H", "OrigBrightfield", "OrigRNA", "OrigMito", "OrigER", "OrigDNA",
         "OrigAGP"), 0.5979760809567617, "8 of 8 listed planes are not on the disk",
    ),
    Listed(
        "loaddata_nfcore_s3/samplesheet.csv", "nf-core/cellpainting", ("A01", "A02", "B01"), ("1", "2"),
        ("Brightfield_L", "Brightfield_H", "Brightfield", "RNA", "Mito", "ER", "DNA", "AGP"), None,
        "8 of 8 listed planes are not on the disk",
    ),
    Listed(
        "phenix_harmonyv5_BR00122249_indexonly/load_data_version5.csv", "CellProfiler LoadData", ("A01",), ("1",),
        ("OrigRNA", "OrigER", "OrigAGP", "OrigMito", "OrigBrightfield", "OrigDPC"), 0.5979760809567617,
        "such as --path-mapping tests/data/Version5/images=FOLDER",
    ),
    Listed(
        "phenix_harmonyv7_indexonly/load_data_version7.csv", "CellProfiler LoadData", ("A01",), ("1",),
        ("OrigActin", "OrigER", "OrigRNA", "OrigAGP", "OrigMito", "OrigBrightfield", "OrigDNA"), 0.296688132474701,
        "7 of 7 listed planes are not on the disk",
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


@pytest.mark.parametrize("plate", ["3420", "3434", "3435"])
def test_metaxpress_says_pixel_size_and_place_in_its_images(plate: str) -> None:
    found = list_fields(SETS / "imagexpress_exported_htd" / f"9987_Plate_{plate}", ReadingOptions(z_projection="max"))
    facts = found.fields[0].describe()
    assert (facts.pixel_size_um, facts.pixel_size_source) == (1.3672, "file")


def test_metaxpress_without_its_index_is_called_as_its_images_say(tmp_path: Path) -> None:
    for number in ("3434", "3435"):
        plate = f"9987_Plate_{number}"
        shutil.copytree(
            SETS / "imagexpress_exported_htd" / plate, tmp_path / plate, ignore=shutil.ignore_patterns("*.HTD")
        )
    found = {item.name: item for item in list_fields(tmp_path, ReadingOptions(channels=("DAPI", "FITC"))).fields}
    assert sorted(found) == ["9987_Plate_3434_B02_1", "9987_Plate_3435_B02_1_t1", "9987_Plate_3435_B02_1_t2"]
    first = found["9987_Plate_3434_B02_1"]
    assert list(first.listed.channel_planes) == ["DAPI", "FITC", "Texas Red"]
    (plane,) = first.listed.channel_planes["DAPI"]  # not the projection in ZStep_0 beside it
    assert plane.path.parent.name == "ZStep_1"
    field = first.read()
    assert field.pixel_size_um == 1.3672
    assert (field.metadata["stage_x_um"], field.metadata["stage_y_um"]) == ("22985", "19885")


def test_harmony_without_its_index_is_called_as_its_images_say(tmp_path: Path) -> None:
    images = tmp_path / "BR00121482" / "Images"
    images.mkdir(parents=True)
    for path in (SETS / "phenix_harmonyv5_jump_BR00121482" / "images").glob("*.tiff"):
        shutil.copy(path, images)
    (item,) = list_fields(tmp_path).fields
    assert item.name == "BR00121482_A01_1"
    assert list(item.listed.channel_planes) == ["488 long", "HOECHST 33342"]
    field = item.read()
    assert field.pixel_size_um == pytest.approx(0.5979760809567617, rel=1e-9)  # as the index says
    assert field.pixel_size_from == "file"


def _is_left_out(found: FoundFields, name: str) -> bool:
    return any(Path(path).as_posix().endswith(name) for path in found.unused)


def test_a_loaddata_table_finds_the_images_beside_it_where_its_folder_is_mapped() -> None:
    folder = SETS / "phenix_harmonyv5_jump_BR00121482"
    options = ReadingOptions(
        path_mapping={"tests/data/Version1/images": str(folder / "images")},
        channel_mapping={"OrigDNA": "blue", "OrigRNA": "green"},
        channels=("blue", "green"),
    )
    (found,) = list_fields(folder / "load_data_version1.csv", options).fields
    field = found.read()
    assert field.channels == ("blue", "green")
    assert field.pixels.shape == (2, 1080, 1080)
    assert field.pixel_size_um == pytest.approx(0.5979760809567617)  # the camera's 6.45 um of the TIFF tag are wrong
    assert field.metadata["Metadata_ChannelName_OrigDNA"] == "HOECHST 33342"


def test_tables_whose_images_are_elsewhere_are_refused_with_what_is_missing() -> None:
    with pytest.raises(FieldError, match=r"lists 483 fields of view, and no image of them lies below .*7_C5_1_blue"):
        list_fields(SETS / "hpa_if_tables" / "samples.csv")
    with pytest.raises(FieldError, match="lists antibodies, not images"):
        list_fields(SETS / "hpa_if_tables" / "unique.csv")
    with pytest.raises(FieldError, match="no row that is not commented out"):
        list_fields(SETS / "subcellportable_inputs" / "path_list.csv")
    found = list_fields(SETS / "cm4ai_dream_manifest" / "manifest.tsv")
    assert [item.name for item in found.fields] == ["cell_0", "cell_1"]
    for item in found.fields:
        assert tuple(item.listed.channel_planes) == ("microtubules", "nucleus", "er")  # poi_image is empty
        assert "3 of 3 listed planes are not on the disk" in str(item.listed.problem)


def test_plate_maps_of_laboratories_say_what_is_in_their_wells() -> None:
    jump = read_plate_map(SETS / "platemaps_jump_pilot/platemaps/2020_11_04_CPJUMP1_10a/barcode_platemap.csv")
    assert {*jump.wells} == {"BR00117017", "BR00117019", "BR00117015", "BR00117016"}
    assert join_plate_maps([jump], "BR00117017", "A1")["broad_sample"] == "BRD-A86665761-001-01-1"
    assert "broad_sample" not in join_plate_maps([jump], "BR00117017", "A02")  # DMSO
    lincs = read_plate_map(SETS / "platemaps_lincs/barcode_platemap.csv")
    assert (len(lincs.wells), len(lincs.missing)) == (5, 135)
    assert join_plate_maps([lincs], "SQ00015125", "A01")["Batch_Date"] == "2016-03-22"
    with pytest.raises(InputError, match="has the map 'C-7161-01-LM6-017', but no file of that name"):
        join_plate_maps([lincs], "SQ00015201", "A01")
    target = read_plate_map(SETS / "platemaps_jump_pilot/JUMP-Target/JUMP-Target-1_compound_platemap.tsv")
    assert join_plate_maps([target], "any", "a03") == {"broad_sample": "BRD-A22032524-074-09-9", "solvent": "DMSO"}
    for name, well, drug in (("drug_layout.csv", "C03", "DMSO"), ("drug_layout_utf8-dom.csv", "B03", "my_drug")):
        layout = read_plate_map(SETS / "operetta_cls_indexonly/drug_layouts" / name)
        assert join_plate_maps([layout], "", well)["drug"] == drug
    with pytest.raises(InputError, match="is no plate map"):
        read_plate_map(SETS / "platemaps_jump_pilot/moa/cpjump1_compound_metadata.tsv")


def test_a_plate_map_without_plates_joins_the_wells_of_a_folder() -> None:
    table = SETS / "biotek_gen5_nf1/metadata/platemap_NF1_plate2.csv"
    found = list_fields(SETS / "biotek_gen5_nf1", ReadingOptions(plate_maps=(table,)))
    (item,) = found.fields
    assert (item.metadata["well"], item.metadata["genotype"]) == ("F07", "Null")
    assert found.unused[str(table)].startswith("a plate map: 31 of its 32 wells have no image")
    barcodes = table.parent / "barcode_platemap.csv"
    with pytest.raises(InputError, match=r"its plates are Plate_2_nf1_analysis, the images are of Plate_2_images/F07"):
        list_fields(SETS / "biotek_gen5_nf1", ReadingOptions(plate_maps=(barcodes,)))
