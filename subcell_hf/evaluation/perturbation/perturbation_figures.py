"""Figures of the perturbation benchmark."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from subcell_hf.evaluation.perturbation.significance import SIGNIFICANCE_LEVEL
from subcell_hf.evaluation.plots import GREY, MODEL_COLOURS, figure_of

_FOUND, _LOST = MODEL_COLOURS[:2]
_MOST_LABELS = 40


def draw_groups(groups: pd.DataFrame, title: str) -> Figure:
    """Mean average precision of each group, best first; filled where it is above chance.

    Args:
        groups: As `score_groups` gives it.
        title: What was retrieved.
    """
    name = groups.columns[0]
    ranked = groups.sort_values(["mean_average_precision", name], ascending=[False, True], ignore_index=True)
    found = (ranked["corrected_p_value"] < SIGNIFICANCE_LEVEL).to_numpy()
    scores, places = ranked["mean_average_precision"].to_numpy(), np.arange(len(ranked))
    labelled = len(ranked) <= _MOST_LABELS
    height = (32 + 3.6 * len(ranked)) if labelled else 70
    with figure_of(120, height) as (figure, axes):
        x, y = (scores, places) if labelled else (places + 1, scores)
        size = 18 if labelled else 6
        axes.scatter(
            x[found], y[found], s=size, color=_FOUND, label=f"q < {SIGNIFICANCE_LEVEL} ({int(found.sum())})", zorder=3
        )
        axes.scatter(
            x[~found],
            y[~found],
            s=size,
            facecolor="white",
            edgecolor=_LOST,
            label=f"q ≥ {SIGNIFICANCE_LEVEL} ({int((~found).sum())})",
            zorder=3,
        )
        mean = float(scores.mean())
        line: Any = {"color": GREY, "linewidth": 1, "linestyle": "--", "label": f"mean {mean:.3f}", "zorder": 1}
        if labelled:
            axes.axvline(mean, **line)
            axes.set_yticks(places, [_short(str(value)) for value in ranked[name]])
            axes.invert_yaxis()
            axes.set_xlim(-0.03, 1.03)
            axes.set_xlabel("mean average precision")
            axes.grid(axis="y", color="#E6E6E6", linewidth=0.6)
        else:
            axes.axhline(mean, **line)
            axes.set_ylim(-0.03, 1.03)
            axes.set_xlabel(f"rank among {len(ranked)} groups")
            axes.set_ylabel("mean average precision")
        axes.set_title(title, loc="left", fontsize=9)
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def draw_grid(grid: pd.DataFrame) -> Figure:
    """Gain of every post-processing over shuffled labels, on the groups it was chosen on."""
    best = grid.groupby(["sphering", "normalization"], sort=False)["gain"].max().unstack()
    best = best.reindex(index=sorted(best.index, key=str.lower), columns=sorted(best.columns))
    values = best.to_numpy(dtype=float)
    with figure_of(100, 75) as (figure, axes):
        image = axes.imshow(
            values,
            cmap="cividis",
            vmin=min(0.0, float(np.nanmin(values))),
            vmax=max(float(np.nanmax(values)), 1e-9),
            aspect="auto",
        )
        middle = float(np.nanmax(values)) / 2
        for (row, column), value in np.ndenumerate(values):
            missing = np.isnan(value)
            colour = GREY if missing else "black" if value > middle else "white"
            text = "not possible" if missing else f"{value:.3f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
        axes.set_xticks(range(len(best.columns)), best.columns)
        axes.set_yticks(range(len(best.index)), best.index)
        axes.set_xlabel("normalisation per plate")
        axes.set_ylabel("sphering by controls")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        figure.colorbar(image, ax=axes, label="mAP − mAP with shuffled labels")
        axes.set_title("Post-processing, on groups that are not reported", loc="left", fontsize=9)
    return figure


def _short(text: str) -> str:
    """A label that leaves room for the figure."""
    return text if len(text) <= 32 else text[:31] + "…"
