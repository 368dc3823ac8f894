"""The files of a comparison: one table in three formats, one figure, every test, and a block for each model card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from subcell_hf.evaluation.comparison.embeddings import Comparison, model_index
from subcell_hf.evaluation.localization.localization_report import write_frame
from subcell_hf.evaluation.localization.model_comparison import verdict_sentence
from subcell_hf.evaluation.plots import GREY, MODEL_COLOURS, colour_of, figure_of, marker_of, save_figure
from subcell_hf.storage.atomic import write_atomically

_HEADINGS = {
    "macro_map": "Macro AP",
    "macro_auc": "Macro AUC",
    "micro_map": "Micro AP",
    "lrap": "LRAP",
    "coverage_error": "Coverage",
}
_VERDICT_COLOURS = {"better": MODEL_COLOURS[0], "not better": GREY, "worse": MODEL_COLOURS[3]}


def write_comparison(comparison: Comparison, folder: Path, *, dataset_id: str, dataset_name: str) -> list[str]:
    """Write everything; the same comparison gives the same bytes.

    Args:
        comparison: What was found.
        folder: Folder to write.
        dataset_id: Hub id of the data, for the cards.
        dataset_name: The data in words.

    Returns:
        One sentence for each pair of models.
    """
    table = score_table(comparison)
    write_frame(comparison.scores, folder / "scores.csv")
    write_frame(comparison.pairs, folder / "pairs.csv")
    if len(comparison.left_out):
        write_frame(comparison.left_out, folder / "left_out.csv")
    texts = {"table.md": markdown_table(table), "table.tex": latex_table(table, comparison)}
    for model in comparison.models:
        block = model_index(comparison, model, dataset_id=dataset_id, dataset_name=dataset_name)
        texts[f"model-index/{_file_name(model)}.yaml"] = yaml.safe_dump(block, sort_keys=False, allow_unicode=True)
    sentences = [
        verdict_sentence({**row, "head": "single cells"})
        for row in comparison.pairs.to_dict("records")
        if (row["level"], row["metric"]) == ("cell", "macro_map")
    ]
    facts = {
        "schema_version": 1,
        "models": list(comparison.models),
        "cells": comparison.cells,
        "antibodies": comparison.antibodies,
        "verdicts": sentences,
        "left_out": len(comparison.left_out),
    }
    texts["results.json"] = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    write_frame(table, folder / "table.csv")
    save_figure(draw_comparison(comparison), folder / "comparison")
    for name, text in texts.items():
        with write_atomically(folder / name) as file:
            file.write(text.encode())
    return sentences


def _file_name(model: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in model)


def score_table(comparison: Comparison) -> pd.DataFrame:
    """One row per model and level, one text per metric: value and interval, `*` on the best of a level, ties included.

    Args:
        comparison: The scores.
    """
    rows = []
    for level, at_level in comparison.scores.groupby("level", sort=False):
        best = _best(at_level)
        for model in comparison.models:
            values = at_level[at_level["model"] == model].set_index("metric")
            row = {"Model": model, "Level": str(level)}
            for metric, heading in _HEADINGS.items():
                value, low, high = (float(values.loc[metric, column]) for column in ("value", "low", "high"))
                digits = _digits(metric)
                text = f"{value:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})" if np.isfinite(value) else "–"
                row[heading] = text + ("*" if model in best.get(metric, ()) else "")
            rows.append(row)
    return pd.DataFrame(rows)


def _best(scores: pd.DataFrame) -> Mapping[str, list[str]]:
    """Metric → the models with the best value, as it is written."""
    best = {}
    for metric, rows in scores.groupby("metric"):
        written = rows["value"].round(_digits(str(metric)))
        highest = written.min() if metric == "coverage_error" else written.max()
        best[str(metric)] = rows["model"][written == highest].tolist()
    return best


def _digits(metric: str) -> int:
    return 2 if metric == "coverage_error" else 3


def markdown_table(table: pd.DataFrame) -> str:
    """The table for a README or a model card; the best in bold."""
    lines = ["| " + " | ".join(table.columns) + " |", "| " + " | ".join("---" for _ in table.columns) + " |"]
    for row in table.itertuples(index=False):
        cells = [f"**{text[:-1]}**" if text.endswith("*") else text.replace("|", "\\|") for text in map(str, row)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def latex_table(table: pd.DataFrame, comparison: Comparison) -> str:
    """The table for a paper (booktabs); the best in bold."""
    escapes = str.maketrans({"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "–": "--"})
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{Protein localization on {comparison.cells:,} cells of {comparison.antibodies} antibodies; 95\,\% "
        r"intervals resample antibodies. AP: average precision; LRAP: label-ranking AP; coverage: lower is better.}",
        rf"\begin{{tabular}}{{ll{'r' * (len(table.columns) - 2)}}}",
        r"\toprule",
        " & ".join(table.columns) + r" \\",
        r"\midrule",
    ]
    for row in table.itertuples(index=False):
        texts = [str(text).translate(escapes) for text in row]
        lines.append(" & ".join(rf"\textbf{{{t[:-1]}}}" if t.endswith("*") else t for t in texts) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def draw_comparison(comparison: Comparison) -> Figure:
    """Scores with intervals on the left, paired differences with theirs on the right, for single cells."""
    scores = _of_cells(comparison.scores)
    pairs = _of_cells(comparison.pairs)
    height = 32 + 7 * max(len(comparison.models), len(pairs))
    with figure_of(175, height, 1, 2, width_ratios=(1, 1)) as (figure, (left, right)):
        for place, row in enumerate(scores.to_dict("records")):
            _interval(left, place, row, "value", colour_of(comparison.models, row["model"]), row["model"], comparison)
        left.set_yticks(range(len(scores)), scores["model"])
        left.set_xlim(0, 1)
        left.set_xlabel("Macro average precision of cells")
        for place, row in enumerate(pairs.to_dict("records")):
            _interval(right, place, row, "difference", _VERDICT_COLOURS[row["verdict"]], None, comparison)
        right.axvline(0, color="black", linewidth=0.8)
        labels = [f"{row.model} − {row.other}\np = {row.p_holm:.2g}" for row in pairs.itertuples()]
        right.set_yticks(range(len(pairs)), labels)
        right.set_xlabel("Difference (blue better, grey not shown, red worse)")
        right.locator_params(axis="x", nbins=5)
        for axes in (left, right):
            axes.invert_yaxis()
            axes.margins(y=0.25)
            axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    return figure


def _of_cells(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[(frame["level"] == "cell") & (frame["metric"] == "macro_map")]


def _interval(
    axes: Any, place: int, row: Mapping[Any, Any], column: str, colour: str, model: str | None, comparison: Comparison
) -> None:
    value = row[column]
    spread = [[max(value - row["low"], 0)], [max(row["high"] - value, 0)]]
    marker = marker_of(comparison.models, model) if model else "o"
    axes.errorbar([value], [place], xerr=spread, color=colour, fmt=marker, markersize=4, linewidth=1.2)
