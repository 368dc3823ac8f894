"""Comparison of models on the same cells, from their localization benchmarks or tables with probabilities."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from subcell_hf.errors import counted
from subcell_hf.evaluation.comparison.comparison_files import write_comparison
from subcell_hf.evaluation.comparison.embeddings import Comparison, compare_models, read_predictions
from subcell_hf.storage.folder_lock import claim_folder

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComparedModel:
    """A model of a comparison.

    Attributes:
        path: Folder of `subcell evaluate localization`, or an embedding table with probabilities.
        name: Name of the model; None: as the folder calls it, or the name of the file.
    """

    path: Path
    name: str | None = None


@dataclass(frozen=True)
class ComparisonReport:
    """Result of `compare_benchmarks`.

    Attributes:
        folder: Folder of `table.md`, `comparison.pdf`, all tests and a model-index block for each model card.
        comparison: All scores and tests.
        verdicts: One sentence for each pair of models.
    """

    folder: Path
    comparison: Comparison
    verdicts: tuple[str, ...]


def compare_benchmarks(
    models: Sequence[ComparedModel],
    output: str | Path,
    *,
    head: str | None = None,
    dataset_id: str = "local/cells",
    dataset_name: str = "Single-cell crops",
    resamples: int = 1000,
    seed: int = 0,
) -> ComparisonReport:
    """Compare models in pairs on the cells that all of them have predicted.

    Cells without predictions of all models are logged as a warning and listed in `left_out.csv`.

    Args:
        models: At least two.
        output: Folder for tables, the figure and model-index blocks.
        head: Classifier to compare, such as `"linear"`; None: the first of each folder.
        dataset_id: Hub id of the data set, for the model-index blocks.
        dataset_name: Title of the data set, for the same.
        resamples: Bootstrap samples of the antibodies, and permutations.
        seed: Random seed of both.

    Raises:
        InputError: If predictions are missing or of other classes, names occur twice, no cell is common, or the folder
            is in use.
    """
    output = Path(output)
    with claim_folder(output):
        predictions = [read_predictions(model.path, model.name, head) for model in models]
        comparison = compare_models(predictions, resamples=resamples, seed=seed)
        verdicts = write_comparison(comparison, output, dataset_id=dataset_id, dataset_name=dataset_name)
        if len(comparison.left_out):
            left_out = counted(len(comparison.left_out), "cell was", "cells were")
            _logger.warning("%s left out: see %s.", left_out, output / "left_out.csv")
        return ComparisonReport(output, comparison, tuple(verdicts))
