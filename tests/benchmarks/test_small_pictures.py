"""The pictures of what `small` learns."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.small_pictures import choose_pictures, draw_attention, draw_maps, predict_locations, single_locations
from subcell_hf.tables.cell_pictures import draw_picture, write_pictures
from subcell_hf.tables.embedding_table import EmbeddingTable

SPLITS = ("train", "validation", "test")
LOCATIONS = ("Cytosol", "Nucleoli", "Cytosol;Nucleoli")


@pytest.fixture(scope="module")
def table() -> EmbeddingTable:
    """Twelve cells of each split, of three sets of locations and two lines, whose embeddings say both."""
    rows = [(split, LOCATIONS[n % 3], f"SIM-{'AB'[n % 2]}") for split in SPLITS for n in range(12)]
    cells = pd.DataFrame(rows, columns=["split", "locations", "cell_line"])
    cells["cell_id"] = [f"cell{row:02d}" for row in range(len(cells))]
    cells["field_of_view"], cells["plate"], cells["qc_cut_by_border"] = "field", "P1", cells.index % 12 == 0
    values = [cells["locations"].str.contains("Nucleoli"), cells["locations"].str.contains("Cytosol")]
    values.append(cells["cell_line"] == "SIM-A")
    noise = np.random.default_rng(0).normal(0, 0.1, (len(cells), 3))
    return EmbeddingTable(cells, (np.stack(values, 1) + noise).astype(np.float32))


def test_cells_with_one_location_are_told_apart(table: EmbeddingTable) -> None:
    names = single_locations(table)
    assert list(names[:3]) == ["Cytosol", "Nucleoli", ""]
    parts = [table.select(table.cells["split"].to_numpy() == split) for split in SPLITS]
    found = predict_locations(parts, np.split(names, 3))
    assert list(found) == ["Cytosol", "Nucleoli"] * 4


def test_pictures_are_drawn(table: EmbeddingTable, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    planes = {name: rng.random((24, 24), np.float32) for name in ("red", "green")}
    ids = table.cells["cell_id"]
    write_pictures(
        (draw_picture(name, planes, None, rng.random((4, 3, 3))) for name in ids), tmp_path / "pictures.parquet"
    )
    parts = [table.select(table.cells["split"].to_numpy() == split) for split in SPLITS]
    chosen = choose_pictures(tmp_path, parts[2])
    assert [line for line, _, _ in chosen] == ["SIM-A", "SIM-A", "SIM-B", "SIM-B"]
    assert {locations for _, locations, _ in chosen} == {"Cytosol", "Nucleoli"}
    whole = set(parts[2].cells.query("~qc_cut_by_border")["cell_id"])
    assert {picture.cell_id for _, _, picture in chosen} <= whole
    draw_attention(chosen, tmp_path / "attention.webp")
    draw_maps(parts, np.split(single_locations(table), 3), tmp_path / "map.webp")
    for name in ("attention", "map"):
        assert np.asarray(Image.open(tmp_path / f"{name}.webp")).std() > 10
