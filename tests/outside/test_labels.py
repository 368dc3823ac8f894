"""Crops that nobody has labelled are left out of training and counted, whatever stands for a missing label."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from typer.testing import CliRunner

from subcell_hf.cli import app
from subcell_hf.errors import InputError
from subcell_hf.evaluation.localization.labels import class_scheme, label_cells
from subcell_hf.tables.files import write_parquet
from subcell_hf.training.finetuning.labelled_crops import open_crops, with_random_splits
from tests.evaluation.planted_tables import planted_cells, planted_table
from tests.training.test_finetuning import OWN, _resolve, pretrained

__all__ = ["pretrained"]


def _dataset(labels: list[Any], kind: Any, column: str = "label") -> Dataset:
    pixels = np.random.default_rng(0).integers(0, 99, (len(labels), 3, 32, 32)).astype(np.uint8)
    columns = {"pixels": list(pixels), column: labels, "plate": [str(number) for number in range(len(labels))]}
    pixel_type = List(List(List(Value("uint8"))))
    return Dataset.from_dict(columns, Features({"pixels": pixel_type, column: kind, "plate": Value("string")}))


def _opened(rows: Dataset | DatasetDict, folder: Path) -> Any:
    rows.save_to_disk(folder)
    return open_crops(str(folder), ("blue", "er", "mito"))


@pytest.mark.parametrize(
    ("labels", "kind", "expected"),
    [
        ([0, 1, -1, None], ClassLabel(names=["no", "yes"]), [("no",), ("yes",), None, None]),
        ([0, 1, -1, None], Value("int64"), [("0",), ("1",), None, None]),
        ([0.0, float("nan"), -1.0, 1.0], Value("float32"), [("0.0",), None, None, ("1.0",)]),
        (["None", "NA", None, ""], Value("string"), [("None",), ("NA",), None, None]),
        ([[0], [], [-1], [1, -1]], List(ClassLabel(names=["no", "yes"])), [("no",), (), None, ("yes",)]),
        ([["a", None], [], [None], ["-1"]], List(Value("string")), [("a",), (), None, ("-1",)]),
    ],
)
def test_what_a_dataset_has_for_no_label(tmp_path: Path, labels: list[Any], kind: Any, expected: list[Any]) -> None:
    column = "labels" if isinstance(labels[0], list) else "label"
    crops = _opened(_dataset(labels, kind, column), tmp_path / "d")
    assert crops.labels == expected


@pytest.mark.parametrize(
    ("column", "cells", "expected"),
    [
        ("label", ["0", "1", "-1", ""], [("0",), ("1",), None, None]),
        ("label", ["None", "NA", "-1", ""], [("None",), ("NA",), ("-1",), None]),
        ("labels", ["a;b", "", "b", "NA"], [("a", "b"), (), ("b",), ("NA",)]),
    ],
)
def test_what_a_table_has_for_no_label(tmp_path: Path, column: str, cells: list[str], expected: list[Any]) -> None:
    tifffile.imwrite(tmp_path / "c.tiff", np.zeros((3, 32, 32), np.uint8), photometric="minisblack")
    rows = "".join(f"c.tiff;{cell!r}\n".replace("'", '"') for cell in cells)
    (tmp_path / "t.csv").write_text(f"file;{column}\n{rows}")
    assert open_crops(str(tmp_path / "t.csv"), ("blue", "er", "mito")).labels == expected


def test_an_unlabelled_test_split_does_not_matter(tmp_path: Path, pretrained: Path) -> None:
    names = ClassLabel(names=["no", "yes"])
    parts = {
        "train": _dataset([0, 1, -1, 0], names),
        "validation": _dataset([1, 0, -1], names),
        "test": _dataset([-1, -1], names),
    }
    DatasetDict(parts).save_to_disk(tmp_path / "d")
    run = _resolve(pretrained, tmp_path / "d", tmp_path / "out", *OWN)
    assert (run.classes, run.train.tolist(), run.validation.tolist()) == (("no", "yes"), [0, 1, 3], [4, 5])
    described = run.describe()
    assert described["unlabelled_crops_left_out"] == {"train": 1, "validation": 1, "test": 2}
    assert described["classes"] == {"no": "2 train, 1 validation", "yes": "1 train, 1 validation"}
    assert described["labels_left_out"] == {}
    DatasetDict({**parts, "validation": _dataset([-1], names)}).save_to_disk(tmp_path / "none")
    with pytest.raises(InputError, match="No crop in the split 'validation' has a label \\(1 crop\\)"):
        _resolve(pretrained, tmp_path / "none", tmp_path / "out", *OWN)


def test_random_splits_ask_the_labelled_alone(tmp_path: Path) -> None:
    whole = _opened(_dataset([0, 1] * 4, ClassLabel(names=["no", "yes"])), tmp_path / "whole")
    gaps = _opened(_dataset([0, 1] * 4 + [-1] * 30, ClassLabel(names=["no", "yes"])), tmp_path / "gaps")
    assert with_random_splits(gaps, 0.25, 0)[:8] == with_random_splits(whole, 0.25, 0)


def _cells_with_gaps() -> pd.DataFrame:
    cells = planted_cells()
    cells.loc[cells.index[:5], "split"] = ["", "holdout", "", "", "unknown"]
    return cells


def test_cells_without_a_split_are_counted() -> None:
    labelled = label_cells(_cells_with_gaps(), class_scheme("31"))
    assert (labelled.without_split, labelled.without_class) == (5, 0)


@pytest.mark.slow
def test_the_report_counts_cells_without_a_split(tmp_path: Path) -> None:
    cells = _cells_with_gaps()
    write_parquet(planted_table(cells, 3.0), tmp_path / "t.parquet")
    command = ["evaluate", "localization", str(tmp_path / "t.parquet"), "--output", str(tmp_path / "out")]
    command += ["--no-baselines", "--heads", "neighbours", "--resamples", "2", "--no-learning-curve"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "5 cells with a location not used: in none of the splits" in result.output
    assert "5 cells with a location" in (tmp_path / "out" / "report.html").read_text()
