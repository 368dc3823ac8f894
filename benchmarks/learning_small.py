"""What the recipe `small` learns of fresh antibodies and of cell lines, with intervals over antibodies.

Cells of a seed that no choice of the recipe has seen are simulated, cropped and sharded as the recipe says, and the
model is pretrained with several seeds. Frozen embeddings, classical features, an untrained model and principal
components of the pixels are scored on the same cells of the test split's antibodies: `linear` and `neighbours` are the
macro mean average precision of the locations by the probes of `subcell evaluate localization`, `cell_line` is the
balanced accuracy of a logistic regression. What a probe leaves open is chosen on the validation split. Differences to
the features have 95 % intervals that resample antibodies, the same ones for both tables; those of the mean of all seeds
resample alike.

Possible shortcuts are predicted on the test cells, too: plate, cells cut by the border, cells per field of view
(`subcell_hf.evaluation`'s probes, grouped by antibody). `unmasked` are the first seed's embeddings of the same crops
with their surroundings, which the model has not seen in training. `orientations` are the embeddings averaged over eight
orientations of each crop, as by `subcell embed --orientations 8`; `with_features` are embeddings and features side by
side, every column standardized.

Test antibodies of a data seed are scored once for a claim: after a choice by their scores, use another `--fields-seed`.
Trainings and tables of features that are there already in `--work` are not made again. The last line is JSON.

With `--montages` real cells are classified as well, by the middle of their tiles.

    PYTHONPATH=. python benchmarks/learning.py --small --work FOLDER [--seeds 0 1 2] [--fields-seed 46]
        [--montages ../shared/data/hpa_montages]
        [--words "--probe_detached false" --runs labels]
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.preprocessing import StandardScaler

from benchmarks.embeddings import Floats, embed
from benchmarks.learning import RECIPE, predict_lines, prepare_shards, pretrain, untrained_model
from benchmarks.montages import score_montages
from subcell_hf.evaluation.baselines.baselines import make_baselines
from subcell_hf.evaluation.localization.bootstrap import (
    Values,
    Weights,
    bootstrap_weights,
    count_ranks,
    interval,
    resample_metrics,
)
from subcell_hf.evaluation.localization.nuisance import score_batches
from subcell_hf.evaluation.localization.probes import LinearProbe, NeighbourProbe
from subcell_hf.evaluation.localization.ranking import summarize
from subcell_hf.model.image_processing_subcell import SubCellImageProcessor
from subcell_hf.model.modeling_subcell import SubCellModel
from subcell_hf.shards.reader import ShardReader
from subcell_hf.storage.atomic import write_atomically

SMALL = RECIPE.with_name("small.yaml")
CROP_PX, OUTPUT_PX = 300, 72
RESAMPLES = 1000
SCORES = ("linear", "neighbours", "cell_line")
SPLITS = ("train", "validation", "test")
EACH_SEED = ("subcell", "orientations", "with_features", "untrained")
"""Tables that are scored for every seed of the pretraining; the others for the first alone."""
WITH_SHORTCUTS = ("features", "pixels", "subcell", "untrained")


@dataclass(frozen=True)
class Truth:
    """What the probes learn and are scored by, of train, validation and test split.

    Attributes:
        locations: `[cells, classes]` 0 or 1 each, of classes that some training cells and some but not all test cells
            have.
        lines: `[cells]` number of the cell line, each.
        antibodies: `[test cells]` number of the antibody, from 0.
    """

    locations: list[npt.NDArray[np.uint8]]
    lines: list[npt.NDArray[np.int32]]
    antibodies: npt.NDArray[np.int64]

    @classmethod
    def read(cls, reader: ShardReader, splits: Sequence[npt.NDArray[np.int64]]) -> "Truth":
        """Of the rows of three splits."""
        table = reader.cells
        locations = [table.location_sets[table.location_set[rows]].astype(np.uint8) for rows in splits]
        share = locations[2].mean(0)
        scored = locations[0].any(0) & (share > 0) & (share < 1)
        antibodies = np.unique(table.antibody[splits[2]], return_inverse=True)[1]
        return cls([part[:, scored] for part in locations], [table.cell_line[rows] for rows in splits], antibodies)


@dataclass(frozen=True)
class TableScores:
    """Scores of one table of features.

    Attributes:
        exact: Name → score of all test cells.
        resampled: Name → `[resamples]`, the score of each resample of the antibodies.
    """

    exact: dict[str, float]
    resampled: dict[str, Values]


def score_table(features: Sequence[Floats], truth: Truth, weights: Weights) -> TableScores:
    """All scores of a table, and those of every resample.

    Args:
        features: `[cells, width]` of train, validation and test split.
        truth: Of the same cells.
        weights: `[resamples, antibodies]`, how often each antibody counts.
    """
    exact: dict[str, float] = {}
    resampled: dict[str, Values] = {}
    train, validation, test = features
    for probe in (LinearProbe(), NeighbourProbe()):
        known = truth.locations[:2]
        likely = probe.fit_predict(train, known[0], validation, known[1], test)[0]
        exact[probe.name] = summarize(truth.locations[2], likely)["macro_map"]
        counted = count_ranks(truth.locations[2], likely, truth.antibodies)
        resampled[probe.name] = resample_metrics(counted, weights)["macro_map"]
    right = predict_lines(features, truth.lines) == truth.lines[2]
    everything = np.ones((1, weights.shape[1]), np.float32)
    exact["cell_line"] = float(balanced_accuracy(right, truth, everything)[0])
    resampled["cell_line"] = balanced_accuracy(right, truth, weights)
    return TableScores(exact, resampled)


def balanced_accuracy(right: npt.NDArray[np.bool_], truth: Truth, weights: Weights) -> Values:
    """Mean over cell lines of the share of cells that are right, `[resamples]`.

    Args:
        right: `[test cells]`.
        truth: Their lines and antibodies.
        weights: `[resamples, antibodies]`.
    """
    lines = np.unique(truth.lines[2])
    counts = np.zeros((2, weights.shape[1], len(lines)))
    for column, line in enumerate(lines):
        of_line = truth.lines[2] == line
        for row, cells in enumerate((of_line & right, of_line)):
            counts[row, :, column] = np.bincount(truth.antibodies[cells], minlength=weights.shape[1])
    hits, cells_of_line = weights @ counts[0], weights @ counts[1]  # [resamples, lines]
    shares = np.where(cells_of_line > 0, hits / np.maximum(cells_of_line, 1), np.nan)
    mean: Values = np.nanmean(shares, axis=1)
    return mean


def describe(table: TableScores, reference: TableScores | None) -> dict[str, Any]:
    """Scores as plain numbers, with their difference to a reference where there is one."""
    found: dict[str, Any] = {name: round(value, 4) for name, value in table.exact.items()}
    if reference is not None:
        found["difference"] = {}
        for name, value in table.exact.items():
            difference = value - reference.exact[name]
            low, high = interval(difference, table.resampled[name] - reference.resampled[name])
            ends = {"value": difference, "interval_low": low, "interval_high": high}
            found["difference"][name] = {key: round(number, 4) for key, number in ends.items()}
    return found


def average(tables: Sequence[TableScores]) -> TableScores:
    """The mean of several tables' scores, resample by resample."""
    return TableScores(
        {name: float(np.mean([table.exact[name] for table in tables])) for name in tables[0].exact},
        {name: np.mean([table.resampled[name] for table in tables], axis=0) for name in tables[0].exact},
    )


