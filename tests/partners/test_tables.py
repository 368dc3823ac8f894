"""Tables as other programs read them: the same cells, pixels, masks, coordinates and embeddings."""

import json
from pathlib import Path

import lancedb
import numpy as np
import pandas as pd
import pytest
import scanpy
import shapely
import spatialdata
import squidpy
from cellmaps_coembedding.runner import CellmapsCoEmbedder, MuseCoEmbeddingGenerator
from datasets import load_dataset
from ndex2.cx2 import RawCX2NetworkFactory
from spatialdata.models import Image2DModel, Labels2DModel
from spatialdata.transformations import get_transformation

from subcell_hf.cells import read_spatialdata_field
from subcell_hf.errors import InputError
from subcell_hf.evaluation.proteome_map.exports import cx2_text
from subcell_hf.images.fields_of_view import FieldError, ReadingOptions, find_fields
from subcell_hf.inference.engine.embed_settings import EmbedSettings
from subcell_hf.parallel.processes import Processes
from subcell_hf.tables.embedding_table import EmbeddingTable
from subcell_hf.tables.files import read_table, write_parquet
from subcell_hf.workflows import write_table_for
from subcell_hf.workflows.embed import embed_to_folder
from subcell_hf.workflows.embed_input import EmbedInput
from tests.evaluation.proteome_map.test_exports import GENES, LABELS, WOVEN
from tests.workflows.simulated_run import Run


@pytest.fixture(scope="module")
def store(run: Run, folder: Path) -> spatialdata.SpatialData:
    """The run as SpatialData, read again."""
    written = write_table_for(run.folder, "spatialdata", folder / "run.zarr")
    assert written.rows == len(run.table)
    return spatialdata.read_zarr(written.path)


def test_spatialdata_holds_pixels_masks_and_embeddings_bit_by_bit(run: Run, store: spatialdata.SpatialData) -> None:
    cells = store["cells"]
    assert cells.X.dtype == np.float32
    np.testing.assert_array_equal(cells.X, run.table.embeddings)
    assert list(cells.obs_names) == list(run.table.cells["cell_id"])
    for name, field in run.fields.items():
        image = store[f"{name}_image"]
        assert image.dtype == field.pixels.dtype
        np.testing.assert_array_equal(image.to_numpy(), field.pixels)
        assert tuple(image.coords["c"].to_numpy()) == field.channels
        np.testing.assert_array_equal(store[f"{name}_labels"].to_numpy(), field.label_mask)
        outlines = store[f"{name}_cells"]
        areas = outlines.geometry.area / [np.count_nonzero(field.label_mask == label) for label in outlines.index]
        assert areas.between(0.98, 1.0).all()  # the outline cuts half of each pixel at a corner
        scale = get_transformation(outlines, name).to_affine_matrix(("x", "y"), ("x", "y"))
        np.testing.assert_allclose(np.diag(scale), [field.pixel_size_um, field.pixel_size_um, 1])


def test_a_box_in_micrometres_contains_the_cells_whose_places_lie_in_it(
    run: Run, store: spatialdata.SpatialData
) -> None:
    name, field = next(iter(run.fields.items()))
    edge = field.pixel_size_um
    own = run.table.cells[run.table.cells["field_of_view"] == name]
    cell = own.sort_values("left").iloc[0]
    low = np.array([cell["left"], cell["top"]]) * edge
    high = np.array([cell["left"] + cell["width"], cell["top"] + cell["height"]]) * edge
    found = store.query.bounding_box(("x", "y"), low, high, target_coordinate_system=name)
    labels = np.unique(
        field.label_mask[cell["top"] : cell["top"] + cell["height"], cell["left"] : cell["left"] + cell["width"]]
    )
    expected = own[own["label"].isin(labels)]["cell_id"]
    assert cell["cell_id"] in set(expected)
    assert len(expected) < len(run.table)
    assert set(found["cells"].obs_names) == set(expected)


def test_a_store_is_read_back_as_the_same_fields(run: Run, store: spatialdata.SpatialData) -> None:
    for name, field in run.fields.items():
        found = read_spatialdata_field(store.path, f"{name}_image", f"{name}_labels", coordinate_system=name)
        assert found.channels == field.channels
        assert found.pixel_size_um == pytest.approx(field.pixel_size_um)
        assert found.pixels.dtype == field.pixels.dtype
        np.testing.assert_array_equal(found.pixels, field.pixels)
        np.testing.assert_array_equal(found.label_mask, field.label_mask)
    with pytest.raises(InputError, match="no element 'cells' of this kind"):
        read_spatialdata_field(store.path, "cells", f"{name}_labels", pixel_size_um=0.1)


