"""Several models on the same cells: paired tests, one figure, one table, and what a model card says of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from subcell_hf.errors import InputError
from subcell_hf.evaluation.localization.alignment import make_levels
from subcell_hf.evaluation.localization.bootstrap import (
    ClusteredScores,
    count_ranks,
    interval,
)
from subcell_hf.evaluation.localization.labels import ClassScheme, location_targets
from subcell_hf.evaluation.localization.localization_report import PREDICTIONS_FILE, PREDICTIONS_KEY
from subcell_hf.evaluation.localization.model_comparison import COMPARED_LEVELS, compare_pairs
from subcell_hf.evaluation.localization.ranking import METRICS, summarize
from subcell_hf.storage.parquet_files import read_parquet_file
from subcell_hf.storage.plain_files import parse_json
from subcell_hf.tables.files import EmbeddingTable, read_table

METRIC_NAMES = {
    "macro_map": "Macro average precision",
    "macro_auc": "Macro ROC-AUC",
    "micro_map": "Micro average precision",
    "lrap": "Label-ranking average precision",
    "coverage_error": "Coverage error",
}


@dataclass(frozen=True)
class Predictions:
    """What one model says of cells whose locations are known.

    Attributes:
        model: Name of the model.
        head: Name of the classifier.
        cells: `cell_id`, `antibody` and whatever else is known.
        classes: Names of the classes.
        targets: `[cells, classes]` uint8.
        probabilities: `[cells, classes]` float32.
    """

    model: str
    head: str
    cells: pd.DataFrame
    classes: tuple[str, ...]
    targets: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.float32]

    def select(self, rows: npt.NDArray[np.int64]) -> "Predictions":
        """The same model on some of the cells."""
        cells = self.cells.iloc[rows].reset_index(drop=True)
        return Predictions(self.model, self.head, cells, self.classes, self.targets[rows], self.probabilities[rows])


@dataclass(frozen=True)
class ScoredModel:
    """A model that can be compared; see `subcell_hf.evaluation.localization.model_comparison.Scored`.

    Attributes:
        model: Name of the model.
        head: Name of the classifier.
        counted: Level → scores that can be resampled.
        exact: Level → metric → value.
    """

    model: str
    head: str
    counted: Mapping[str, ClusteredScores]
    exact: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Comparison:
    """All models against each other.

    Attributes:
        models: Their names, in the order given.
        scores: `model`, `level`, `units`, `metric`, `value`, `low`, `high`.
        pairs: See `subcell_hf.evaluation.localization.model_comparison.compare_heads`; Holm over all pairs.
        cells: How many cells all models share.
        antibodies: Of how many antibodies.
        left_out: `cell_id` and `reason`.
    """

    models: tuple[str, ...]
    scores: pd.DataFrame
    pairs: pd.DataFrame
    cells: int
    antibodies: int
    left_out: pd.DataFrame


def read_predictions(path: Path, name: str | None = None, head: str | None = None) -> Predictions:
    """Read what a model predicts.

    Args:
        path: Folder that `subcell evaluate localization` wrote; or an embedding table with probabilities, `antibody`
            and `locations`, of which the cells of the split `test` are taken, or all where there is none.
        name: How to call the model; None for the folder's own name of it, or the file's.
        head: Classifier to take from a folder; None for its first.

    Returns:
        The folder's model, or the table's.

    Raises:
        InputError: If there are no predictions, or no such classifier.
    """
    if (path / PREDICTIONS_FILE).is_file():
        return _from_folder(path / PREDICTIONS_FILE, name, head)
    return _from_table(read_table(path), name or path.stem, str(path))


def _from_folder(path: Path, name: str | None, head: str | None) -> Predictions:
    table = read_parquet_file(path)
    facts = parse_json((table.schema.metadata or {}).get(PREDICTIONS_KEY, b"null"), str(path))
    if facts is None:
        raise InputError(f"{path} was not written by `subcell evaluate localization`. Run that command again.")
    heads = [tuple(pair) for pair in facts["heads"]]
    known = [found for model, found in heads if model == facts["model"]]
    wanted = head or known[0]
    if wanted not in known:
        raise InputError(f"{path} has no classifier {wanted!r}; it has {', '.join(known)}.")
    place = heads.index((facts["model"], wanted))
    texts = [column for column in table.column_names if not column.startswith(("probabilities_", "targets"))]
    classes = tuple(facts["classes"])
    return Predictions(
        name or facts["model"],
        wanted,
        table.select(texts).to_pandas(),
        classes,
        _matrix(table["targets"], len(classes)).astype(np.uint8),
        _matrix(table[f"probabilities_{place}"], len(classes)).astype(np.float32),
    )


def _matrix(column: Any, width: int) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, width)


def _from_table(table: EmbeddingTable, name: str, where: str) -> Predictions:
    missing = [column for column in ("antibody", "locations") if column not in table.cells]
    if table.probabilities is None or missing:
        lacking = "probabilities" if table.probabilities is None else ", ".join(missing)
        raise InputError(
            f"{where} has no {lacking}. Give a folder of `subcell evaluate localization`, or a table with "
            "probabilities, antibody and locations."
        )
    known = ClassScheme(where, table.classes, {place: place for place in table.classes})
    targets = location_targets(table.cells["locations"].tolist(), known)
    used = targets.any(axis=1)
    if "split" in table.cells and (table.cells["split"] == "test").any():
        used &= (table.cells["split"] == "test").to_numpy()
    everything = Predictions(name, "classifier", table.cells, table.classes, targets, table.probabilities)
    return everything.select(np.flatnonzero(used))


def compare_models(predictions: Sequence[Predictions], *, resamples: int = 1000, seed: int = 0) -> Comparison:
    """Compare models on the cells that all of them have predicted.

    Args:
        predictions: At least two, of the same classes.
        resamples: Bootstrap samples of the antibodies, and permutations.
        seed: Of both.

    Raises:
        InputError: If names occur twice, classes or targets differ, or no cell is common.
    """
    names = [item.model for item in predictions]
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError(f"Give at least two models of different names (NAME=PATH); got {', '.join(names) or 'none'}.")
    aligned, left_out = _align(predictions)
    cells = aligned[0].cells
    levels = [level for level in make_levels(cells)[0] if level.name in COMPARED_LEVELS]
    scored, rows = [], []
    for item in aligned:
        exact, counted = {}, {}
        for level in levels:
            targets, values = level.join_targets(item.targets), level.join(item.probabilities)
            exact[level.name] = summarize(targets, values)
            counted[level.name] = count_ranks(targets, values, level.cluster)
            rows += _score_rows(item.model, level.name, exact[level.name], counted[level.name], resamples, seed)
        # One name for all classifiers: models may each have been read by another.
        scored.append(ScoredModel(item.model, "all", counted, exact))
    pairs = compare_pairs(list(combinations(scored, 2)), resamples=resamples, seed=seed)
    return Comparison(
        tuple(names), pd.DataFrame(rows), pairs.drop(columns="head"), len(cells), cells["antibody"].nunique(), left_out
    )


def _align(predictions: Sequence[Predictions]) -> tuple[list[Predictions], pd.DataFrame]:
    first = predictions[0]
    ids = pd.Index(first.cells["cell_id"])
    rows = [pd.Index(item.cells["cell_id"]).get_indexer(ids) for item in predictions]
    common = np.logical_and.reduce([found >= 0 for found in rows])
    if not common.any():
        raise InputError("The models have no predicted cell in common. Evaluate tables of the same crops.")
    aligned = [item.select(found[common]) for item, found in zip(predictions, rows, strict=True)]
    for item in aligned[1:]:
        if item.classes != first.classes:
            raise InputError(
                f"{item.model} and {first.model} have different classes. Evaluate both with the same --classes."
            )
        if not np.array_equal(item.targets, aligned[0].targets):
            raise InputError(
                f"{item.model} and {first.model} have different locations for the same cells. Correct the metadata."
            )
    shared = set(ids[common])
    reasons = {
        cell: f"not predicted by all models, but by {item.model}"
        for item in predictions
        for cell in item.cells["cell_id"]
        if cell not in shared
    }
    return aligned, pd.DataFrame({"cell_id": list(reasons), "reason": list(reasons.values())}, dtype=str)


def _score_rows(
    model: str, level: str, exact: Mapping[str, float], counted: ClusteredScores, resamples: int, seed: int
) -> list[dict[str, Any]]:
    resampled = counted.bootstrap(resamples, seed)
    rows = []
    for metric in METRICS:
        low, high = interval(exact[metric], resampled[metric])
        facts = {"model": model, "level": level, "units": int(counted.cells.sum())}
        rows.append({**facts, "metric": metric, "value": exact[metric], "low": low, "high": high})
    return rows


def model_index(
    comparison: Comparison, model: str, *, dataset_id: str, dataset_name: str, split: str = "test"
) -> dict[str, Any]:
    """The `model-index` block of a model card.

    Args:
        comparison: The scores.
        model: One of its models.
        dataset_id: Hub id of the data, such as `owner/name`.
        dataset_name: The data in words.
        split: Name of the split that was scored.

    Returns:
        A mapping with the key `model-index`, as `huggingface_hub` writes it into the card's metadata.

    Raises:
        InputError: If the model has no score.
    """
    rows = comparison.scores[comparison.scores["model"] == model]
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Protein localization",
            dataset_type=dataset_id,
            dataset_name=dataset_name,
            dataset_split=split,
            metric_type=row["metric"],
            metric_name=f"{METRIC_NAMES[row['metric']]}, {row['level']} level",
            metric_value=round(float(row["value"]), 4),
        )
        for row in rows.to_dict("records")
        if np.isfinite(row["value"])
    ]
    if not results:
        raise InputError(f"{model} has no score to report.")
    return {"model-index": eval_results_to_model_index(model, results)}
