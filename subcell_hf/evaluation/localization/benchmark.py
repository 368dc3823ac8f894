"""The localization benchmark: how well embeddings predict protein locations, compared with baselines.

Upstream's unit is the single cell and its splits are by antibody. This benchmark adds other levels, intervals that
resample antibodies, paired tests against the baselines, calibration, confusion, how many
labelled antibodies are needed, and what else the embedding contains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError, counted
from subcell_hf.evaluation.localization.alignment import AlignedCells, Level, align_cells, make_levels
from subcell_hf.evaluation.localization.bootstrap import (
    ClusteredScores,
    count_ranks,
    interval,
)
from subcell_hf.evaluation.localization.calibration import Reliability, confusion, reliability
from subcell_hf.evaluation.localization.labels import ClassScheme, LabelledCells, class_scheme, label_cells
from subcell_hf.evaluation.localization.learning import learning_curve
from subcell_hf.evaluation.localization.model_comparison import compare_heads
from subcell_hf.evaluation.localization.nuisance import score_batches, score_cell_lines
from subcell_hf.evaluation.localization.probes import Predictor, TableProbabilities
from subcell_hf.evaluation.localization.ranking import METRICS, score_classes, summarize
from subcell_hf.settings import Setting
from subcell_hf.tables.files import EmbeddingTable

LEARNING_FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


def fractions_of_curve(curve: bool) -> tuple[float, ...]:
    """Fractions of the training antibodies of a learning curve; none without one."""
    return LEARNING_FRACTIONS if curve else ()


@dataclass(frozen=True)
class LocalizationSettings:
    """How the benchmark is run.

    Attributes:
        scheme: 31, 19 or 35 locations, a grouping of the ontology, or a file with one class per line. In
            Python, see `class_scheme`.
        resamples: Bootstrap samples of the antibodies, and permutations.
        seed: Random seed; the same seed gives identical output.
        allow_shared_genes: Allow splits that share genes, as the published splits do.
        learning_fractions: Score against the number of labelled antibodies. In Python, fractions of the training
            antibodies that the linear probe learns from; empty for no curve.
    """

    scheme: Annotated[ClassScheme, Setting("--classes", parse=class_scheme, default="31")]
    resamples: Annotated[int, Setting(minimum=1)] = 1000
    seed: Annotated[int, Setting(minimum=0)] = 0
    allow_shared_genes: bool = False
    learning_fractions: Annotated[
        tuple[float, ...],
        Setting("--learning-curve/--no-learning-curve", kind=bool, parse=fractions_of_curve, default=True),
    ] = LEARNING_FRACTIONS

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise InputError(f"resamples is {self.resamples}, expected at least 1.")


@dataclass(frozen=True)
class ScoredHead:
    """One classifier on one table.

    Attributes:
        model: Name of the table.
        head: Name of the predictor.
        probabilities: `[seeds, test cells, classes]` float32.
        counted: Level → rank counts, for paired tests.
        exact: Level → the metrics of the mean probability.
        calibration: Of single cells.
    """

    model: str
    head: str
    probabilities: npt.NDArray[np.float32]
    counted: Mapping[str, ClusteredScores]
    exact: Mapping[str, Mapping[str, float]]
    calibration: Reliability

    @property
    def mean_probabilities(self) -> npt.NDArray[np.float32]:
        """Of all seeds, `[test cells, classes]`."""
        mean: npt.NDArray[np.float32] = self.probabilities.mean(axis=0)
        return mean


@dataclass(frozen=True)
class LocalizationResult:
    """All that was found; tables have one row per value.

    Attributes:
        models: Names of the tables, the model first.
        heads: Names of the classifiers; the first is the one that headlines are made of.
        labelled: The cells.
        test: `[test cells]`, their rows in `labelled`.
        scored: Every classifier on every table.
        summary: `model`, `head`, `level`, `units`, `classes_scored`, `metric`, `value`, `low`, `high`, `seeds`,
            `seed_mean`, `seed_sd`.
        by_class: `model`, `head`, `location`, positives by split, `average_precision`, `roc_auc`.
        comparisons: The model against each baseline; see `compare_heads`.
        confusion: `[true, predicted]` of the model by the first head.
        learning: `model`, `fraction`, `antibodies`, `cells`, `macro_map`.
        cell_lines: `model` and scores; empty where they cannot be scored.
        batches: `model`, `column` and scores.
        notes: What could not be done, in words.
        left_out: `cell_id` and `reason`.
        settings: How the benchmark was run.
    """

    models: tuple[str, ...]
    heads: tuple[str, ...]
    labelled: LabelledCells
    test: npt.NDArray[np.int64]
    scored: tuple[ScoredHead, ...]
    summary: pd.DataFrame
    by_class: pd.DataFrame
    comparisons: pd.DataFrame
    confusion: npt.NDArray[np.float64]
    learning: pd.DataFrame
    cell_lines: pd.DataFrame
    batches: pd.DataFrame
    notes: tuple[str, ...]
    left_out: pd.DataFrame
    settings: LocalizationSettings = field(repr=False)

    def macro_map(self) -> dict[str, float]:
        """Table → macro average precision of single cells by the first head."""
        return {s.model: s.exact["cell"]["macro_map"] for s in self.scored if s.head == self.heads[0]}


def evaluate(
    tables: Mapping[str, EmbeddingTable], predictors: Sequence[Predictor], settings: LocalizationSettings
) -> LocalizationResult:
    """Run the benchmark.

    Args:
        tables: Name → table over the same cells. The first is the model, whose metadata hold `antibody`, `locations`,
            `split` and more; the others are baselines.
        predictors: Classifiers to train on every table; the first one gives the headline. Tables with probabilities of
            all classes are scored by these, too, as the head `classifier`.
        settings: Classes, resamples and seed.

    Raises:
        InputError: If tables share no cell, metadata are missing, splits leak, or no classifier is given.
    """
    if not tables or not predictors:
        raise InputError("Give at least one table and one classifier.")
    aligned = align_cells(tables)
    labelled = label_cells(aligned.cells, settings.scheme, allow_shared_genes=settings.allow_shared_genes)
    test = labelled.rows("test")
    levels, notes = make_levels(labelled.cells.iloc[test])
    scored, records = [], _Records(notes=notes)
    for name, table in tables.items():
        rows = aligned.rows[name][labelled.positions]
        heads = [*predictors, *_own_head(table, rows[test], settings.scheme)]
        for predictor, probabilities in _predict(table, rows, labelled, heads):
            scored.append(_score(name, predictor, probabilities, labelled, test, levels, settings, records))
        _describe(name, table, rows, labelled, settings, records)
    main = next(item for item in scored if item.model == next(iter(tables)) and item.head == predictors[0].name)
    return LocalizationResult(
        models=tuple(tables),
        heads=tuple(dict.fromkeys(item.head for item in scored)),
        labelled=labelled,
        test=test,
        scored=tuple(scored),
        summary=pd.DataFrame(records.summary),
        by_class=pd.DataFrame(records.by_class),
        comparisons=compare_heads(scored, next(iter(tables)), resamples=settings.resamples, seed=settings.seed),
        confusion=confusion(labelled.targets[test], main.mean_probabilities),
        learning=pd.DataFrame(records.learning),
        cell_lines=pd.DataFrame(records.cell_lines),
        batches=pd.DataFrame(records.batches),
        notes=tuple(dict.fromkeys([*records.notes, *_notes_on(labelled, aligned)])),
        left_out=aligned.left_out,
        settings=settings,
    )


@dataclass
class _Records:
    """Rows of the result's tables, as they come."""

    summary: list[dict[str, Any]] = field(default_factory=list)
    by_class: list[dict[str, Any]] = field(default_factory=list)
    learning: list[dict[str, Any]] = field(default_factory=list)
    cell_lines: list[dict[str, Any]] = field(default_factory=list)
    batches: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _own_head(table: EmbeddingTable, rows: npt.NDArray[np.int64], scheme: ClassScheme) -> list[TableProbabilities]:
    """The probabilities of the table, if they cover the classes."""
    if table.probabilities is None or not set(scheme.classes) <= set(table.classes):
        return []
    columns = [table.classes.index(name) for name in scheme.classes]
    return [TableProbabilities(table.probabilities[rows][:, columns])]


