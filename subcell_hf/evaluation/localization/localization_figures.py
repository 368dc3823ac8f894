"""Figures of the localization benchmark."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from subcell_hf.evaluation.localization.benchmark import LocalizationResult
from subcell_hf.evaluation.plots import GREY, colour_of, figure_of, marker_of
from subcell_hf.ontology import location_colours


def draw_all(result: LocalizationResult) -> dict[str, Figure]:
    """File name → figure, in the order of a report; those that have nothing to show are absent."""
    figures = {
        "scores": draw_scores(result.summary, result.models),
        "classes": draw_classes(result.by_class[result.by_class["head"] == result.heads[0]], result.models),
        "calibration": draw_calibration(result),
        "confusion": draw_confusion(result.confusion, result.labelled.scheme.classes),
    }
    if len(result.learning):
        figures["learning"] = draw_learning(result.learning, result.models)
    if len(result.batches) or len(result.cell_lines):
        figures["batches"] = draw_batches(result)
    return figures


def draw_scores(summary: pd.DataFrame, models: tuple[str, ...]) -> Figure:
    """Macro average precision of every model and classifier, with intervals, level by level."""
    scores = summary[summary["metric"] == "macro_map"]
    levels, heads = list(dict.fromkeys(scores["level"])), list(dict.fromkeys(scores["head"]))
    height = 22 + 6.5 * len(heads) * len(models) / 2
    with figure_of(175, max(height, 50), 1, len(levels), sharey=True, squeeze=False) as (figure, axes):
        places = {head: -row for row, head in enumerate(heads)}
        for column, level in enumerate(levels):
            panel = axes[0, column]
            for number, model in enumerate(models):
                rows = scores[(scores["level"] == level) & (scores["model"] == model)]
                y = rows["head"].map(places) + 0.3 - 0.6 * number / max(len(models) - 1, 1)
                value = rows["value"].to_numpy()
                spread = [np.maximum(value - rows["low"], 0), np.maximum(rows["high"] - value, 0)]
                style = {"color": colour_of(models, model), "fmt": marker_of(models, model), "markersize": 4}
                panel.errorbar(value, y, xerr=spread, linewidth=1, label=model, **style)
            units = int(scores[scores["level"] == level]["units"].iloc[0])
            panel.set_title(f"{level} (n = {units:,})", fontsize=8)
            panel.set_xlim(0, 1)
            panel.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            panel.grid(axis="x", color="#e5e5e5", linewidth=0.6)
        axes[0, 0].set_yticks(list(places.values()), heads)
        axes[0, 0].set_ylim(-len(heads) + 0.4, 0.6)
        figure.supxlabel("Macro average precision, 95 % interval over antibodies", fontsize=8)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(models), 4))
    return figure


def draw_classes(by_class: pd.DataFrame, models: tuple[str, ...]) -> Figure:
    """Average precision of every location: the model in the location's colour, the baselines as grey marks."""
    wide = by_class.pivot(index="location", columns="model", values="average_precision")
    count = by_class[by_class["model"] == models[0]].set_index("location")["test_cells"]
    wide = wide[wide[models[0]].notna()].sort_values(models[0])
    colours = location_colours()
    with figure_of(140, 25 + 5 * len(wide)) as (figure, axes):
        y = np.arange(len(wide))
        for model in models[1:]:
            marker = marker_of(models, model)
            axes.scatter(
                wide[model], y, s=14, marker=marker, facecolor="none", edgecolor=GREY, linewidth=0.8, label=model
            )
        axes.hlines(y, 0, wide[models[0]], color="#d0d0d0", linewidth=1, zorder=0)
        fill = [colours.get(str(name), "#0072B2") for name in wide.index]
        axes.scatter(wide[models[0]], y, s=34, c=fill, edgecolor="black", linewidth=0.6, zorder=3)
        axes.scatter([], [], s=34, facecolor="white", edgecolor="black", linewidth=0.6, label=f"{models[0]} (filled)")
        axes.set_yticks(y, [f"{name}  ({count[name]:,})" for name in wide.index])
        axes.set_xlim(0, 1.02)
        axes.set_ylim(-0.7, len(wide) - 0.3)
        axes.set_xlabel("Average precision of test cells (number of positives in brackets)")
        axes.legend(loc="lower right", fontsize=7)
    return figure


