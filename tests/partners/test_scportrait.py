"""scPortrait's own reader and writer of `.h5sc`, without its pipeline, which needs Cellpose 3."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from subcell_hf.cells.partners.h5sc import H5scCrops
from subcell_hf.workflows import write_table_for
from tests.workflows.simulated_run import Run

_PACKAGES = ("", ".io", ".pipeline", ".pipeline._utils", ".tools", ".tools.sdata", ".tools.sdata.write")


@pytest.fixture
def h5sc(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `scportrait.io.h5sc`; packages around it are not run."""
    found = importlib.util.find_spec("scportrait")
    assert found is not None
    assert found.submodule_search_locations
    root = Path(found.submodule_search_locations[0])
    for name in _PACKAGES:
        package = ModuleType(f"scportrait{name}")
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        monkeypatch.setitem(sys.modules, package.__name__, package)
    return importlib.import_module("scportrait.io.h5sc")


def test_scportrait_reads_the_cells_of_a_run(run: Run, folder: Path, h5sc: Any) -> None:
    write_table_for(run.folder, "h5sc", folder / "run.h5sc")
    data = h5sc.read_h5sc(folder / "run.h5sc")
    cells, images = run.table.cells, data.obsm["single_cell_images"]
    assert list(data.obs["cell_id"]) == list(cells["cell_id"])
    assert data.obs["scportrait_cell_id"].dtype == np.uint64
    assert images.dtype == np.float16
    field = run.fields[cells["field_of_view"].iloc[0]]
    assert list(data.uns["single_cell_images"]["channel_names"]) == ["cell", *field.channels]
    assert list(data.var["channel_mapping"]) == ["mask"] + ["image_channel"] * len(field.channels)
    assert images.attrs["n_cells"] == len(cells)
    largest = data.uns["single_cell_images"]["intensity_of_1"]
    for row, cell in enumerate(cells.itertuples()):
        label_mask, pixels = run.fields[cell.field_of_view].label_mask, run.fields[cell.field_of_view].pixels
        inside = label_mask == cell.label
        image = images[row]
        assert np.count_nonzero(image[0]) == inside.sum()
        own = image[1:, image[0] > 0].astype(np.float64) * largest
        np.testing.assert_allclose(own, pixels[:, inside], rtol=2**-11, atol=0.01)


def test_what_scportrait_writes_is_read(folder: Path, h5sc: Any) -> None:
    rng = np.random.default_rng(0)
    masks, images = rng.random((5, 1, 16, 16)) > 0.5, rng.random((5, 2, 16, 16)).astype(np.float16)
    numbers = np.array([7, 3, 9, 11, 2])
    path = folder / "theirs.h5sc"
    with pd.option_context("future.infer_string", False):  # with pandas 3, it cannot write texts otherwise
        h5sc.numpy_to_h5sc(["cytosol"], ["DNA", "Protein"], masks, images, str(path), numbers)
    source = H5scCrops(path, 0.1, {"DNA": "blue"})
    crops = source.read(source.fields()[0].name)
    assert crops.channels == ("blue", "Protein")
    assert [cell["cell_id"] for cell in crops.cells] == ["7", "3", "9", "11", "2"]
    np.testing.assert_array_equal(crops.pixels, images)
    np.testing.assert_array_equal(crops.cell_masks, masks[:, 0])
