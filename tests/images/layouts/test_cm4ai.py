"""CM4AI's RO-Crates: one folder for each colour, with the antibodies and genes of its tables and of the crate."""

import json
from pathlib import Path
from typing import Any

import pytest

from subcell_hf.images.fields_of_view import FieldError, find_fields, list_fields
from subcell_hf.images.reading_options import ReadingOptions
from tests.images.written_fields import COLOURS, random_plane, write_png

NAMES = ("B2AI_1_Paclitaxel_C1_R1_z01", "B2AI_1_Paclitaxel_C1_R2_z01")


def _write_crate(folder: Path, entries: list[dict[str, Any]] | None = None) -> Path:
    for number, colour in enumerate(COLOURS):
        (folder / colour).mkdir(parents=True)
        for name in NAMES:
            write_png(folder / colour / f"{name}_{colour}.png", random_plane(number))
    graph = [{"@id": "ro-crate-metadata.json"}, {"@id": "ark:1", "name": "images"}, *(entries or [])]
    (folder / "ro-crate-metadata.json").write_text(json.dumps({"@context": {}, "@graph": graph}))
    return folder


def _entry(name: str, colour: str = "green", **facts: Any) -> dict[str, Any]:
    return {"@id": f"ark:{name}{colour}", "contentUrl": f"file:///{colour}/{name}_{colour}.png", **facts}


def test_colours_of_a_crate_are_gathered_and_its_facts_are_kept(tmp_path: Path) -> None:
    entries = [
        _entry(NAMES[0], keywords=["IF", "image", "HPA061717", "ENSG00000163599"], gene="CTLA4"),
        _entry(NAMES[1], additionalProperty=[{"name": "Antibody ID", "value": "CAB079904"}]),
        _entry(NAMES[1], "red", keywords="microtubules (Tubulin antibody)"),
    ]
    crate = _write_crate(tmp_path / "crate", entries)
    found = list_fields(crate, ReadingOptions(pixel_size_um=0.1))
    assert found.layout == "CM4AI RO-Crate"
    first, second = found.fields
    assert (first.name, first.read().channels) == ("B2AI_1_Paclitaxel_C01_R1", COLOURS)
    assert {name: first.metadata[name] for name in ("antibody", "ensembl_ids", "gene", "well", "site")} == {
        "antibody": "HPA061717", "ensembl_ids": "ENSG00000163599", "gene": "CTLA4", "well": "C01", "site": "R1",
    }  # fmt: skip
    assert second.metadata["antibody"] == "CAB079904"
    assert [item.name for item in find_fields(crate / "ro-crate-metadata.json")] == [first.name, second.name]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "MDA-MB-468_paclitaxel_antibody_gene_table.tsv",
            "Antibody ID\tENSEMBL ID\tTreatment\tWell\tRegion\nCAB079904\tENSG00000187555\tPaclitaxel\tC1\tR1\n"
            "HPA1\tENSG1\tuntreated\tC1\tR1\n",
        ),
        (
            "manifest.csv",
            "HPA_Antibody_ID,ENSEMBL ID,Baselink,Plate,Treatment,Well,Region\n"
            "CAB079904,ENSG00000187555,B2AI_1_Paclitaxel_C1_R1_z01_,1,paclitaxel,C1,R1\n",
        ),
    ],
)
def test_tables_of_both_releases_say_the_antibody(tmp_path: Path, name: str, text: str) -> None:
    crate = _write_crate(tmp_path / "crate")
    (crate / name).write_text(text)
    first, second = find_fields(crate)
    assert (first.metadata["antibody"], first.metadata["ensembl_ids"]) == ("CAB079904", "ENSG00000187555")
    assert first.metadata["treatment"].lower() == "paclitaxel"
    assert first.metadata["plate"] == "B2AI_1_Paclitaxel"
    assert "antibody" not in second.metadata
    source = crate / name if name.endswith(".tsv") else crate
    assert find_fields(source)[0].metadata == first.metadata


def test_a_crate_that_contradicts_its_table_or_lacks_an_image_is_named(tmp_path: Path) -> None:
    crate = _write_crate(tmp_path / "crate", [_entry(NAMES[0], antibody="HPA000001"), _entry(NAMES[1])])
    (crate / "antibody_gene_table.tsv").write_text("Antibody ID\tTreatment\tWell\tRegion\nHPA9\tPaclitaxel\tC1\tR1\n")
    (crate / "green" / f"{NAMES[1]}_green.png").unlink()
    first, second = find_fields(crate)
    assert "antibody_gene_table.tsv says 'HPA9' of antibody, ro-crate-metadata.json says 'HPA000001'" in str(
        first.listed.problem
    )
    assert "1 of 4 listed planes is not on the disk" in str(second.listed.problem)


def test_slices_are_planes_of_a_stack(tmp_path: Path) -> None:
    crate = _write_crate(tmp_path / "crate")
    for colour in COLOURS:
        (crate / colour / f"{NAMES[1]}_{colour}.png").rename(
            crate / colour / f"{NAMES[0].replace('z01', 'z02')}_{colour}.png"
        )
    (item,) = find_fields(crate)
    assert {len(planes) for planes in item.listed.channel_planes.values()} == {2}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"@graph": 5}'])
def test_a_damaged_crate_is_named(tmp_path: Path, text: str) -> None:
    crate = _write_crate(tmp_path / "crate")
    (crate / "ro-crate-metadata.json").write_text(text)
    with pytest.raises(FieldError, match=r"ro-crate-metadata\.json (is damaged or not JSON|lacks what belongs there)"):
        find_fields(crate)