def predict_shortcuts(embeddings: Floats, cells: pd.DataFrame) -> dict[str, float]:
    """Balanced accuracy of predicting what may be a shortcut; `chance: …` beside it.

    Args:
        embeddings: `[test cells, width]`.
        cells: The same cells' metadata.
    """
    found = score_batches(embeddings, np.arange(len(cells)), cells, seed=0)[0]
    accuracy = {name: round(float(str(scores["balanced_accuracy"])), 3) for name, scores in found.items()}
    return accuracy | {f"chance: {name}": round(float(str(scores["chance"])), 3) for name, scores in found.items()}


def make_tables(arguments: argparse.Namespace, reader: ShardReader, seed: int, folder: Path) -> dict[str, list[Floats]]:
    """Name → features `[cells, width]` of train, validation and test split, for one pretraining.

    Those that are stored in `--work` or beside the model already are not made again.

    Args:
        arguments: Of the command line.
        reader: Of the shards.
        seed: Of the pretraining.
        folder: Of the pretraining.
    """
    splits = [reader.split_rows(name) for name in SPLITS]
    shards = arguments.work / "shards"

    def measure_all() -> dict[str, list[Floats]]:
        found = make_baselines(shards, workers=arguments.workers, progress=False)
        return {name: [table.embeddings[rows] for rows in splits] for name, table in found.items()}

    def embed_all() -> dict[str, list[Floats]]:
        trained = folder / "model"
        model, untrained = SubCellModel.from_pretrained(trained), untrained_model(trained, seed)
        scaling = SubCellImageProcessor.from_pretrained(trained).normalize
        crops = [reader.read(rows) for rows in splits]
        return {
            "subcell": [embed(model, scaling, *part) for part in crops],
            "orientations": [embed(model, scaling, *part, orientations=8) for part in crops],
            "untrained": [embed(untrained, scaling, *part) for part in crops],
            "unmasked": [embed(model, scaling, pixels, np.ones_like(masks)) for pixels, masks in crops],
        }

    tables = stored(arguments.work / "baselines.npz", measure_all) | stored(folder / "embeddings.npz", embed_all)
    scalers = [StandardScaler().fit(tables[name][0]) for name in ("features", "subcell")]
    both = zip(tables["features"], tables["subcell"], strict=True)
    tables["with_features"] = [
        np.hstack([scaler.transform(part) for scaler, part in zip(scalers, parts, strict=True)]) for parts in both
    ]
    return tables


