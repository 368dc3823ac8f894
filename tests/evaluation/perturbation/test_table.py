from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.table import read_profiles


def write(path: Path, **columns: list[object]) -> Path:
    frame = pd.DataFrame(columns)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["wells.csv", "wells.csv.gz", "wells.parquet"])
def test_metadata_is_text_and_features_are_exact(tmp_path: Path, name: str) -> None:
    numbers = [0.1 + 0.2, 1e-17]
    path = write(tmp_path / name, Metadata_Plate=["007", "8"], Metadata_moa=["a", None], b=numbers, a=[1, 2])
    table = read_profiles([path])
    assert table.names == ("b", "a")
    assert table.features.tolist() == [[numbers[0], 1.0], [numbers[1], 2.0]]
    assert table.column("Metadata_Plate").tolist() == ["007", "8"]
    assert table.column("Metadata_moa").tolist() == ["a", None]


def test_tables_are_put_below_each_other(tmp_path: Path) -> None:
    first = write(tmp_path / "1.csv", Metadata_Plate=["A"], x=[1.0])
    second = write(tmp_path / "2.csv", Metadata_Plate=["B"], Metadata_extra=["e"], x=[2.0])
    table = read_profiles([first, second])
    assert table.features.ravel().tolist() == [1.0, 2.0]
    assert table.column("Metadata_extra").tolist() == [None, "e"]
    with pytest.raises(InputError, match="other features"):
        read_profiles([first, write(tmp_path / "3.csv", Metadata_Plate=["B"], y=[2.0])])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": [1.0, np.nan]}, "1 missing or infinite values in 1 features: x"),
        ({"x": [1.0, np.inf]}, "missing or infinite"),
        ({"x": [1.0, 2.0], "note": ["a", "b"]}, "neither numbers nor metadata: note"),
        ({}, "no features"),
    ],
)
def test_unusable_features_are_named(tmp_path: Path, columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_profiles([write(tmp_path / "wells.csv", Metadata_Plate=["A", "B"], **columns)])


def test_missing_files_and_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_profiles([tmp_path / "none.csv"])
    table = read_profiles([write(tmp_path / "wells.csv", Metadata_Plate=["A"], x=[1.0])])
    with pytest.raises(InputError, match=r"no column 'Metadata_Wells'; their metadata columns are Metadata_Plate"):
        table.column("Metadata_Wells")
