"""Tables for other programs, as far as their readers are installed with the package."""

import json
from dataclasses import replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pycytominer
import pytest
from typer.testing import CliRunner

import subcell_hf
from subcell_hf.cells.partners.h5sc import H5scCrops
from subcell_hf.cells.sources import h5sc_source
from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.table import read_profiles
from subcell_hf.evaluation.proteome_map.field_means import average_fields
from subcell_hf.images.masks.outlines import labels_of_outlines
from subcell_hf.images.masks.polygons import polygons_of_mask
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.tables.files import EmbeddingTable, read_table, write_parquet
from subcell_hf.tables.partners.h5sc import write_h5sc
from subcell_hf.types import FieldOfView
from subcell_hf.workflows import write_table_for
from tests.workflows.simulated_run import Run, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"))


def test_anndata_holds_where_cells_lie(run: Run, tmp_path: Path) -> None:
    write_table_for(run.folder, "anndata", tmp_path / "cells.h5ad")
    written = anndata.read_h5ad(tmp_path / "cells.h5ad")
    cells = run.table.cells
    centres = np.stack([cells["left"] + cells["width"] / 2, cells["top"] + cells["height"] / 2], axis=1)
    np.testing.assert_array_equal(written.obsm["spatial_px"], centres)
    np.testing.assert_array_equal(written.obsm["spatial"], centres * cells["pixel_size_um"].to_numpy()[:, None])
    by_run = anndata.read_h5ad(run.folder / "embeddings.h5ad")  # written block by block
    np.testing.assert_array_equal(by_run.obsm["spatial"], written.obsm["spatial"])
    pd.testing.assert_frame_equal(read_table(tmp_path / "cells.h5ad").cells, cells, check_dtype=False)


def test_a_table_without_places_has_no_positions(tmp_path: Path) -> None:
    table = EmbeddingTable(pd.DataFrame({"cell_id": ["a"], "field_of_view": ""}), np.ones((1, 2), np.float32))
    write_parquet(table, tmp_path / "t.parquet")
    write_table_for(tmp_path / "t.parquet", "anndata", tmp_path / "t.h5ad")
    assert "spatial" not in anndata.read_h5ad(tmp_path / "t.h5ad").obsm
    with pytest.raises(InputError, match="no column 'label'"):
        write_table_for(tmp_path / "t.parquet", "qupath", tmp_path / "outlines")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_pycytominer_aggregates_and_normalizes_profiles(run: Run, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"profiles.{ending}"
    write_table_for(run.folder, "profiles", path)
    frame = pd.read_csv(path) if ending == "csv" else pd.read_parquet(path)
    features = pycytominer.cyto_utils.infer_cp_features(frame)
    assert set(pycytominer.cyto_utils.infer_cp_features(frame, metadata=True)) == set(frame.columns) - set(features)
    np.testing.assert_array_equal(frame[features].to_numpy(np.float32), run.table.embeddings)
    wells = pycytominer.aggregate(frame, strata=["Metadata_Plate", "Metadata_Well"], features=features)
    first = run.table.cells["well"] == wells["Metadata_Well"].iloc[0]
    np.testing.assert_allclose(wells[features].iloc[0], np.median(run.table.embeddings[first], axis=0), rtol=1e-6)
    normal = pycytominer.normalize(frame, features=features, meta_features=["Metadata_Well"], method="standardize")
    np.testing.assert_allclose(normal[features].mean(), 0, atol=1e-5)
    assert read_profiles([path]).names == tuple(features)
    assert list(read_table(path).cells["cell_id"]) == list(run.table.cells["cell_id"])


def test_tables_of_cell_maps_are_read_with_their_genes(tmp_path: Path) -> None:
    genes = ["NA", "TP53", "TP53", "0012"]
    embeddings = np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32)
    cells = pd.DataFrame({"cell_id": list("abcd"), "field_of_view": "", "gene": genes})
    write_parquet(EmbeddingTable(cells, embeddings), tmp_path / "t.parquet")
    write_table_for(tmp_path / "t.parquet", "cellmaps", tmp_path / "image")
    table = read_table(tmp_path / "image" / "image_emd.tsv")
    assert set(table.cells["gene"]) == {"NA", "TP53", "0012"}
    assert list(table.cells["cell_id"]) == list(table.cells["gene"])
    row = list(table.cells["gene"]).index("NA")
    np.testing.assert_array_equal(table.embeddings[row], embeddings[0])
    assert set(average_fields(tmp_path / "image" / "image_emd.tsv").fields["gene"]) == set(genes)
    other = (tmp_path / "image" / "image_emd.tsv").rename(tmp_path / "cells.tsv")
    assert "gene" not in read_table(other).cells


def test_outlines_for_qupath_give_the_same_masks_again(run: Run, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["table", str(run.folder), "--to", "qupath", "--output", str(tmp_path / "q")])
    assert done.exit_code == 0, done.output
    for name, field in run.fields.items():
        path = tmp_path / "q" / f"{name}.geojson"
        own = run.table.select((run.table.cells["field_of_view"] == name).to_numpy())
        drawn = labels_of_outlines(path, field.pixels.shape[1:], 2**30)
        relabelled = np.array([0, *own.cells["label"]])[drawn]
        np.testing.assert_array_equal(
            relabelled, np.where(np.isin(field.label_mask, own.cells["label"]), field.label_mask, 0)
        )
        for feature, row in zip(json.loads(path.read_text())["features"], range(len(own)), strict=True):
            said = feature["properties"]
            assert said["classification"]["name"] == own.cells["top_location_1"].iloc[row]
            assert said["measurements"]["Probability: Cytosol"] == own.probabilities[row, own.classes.index("Cytosol")]


