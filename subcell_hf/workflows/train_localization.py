"""Location classifiers: a table of frozen embeddings in, an ensemble beside its encoder out.

python -m subcell_hf.workflows.train_localization --table TABLE --encoder MODEL --output FOLDER [--name value …]
"""

import json
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError, counted
from subcell_hf.process import run_plainly
from subcell_hf.progress import hide_weight_bars
from subcell_hf.storage.model_folders import check_model, read_processor
from subcell_hf.tables.files import EmbeddingTable, read_table
from subcell_hf.tables.run_record import refuse_averaged
from subcell_hf.training.localization.localization import LabelledEmbeddings, train_ensemble
from subcell_hf.training.localization.localization_arguments import ParsedLocalization, parse_localization
from subcell_hf.training.localization.localization_folder import (
    check_classifier_folder,
    location_targets,
    save_classifier,
    split_cells,
)
from subcell_hf.training.precision import tf32_products
from subcell_hf.training.pretraining.arguments import as_words
from subcell_hf.weights.model_names import find_folder

logger = logging.getLogger("subcell_hf.workflows.train_localization")  # also where this file is the program that runs


@dataclass(frozen=True)
class LocalizationTraining:
    """What the training of location classifiers did.

    Attributes:
        model: Folder of the classifier, for `AutoModelForImageClassification.from_pretrained`.
        classes: Names of the locations that it predicts, in order.
        cells: Split → labelled cells; `train` and `validation` were used.
        unlabelled_cells: Cells without a location, which were left out.
        macro_map: Macro mean average precision of each member on the validation cells, at its best epoch.
        best_epochs: Epoch, from 0, of each member's weights.
    """

    model: Path
    classes: tuple[str, ...]
    cells: Mapping[str, int]
    unlabelled_cells: int
    macro_map: tuple[float, ...]
    best_epochs: tuple[int, ...]


def train_localization(recipe: str | Path = "localization", **arguments: Any) -> LocalizationTraining:
    """Train an ensemble of location classifiers on a table of frozen embeddings.

    Example:
        ```python
        from subcell_hf.workflows import train_localization

        result = train_localization(table="run", encoder="mae-rybg", output="located", max_epochs=50)
        print(result.model, result.macro_map)
        ```

    Args:
        recipe: Path of a YAML file, or the name of a recipe that comes with the package.
        **arguments: Fields of `LocalizationArguments`, of which `table`, `encoder` and `output` are required, and
            those of `LocalizationSettings`, which override the recipe.

    Raises:
        InputError: If an argument is unknown, missing or invalid, the table has no locations or no cells of a split, or
            averages over orientations, or the model is not the one that computed the embeddings.
        FloatingPointError: If a member's loss is not finite.
    """
    return run_localization(parse_localization([str(recipe), *as_words(arguments)]))


def run_localization(settings: ParsedLocalization) -> LocalizationTraining:
    """Train location classifiers as typed settings say.

    Args:
        settings: From `parse_localization`.

    Raises:
        InputError: If the table has no locations or no cells of a split, or averages over orientations, or the model is
            not the one that computed the embeddings.
        FloatingPointError: If a member's loss is not finite.
    """
    encoder, _ = find_folder(settings.encoder)
    config = check_model(encoder)  # before the training, not after it
    read_processor(encoder, config)
    whole = read_table(settings.table)
    refuse_averaged(whole.provenance, settings.table, "and a classifier is given cells in one orientation")
    check_classifier_folder(settings.output, encoder, config, whole.embeddings.shape[1])
    table = _only_labelled(whole, settings.table)
    targets = location_targets(list(table.cells["locations"]), settings.classes)
    splits = _split_table(table, settings.split_by, settings.split_seed)
    parts = {
        name: LabelledEmbeddings(table.embeddings[splits == name], targets[splits == name]) for name in set(splits)
    }
    for name in ("train", "validation"):
        if name not in parts:
            raise InputError(f"{settings.table} has no cells in the split {name}, only in {', '.join(sorted(parts))}.")
    counts = dict(sorted(Counter(name or "no split" for name in splits.tolist()).items()))
    unused = [
        f"{counted(count, 'cell')} in {name}" for name, count in counts.items() if name not in ("train", "validation")
    ]
    if unused:
        logger.info(f"Not used: {', '.join(unused)}.")
    with tf32_products():
        ensemble = train_ensemble(parts["train"], parts["validation"], settings.settings, device=settings.device)
    best = [history[epoch] for history, epoch in zip(ensemble.history, ensemble.best_epochs, strict=True)]
    log = {"seeds": ensemble.seeds, "best_epochs": ensemble.best_epochs, "history": ensemble.history}
    files = {"training_log.json": json.dumps(log, indent=1)}
    model = save_classifier(ensemble, encoder, settings.output, settings.classes, settings.settings, files)
    members = counted(len(best), "member")
    logger.info(f"Wrote {model}: {members}, macro mAP {np.mean(best):.4f} on the validation cells.")
    return LocalizationTraining(
        model, settings.classes, counts, len(whole) - len(table), tuple(best), tuple(ensemble.best_epochs)
    )


def _only_labelled(table: EmbeddingTable, path: Path) -> EmbeddingTable:
    """The cells that have a location."""
    if "locations" not in table.cells:
        raise InputError(f"{path} has no column `locations`, expected one with names separated by `;`.")
    labelled = np.array([bool(text.strip(" ;")) for text in table.cells["locations"]], dtype=bool)
    if not labelled.any():
        raise InputError(f"No cell of {path} has a location, expected names separated by `;`.")
    if labelled.all():
        return table
    logger.info(f"Cells without a location, left out: {int((~labelled).sum())} of {len(table)}.")
    return table.select(labelled)


def _split_table(table: EmbeddingTable, by: str, seed: int) -> npt.NDArray[np.str_]:
    """Name of every cell's split."""
    if "split" in table.cells and table.cells["split"].astype(bool).any():
        return np.asarray(table.cells["split"].to_numpy(str))
    columns = [list(table.cells.get(name, [""] * len(table))) for name in ("antibody", "gene", "locations")]
    return split_cells(*columns, by=by, seed=seed)


def main(arguments: Sequence[str]) -> None:
    """Train location classifiers as a command line says: the recipe, if not the default, then `--name value` pairs.

    Args:
        arguments: As in `sys.argv[1:]`.
    """
    hide_weight_bars()
    run_localization(parse_localization(arguments))


if __name__ == "__main__":
    run_plainly(lambda: main(sys.argv[1:]))