def stored(path: Path, make: Callable[[], dict[str, list[Floats]]]) -> dict[str, list[Floats]]:
    """Tables from a file, which is written first where it does not exist."""
    if not path.is_file():
        named = {
            f"{name}/{split}": part for name, own in make().items() for split, part in zip(SPLITS, own, strict=True)
        }
        with write_atomically(path) as file:
            np.savez(file, **named)
    with np.load(path) as parts:
        names = dict.fromkeys(key.split("/")[0] for key in parts)
        return {name: [parts[f"{name}/{split}"] for split in SPLITS] for name in names}


def score_all(
    arguments: argparse.Namespace, reader: ShardReader, folders: Mapping[int, Path]
) -> tuple[dict[str, dict[int, TableScores]], dict[str, dict[str, float]]]:
    """Table → seed → scores, where tables that are made once are the same for every seed; table → possible shortcuts.

    Args:
        arguments: Of the command line.
        reader: Of the shards.
        folders: Seed → folder of the pretraining.
    """
    splits = [reader.split_rows(name) for name in SPLITS]
    truth = Truth.read(reader, splits)
    weights = bootstrap_weights(int(truth.antibodies.max()) + 1, RESAMPLES, np.random.default_rng(0))
    cells = pd.read_parquet(arguments.work / "shards" / "cells.parquet").iloc[splits[2]]
    scores: dict[str, dict[int, TableScores]] = {}
    shortcuts: dict[str, dict[str, float]] = {}
    for seed, folder in folders.items():
        for name, table in make_tables(arguments, reader, seed, folder).items():
            own = scores.setdefault(name, {})
            if name in EACH_SEED:
                own[seed] = score_table(table, truth, weights)
            elif not own:
                own |= dict.fromkeys(folders, score_table(table, truth, weights))
            if name in WITH_SHORTCUTS and name not in shortcuts:
                shortcuts[name] = predict_shortcuts(table[2], cells)
    return scores, shortcuts


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the cells, pretrain, score.

    Returns:
        The benchmark's line.
    """
    work = arguments.work
    fields, antibodies, seed = arguments.fields, arguments.antibodies, arguments.fields_seed
    reader = prepare_shards(work, fields, antibodies, arguments.workers, seed, (CROP_PX, OUTPUT_PX))
    folders = {seed: work / arguments.runs / f"seed_{seed}" for seed in arguments.seeds}
    more = arguments.words.split()
    with ThreadPoolExecutor(arguments.workers) as pool:
        trained = pool.map(
            lambda seed: pretrain(folders[seed], work / "shards", ["--seed", str(seed), *more], SMALL), folders
        )
        seconds = dict(zip(folders, trained, strict=True))
    scores, shortcuts = score_all(arguments, reader, folders)
    seeds = {
        str(seed): {
            name: describe(own[seed], None if name == "features" else scores["features"][seed])
            for name, own in scores.items()
        }
        for seed in folders
    }
    means = {name: average(list(own.values())) for name, own in scores.items()}
    figures: dict[str, Any] = {
        "seeds": seeds,
        "mean": {name: describe(own, None if name == "features" else means["features"]) for name, own in means.items()},
        "shortcuts": shortcuts,
        "words": arguments.words,
        "fields_seed": arguments.fields_seed,
        "cells": {name: len(reader.split_rows(name)) for name in reader.index.splits},
        "antibodies": {name: len(found) for name, found in reader.index.splits.items()},
        "pretraining_s": {str(seed): round(taken, 1) for seed, taken in seconds.items()},
    }
    if arguments.montages:
        models = {f"seed {seed}": SubCellModel.from_pretrained(folder / "model") for seed, folder in folders.items()}
        scaling = SubCellImageProcessor.from_pretrained(folders[arguments.seeds[0]] / "model").normalize
        figures["real_cells_right"] = score_montages(arguments.montages, models, scaling, CROP_PX)
    linear = {name: own.exact["linear"] for name, own in means.items()}
    return {
        "name": "what the recipe small learns of held-out antibodies and of cell lines",
        "ratio": round(linear["subcell"] / linear["features"], 3),
        "reference": "intensity and texture features of the same cells; linear probe, macro mAP",
        "figures": figures,
    }
