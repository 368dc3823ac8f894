"""The Human Protein Atlas's pixel size is taken for files with its names alone, and every table says what was taken."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from subcell_hf.cells.cropping import CropSettings, crop_fields
from subcell_hf.cli import app
from subcell_hf.images.fields_of_view import FieldError, ReadingOptions, find_fields
from subcell_hf.inference.sources.source_options import SourceOptions
from subcell_hf.ontology import PUBLISHED_PIXEL_SIZE_UM
from subcell_hf.tables.files import read_table
from tests.images.written_fields import random_plane, write_hpa_field, write_png
from tests.inference.embedding_runs import run, save_tiny_model

SMALL = CropSettings(crop_px=32, output_px=16)


@pytest.mark.parametrize("name", ["800_A6_1", "1_H12_10", "89_B05_2"])
def test_names_of_the_atlas_have_its_pixel_size(tmp_path: Path, name: str) -> None:
    write_hpa_field(tmp_path, name)
    (found,) = find_fields(tmp_path)
    field = found.read()
    assert (field.pixel_size_um, field.pixel_size_from) == (PUBLISHED_PIXEL_SIZE_UM, "HPA name")


@pytest.mark.parametrize(
    "name",
    [
        "mycell",
        "exp 7 day3 hela",
        "plate_A1_1",
        "800_A6",
        "800_A6_1_2",
        "800_P24_1",
        "x800_A6_1",
        "800_6A_1",
        "80.0_A6_1",
    ],
)
def test_other_names_have_none(tmp_path: Path, name: str) -> None:
    write_hpa_field(tmp_path, name)
    with pytest.raises(FieldError, match=r"pixel size is unknown.*--pixel-size-um"):
        find_fields(tmp_path)[0].read()
    (found,) = find_fields(tmp_path, ReadingOptions(pixel_size_um=0.32))
    field = found.read()
    assert (field.pixel_size_um, field.pixel_size_from) == (0.32, "option")


@pytest.mark.parametrize("channel", ["Green", "GFP", "w1", "alexa488"])
def test_a_channel_named_otherwise_is_not_the_atlas(tmp_path: Path, channel: str) -> None:
    write_png(tmp_path / f"800_A6_1_{channel}.png", random_plane(1))
    write_png(tmp_path / "800_A6_1_blue.png", random_plane(2))
    options = ReadingOptions(channel_mapping={channel: "green"})
    with pytest.raises(FieldError, match="pixel size is unknown"):
        find_fields(tmp_path, options)[0].read()


def test_one_file_with_all_channels_is_not_the_atlas(tmp_path: Path) -> None:
    np.save(tmp_path / "800_A6_1.npy", np.stack([random_plane(1), random_plane(2)]))
    with pytest.raises(FieldError, match="pixel size is unknown"):
        find_fields(tmp_path, ReadingOptions(channel_names=("blue", "green")))[0].read()


def test_crops_say_the_size_that_was_used(tmp_path: Path) -> None:
    for name in ("7_A1_1", "7_A2_1"):
        write_hpa_field(tmp_path / "images", name)
    (tmp_path / "images/metadata.csv").write_text("field_of_view,pixel_size_um\n7_A1_1,0.2\n7_A2_1,\n")
    crop_fields(tmp_path / "images", tmp_path / "out", settings=SMALL, progress=False)
    rows = pq.read_table(tmp_path / "out/crops.parquet").to_pylist()
    said = {(row["field_of_view"], row["pixel_size_um"], row["pixel_size_from"]) for row in rows}
    assert said == {("7_A1_1", 0.2, "metadata"), ("7_A2_1", PUBLISHED_PIXEL_SIZE_UM, "HPA name")}
    facts = json.loads((tmp_path / "out/crops.json").read_text())
    assert facts["pixel_sizes"] == [
        {"pixel_size_um": PUBLISHED_PIXEL_SIZE_UM, "from": "HPA name", "cells": 2},
        {"pixel_size_um": 0.2, "from": "metadata", "cells": 2},
    ]
    crop_fields(
        tmp_path / "images",
        tmp_path / "told",
        settings=SMALL,
        reading=ReadingOptions(pixel_size_um=0.3),
        progress=False,
    )
    rows = pq.read_table(tmp_path / "told/crops.parquet").to_pylist()
    assert {(row["pixel_size_um"], row["pixel_size_from"]) for row in rows} == {(0.3, "option")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def test_embedding_tables_say_it_too(model: Path, tmp_path: Path) -> None:
    write_hpa_field(tmp_path / "images", "7_A1_1")
    run(tmp_path / "images", model, tmp_path / "out")
    cells = read_table(tmp_path / "out").cells
    assert set(zip(cells["pixel_size_um"], cells["pixel_size_from"], strict=True)) == {
        (PUBLISHED_PIXEL_SIZE_UM, "HPA name")
    }
    sizes = [{"pixel_size_um": PUBLISHED_PIXEL_SIZE_UM, "from": "HPA name", "cells": 2}]
    assert json.loads((tmp_path / "out/run.json").read_text())["pixel_sizes"] == sizes


def test_images_of_unknown_size_are_single_cells_only_if_told(model: Path, tmp_path: Path) -> None:
    for number in range(2):
        write_hpa_field(tmp_path / "images", f"cell{number}", with_mask=False)
    command = [
        "embed",
        str(tmp_path / "images"),
        "--model",
        str(model),
        "--output",
        str(tmp_path / "out"),
        "--no-report",
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "fields of view, of which the pixel size is unknown" in result.output
    # The same folder takes the run that follows the advice.
    result = CliRunner().invoke(app, [*command, "--single-cells"])
    assert result.exit_code == 0, result.output
    assert "Pixel size of 2 cells: 0.32 um, assumed to be the model's." in result.output
    assert set(read_table(tmp_path / "out").cells["pixel_size_from"]) == {"model"}


def test_tables_of_crops_say_that_the_scale_is_the_models(model: Path, tmp_path: Path) -> None:
    write_hpa_field(tmp_path, "c", with_mask=False)
    table = tmp_path / "path_list.csv"
    table.write_text("r_image,y_image,b_image,g_image,output_prefix\nc_red.png,c_yellow.png,c_blue.png,c_green.png,c\n")
    run(table, model, tmp_path / "out", SourceOptions(single_cells=True))
    assert read_table(tmp_path / "out").cells[["pixel_size_um", "pixel_size_from"]].values.tolist() == [[0.32, "model"]]