def draw_calibration(result: LocalizationResult) -> Figure:
    """Observed against predicted frequencies of the first classifier; how many pairs each bin holds below."""
    with figure_of(90, 95, 2, 1, sharex=True, height_ratios=(3, 1)) as (figure, (upper, lower)):
        upper.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
        for item in result.scored:
            if item.head != result.heads[0]:
                continue
            found, known = item.calibration, item.calibration.count > 0
            style = {"color": colour_of(result.models, item.model), "marker": marker_of(result.models, item.model)}
            label = f"{item.model}, ECE {found.expected_calibration_error:.3f}"
            upper.plot(found.predicted[known], found.observed[known], markersize=3, linewidth=1, label=label, **style)
            lower.plot(found.predicted[known], found.count[known], markersize=3, linewidth=1, **style)
        upper.set_ylabel("Observed frequency")
        upper.set_ylim(-0.02, 1.02)
        upper.legend(fontsize=7)
        lower.set_yscale("log")
        lower.set_ylabel("Pairs")
        lower.set_xlabel("Predicted probability")
    return figure


def draw_confusion(matrix: npt.NDArray[np.float64], classes: tuple[str, ...]) -> Figure:
    """Share of each true location that was given each location."""
    shown = np.flatnonzero(matrix.sum(axis=1) > 0)
    shares = matrix[shown] / matrix[shown].sum(axis=1, keepdims=True)
    columns = np.flatnonzero((shares.max(axis=0) >= 0.05) | np.isin(np.arange(len(classes)), shown))
    with figure_of(55 + 4.5 * len(columns), 50 + 4.5 * len(shown)) as (figure, axes):
        image = axes.imshow(shares[:, columns], cmap="cividis", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(columns)), [classes[i] for i in columns], rotation=90)
        axes.set_yticks(range(len(shown)), [f"{classes[i]}  ({matrix[i].sum():,.0f})" for i in shown])
        axes.set_xlabel("Predicted")
        axes.set_ylabel("True (cells)")
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, label="Fraction of the true location", shrink=0.7)
    return figure


def draw_learning(learning: pd.DataFrame, models: tuple[str, ...]) -> Figure:
    """Macro average precision against the number of training antibodies."""
    with figure_of(95, 70) as (figure, axes):
        for model in models:
            rows = learning[learning["model"] == model]
            style = {"color": colour_of(models, model), "marker": marker_of(models, model)}
            axes.plot(rows["antibodies"], rows["macro_map"], markersize=4, linewidth=1, label=model, **style)
        ticks = sorted(set(learning["antibodies"]))
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel("Training antibodies")
        axes.set_ylabel("Macro average precision")
        axes.legend(fontsize=7)
    return figure


def draw_batches(result: LocalizationResult) -> Figure:
    """Balanced accuracy of predicting cell line and possible shortcuts from the embedding, with chance."""
    tables: Mapping[str, pd.DataFrame] = (
        {
            "cell line": result.cell_lines,
            **{str(column): rows for column, rows in result.batches.groupby("column", sort=False)},
        }
        if len(result.batches)
        else {"cell line": result.cell_lines}
    )
    panels = {name: rows for name, rows in tables.items() if len(rows)}
    models = result.models
    with figure_of(50 + 40 * len(panels), 30 + 6 * len(models), 1, len(panels), sharey=True, squeeze=False) as drawn:
        figure, axes = drawn
        for panel, (name, rows) in zip(axes[0], panels.items(), strict=True):
            y = [models.index(model) for model in rows["model"]]
            panel.barh(y, rows["balanced_accuracy"], height=0.6, color=[colour_of(models, m) for m in rows["model"]])
            panel.axvline(float(rows["chance"].iloc[0]), color="black", linewidth=0.8, linestyle="--")
            panel.set_xlim(0, 1)
            panel.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            panel.set_title(f"{name} ({int(rows['classes'].iloc[0])})", fontsize=8)
        axes[0, 0].set_yticks(range(len(models)), models)
        axes[0, 0].invert_yaxis()
        figure.supxlabel("Balanced accuracy; dashed: chance", fontsize=8)
    return figure