def _predict(
    table: EmbeddingTable, rows: npt.NDArray[np.int64], labelled: LabelledCells, heads: Sequence[Predictor]
) -> list[tuple[str, npt.NDArray[np.float32]]]:
    """Train and predict every head; returns name and probabilities `[seeds, test cells, classes]`."""
    train, validation, test = (labelled.rows(name) for name in ("train", "validation", "test"))
    targets = labelled.targets
    arrays = (
        table.embeddings[rows[train]],
        targets[train],
        table.embeddings[rows[validation]],
        targets[validation],
        table.embeddings[rows[test]],
    )
    found = []
    for head in heads:
        probabilities = head.fit_predict(*arrays)
        if probabilities.shape[1:] != (len(test), targets.shape[1]) or not np.isfinite(probabilities).all():
            raise InputError(
                f"The classifier {head.name} gave probabilities of shape {probabilities.shape}, or some that are not "
                f"finite; expected [seeds, {len(test)}, {targets.shape[1]}]."
            )
        found.append((head.name, probabilities))
    return found


def _score(
    model: str,
    head: str,
    probabilities: npt.NDArray[np.float32],
    labelled: LabelledCells,
    test: npt.NDArray[np.int64],
    levels: Sequence[Level],
    settings: LocalizationSettings,
    records: _Records,
) -> ScoredHead:
    """Score one head at every level, and note the rows of `summary` and `by_class`."""
    targets, mean = labelled.targets[test], probabilities.mean(axis=0)
    counted, exact = {}, {}
    for level in levels:
        joined = level.join_targets(targets)
        values = level.join(mean)
        by_class = score_classes(joined, values)
        exact[level.name] = summarize(joined, values, by_class)
        counted[level.name] = count_ranks(joined, values, level.cluster)
        by_seed = [summarize(joined, level.join(one)) for one in probabilities] if len(probabilities) > 1 else []
        facts = {"model": model, "head": head, "level": level.name, "units": len(joined)}
        facts["classes_scored"] = int(np.isfinite(by_class.average_precision).sum())
        records.summary += _summary_rows(facts, exact[level.name], counted[level.name], by_seed, settings)
        if level.name == "cell":
            records.by_class += _class_rows(model, head, labelled, by_class.average_precision, by_class.roc_auc)
    return ScoredHead(model, head, probabilities, counted, exact, reliability(targets, mean))


