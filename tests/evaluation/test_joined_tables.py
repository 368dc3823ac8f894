"""Tables that are read together were computed in the same way, wherever they record it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.table import read_profiles
from subcell_hf.evaluation.screening import read_wells
from subcell_hf.tables.embedding_table import EmbeddingTable
from subcell_hf.tables.h5ad import write_h5ad
from subcell_hf.tables.parquet import write_parquet

MODEL = {"name": "small", "weights_sha256": "a" * 64, "crop_px": 300, "pixel_size_um": 0.08}
SAME = {"models": [MODEL]}
JOINS = [read_profiles, read_wells]


def write(path: Path, provenance: dict[str, Any]) -> Path:
    cells = pd.DataFrame({"cell_id": [f"{path.stem}_{number}" for number in range(3)], "field_of_view": "1"})
    cells = cells.assign(cell_label=range(1, 4), plate=path.stem, well="A01")
    save = write_parquet if path.suffix == ".parquet" else write_h5ad
    save(EmbeddingTable(cells, np.eye(3, 4, dtype=np.float32), provenance=provenance), path)
    return path


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("ending", ["parquet", "h5ad"])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"models": [MODEL | {"weights_sha256": "b" * 64}]}, "weights bbbbbbbbbbbb here, aaaaaaaaaaaa there"),
        (SAME | {"orientations": 8}, "orientations 8 here, 1 there"),
        ({"models": [MODEL | {"pixel_size_um": 0.16}]}, "crops 300 px of 0.16 µm here, 300 px of 0.08 µm there"),
        ({"models": [MODEL, MODEL]}, "weights aaaaaaaaaaaa and aaaaaaaaaaaa here"),
        ({"baseline": "features"}, "baseline features here, none there"),
    ],
)
def test_tables_of_other_origin_are_refused(
    join: Callable[[Sequence[Path]], Any], ending: str, other: dict[str, Any], message: str, tmp_path: Path
) -> None:
    paths = [write(tmp_path / f"{name}.{ending}", facts) for name, facts in (("1", {}), ("2", SAME), ("3", other))]
    with pytest.raises(InputError, match=f"3.{ending} was not computed as .*2.{ending} was: .*{message}"):
        join(paths)


@pytest.mark.parametrize("join", JOINS)
def test_tables_of_one_origin_are_joined_whatever_the_model_is_called(
    join: Callable[[Sequence[Path]], Any], tmp_path: Path
) -> None:
    renamed = {"models": [MODEL | {"name": "copy of small", "revision": "main"}], "orientations": 1}
    given = {"1": SAME, "2": renamed, "3": {}, "4": {"models": [{"name": "unknown"}]}}
    found = join([write(tmp_path / f"{name}.parquet", facts) for name, facts in given.items()])
    table = found if join is read_profiles else found.profiles
    assert set(table.column("plate")) == {"1", "2", "3", "4"}
