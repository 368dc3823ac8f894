"""Channels that are constant, or the same picture under two names, are warned about, counted and recorded."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from typer.testing import CliRunner

from subcell_hf.cells.cropping import read_crop_table
from subcell_hf.cells.quality import DOUBTFUL_CHANNELS, doubtful_channels
from subcell_hf.cells.single_cells import CropSettings
from subcell_hf.cells.sources import ImageFields
from subcell_hf.cli import app
from subcell_hf.shards.sharding import ShardSettings, write_shards
from tests.images.written_fields import write_hpa_field, write_png
from tests.inference.embedding_runs import save_tiny_model


def test_what_is_said_of_channels() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2, 130, 70), np.uint8)
    almost = noise[0].copy()
    almost[-1, -1] ^= 1
    names = ("red", "yellow", "blue", "green")
    black = np.zeros_like(almost)
    assert doubtful_channels(np.stack([noise[0], noise[1], almost]), names[:3]) == ""
    assert doubtful_channels(np.stack([noise[0], noise[1], noise[0], noise[1]]), names) == "blue = red; green = yellow"
    assert doubtful_channels(np.stack([noise[0], noise[0], noise[0], black]), names) == (
        "yellow = red; blue = red; green constant"
    )
    assert doubtful_channels(np.stack([black, black, almost]), names[:3]) == "red constant; yellow constant"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three fields: blue copied into green, saved anew; a black red; a sound one."""
    folder = tmp_path / "in"
    rows = ["field_of_view,antibody"]
    for number, name in enumerate(("7_A1_1", "7_A2_1", "7_A3_1")):
        planes = write_hpa_field(folder, name)
        rows.append(f"{name},A{number}")
        if number == 0:
            (folder / f"{name}_green.png").unlink()
            tifffile.imwrite(folder / f"{name}_green.tif", planes["blue"])
        if number == 1:
            write_png(folder / f"{name}_red.png", np.zeros_like(planes["red"]))
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


def _run(*command: str) -> str:
    result = CliRunner().invoke(app, list(command), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_crops_and_shards_warn_and_count(images: Path, tmp_path: Path) -> None:
    said = _run("crops", str(images), "--output", str(tmp_path / "crops"), "--output-size-px", "16")
    expected = {"green = blue": "7_A1_1", "red constant": "7_A2_1"}
    for channels, name in expected.items():
        assert f"channels of 1 image, such as {name}: {channels}." in said
    facts = json.loads((tmp_path / "crops/crops.json").read_text())
    assert {row["channels"]: row["first"] for row in facts["doubtful_channels"]} == expected
    assert [row["fields"] for row in facts["doubtful_channels"]] == [1, 1]
    table = read_crop_table(tmp_path / "crops")
    assert table[DOUBTFUL_CHANNELS].tolist() == ["green = blue"] * 2 + ["red constant"] * 2 + [""] * 2
    said = _run("shards", str(tmp_path / "crops"), "--output", str(tmp_path / "shards"))
    assert "such as 7_A1_1: green = blue" in said
    assert set(pd.read_parquet(tmp_path / "shards/cells.parquet")[DOUBTFUL_CHANNELS]) == {"", *expected}


@pytest.mark.parametrize("single", [False, True])
def test_embed_warns_and_counts(images: Path, tmp_path: Path, single: bool) -> None:
    model = save_tiny_model(tmp_path / "model")
    if single:
        for path in images.glob("*_mask.png"):
            path.unlink()
    kind = "--single-cells" if single else "--fields-of-view"
    command = ["embed", str(images), "--model", str(model), "--output", str(tmp_path / "out"), kind]
    said = _run(*command, "--no-report", "--no-h5ad", "--precision", "fp32")
    assert "such as 7_A1_1: green = blue" in said
    found = json.loads((tmp_path / "out/run.json").read_text())["doubtful_channels"]
    assert [row["channels"] for row in found] == ["green = blue", "red constant"]


def test_a_field_without_cells_is_listed_by_shards(images: Path, tmp_path: Path) -> None:
    small = np.zeros((64, 72), np.uint8)
    small[10:14, 10:14] = 1
    write_png(images / "7_A3_1_mask.png", small)
    source = ImageFields(images, settings=CropSettings(output_px=16, min_area_um2=1))
    report = write_shards(source, tmp_path / "shards", ShardSettings(split_by=None), progress=False)
    assert (report.index.cells, report.skipped) == (4, (("7_A3_1", "it has no cell"),))
