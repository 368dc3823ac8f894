"""The map as a figure for print."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from subcell_hf.evaluation.plots import figure_of
from subcell_hf.evaluation.proteome_map.map import ProteomeMap
from subcell_hf.ontology import location_colours

_OTHER = "#CFCFCF"
_MOST_NAMES = 14
_MOST_LABELS = 12
_APART = np.array([0.3, 0.05])  # of the width and height of the map, as much as a label takes


def draw_map(made: ProteomeMap) -> Figure:
    """Genes in the plane, coloured by their first location where the table has locations, else by cluster.

    The largest labelled clusters are named at their position.
    """
    genes = made.genes
    first = np.array([text.split(";")[0] for text in genes["locations"]], dtype=object)
    if not any(first):
        first = np.array([name.split(".")[0] for name in genes["cluster"]], dtype=object)
    names, counts = np.unique(first[first != ""].astype(str), return_counts=True)
    ranked = [str(name) for name in names[np.argsort(-counts, kind="stable")]][:_MOST_NAMES]
    known, spare = location_colours(), matplotlib.colormaps["tab20"]
    with figure_of(170, 120) as (figure, axes):
        # A thin edge keeps yellow apart from the paper.
        edge: Any = {"edgecolors": "#00000066", "linewidths": 0.2}
        size = float(np.clip(6000 / len(genes), 1.5, 14))
        other = ~np.isin(first.astype(str), ranked)
        x, y = genes["x"].to_numpy(), genes["y"].to_numpy()
        axes.scatter(x[other], y[other], s=size, color=_OTHER, label="other" if other.any() else None)
        for place, name in enumerate(ranked):
            rows = first == name
            axes.scatter(x[rows], y[rows], s=size, color=known.get(name, spare(place % 20)), label=name, **edge)
        for text, position in _cluster_labels(made, ranked):
            drawn = axes.annotate(text, position, fontsize=6.5, ha="center", va="center")
            drawn.set_path_effects([withStroke(linewidth=2, foreground="white")])
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title(f"{len(genes):,} genes, {made.summary['clusters'] - 1} clusters", loc="left", fontsize=9)
        figure.legend(loc="outside right center", markerscale=max(1.0, 3 / size**0.5), fontsize=7)
    return figure


def _cluster_labels(made: ProteomeMap, in_legend: Sequence[str]) -> list[tuple[str, tuple[float, float]]]:
    """Best terms of the largest labelled clusters, amid their genes.

    Each label is drawn once, unless the legend contains it already or it would cover another one.
    """
    places = made.genes[["x", "y"]].to_numpy()
    apart = np.ptp(places, axis=0) * _APART
    labels: dict[str, tuple[float, float]] = {}
    for cluster in sorted(made.hierarchy.clusters, key=lambda cluster: -len(cluster.members)):
        term = made.labels.get(cluster.name)
        if not term or term in labels or term in in_legend or len(labels) >= _MOST_LABELS:
            continue
        middle = np.median(places[cluster.members], axis=0)
        if not any((np.abs(middle - other) < apart).all() for other in labels.values()):
            labels[term] = (float(middle[0]), float(middle[1]))
    return [(term if len(term) <= 28 else term[:27] + "…", position) for term, position in labels.items()]
