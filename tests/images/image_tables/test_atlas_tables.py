"""Tables of the Human Protein Atlas's images, and the manifest of the DREAM challenge."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from subcell_hf.images.fields_of_view import FieldError, find_fields, list_fields
from subcell_hf.images.reading_options import ReadingOptions
from tests.images.written_fields import random_plane, write_hpa_field, write_png

SAMPLES = """filename,if_plate_id,position,sample,status,locations,antibody,ensembl_ids,gene_names
/archive/7/7_C5_1_,7,C5,1,35,"Cytosol,Nuclear speckles",HPA005910,ENSG00000011007,ELOA
/archive/7/7_C5_2_,7,C5,2,35,Cytosol,HPA005910,ENSG00000011007,ELOA
"""


def test_images_of_an_atlas_table_are_found_below_it_with_what_it_says_of_them(tmp_path: Path) -> None:
    table = tmp_path / "samples.csv"
    table.write_text(SAMPLES)
    with pytest.raises(FieldError, match=r"lists 2 fields of view, and no image of them .* 7_C5_1_blue.jpg"):
        list_fields(table)
    write_hpa_field(tmp_path / "images" / "7", "7_C5_1", with_mask=False)
    found, lost = find_fields(table)
    field = found.read()
    assert field.channels == ("red", "yellow", "blue", "green")
    assert (field.pixel_size_um, field.pixel_size_from) == (pytest.approx(0.0800885), "HPA name")
    assert {name: field.metadata[name] for name in ("plate", "well", "sample", "gene", "locations", "antibody")} == {
        "plate": "7", "well": "C05", "sample": "1", "gene": "ELOA", "locations": "Cytosol;Nuclear speckles",
        "antibody": "HPA005910",
    }  # fmt: skip
    assert "row 2 of" in str(lost.listed.problem)
    assert "7_C5_2_blue.jpg" in str(lost.listed.problem)


def test_slices_and_folders_of_colours_are_found(tmp_path: Path) -> None:
    for number, colour in enumerate(("red", "blue", "green")):
        (tmp_path / colour).mkdir()
        write_png(tmp_path / colour / f"B2AI_1_Paclitaxel_C1_R1_z01_{colour}.png", random_plane(number))
    table = tmp_path / "samples.csv"
    table.write_text(
        "filename,if_plate_id,position,sample,antibody,z\nB2AI_1_Paclitaxel_C1_R1_,B2AI_1,C1,R1,CAB079904,z01_\n"
    )
    (found,) = find_fields(table, ReadingOptions(pixel_size_um=0.1))
    assert found.read().channels == ("red", "blue", "green")
    assert found.metadata["antibody"] == "CAB079904"


def test_a_table_of_antibodies_is_no_table_of_images(tmp_path: Path) -> None:
    (tmp_path / "unique.csv").write_text("antibody,ensembl_ids,gene_names\nHPA1,ENSG1,A\n")
    with pytest.raises(FieldError, match="lists antibodies, not images"):
        list_fields(tmp_path / "unique.csv")


def test_channels_of_a_dream_manifest_that_are_empty_are_not_there(tmp_path: Path) -> None:
    row = {"uid": "1", "cell_id": "c", "prediction_id": "cell_0", "nucleus_image": "n.tiff", "er_image": "e.tiff"}
    pd.DataFrame([{**row, "poi_image": ""}]).to_csv(tmp_path / "manifest.tsv", sep="\t", index=False)
    (item,) = find_fields(tmp_path / "manifest.tsv")
    assert "2 of 2 listed planes are not on the disk: n.tiff, e.tiff" in str(item.listed.problem)
    planes = {name: random_plane(number) for number, name in enumerate(("n", "e"))}
    for name, plane in planes.items():
        tifffile.imwrite(tmp_path / f"{name}.tiff", plane)
    options = ReadingOptions(pixel_size_um=0.1, channel_mapping={"nucleus": "blue", "er": "yellow"})
    field = find_fields(tmp_path / "manifest.tsv", options)[0].read()
    assert field.channels == ("yellow", "blue")
    np.testing.assert_array_equal(field.pixels[1], planes["n"])
    assert field.metadata["metadata_cell_id"] == "c"
