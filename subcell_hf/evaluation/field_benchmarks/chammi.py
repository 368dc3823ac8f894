"""CHAMMI: cells of three collections, classified by their k-nearest neighbours, on tasks of growing distance.

Source: Chen et al., NeurIPS 2023 Datasets and Benchmarks (arXiv:2310.19224), and its code, broadinstitute/MorphEm: the
label of the nearest cell of the split `Train`; in `Task_three` of HPA and `Task_four` of CP, whose classes are
not among them, also among the test cells of all other cell types, or plates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import f1_score
from sklearn.neighbors import NearestNeighbors

from subcell_hf.errors import InputError, counted
from subcell_hf.storage.foreign_tables import read_foreign_table
from subcell_hf.tables.files import read_table

METADATA_FILE = "enriched_meta.csv"
DISTANCES = ("euclidean", "cosine")

_TRAIN, _SPLIT, _LABEL, _FILE = "Train", "train_test_split", "Label", "file_path"


@dataclass(frozen=True)
class ChammiSet:
    """One collection.

    Attributes:
        tasks: Names of its tasks, which are columns of the metadata.
        left_out_task: Task of classes that are not in the training split; None: there is none.
        left_out_column: Column whose values are left out one after the other in that task.
    """

    tasks: tuple[str, ...]
    left_out_task: str | None = None
    left_out_column: str | None = None


CHAMMI_SETS: Mapping[str, ChammiSet] = {
    "Allen": ChammiSet(("Task_one", "Task_two")),
    "HPA": ChammiSet(("Task_one", "Task_two", "Task_three"), "Task_three", "cell_type"),
    "CP": ChammiSet(("Task_one", "Task_two", "Task_three", "Task_four"), "Task_four", "Plate"),
}
"""The three collections by name."""


def read_chammi(features: Path, metadata: Path) -> dict[str, tuple[npt.NDArray[np.float32], pd.DataFrame]]:
    """Read embeddings and metadata of the collections that are there.

    Args:
        features: Folder with one embedding table for each collection: `Allen`, `HPA`, `CP` (folders of `subcell embed`,
            or files such as `Allen.parquet`).
        metadata: Folder with `Allen/enriched_meta.csv` and so on, as the data set is published.

    Returns:
        Name → embeddings `[cells, width]` and the metadata, in the same order.

    Raises:
        InputError: If no collection has both, a column is missing, or a cell has no embedding.
    """
    found = {}
    for name, facts in CHAMMI_SETS.items():
        table = next((path for path in (features / name, *sorted(features.glob(f"{name}.*"))) if path.exists()), None)
        if table is None:
            continue
        path = metadata / name / METADATA_FILE
        if not path.is_file():
            raise InputError(f"{path} does not exist. Download the metadata of CHAMMI: see `subcell benchmark chammi`.")
        rest = () if facts.left_out_column is None else (facts.left_out_column,)
        read = read_foreign_table(path)
        read.require(needed := (_SPLIT, _LABEL, _FILE, *facts.tasks, *rest))
        cells = pd.DataFrame({column: read.text(column) for column in needed})
        embedded = read_table(table)
        names = [PurePath(text).stem for text in cells[_FILE]]
        rows = pd.Index(embedded.cells["cell_id"]).get_indexer(pd.Index(names))
        if (rows < 0).any():
            first = names[int((rows < 0).argmax())]
            raise InputError(
                f"{table} lacks {counted(int((rows < 0).sum()), 'cell')} of {path}, first {first!r}; "
                f"its cells have names such as {embedded.cells['cell_id'].iloc[0]!r}."
            )
        found[name] = embedded.embeddings[rows], cells
    if not found:
        raise InputError(
            f"{features} has no embeddings of CHAMMI: expected tables or folders named {', '.join(CHAMMI_SETS)}."
        )
    return found


def score_chammi(
    collections: Mapping[str, tuple[npt.NDArray[np.float32], pd.DataFrame]], distance: str = "euclidean"
) -> pd.DataFrame:
    """Score every task of every collection.

    Args:
        collections: See `read_chammi`.
        distance: `"euclidean"`, as published, or `"cosine"`.

    Returns:
        `collection`, `task`, `cells`, `classes`, `accuracy`, `macro_f1`.

    Raises:
        InputError: If the distance is unknown, or a task has no cell.
    """
    if distance not in DISTANCES:
        raise InputError(f"Unknown distance {distance!r}: choose one of {', '.join(DISTANCES)}.")
    rows = []
    for name, (embeddings, cells) in collections.items():
        facts = CHAMMI_SETS[name]
        labels = cells[_LABEL].to_numpy(str)
        training = np.flatnonzero(cells[_SPLIT] == _TRAIN)
        for task in facts.tasks:
            tested = np.flatnonzero(_is_true(cells[task]))
            if not len(tested) or not len(training):
                raise InputError(f"CHAMMI, {name}: {task} has {len(tested)} cells, training {len(training)}.")
            if task == facts.left_out_task and facts.left_out_column is not None:
                groups = cells[facts.left_out_column].to_numpy(str)
                order = [tested[groups[tested] == group] for group in dict.fromkeys(groups[tested])]
                others = [np.concatenate([training, np.setdiff1d(tested, group)]) for group in order]
            else:
                order, others = [tested], [training]
            truth = np.concatenate([labels[group] for group in order])
            predicted = np.concatenate(
                [_nearest(embeddings, labels, *pair, distance) for pair in zip(others, order, strict=True)]
            )
            known = np.unique(truth)
            score = f1_score(truth, predicted, labels=known, average="macro", zero_division=0)
            accuracy = float((predicted == truth).mean())
            rows.append(
                {"collection": name, "task": task, "cells": len(truth), "classes": len(known), "accuracy": accuracy,
                 "macro_f1": float(score)}
            )  # fmt: skip
    return pd.DataFrame(rows)


def chammi_score(scores: pd.DataFrame) -> float | None:
    """The CHAMMI score: the mean over the three collections of the mean F1 of all their tasks but the first.

    Args:
        scores: See `score_chammi`.

    Returns:
        The score; None if a collection is missing.
    """
    if set(scores["collection"]) != set(CHAMMI_SETS):
        return None
    harder = scores[scores["task"] != "Task_one"]
    return float(harder.groupby("collection")["macro_f1"].mean().mean())


def _nearest(
    embeddings: npt.NDArray[np.float32],
    labels: npt.NDArray[np.str_],
    training: npt.NDArray[np.int64],
    tested: npt.NDArray[np.int64],
    distance: str,
) -> npt.NDArray[np.str_]:
    """Label of the nearest training cell of each test cell."""
    search = NearestNeighbors(n_neighbors=1, algorithm="brute", metric=distance).fit(embeddings[training])
    found = search.kneighbors(embeddings[tested], return_distance=False)[:, 0]
    return np.asarray(labels[training[found]])


def _is_true(values: pd.Series) -> npt.NDArray[np.bool_]:
    return np.asarray(values.str.lower().isin(("true", "1", "1.0")))
