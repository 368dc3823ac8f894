"""Labels of a layer find their rows in a table, and colours are those of the values; napari need not be installed."""

import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from subcell_hf.errors import InputError
from subcell_hf.napari_plugin.cells_on_layer import CellsOnLayer
from subcell_hf.ontology import location_colours
from subcell_hf.tables.files import EmbeddingTable

ROOT = Path(__file__).parents[2]
CLASSES = ("Nucleoli", "Cytosol")
TOP = ["Cytosol", "Nucleoli", "Nucleoli", "Cytosol", "Cytosol"]


def table_of_fields() -> EmbeddingTable:
    """Cells 3, 9 and 4 of field A, and 3 and 5 of field B."""
    cells = pd.DataFrame(
        {
            "cell_id": ["A_3", "A_9", "A_4", "B_3", "B_5"],
            "field_of_view": ["A", "A", "A", "B", "B"],
            "label": [3, 9, 4, 3, 5],
            "top_location_1": TOP,
            "qc_focus": [0.0, 1.0, np.nan, 0.5, 0.5],
        }
    )
    probabilities = np.array([[0.1, 0.9], [0.8, 0.2], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6]], np.float32)
    return EmbeddingTable(cells, np.eye(5, 4, dtype=np.float32), probabilities, CLASSES)


def test_labels_are_rows_of_their_field() -> None:
    cells = CellsOnLayer(table_of_fields(), Path("run"), "A", [0, 3, 4, 200])
    assert cells.row_of == {3: 0, 4: 2}
    assert cells.label_of == {0: 3, 2: 4}
    assert cells.missing == 1  # label 9 was erased
    features = cells.features()
    assert features["index"].tolist() == [3, 4]
    assert features["cell_id"].tolist() == ["A_3", "A_4"]
    np.testing.assert_allclose(features["probability of Cytosol"], [0.9, 0.3])
    table = table_of_fields()
    of_texts = EmbeddingTable(table.cells.astype({"label": str}), table.embeddings)  # as from a CSV of another tool
    assert CellsOnLayer(of_texts, Path("run"), "A", [0, 3, 4, 200]).row_of == {3: 0, 4: 2}


def test_colours_are_those_of_the_values() -> None:
    cells = CellsOnLayer(table_of_fields(), Path("run"), "A", [3, 9, 4])
    assert next(iter(cells.columns())) == "top_location_1"
    by_location = cells.colours("top_location_1")
    expected = {name: tuple(int(location_colours()[name][i : i + 2], 16) / 255 for i in (1, 3, 5)) for name in CLASSES}
    np.testing.assert_allclose(by_location.rgba[:, :3], [expected[name] for name in TOP], atol=1e-6)
    assert {*by_location.legend} == {*CLASSES}
    by_focus = cells.colours("qc_focus")
    assert [*by_focus.legend] == ["0", "1"]
    np.testing.assert_allclose(by_focus.rgba[0], by_focus.legend["0"], atol=1e-6)
    assert np.ptp(by_focus.rgba[2, :3]) < 0.1  # unknown: grey


def test_a_suggested_class_is_paler_and_more_levels_than_colours_are_grey() -> None:
    cells = CellsOnLayer(table_of_fields(), Path("run"), "A", [3, 9, 4])
    cells.set_column("class", ["round", "long", "round", "long", ""], np.array([False, True, True, False, True]))
    rgba = cells.colours("class").rgba
    np.testing.assert_array_equal(rgba[0, :3], rgba[2, :3])
    assert rgba[0, 3] == 1 > rgba[2, 3]
    many = pd.DataFrame({"cell_id": [f"A_{i}" for i in range(30)], "field_of_view": "A", "label": np.arange(1, 31)})
    crowd = CellsOnLayer(EmbeddingTable(many, np.eye(30, dtype=np.float32)), Path("run"), "A", np.arange(1, 31))
    crowd.set_column("cluster", [f"{number:02}" for number in range(30)])
    colours = crowd.colours("cluster")
    assert len(np.unique(colours.rgba, axis=0)) == 21
    assert len(colours.legend) == 20


def test_a_layer_of_something_else_is_refused() -> None:
    table = table_of_fields()
    with pytest.raises(InputError, match=r"no field of view 'C'; the first are A, B"):
        CellsOnLayer(table, Path("run"), "C", [3])
    with pytest.raises(InputError, match=r"none of the 3 labels of field 'A' in run, such as 3"):
        CellsOnLayer(table, Path("run"), "A", [0, 77])
    unlabelled = EmbeddingTable(table.cells.drop(columns="label"), table.embeddings)
    with pytest.raises(InputError, match="no column 'label': its cells were not cut from masks"):
        CellsOnLayer(unlabelled, Path("run"), "A", [3])
    with pytest.raises(InputError, match="no column 'nothing' to colour by"):
        CellsOnLayer(table, Path("run"), "A", [3]).colours("nothing")


def test_the_manifest_names_functions_that_are_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    package, file = project["entry-points"]["napari.manifest"][project["name"]].split(":")
    manifest = yaml.safe_load((ROOT / package.replace(".", "/") / file).read_text(encoding="utf-8"))
    assert manifest["name"] == project["name"]
    contributed = manifest["contributions"]
    for command in contributed["commands"]:
        module, name = command["python_name"].split(":")
        assert callable(getattr(import_module(module), name))
    assert [item["command"] for item in contributed["widgets"]] == [item["id"] for item in contributed["commands"]]
