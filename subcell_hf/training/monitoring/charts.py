"""Small charts of a run over its steps, as SVG for the page or PNG for trackers; legible when they are narrow."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Colours of Okabe and Ito, distinguishable for colour-blind readers; without yellow, which is faint on white."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "subcell_hf",
    "font.size": 10,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#374151",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
}
_SIZE_INCHES = (4.6, 2.5)
_MOST_POINTS = 400
_SMOOTHED_FROM = 60
_SHARE_OF_WINDOW = 25


@dataclass(frozen=True)
class Series:
    """Values over steps.

    Attributes:
        name: Name in the legend.
        steps: Optimizer steps, ascending.
        values: One for each step.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]


def draw_lines(
    series: Sequence[Series], *, low: float | None = None, high: float | None = None, percent: bool = False,
    smooth: bool = False,
) -> Figure:  # fmt: skip
    """Draw one line for each series, with a legend where there are several.

    Args:
        series: At least one.
        low: Lower end of the values' axis; None to let the values decide.
        high: Upper end likewise.
        percent: Whether values are shares, shown in percent.
        smooth: Whether long series are drawn pale, with a running mean over them.
    """
    with rc_context(_STYLE):
        figure, axes = _empty_chart()
        for colour, line in zip(COLOURS, series, strict=False):
            _draw_line(axes, line, colour, smooth)
        if low is not None and high is None:
            high = max(max(line.values) for line in series) * 1.08 or None
        axes.set_ylim(low, high)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=9, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
        _show_short_series(axes, series)
    return figure


def draw_stack(series: Sequence[Series], unit: str = "") -> Figure:
    """Draw series on top of one another, all over the same steps.

    Args:
        series: From the bottom to the top.
        unit: Of the values.
    """
    with rc_context(_STYLE):
        figure, axes = _empty_chart()
        thinned = [thin(line.steps, line.values) for line in series]
        steps, values = thinned[0][0], [kept for _, kept in thinned]
        if len(steps) == 1:
            steps, values = np.array([0, steps[0]]), [np.repeat(kept, 2) for kept in values]
        names = [line.name for line in series]
        axes.stackplot(steps, values, labels=names, colors=COLOURS[: len(series)], alpha=0.85, linewidth=0)
        axes.set_ylim(0, None)
        axes.yaxis.set_major_formatter(EngFormatter(unit=unit))
        axes.legend(frameon=False, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as an `<svg>` element; a style sheet may give it another width."""
    with rc_context(_STYLE):
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    text = file.getvalue()
    return text[text.index("<svg") :]  # without the XML declaration


def to_png(figure: Figure, dots_per_inch: int = 150) -> bytes:
    """The figure as a PNG file."""
    with rc_context(_STYLE):
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return file.getvalue()


def thin(
    steps: Sequence[float], values: Sequence[float], most: int = _MOST_POINTS
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """At most so many points: means over neighbours, at their last step.

    Args:
        steps: Ascending.
        values: One for each step.
        most: Points to keep.
    """
    x, y = np.asarray(steps, float), np.asarray(values, float)
    if len(x) <= most:
        return x, y
    starts = np.linspace(0, len(x), most, endpoint=False).astype(int)
    ends = np.append(starts[1:], len(x))
    return x[ends - 1], np.add.reduceat(y, starts) / (ends - starts)


def _empty_chart() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.02)
    return figure, axes


def _draw_line(axes: Axes, line: Series, colour: str, smooth: bool) -> None:
    x, y = thin(line.steps, line.values)
    if not smooth or len(x) < _SMOOTHED_FROM:
        axes.plot(x, y, color=colour, label=line.name)
        return
    axes.plot(x, y, color=colour, alpha=0.25, linewidth=1)
    axes.plot(x, _running_mean(y, len(y) // _SHARE_OF_WINDOW), color=colour, label=line.name)


def _running_mean(values: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
    """Mean of each value and those before it, at most `window` of them."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - max(window, 1), 0)
    means: npt.NDArray[np.float64] = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def _show_short_series(axes: Axes, series: Sequence[Series]) -> None:
    """A line through few points shows them; one through a single point would not be seen at all."""
    if max(len(line.steps) for line in series) <= 20:
        for line in axes.lines:
            line.set_marker("o")
            line.set_markersize(4)
