"""The files of a localization benchmark: numbers, tables, figures and a page that shows them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from subcell_hf.evaluation.localization.benchmark import LocalizationResult, ScoredHead
from subcell_hf.evaluation.localization.localization_figures import draw_all
from subcell_hf.evaluation.localization.model_comparison import verdict_sentence
from subcell_hf.evaluation.localization.ranking import METRICS
from subcell_hf.evaluation.plots import inline_png, save_figure
from subcell_hf.pages.rendering import render_page
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.parquet_files import WRITING
from subcell_hf.tables.files import EmbeddingTable

RESULTS_FILE = "results.json"
PREDICTIONS_FILE = "predictions.parquet"
PREDICTIONS_KEY = b"subcell_hf_predictions"
_TEMPLATES = Path(__file__).parents[1] / "templates"

HEAD_WORDS = {
    "linear": "logistic regression of each class on the embedding",
    "neighbours": "k-nearest neighbours among the training cells, by cosine similarity",
    "mlp": "SubCell's own classifier, an MLP of 512 and 256 units with focal loss, mean over seeds",
    "classifier": "the probabilities in the table",
}


BASELINE_WORDS = {
    "untrained": "a network of the same architecture with random weights",
    "features": "classical features of each cell: intensity, texture, granularity, overlap of channels",
    "pixels": "principal components of the downsampled pixels",
}
"""Descriptions of the usual baselines."""


def write_report(
    result: LocalizationResult, tables: Mapping[str, EmbeddingTable], folder: Path, missing: Sequence[str] = ()
) -> dict[str, Any]:
    """Write everything; the same result gives the same bytes.

    Args:
        result: What was found.
        tables: The tables it was found on, for their provenance.
        folder: Folder to write.
        missing: Sentences that say which baselines are not there, and why.

    Returns:
        The content of `results.json`, which is written last.
    """
    frames = {
        "summary": result.summary,
        "classes": result.by_class,
        "comparisons": result.comparisons,
        "learning_curve": result.learning,
        "cell_lines": result.cell_lines,
        "batches": result.batches,
        "calibration": _calibration_table(result),
        "confusion": pd.DataFrame(
            result.confusion,
            index=pd.Index(result.labelled.scheme.classes, name="true"),
            columns=result.labelled.scheme.classes,
        ).reset_index(),
        "left_out": result.left_out,
    }
    for name, frame in frames.items():
        if len(frame):
            write_frame(frame, folder / f"{name}.csv")
    write_predictions(result, folder / PREDICTIONS_FILE)
    pictures = {}
    for name, figure in draw_all(result).items():
        save_figure(figure, folder / "figures" / name)
        pictures[name] = inline_png(figure)
    results = {**collect_results(result, tables), "missing_baselines": list(missing)}
    with write_atomically(folder / "report.html") as file:
        file.write(_page(result, results, pictures).encode())
    with write_atomically(folder / RESULTS_FILE) as file:
        file.write((json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    return results


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, numbers with ten digits."""
    with write_atomically(path) as file:
        file.write(frame.to_csv(index=False, float_format="%.10g", lineterminator="\n").encode())


def write_predictions(result: LocalizationResult, path: Path) -> None:
    """Write the mean probabilities of every table and classifier for the test cells, for `subcell evaluate compare`."""
    cells = result.labelled.cells.iloc[result.test]
    wanted = ("cell_id", "field_of_view", "antibody", "gene", "locations")
    columns = {name: pa.array(cells[name].astype(str)) for name in wanted if name in cells}
    columns["targets"] = _lists(result.labelled.targets[result.test])
    heads = []
    for number, item in enumerate(result.scored):
        columns[f"probabilities_{number}"] = _lists(item.mean_probabilities)
        heads.append([item.model, item.head])
    facts = {"classes": list(result.labelled.scheme.classes), "heads": heads, "model": result.models[0]}
    metadata = {PREDICTIONS_KEY: json.dumps(facts, ensure_ascii=False)}
    with write_atomically(path) as file:
        pq.write_table(pa.table(columns, metadata=metadata), file, compression="zstd", **WRITING)


def _lists(values: Any) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])