def _summary_rows(
    facts: dict[str, Any],
    exact: Mapping[str, float],
    counted: ClusteredScores,
    by_seed: Sequence[Mapping[str, float]],
    settings: LocalizationSettings,
) -> list[dict[str, Any]]:
    resampled = counted.bootstrap(settings.resamples, settings.seed)
    rows = []
    for metric in METRICS:
        low, high = interval(exact[metric], resampled[metric])
        seeds = np.array([values[metric] for values in by_seed])
        spread = {"seeds": max(len(seeds), 1), "seed_mean": np.nan, "seed_sd": np.nan}
        if len(seeds):
            spread |= {"seed_mean": float(seeds.mean()), "seed_sd": float(seeds.std(ddof=1))}
        rows.append({**facts, "metric": metric, "value": exact[metric], "low": low, "high": high, **spread})
    return rows


def _class_rows(
    model: str,
    head: str,
    labelled: LabelledCells,
    precision: npt.NDArray[np.float64],
    area: npt.NDArray[np.float64],
) -> list[dict[str, Any]]:
    positives = {
        f"{name}_cells": labelled.targets[labelled.rows(name)].sum(axis=0) for name in ("train", "validation", "test")
    }
    return [
        {
            "model": model,
            "head": head,
            "location": name,
            **{split: int(count[index]) for split, count in positives.items()},
            "average_precision": float(precision[index]),
            "roc_auc": float(area[index]),
        }
        for index, name in enumerate(labelled.scheme.classes)
    ]


def _describe(
    name: str,
    table: EmbeddingTable,
    rows: npt.NDArray[np.int64],
    labelled: LabelledCells,
    settings: LocalizationSettings,
    records: _Records,
) -> None:
    """Learning curve, cell lines and batches of one table."""
    if settings.learning_fractions:
        curve = learning_curve(table.embeddings, rows, labelled, settings.learning_fractions, settings.seed)
        records.learning += [{"model": name, **row} for row in curve]
    lines = score_cell_lines(table.embeddings, rows, labelled, settings.seed)
    if isinstance(lines, str):
        records.notes.append(lines)
    else:
        records.cell_lines.append({"model": name, **lines})
    batches, notes = score_batches(table.embeddings, rows, labelled.cells, settings.seed)
    records.batches += [{"model": name, "column": column, **scores} for column, scores in batches.items()]
    records.notes += notes


def _notes_on(labelled: LabelledCells, aligned: AlignedCells) -> list[str]:
    notes = []
    if labelled.without_split:
        notes.append(
            f"{counted(labelled.without_split, 'cell')} with a location not used: in none of the splits train, "
            "validation and test."
        )
    if labelled.without_class:
        notes.append(
            f"{counted(labelled.without_class, 'cell')} not scored: no location among the classes "
            f"({labelled.scheme.name})."
        )
    if labelled.shared_genes:
        notes.append(
            f"{counted(len(labelled.shared_genes), 'gene has', 'genes have')} antibodies in several splits, "
            f"which makes "
            "the task easier."
        )
    if len(aligned.left_out):
        left_out = counted(len(aligned.left_out), "cell was", "cells were")
        notes.append(f"{left_out} left out, not contained in every table: see left_out.csv.")
    return notes