def test_a_store_is_embedded_as_the_images_that_it_was_made_of(
    run: Run, store: spatialdata.SpatialData, folder: Path
) -> None:
    given = EmbedInput(str(store.path), str(run.model))
    settings = EmbedSettings(precision="fp32", device="cpu", progress=False)
    embed_to_folder(given, folder / "again", settings, processes=Processes(), report=False)
    again = read_table(folder / "again")
    np.testing.assert_array_equal(again.embeddings, run.table.embeddings)
    fields = [f"run_{name}_image" for name in run.table.cells["field_of_view"]]
    assert list(again.cells["field_of_view"]) == fields
    for column in ("label", "top", "left", "pixel_size_um"):
        assert list(again.cells[column]) == list(run.table.cells[column])


def test_a_store_of_the_library_itself_is_read(folder: Path) -> None:
    """With pyramids, and without units: the pixel size is asked for."""
    rng, pixels = np.random.default_rng(0), dict[str, np.ndarray]()
    store, shapes = spatialdata.SpatialData(), {"one": (96, 96), "two": (96, 128)}
    labels = {
        name: np.kron(np.eye(shape[0] // 16, shape[1] // 16, dtype=np.int32), np.ones((16, 16), np.int32))
        for name, shape in shapes.items()
    }
    for name, shape in shapes.items():
        pixels[name] = rng.integers(0, 60_000, (2, *shape), np.uint16)
        store[name] = Image2DModel.parse(
            pixels[name], dims=("c", "y", "x"), c_coords=["blue", "green"], scale_factors=[2]
        )
        store[f"{name}_cells"] = Labels2DModel.parse(labels[name], dims=("y", "x"))
    store.write(folder / "other.zarr")
    with pytest.raises(FieldError, match="--pixel-size-um"):
        find_fields(folder / "other.zarr")[0].read()
    for field in find_fields(folder / "other.zarr", ReadingOptions(pixel_size_um=0.1)):
        read, name = field.read(), field.name.removeprefix("other_")
        assert read.channels == ("blue", "green")
        np.testing.assert_array_equal(read.pixels, pixels[name])
        np.testing.assert_array_equal(read.label_mask, labels[name])


def test_squidpy_and_scanpy_build_graphs_on_it(run: Run, store: spatialdata.SpatialData) -> None:
    cells = store["cells"]
    squidpy.gr.spatial_neighbors(cells, n_neighs=1, coord_type="generic", library_key="field_of_view")
    pairs = np.argwhere(cells.obsp["spatial_connectivities"].toarray())
    fields = run.table.cells["field_of_view"].to_numpy()
    assert len(pairs)
    assert (fields[pairs[:, 0]] == fields[pairs[:, 1]]).all()
    distances = cells.obsp["spatial_distances"].toarray()
    centres = run.table.cells[["left", "top"]].to_numpy() + run.table.cells[["width", "height"]].to_numpy() / 2
    for one, other in pairs[:5]:
        um = np.linalg.norm(centres[one] - centres[other]) * run.table.cells["pixel_size_um"].iloc[one]
        assert distances[one, other] == pytest.approx(um)
    written = scanpy.read_h5ad(run.folder / "embeddings.h5ad")
    np.testing.assert_array_equal(written.obsm["spatial"], cells.obsm["spatial"])
    scanpy.pp.neighbors(written, n_neighbors=3, use_rep="X")
    assert written.obsp["connectivities"].shape == (len(run.table),) * 2


def test_shapely_reads_the_outlines_for_qupath(run: Run, folder: Path) -> None:
    written = write_table_for(run.folder, "qupath", folder / "qupath")
    for name, field in run.fields.items():
        content = json.loads((folder / "qupath" / written.renamed[name]).read_text())
        own = run.table.cells[run.table.cells["field_of_view"] == name]
        assert [feature["properties"]["name"] for feature in content["features"]] == list(own["cell_id"])
        for feature, label in zip(content["features"], own["label"], strict=True):
            outline = shapely.from_geojson(json.dumps(feature["geometry"]))
            assert outline.is_valid
            rows, columns = np.nonzero(np.ones_like(field.label_mask))
            inside = shapely.contains_xy(outline, columns + 0.5, rows + 0.5).reshape(field.label_mask.shape)
            np.testing.assert_array_equal(inside, field.label_mask == label)


def test_lancedb_finds_each_cell_by_its_embedding(run: Run, folder: Path) -> None:
    write_table_for(run.folder, "lance", folder / "lance")
    cells = lancedb.connect(folder / "lance").open_table("cells")
    assert cells.count_rows() == len(run.table)
    stored = cells.to_arrow()
    np.testing.assert_array_equal(np.array(stored["vector"].to_pylist(), np.float32), run.table.embeddings)
    for row in (0, len(run.table) - 1):
        (nearest,) = cells.search(run.table.embeddings[row]).limit(1).to_list()
        assert nearest["cell_id"] == run.table.cells["cell_id"].iloc[row]


def test_datasets_streams_cells_with_pictures(run: Run, folder: Path) -> None:
    write_table_for(run.folder, "datasets", folder / "datasets")
    rows = list(load_dataset(str(folder / "datasets"), split="train", streaming=True))
    assert [row["cell_id"] for row in rows] == list(run.table.cells["cell_id"])
    np.testing.assert_array_equal(np.array([row["embedding"] for row in rows], np.float32), run.table.embeddings)
    assert {row["image"].size for row in rows} == {(128, 128)}


def test_cellmaps_coembeds_proteins(folder: Path) -> None:
    genes = [f"GENE{number}" for number in range(24) for _ in range(2)]
    rng = np.random.default_rng(0)
    cells = pd.DataFrame({"cell_id": [str(n) for n in range(48)], "field_of_view": "", "gene": genes})
    table = EmbeddingTable(cells, rng.normal(size=(48, 16)).astype(np.float32))
    write_parquet(table, folder / "proteins.parquet")
    written = write_table_for(folder / "proteins.parquet", "cellmaps", folder / "image")
    read = pd.read_csv(folder / "image" / "image_emd.tsv", sep="\t", index_col=0)
    assert written.rows == len(read) == 24
    np.testing.assert_array_equal(read.loc["GENE3"].to_numpy(np.float32), table.embeddings[6:8].mean(axis=0))
    ppi = folder / "ppi"
    ppi.mkdir()
    read.iloc[:20, :8].to_csv(ppi / "ppi_emd.tsv", sep="\t")
    (folder / "together").mkdir()
    made = MuseCoEmbeddingGenerator(
        dimensions=4, n_epochs=1, n_epochs_init=1, outdir=str(folder / "together"), jackknife_percent=0.0, k=3,
        embeddings=[str(ppi), str(folder / "image")],
    )  # fmt: skip
    inputs = [str(ppi), str(folder / "image")]
    done = CellmapsCoEmbedder(outdir=str(folder / "together"), inputdirs=inputs, embedding_generator=made)
    assert done.run() == 0
    result = pd.read_csv(folder / "together" / "coembedding_emd.tsv", sep="\t", index_col=0)
    assert set(result.index) == set(read.index[:20])
    crate = json.loads((folder / "together" / "ro-crate-metadata.json").read_text())
    own = json.loads((folder / "image" / "ro-crate-metadata.json").read_text())
    assert own["@id"] in json.dumps(crate)


def test_ndex2_reads_the_hierarchy_of_a_map() -> None:
    document = json.loads(cx2_text(WOVEN, GENES, LABELS, "map"))
    network = RawCX2NetworkFactory().get_cx2network(document)
    assert len(network.get_nodes()) == len(WOVEN.clusters)
    sizes = {node["v"]["name"]: node["v"]["size"] for node in network.get_nodes().values()}
    assert sizes == {cluster.name: len(cluster.members) for cluster in WOVEN.clusters}
    assert len(network.get_edges()) == sum(len(cluster.parents) for cluster in WOVEN.clusters)


def test_an_output_with_content_is_refused(run: Run, folder: Path) -> None:
    (folder / "full.zarr").mkdir()
    (folder / "full.zarr" / "file").write_text("mine")
    with pytest.raises(InputError, match="is a folder with content"):
        write_table_for(run.folder, "spatialdata", folder / "full.zarr")
    assert (folder / "full.zarr" / "file").read_text() == "mine"