def test_a_ring_with_a_hole_and_a_second_piece_keeps_its_pixels() -> None:
    inside = np.zeros((9, 9), np.bool_)
    inside[1:6, 1:6] = True
    inside[3, 3] = False
    inside[6, 6] = inside[8, 8] = True  # one touches by a corner, one is apart
    polygons = polygons_of_mask(inside)
    assert [len(rings) for rings in polygons] == [2, 1]
    moved = polygons_of_mask(inside, top=5, left=7)
    np.testing.assert_array_equal(moved[0][0] - (7, 5), polygons[0][0])


def test_changed_masks_are_noticed(run: Run, tmp_path: Path) -> None:
    cells = run.table.cells.assign(top=run.table.cells["top"] + 1)
    moved = tmp_path / "moved"
    moved.mkdir()
    write_parquet(EmbeddingTable(cells, run.table.embeddings), moved / "embeddings.parquet")
    (moved / "run.json").write_text((run.folder / "run.json").read_text())
    with pytest.raises(InputError, match="embed them again"):
        write_table_for(moved, "qupath", tmp_path / "q")
    assert not (tmp_path / "q").exists()


def test_what_cannot_be_written_is_said(run: Run, tmp_path: Path) -> None:
    for to, output, message in (
        ("excel", "t.xlsx", "choose one of anndata, cellmaps"),
        ("anndata", "t.csv", r"ending in \.h5ad"),
        ("profiles", "t.txt", r"\.csv or \.parquet"),
    ):
        with pytest.raises(InputError, match=message):
            write_table_for(run.folder, to, tmp_path / output)


def test_h5sc_holds_the_cells_and_masks_of_a_run(run: Run, tmp_path: Path) -> None:
    path, cells = tmp_path / "cells.h5sc", run.table.cells
    assert write_table_for(run.folder, "h5sc", path).rows == len(cells)
    source = h5sc_source(path, ReadingOptions())
    assert source.pixel_size_um == cells["pixel_size_um"].iloc[0]
    read = [source.read(block.name) for block in source.fields()]
    records = [record for crops in read for record in crops.cells]
    assert [record["cell_id"] for record in records] == list(cells["cell_id"])
    assert [record["field_of_view"] for record in records] == list(cells["field_of_view"])
    images, masks = (np.concatenate([getattr(crops, name) for crops in read]) for name in ("pixels", "cell_masks"))
    with h5py.File(path) as file:
        largest = file["uns/single_cell_images/intensity_of_1"][()]
        np.testing.assert_array_equal(file["obsm/embedding"], run.table.embeddings)
    for image, mask, cell in zip(images, masks, cells.itertuples(), strict=True):
        field = run.fields[cell.field_of_view]
        box = np.s_[cell.top : cell.top + cell.height, cell.left : cell.left + cell.width]
        inside = field.label_mask[box] == cell.label
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        place = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        np.testing.assert_array_equal(mask[place], inside)
        assert mask.sum() == inside.sum()
        expected = field.pixels[:, *box] * inside
        assert field.pixels.dtype.kind == "u"
        np.testing.assert_allclose(image[:, *place] * largest, expected, rtol=2**-11, atol=0.01)
        assert not image[:, ~mask].any()
    again = subcell_hf.embed(path, run.model, precision="fp32", device="cpu", progress=False)
    likeness = (again.embeddings * run.table.embeddings).sum(1) / np.linalg.norm(again.embeddings, axis=1)
    assert (likeness / np.linalg.norm(run.table.embeddings, axis=1) > 0.99).all()


def test_eight_bits_come_back_from_h5sc_exactly(tmp_path: Path) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    field = FieldOfView("f", pixels, ("green",), 0.1, np.ones((16, 16), np.int32))
    place = {"cell_id": ["a"], "field_of_view": "f", "label": 1, "top": 0, "left": 0, "height": 16, "width": 16}
    table = EmbeddingTable(pd.DataFrame(place), np.ones((1, 2), np.float32))
    write_h5sc(table, [field], tmp_path / "a.h5sc")
    read = H5scCrops(tmp_path / "a.h5sc", 0.1).read("a_0")
    np.testing.assert_array_equal(np.round(read.pixels[0] * 255), pixels)
    for other, what in (
        (replace(field, channels=("blue",)), "channels green, field 'f' blue"),
        (replace(field, pixel_size_um=0.2), "pixel size 0.1 um, field 'f' 0.2 um"),
        (replace(field, pixels=pixels.astype(np.float32)), "pixel type uint8, field 'f' float32"),
    ):
        with pytest.raises(InputError, match=f"has the {what}"):
            write_h5sc(table, [field, other], tmp_path / "b.h5sc")
    with pytest.raises(InputError, match=r"intensities of float32 from 0 to 255"):
        write_h5sc(table, [replace(field, pixels=pixels.astype(np.float32))], tmp_path / "b.h5sc")
    assert not (tmp_path / "b.h5sc").exists()