def collect_results(result: LocalizationResult, tables: Mapping[str, EmbeddingTable]) -> dict[str, Any]:
    """What `results.json` says; numbers that do not exist are null."""
    labelled, head = result.labelled, result.heads[0]
    splits = labelled.cells.groupby("split")
    summary = [_plain(row) for row in result.summary.to_dict("records")]
    return {
        "schema_version": 1,
        "task": "localization",
        "model": result.models[0],
        "head": head,
        "macro_map": {name: _number(value) for name, value in result.macro_map().items()},
        "verdicts": [verdict["sentence"] for verdict in _verdicts(result)],
        "classes": {
            "scheme": labelled.scheme.name,
            "count": len(labelled.scheme.classes),
            "scored": _classes_scored(result),
        },
        "cells": {name: int(count) for name, count in splits.size().items()},
        "antibodies": {name: int(count) for name, count in splits["antibody"].nunique().items()},
        "scores": summary,
        "calibration": [
            {
                "model": item.model,
                "head": item.head,
                "expected_calibration_error": item.calibration.expected_calibration_error,
                "brier": item.calibration.brier,
            }
            for item in result.scored
        ],
        "comparisons": [_plain(row) for row in result.comparisons.to_dict("records")],
        "learning_curve": [_plain(row) for row in result.learning.to_dict("records")],
        "cell_lines": [_plain(row) for row in result.cell_lines.to_dict("records")],
        "batches": [_plain(row) for row in result.batches.to_dict("records")],
        "settings": {"resamples": result.settings.resamples, "seed": result.settings.seed},
        "tables": {name: dict(table.provenance) for name, table in tables.items()},
        "left_out": len(result.left_out),
        "notes": list(result.notes),
    }


def _number(value: Any) -> Any:
    """A number that JSON knows, null where there is none."""
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(name): _number(value) for name, value in row.items()}


def _classes_scored(result: LocalizationResult) -> int:
    first = result.by_class[result.by_class["model"] == result.models[0]]
    return int(first[first["head"] == result.heads[0]]["average_precision"].notna().sum())


def _verdicts(result: LocalizationResult) -> list[dict[str, str]]:
    """Headline comparisons: single cells, macro average precision, first classifier."""
    table = result.comparisons
    shown = table[(table["level"] == "cell") & (table["metric"] == "macro_map") & (table["head"] == result.heads[0])]
    return [{"kind": row["verdict"].split()[0], "sentence": verdict_sentence(row)} for row in shown.to_dict("records")]


def _calibration_table(result: LocalizationResult) -> pd.DataFrame:
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "model": item.model,
                    "head": item.head,
                    "predicted": item.calibration.predicted,
                    "observed": item.calibration.observed,
                    "count": item.calibration.count,
                }
            )
            for item in result.scored
        ]
    )


def _page(result: LocalizationResult, results: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    by_class = result.by_class[result.by_class["model"] == result.models[0]]
    missing = by_class[(by_class["head"] == result.heads[0]) & (by_class["test_cells"] == 0)]["location"]
    words = [f"{head}, {HEAD_WORDS[head]}" if head in HEAD_WORDS else head for head in result.heads]
    return render_page(
        _TEMPLATES,
        "localization.html.j2",
        model=result.models[0],
        head=result.heads[0],
        heads="; ".join(words),
        cells=results["cells"],
        antibodies=results["antibodies"],
        classes=results["classes"],
        settings=results["settings"],
        verdicts=_verdicts(result),
        baselines={name: words for name, words in BASELINE_WORDS.items() if name in result.models[1:]},
        missing=results["missing_baselines"],
        scores=[_score_row(result, item) for item in result.scored],
        several=any(len(item.probabilities) > 1 for item in result.scored),
        figures={"learning": None, "batches": None, **pictures},
        missing_classes=", ".join(missing),
        notes=results["notes"],
    )


def _score_row(result: LocalizationResult, item: ScoredHead) -> dict[str, str]:
    """A row of the page's table, as text."""
    rows = result.summary
    rows = rows[(rows["model"] == item.model) & (rows["head"] == item.head) & (rows["level"] == "cell")]
    values = rows.set_index("metric")
    macro = values.loc["macro_map"]
    several = int(macro["seeds"]) > 1
    return {
        "model": item.model,
        "head": item.head,
        **{metric: f"{values.loc[metric, 'value']:.3f}" for metric in METRICS},
        "interval": f"{macro['low']:.3f}–{macro['high']:.3f}",
        "seeds": f"{macro['seed_mean']:.3f} ± {macro['seed_sd']:.3f} ({int(macro['seeds'])})" if several else "",
        "ece": f"{item.calibration.expected_calibration_error:.3f}",
    }
