"""Baseline tables: the cells of shards or crops, the same bytes whatever the number of processes."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from typer.testing import CliRunner

from subcell_hf.cells.cell_features import measure_cells
from subcell_hf.cells.cropping import CropSettings, crop_fields
from subcell_hf.cells.sources import CroppedFields
from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.evaluation.baselines.baselines import BaselineSettings, make_baselines, shrink_pixels
from subcell_hf.shards.reader import ShardReader
from subcell_hf.shards.sharding import ShardSettings, write_shards
from subcell_hf.tables.files import read_table
from tests.cells.synthetic_crops import SyntheticCrops, write_synthetic
from tests.images.written_fields import write_hpa_field

SETTINGS = BaselineSettings(pixel_edge=4, components=6)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baselines") / "shards"
    write_synthetic(folder, SyntheticCrops(antibodies=12, size_px=12))
    return folder


def test_tables_hold_the_cells_of_the_shards(shards: Path) -> None:
    tables = make_baselines(shards, SETTINGS, progress=False)
    reader = ShardReader(shards)
    assert set(tables) == {"features", "pixels"}
    rows = np.arange(len(reader.cells))
    for table in tables.values():
        assert table.cells["cell_id"].tolist() == reader.cells.names(rows)
        assert {"antibody", "gene", "locations", "cell_line", "field_of_view", "qc_area_um2"} <= set(table.cells)
        assert not {"offset", "shard", "crc32", "part"} & set(table.cells)
    splits = tables["pixels"].cells.groupby("split")["antibody"].unique()
    assert {name: sorted(found) for name, found in splits.items()} == {
        name: sorted(found) for name, found in reader.index.splits.items()
    }
    pixels, masks = reader.read(rows)
    values, names = measure_cells(pixels, masks, reader.index.crop_format.channels)
    training = (tables["features"].cells["split"] == "train").to_numpy()
    spread = values[training].std(axis=0)
    varies = spread > 1e-4 * np.abs(values[training].mean(axis=0))
    expected = (values - values[training].mean(axis=0))[:, varies] / spread[varies]
    np.testing.assert_allclose(tables["features"].embeddings[:, varies], expected, rtol=1e-2, atol=2e-3)
    assert tables["features"].provenance["features"] == list(names)


def test_components_are_fitted_on_training_cells(shards: Path) -> None:
    table = make_baselines(shards, SETTINGS, progress=False)["pixels"]
    pixels, masks = ShardReader(shards).read(np.arange(len(table)))
    shrunken = shrink_pixels(pixels, masks, 4).astype(np.float32)
    training = (table.cells["split"] == "train").to_numpy()
    expected = PCA(6, svd_solver="full").fit(shrunken[training]).transform(shrunken)
    # Randomized and exact solver agree in what is far from the next component.
    assert abs(np.corrcoef(expected[:, 0], table.embeddings[:, 0])[0, 1]) > 0.98
    assert table.embeddings.shape == (len(table), 6)
    assert table.provenance["fitted_on"] == f"{training.sum()} cells of split train"
    np.testing.assert_allclose(table.embeddings[training].mean(axis=0), 0, atol=1e-3)


def test_shrunken_pixels_are_masked_scaled_block_means() -> None:
    pixels = np.zeros((1, 2, 4, 4), np.uint16)
    pixels[0, 0, :2, :2] = [[10, 20], [30, 40]]
    pixels[0, 1] = 1000
    masks = np.zeros((1, 4, 4), np.bool_)
    masks[0, :2, :2] = True
    found = shrink_pixels(pixels, masks, 2)
    np.testing.assert_allclose(found, [[0.025, 0, 0, 0, 1, 0, 0, 0]], atol=1e-3)
    uneven = shrink_pixels(np.arange(25, dtype=np.float32).reshape(1, 1, 5, 5), np.ones((1, 5, 5), np.bool_), 2)
    np.testing.assert_allclose(uneven * 24, [[3, 5.5, 15.5, 18]], atol=2e-2)
    with pytest.raises(InputError, match="cannot be downsampled"):
        shrink_pixels(pixels, masks, 8)


@pytest.mark.slow
def test_command_gives_the_same_bytes_on_any_number_of_processes(shards: Path, tmp_path: Path) -> None:
    options = ["--components", "6", "--pixel-edge", "4"]
    written = {}
    for workers in ("1", "2"):
        command = ["baselines", str(shards), "--output", str(tmp_path / workers), "--workers", workers, *options]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        written[workers] = [(tmp_path / workers / f"{name}.parquet").read_bytes() for name in ("features", "pixels")]
    assert written["1"] == written["2"]
    assert read_table(tmp_path / "1" / "features.parquet").provenance["baseline"] == "features"


def test_crops_give_the_features_that_their_shards_give(tmp_path: Path) -> None:
    written_crops = tmp_path / "crops"
    for name in ("7_A1_1", "7_B2_1"):
        write_hpa_field(tmp_path / "images", name)
    (tmp_path / "images" / "metadata.csv").write_text("field_of_view,antibody\n7_A1_1,HPA1\n7_B2_1,HPA2\n")
    crop_fields(tmp_path / "images", written_crops, settings=CropSettings(crop_px=32, output_px=16), progress=False)
    write_shards(CroppedFields(written_crops), tmp_path / "shards", ShardSettings(split_by=None), progress=False)
    settings = BaselineSettings(pixel_edge=8, components=3)
    crops = make_baselines(written_crops, settings, progress=False)["features"]
    shards = make_baselines(tmp_path / "shards", settings, progress=False)["features"]
    order = [crops.cells["cell_id"].tolist().index(name) for name in shards.cells["cell_id"]]
    np.testing.assert_allclose(crops.embeddings[order], shards.embeddings, atol=1e-5)
    assert "split" not in crops.cells
    assert {"cell_id", "antibody", "label", "qc_area_um2"} <= set(shards.cells) & set(crops.cells)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not a finished folder of shards"):
        make_baselines(tmp_path, progress=False)
    with pytest.raises(InputError, match="components is 0"):
        BaselineSettings(components=0)
