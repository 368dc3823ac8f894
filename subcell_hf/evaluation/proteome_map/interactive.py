"""The interactive map: one HTML file that needs no network."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subcell_hf.evaluation.proteome_map.map import ProteomeMap
from subcell_hf.ontology import location_colours
from subcell_hf.pages.rendering import render_page

_FOLDER = Path(__file__).parent / "page"
_MOST_TERMS = 8
_SIGNIFICANT = 0.05


def draw_page(made: ProteomeMap, title: str, thumbnails: Mapping[str, list[bytes]] | None = None) -> str:
    """The page.

    Args:
        made: The map.
        title: Its heading.
        thumbnails: Gene → JPEG bytes of example cells.

    Returns:
        HTML with style, script and data inside. Names from the table are data, never markup.
    """
    return render_page(_FOLDER, "map.html.j2", data=_page_data(made, title, thumbnails or {}))


def _page_data(made: ProteomeMap, title: str, thumbnails: Mapping[str, list[bytes]]) -> dict[str, Any]:
    """What the script draws."""
    genes, summary = made.genes, made.summary
    number = {cluster.name: place for place, cluster in enumerate(made.hierarchy.clusters)}
    return {
        "title": title,
        "summary": (
            f"{summary['genes']:,} genes in {summary['clusters'] - 1:,} clusters, from {summary['cells']:,} cells in "
            f"{summary['fields_of_view']:,} fields of view"
        ),
        "tested": bool(summary["enrichment"]["collections"]),
        "colours": location_colours(),
        "genes": {
            "name": genes["gene"].tolist(),
            "x": [round(float(value), 3) for value in genes["x"]],
            "y": [round(float(value), 3) for value in genes["y"]],
            "locations": genes["locations"].tolist(),
            "antibody": genes["antibody"].tolist(),
            "reliability": genes["reliability"].tolist(),
            "cells": [int(count) for count in genes["cells"]],
            "cluster": [number[name] for name in genes["cluster"]],
        },
        "levels": [
            {"name": f"clusters at resolution {resolution:g} ({int(level.max()) + 1})", "membership": level.tolist()}
            for resolution, level in zip(made.hierarchy.resolutions, made.hierarchy.levels, strict=True)
            if level.max() > 0
        ],
        "clusters": _clusters(made, number),
        "pictures": {
            str(row): [base64.b64encode(picture).decode() for picture in thumbnails[gene]]
            for row, gene in enumerate(genes["gene"])
            if gene in thumbnails
        },
    }


def _clusters(made: ProteomeMap, number: Mapping[str, int]) -> list[dict[str, Any]]:
    """Clusters with their best terms."""
    significant = made.enrichment[made.enrichment["q_value"] < _SIGNIFICANT]
    terms: dict[str, list[list[object]]] = {}
    for row in significant.itertuples(index=False):
        listed = terms.setdefault(row.cluster, [])
        if len(listed) < _MOST_TERMS:
            listed.append([row.collection, row.term, row.overlap, row.term_size, f"{row.q_value:.1e}"])
    return [
        {
            "name": cluster.name,
            "parents": [number[parent] for parent in cluster.parents],
            "depth": made.hierarchy.depth(cluster.name),
            "members": cluster.members.tolist(),
            "resolution": cluster.resolution,
            "persistence": cluster.persistence,
            "label": made.labels.get(cluster.name, ""),
            "terms": terms.get(cluster.name, []),
        }
        for cluster in made.hierarchy.clusters
    ]
