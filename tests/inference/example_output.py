"""A folder as `subcell embed` leaves it, drawn in a moment."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from subcell_hf.ontology import reported_locations
from subcell_hf.tables.cell_pictures import CellPicture, draw_picture, write_pictures
from subcell_hf.tables.files import EmbeddingTable, top_locations, write_parquet

HOSTILE = "</script><script>alert(1)</script>"
"""A name that would end the page's data and run, were it not escaped."""


def example_cells(cells: int, *, classified: bool = True) -> EmbeddingTable:
    """Cells of four groups that lie apart."""
    rng = np.random.default_rng(11)
    group = np.arange(cells) % 4
    embeddings = rng.normal(size=(4, 16))[group] * 4 + rng.normal(size=(cells, 16))
    frame = pd.DataFrame(
        {
            "cell_id": [f"{1 + i % 2}_A{i % 3}_{i}" for i in range(cells)],
            "field_of_view": [f"{1 + i % 2}_A{i % 3}" for i in range(cells)],
            "gene": [("TP53", "ACTB", HOSTILE, "")[number] for number in group],
            "antibody": [f"HPA{number}" for number in group],
            "locations": [("Nucleoplasm", "Actin filaments;Cytosol", "", "")[number] for number in group],
            "plate": [str(1 + i % 2) for i in range(cells)],
            "qc_area_um2": rng.gamma(4, 100, cells),
            "qc_focus": np.where(np.arange(cells) == 3, np.nan, rng.random(cells)),
            "qc_cut_by_border": rng.random(cells) < 0.3,
            "qc_saturation": 0.0,
            "qc_empty_channels": "",
        }
    )
    probabilities = rng.random((cells, 31), dtype=np.float32) * 0.2
    probabilities[np.arange(cells), np.array([26, 0, 17, 23])[group]] = 0.5 + rng.random(cells, dtype=np.float32) / 2
    if not classified:
        return EmbeddingTable(frame, embeddings.astype(np.float32))
    frame = frame.assign(**top_locations(probabilities, reported_locations()))
    return EmbeddingTable(frame, embeddings.astype(np.float32), probabilities, reported_locations())


def example_pictures(table: EmbeddingTable, *, every: int = 1, attention: bool = True) -> list[CellPicture]:
    """A disc in a square for every cell, or every second, …."""
    rows, columns = np.mgrid[:64, :64] - 32
    inside = rows**2 + columns**2 < 26**2
    planes = {
        "red": inside * (40 + rows).astype(np.float32),
        "blue": (rows**2 + columns**2 < 10**2).astype(np.float32),
        "green": inside * np.abs(np.sin(columns / 5)).astype(np.float32),
    }
    looked_at = np.stack([rows[::8, ::8] + 0.5, columns[::8, ::8] + 0.5]).astype(np.float32) if attention else None
    return [draw_picture(str(cell_id), planes, inside, looked_at) for cell_id in table.cells["cell_id"][::every]]


def write_example_output(folder: Path, cells: int = 60, *, classified: bool = True, pictures: bool = True) -> Path:
    """Table, pictures, skipped inputs and facts of a run."""
    table = example_cells(cells, classified=classified)
    folder.mkdir(parents=True)
    write_parquet(table, folder / "embeddings.parquet")
    if pictures:
        write_pictures(example_pictures(table), folder / "pictures.parquet")
    (folder / "skipped.csv").write_text(f'field_of_view,reason\n1_A9,"{HOSTILE} is truncated"\n')
    run = {
        "arguments": {"command": "subcell embed images --model 'a <b>model</b>'", "precision": "fp32"},
        "models": [
            {
                "name": "tiny",
                "revision": "abc",
                "channels": ["red", "dapi", "blue", "green"],
                "processor": {"size": {"height": 64}},
            }
        ],
        "versions": {"torch": "2"},
        "timings": {"parts_s": [number + 0.5 for number in range(1000)]},
    }
    (folder / "run.json").write_text(json.dumps(run))
    return folder
