"""Tables that list images, and crates, give the table of their twin of one PNG per channel, plate map included."""

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from subcell_hf.images.fields_of_view import ReadingOptions
from subcell_hf.inference.engine.embed_settings import EmbedSettings
from subcell_hf.inference.sources.source_options import SourceOptions
from subcell_hf.tables.files import read_table
from subcell_hf.tables.run_record import read_run
from subcell_hf.workflows.embed import embed_to_folder
from subcell_hf.workflows.embed_input import EmbedInput, read_embed_input
from tests.images.written_fields import COLOURS, label_mask, write_hpa_field, write_png
from tests.inference.embedding_runs import save_tiny_model

WELLS = ("B2", "B3")
SIZE_UM = 0.16
STAINS = dict(zip(("OrigTub", "OrigER", "OrigDNA", "OrigAb"), COLOURS, strict=True))

Planes = Mapping[str, npt.NDArray[Any]]
Written = tuple[Path, dict[str, Any]]


def _loaddata(folder: Path, fields: Mapping[str, Planes]) -> Written:
    rows = []
    for well, planes in fields.items():
        row = {"Metadata_Plate": "7", "Metadata_Well": well, "Metadata_Site": "1"}
        row |= {f"Metadata_ImageResolution{axis}": f"{SIZE_UM / 1e6}" for axis in "XY"}
        for channel, colour in STAINS.items():
            tifffile.imwrite(folder / f"{well}{channel}.tif", planes[colour])
            row |= {f"FileName_{channel}": f"{well}{channel}.tif", f"PathName_{channel}": "X:\\screen\\7\\"}
        rows.append(row)
    with (folder / "load_data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "load_data.csv", {"path_mapping": {"x:/Screen/7": str(folder)}, "channel_mapping": STAINS}


def _sample_sheet(folder: Path, fields: Mapping[str, Planes]) -> Written:
    lines = ["channel,path,plate,well,site"]
    for well, planes in fields.items():
        for channel, colour in STAINS.items():
            tifffile.imwrite(folder / f"{well}{channel}.tif", planes[colour])
            lines.append(f"{channel},s3://bucket/7/{well}{channel}.tif,7,{well},1")
    (folder / "sheet.csv").write_text("\n".join(lines))
    reading = {"path_mapping": {"s3://bucket/7": str(folder)}, "channel_mapping": STAINS, "pixel_size_um": SIZE_UM}
    return folder / "sheet.csv", reading


def _crate(folder: Path, fields: Mapping[str, Planes]) -> Written:
    for well, planes in fields.items():
        for colour, plane in planes.items():
            (folder / colour).mkdir(exist_ok=True)
            write_png(folder / colour / f"7_{well}_R1_z01_{colour}.png", plane)
    (folder / "ro-crate-metadata.json").write_text(json.dumps({"@graph": []}))
    return folder, {"pixel_size_um": SIZE_UM}


@pytest.mark.parametrize("write", [_loaddata, _sample_sheet, _crate])
def test_a_table_of_images_gives_the_table_of_its_twin(
    tmp_path: Path, write: Callable[[Path, Mapping[str, Planes]], Written]
) -> None:
    model = save_tiny_model(tmp_path / "model")
    for name in ("in", "masks"):
        (tmp_path / name).mkdir()
    fields = {}
    for number, well in enumerate(WELLS):
        planes = write_hpa_field(tmp_path / "twin", f"7_{well}_1", dtype="uint16")
        fields[well] = {colour: np.ascontiguousarray(np.roll(plane, number)) for colour, plane in planes.items()}
        for colour, plane in fields[well].items():
            write_png(tmp_path / f"twin/7_{well}_1_{colour}.png", plane)
        write_png(tmp_path / f"masks/{well}.png", label_mask())
    source, reading = write(tmp_path / "in", fields)
    (tmp_path / "map.csv").write_text(",2,3\nB,DMSO,x\n")
    shared = {"plate_maps": (tmp_path / "map.csv",), "masks": f"{tmp_path}/masks/{{well}}.png"}
    tables = []
    for name, path, own in (("expected", tmp_path / "twin", {"pixel_size_um": SIZE_UM}), ("found", source, reading)):
        options = SourceOptions(ReadingOptions(**{**own, **shared}))
        given = EmbedInput(str(path), str(model), options=options)
        embed_to_folder(given, tmp_path / name, EmbedSettings(precision="fp32", device="cpu"), report=False)
        assert read_embed_input(read_run(tmp_path / name)) == given
        tables.append(read_table(tmp_path / name))
    expected, found = tables
    np.testing.assert_allclose(found.embeddings, expected.embeddings, rtol=0, atol=1e-5)
    for column in ("plate", "well", "map"):
        assert list(found.cells[column]) == list(expected.cells[column])
    assert list(found.cells["map"]) == ["DMSO", "DMSO", "x", "x"]
