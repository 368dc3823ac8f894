"""Comparison of models on the same cells, from their localization benchmarks or tables with probabilities."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subcell_hf.errors import InputError, counted
from subcell_hf.evaluation.comparison.comparison_files import write_comparison
from subcell_hf.evaluation.comparison.embeddings import Comparison, compare_models, model_index, read_predictions
from subcell_hf.evaluation.localization.benchmark import LocalizationSettings
from subcell_hf.evaluation.localization.labels import class_scheme
from subcell_hf.report.encoders_page import COMPARISON_FOLDER, ENCODERS_PAGE
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.folder_lock import claim_folder
from subcell_hf.tables.run_record import encoder_folders, read_run
from subcell_hf.tables.search.stored_cells import open_table
from subcell_hf.workflows.evaluation.benchmark_localization import benchmark_localization, make_predictors
from subcell_hf.workflows.evaluation.table_baselines import BaselineOptions
from subcell_hf.workflows.tables import draw_encoders_page

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComparedModel:
    """A model of a comparison.

    Attributes:
        path: Folder of `subcell evaluate localization`; an embedding table with probabilities; or the folder of a run
            of several encoders, each of which is benchmarked first.
        name: Name of the model; None: as the folder calls it, or the name of the file.
    """

    path: Path
    name: str | None = None


@dataclass(frozen=True)
class ComparisonReport:
    """Result of `compare_benchmarks`.

    Attributes:
        folder: Folder of `table.md`, `comparison.pdf`, all tests and a model-index block for each model card; for
            encoders of a run also of their benchmarks and of a card for each, `cards/NAME.md`.
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
    metadata: str | Path | None = None,
    head: str | None = None,
    dataset_id: str = "local/cells",
    dataset_name: str = "Single-cell crops",
    resamples: int = 1000,
    seed: int = 0,
) -> ComparisonReport:
    """Compare models in pairs on the cells that all of them have predicted.

    Cells without predictions of all models are logged as a warning and listed in `left_out.csv`.

    Args:
        models: At least two, or the folder of a run of several encoders.
        output: Folder for tables, the figure and model-index blocks. If it is `comparison` in the folder of a run of
            several encoders, the page `index.html` of the run shows the scores.
        metadata: Of a run of several encoders: CSV or Parquet with `cell_id` and columns that its tables lack.
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
        notes = dict[str, list[str]]()
        every = [own for model in models for own in _benchmark_encoders(model, output, head, seed, metadata, notes)]
        for sentence, names in notes.items():
            _logger.warning("%s: %s", ", ".join(names), sentence)
        if metadata is not None and every == list(models):
            raise InputError("metadata is of no use: no input is a run of several encoders. Leave --metadata out.")
        predictions = [read_predictions(model.path, model.name, head) for model in every]
        comparison = compare_models(predictions, resamples=resamples, seed=seed)
        verdicts = write_comparison(comparison, output, dataset_id=dataset_id, dataset_name=dataset_name)
        for model in models:
            for name, folder in encoder_folders(model.path).items():
                block = model_index(comparison, name, dataset_id=dataset_id, dataset_name=dataset_name)
                _write_card(folder, output / "cards" / f"{name}.md", block)
            shows_scores = output.resolve() == (model.path / COMPARISON_FOLDER).resolve()
            if shows_scores and (model.path / ENCODERS_PAGE).is_file():
                draw_encoders_page(model.path)
        if len(comparison.left_out):
            left_out = counted(len(comparison.left_out), "cell was", "cells were")
            _logger.warning("%s left out: see %s.", left_out, output / "left_out.csv")
        return ComparisonReport(output, comparison, tuple(verdicts))


def _benchmark_encoders(
    model: ComparedModel,
    output: Path,
    head: str | None,
    seed: int,
    metadata: str | Path | None,
    notes: dict[str, list[str]],
) -> list[ComparedModel]:
    """The encoders of a run of several, with one and the same classifier trained on each; anything else as it is.

    Sentences on what was not evaluated are added to `notes`, each with the names of the encoders.
    """
    compared = []
    for name, folder in encoder_folders(model.path).items():
        report = benchmark_localization(
            folder,
            output / name,
            LocalizationSettings(class_scheme("31"), seed=seed, learning_fractions=()),
            name=name,
            predictors=make_predictors((head or "linear",), seed=seed),
            baselines=BaselineOptions(computed=()),
            metadata=metadata,
            log_notes=False,
        )
        for sentence in report.notes:
            notes.setdefault(sentence, []).append(name)
        compared.append(ComparedModel(output / name, name))
    return compared or [model]


def _write_card(run: Path, path: Path, results: Mapping[str, Any]) -> None:
    """Write the card of an encoder, with its scores."""
    from subcell_hf.hub.cards.encoder_card import make_encoder_card

    path.parent.mkdir(exist_ok=True)
    with write_atomically(path) as file:
        file.write(make_encoder_card(read_run(run), open_table(run).width, results).encode())
