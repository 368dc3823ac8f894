"""Proteome map: embeddings of cells → one point per gene → nested clusters with their enriched terms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from subcell_hf.errors import InputError
from subcell_hf.evaluation.proteome_map.antibody_choice import choose_antibodies
from subcell_hf.evaluation.proteome_map.correction import Components, batch_share, correct_batches, principal_components
from subcell_hf.evaluation.proteome_map.enrichment import (
    GeneSets,
    locations_of_table,
    over_representation,
    read_background,
    read_corum,
    read_gmt,
    read_hpa_locations,
)
from subcell_hf.evaluation.proteome_map.field_means import FieldMeans, average_fields
from subcell_hf.evaluation.proteome_map.graph import MIN_GENES, GeneGraph, neighbour_graph
from subcell_hf.evaluation.proteome_map.hierarchy import DEFAULT_RESOLUTIONS, Hierarchy, nested_leiden
from subcell_hf.settings import Setting, column_values

AUTOMATIC_BATCHES = ("plate", "microscope")
HIERARCHIES = ("leiden", "hidef")

_LABEL_Q = 0.05


def parse_resolutions(text: str) -> tuple[float, ...]:
    """Numbers with commas between them.

    Raises:
        InputError: If one is no number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{text!r} are not comma-separated numbers, such as 0.25,1,4.") from error


def _read_where(texts: Sequence[str]) -> dict[str, str]:
    return dict(column_values(texts))


def _read_correct(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name != "none")


@dataclass(frozen=True)
class MapSettings:
    """How a map is made.

    Attributes:
        where: Use only cells with COLUMN=VALUE, such as cell_line=U2OS; repeatable. In Python, `{column: value}`.
        reliability: Column with the reliability of antibodies (Enhanced, Supported, Approved, Uncertain); it may be
            missing.
        antibody_choice: Choice among equally reliable antibodies: cells (most cells) or consistency (of fields).
        correct: Column to correct for, or none; repeatable; default: plate and microscope, if available. In Python,
            a tuple; empty: no correction.
        components: Number of principal components of the fields of view.
        neighbours: Number of neighbours of each gene, including itself.
        metric: Distance between genes: cosine or euclidean.
        hierarchy: leiden, or hidef (requires the extra hidef).
        resolutions: Comma-separated increasing resolutions; HiDeF uses the first and the last. In Python, a tuple.
        min_size: Minimum number of genes in a cluster.
        gene_sets: GMT file of gene sets; repeatable.
        hpa_locations: subcellular_location.tsv (or .tsv.gz) of the Human Protein Atlas.
        corum: CSV of complexes with columns complex and gene_names, one row per member.
        background: Background genes for the tests, one per line; default: the genes of the map.
        seed: Random seed; the same seed gives identical output.
    """

    where: Annotated[Mapping[str, str] | None, Setting(parse=_read_where, repeatable=True)] = None
    reliability: Annotated[str, Setting("--reliability-column")] = "reliability"
    antibody_choice: str = "cells"
    correct: Annotated[tuple[str, ...] | None, Setting(parse=_read_correct, repeatable=True)] = None
    components: int = 64
    neighbours: int = 30
    metric: str = "cosine"
    hierarchy: str = "leiden"
    resolutions: Annotated[
        tuple[float, ...],
        Setting(parse=parse_resolutions, default=",".join(f"{value:g}" for value in DEFAULT_RESOLUTIONS)),
    ] = DEFAULT_RESOLUTIONS
    min_size: int = 4
    gene_sets: tuple[Path, ...] = ()
    hpa_locations: Path | None = None
    corum: Path | None = None
    background: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class ProteomeMap:
    """A map of genes.

    Attributes:
        genes: One row per gene in order: `gene`, `antibody`, `cells`, `fields`, `reliability`, `locations`, `x`, `y`
            (UMAP), `cluster` (smallest it is in).
        embeddings: float64 [genes, components], corrected.
        graph: Neighbours.
        hierarchy: Clusters.
        labels: Cluster name → its best term, or nothing.
        antibodies: As `choose_antibodies` gives it.
        enrichment: As `over_representation` gives it.
        example_cells: Gene → ids of its cells.
        summary: What a report says, as plain data.
    """

    genes: pd.DataFrame
    embeddings: npt.NDArray[np.float64]
    graph: GeneGraph
    hierarchy: Hierarchy
    labels: dict[str, str]
    antibodies: pd.DataFrame
    enrichment: pd.DataFrame
    example_cells: dict[str, list[str]]
    summary: dict[str, Any]


def make_map(table: Path, settings: MapSettings) -> ProteomeMap:
    """Make the map of a table of cells.

    Args:
        table: Any embedding table with a column `gene`.
        settings: How.

    Raises:
        InputError: If the table or a setting does not allow it; the message says which.
    """
    if settings.hierarchy not in HIERARCHIES:
        raise InputError(f"Unknown hierarchy {settings.hierarchy!r}: choose one of {', '.join(HIERARCHIES)}.")
    batches = AUTOMATIC_BATCHES if settings.correct is None else settings.correct
    columns = (settings.reliability, "locations", *batches)
    means = average_fields(table, columns, settings.where)
    antibodies = choose_antibodies(
        means.fields, means.embeddings, by=settings.antibody_choice, reliability=settings.reliability
    )
    if antibodies["gene"].nunique() < MIN_GENES:
        raise InputError(f"A map needs at least {MIN_GENES} genes, got {antibodies['gene'].nunique()}.")
    components, correction = _correct(means, batches, settings)
    genes, embeddings = _average_genes(means, components.scores, antibodies)
    graph = neighbour_graph(embeddings, neighbours=settings.neighbours, metric=settings.metric, seed=settings.seed)
    hierarchy = _find_hierarchy(graph, settings)
    enrichment, tested = _enrich(hierarchy, genes, settings)
    labels = best_terms(enrichment)
    placed = genes.assign(
        x=graph.positions[:, 0], y=graph.positions[:, 1], cluster=_smallest_clusters(hierarchy, len(genes))
    )
    summary = {
        "cells": int(genes["cells"].sum()),
        "cells_of_table": len(means.cells) + sum(means.left_out.values()),
        "cells_left_out": means.left_out,
        "cells_of_other_antibodies": len(means.cells) - int(genes["cells"].sum()),
        "fields_of_view": len(means.fields),
        "antibodies": len(antibodies),
        "genes": len(genes),
        "variance_kept": float(components.explained.sum()),
        "correction": correction,
        "neighbours": graph.neighbours,
        "pieces_of_the_graph": graph.pieces,
        "hierarchy": settings.hierarchy,
        "clusters": len(hierarchy.clusters),
        "levels": describe_levels(hierarchy, genes),
        "enrichment": tested,
        "seed": settings.seed,
    }
    return ProteomeMap(
        placed, embeddings, graph, hierarchy, labels, antibodies, enrichment, _example_cells(means, antibodies), summary
    )


def best_terms(enrichment: pd.DataFrame) -> dict[str, str]:
    """Cluster → its most significant term, where q < 0.05."""
    good = enrichment[enrichment["q_value"] < _LABEL_Q].drop_duplicates("cluster")
    return dict(zip(good["cluster"], good["term"], strict=True))


def describe_levels(hierarchy: Hierarchy, genes: pd.DataFrame) -> list[dict[str, float | int | None]]:
    """Clusters at each resolution, and how well they agree with the first location of the table's genes.

    The agreement is the adjusted Rand index over genes with a location: 1 for the same grouping, 0 at chance; None
    where fewer than two genes have one.
    """
    from sklearn.metrics import adjusted_rand_score

    first = np.array([text.split(";")[0] for text in genes["locations"]])
    known = first != ""
    described: list[dict[str, float | int | None]] = []
    for resolution, level in zip(hierarchy.resolutions, hierarchy.levels, strict=True):
        agreement = float(adjusted_rand_score(first[known], level[known])) if known.sum() > 1 else None
        described.append(
            {"resolution": resolution, "clusters": int(level.max()) + 1, "agreement_with_locations": agreement}
        )
    return described


def _correct(means: FieldMeans, batches: Sequence[str], settings: MapSettings) -> tuple[Components, dict[str, Any]]:
    """Principal components, corrected if asked for, and what that did."""
    raw = principal_components(means.embeddings, means.fields["cells"].to_numpy(np.float64), settings.components)
    wanted = batches if settings.correct is not None else [name for name in batches if name in means.fields.columns]
    corrected = correct_batches(raw, means.fields, wanted, settings.seed)
    notes = list(corrected.notes)
    if settings.correct is None and not wanted:
        notes.append(f"the table has no column {' or '.join(AUTOMATIC_BATCHES)}: nothing was corrected for")
    genes = means.fields["gene"].to_numpy(dtype=object)
    effect = {
        name: {
            "share_of_variance_before": _finite(batch_share(raw.scores, genes, means.fields[name])),
            "share_of_variance_after": _finite(batch_share(corrected.scores, genes, means.fields[name])),
        }
        for name in corrected.corrected
    }
    return corrected, {"columns": list(corrected.corrected), "effect": effect, "notes": notes}


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if np.isfinite(value) else None


def _average_genes(
    means: FieldMeans, scores: npt.NDArray[np.float64], antibodies: pd.DataFrame
) -> tuple[pd.DataFrame, npt.NDArray[np.float64]]:
    """Mean over the cells of the chosen antibody of each gene."""
    chosen = antibodies[antibodies["chosen"]].sort_values("gene", ignore_index=True)
    fields = means.fields
    place = dict(zip(chosen["antibody"], range(len(chosen)), strict=True))
    rows = fields["antibody"].map(place)
    used = rows.notna().to_numpy()
    codes = rows[used].to_numpy(dtype=np.intp)
    weights = fields.loc[used, "cells"].to_numpy(np.float64)
    sums = np.zeros((len(chosen), scores.shape[1]))
    np.add.at(sums, codes, scores[used] * weights[:, None])
    embeddings = sums / np.bincount(codes, weights=weights)[:, None]
    genes = chosen[["gene", "antibody", "cells", "fields", "consistency", "reliability"]].copy()
    genes["locations"] = _common_locations(fields[used], codes, len(chosen))
    return genes, embeddings


def _common_locations(fields: pd.DataFrame, codes: npt.NDArray[np.intp], count: int) -> list[str]:
    """Locations of each gene, joined by `;`: those of its fields, in order of appearance."""
    if "locations" not in fields.columns:
        return [""] * count
    found: list[dict[str, None]] = [{} for _ in range(count)]
    for code, text in zip(codes, fields["locations"], strict=True):
        found[code].update(dict.fromkeys(name.strip() for name in str(text).split(";") if name.strip()))
    return [";".join(names) for names in found]


def _find_hierarchy(graph: GeneGraph, settings: MapSettings) -> Hierarchy:
    """Leiden's or HiDeF's."""
    if settings.hierarchy == "leiden":
        return nested_leiden(graph.connectivities, settings.resolutions, min_size=settings.min_size, seed=settings.seed)
    from subcell_hf.evaluation.proteome_map.consensus import persistent_communities

    return persistent_communities(
        graph.connectivities,
        lowest=settings.resolutions[0],
        highest=settings.resolutions[-1],
        min_size=settings.min_size,
        seed=settings.seed,
    )


def _enrich(hierarchy: Hierarchy, genes: pd.DataFrame, settings: MapSettings) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Over-representation in every cluster below the root."""
    names = genes["gene"].tolist()
    collections: list[GeneSets] = [read_gmt(path) for path in settings.gene_sets]
    if settings.hpa_locations is not None:
        collections.append(read_hpa_locations(settings.hpa_locations, names))
    if settings.corum is not None:
        collections.append(read_corum(settings.corum, names))
    own = locations_of_table(
        {name: [part for part in text.split(";") if part] for name, text in zip(names, genes["locations"], strict=True)}
    )
    if own.sets:
        collections.append(own)
    background = frozenset(names) if settings.background is None else read_background(settings.background)
    clusters = {c.name: [names[row] for row in c.members] for c in hierarchy.clusters if c.parents}
    tested = {
        "collections": [{"name": c.name, "terms": len(c.sets)} for c in collections],
        "background": "the genes of the map" if settings.background is None else settings.background.name,
        "background_genes": len(background),
        "genes_of_the_map_outside_of_it": len(set(names) - background),
    }
    if not clusters or not collections:
        return over_representation({"all": names}, [], frozenset(names)), tested
    return over_representation(clusters, collections, background), tested


def _smallest_clusters(hierarchy: Hierarchy, genes: int) -> list[str]:
    """The smallest cluster of each gene."""
    smallest = [""] * genes
    for cluster in sorted(hierarchy.clusters, key=lambda cluster: -len(cluster.members)):
        for row in cluster.members.tolist():
            smallest[row] = cluster.name
    return smallest


def _example_cells(means: FieldMeans, antibodies: pd.DataFrame) -> dict[str, list[str]]:
    """Ids of the cells of each gene's chosen antibody, in the table's order."""
    gene_of = dict(zip(antibodies["antibody"], antibodies["gene"], strict=True))
    chosen = set(antibodies.loc[antibodies["chosen"], "antibody"])
    antibody = means.fields["antibody"].to_numpy(dtype=object)[means.cells["field"].to_numpy()]
    cells: dict[str, list[str]] = {}
    for cell_id, name in zip(means.cells["cell_id"], antibody, strict=True):
        if name in chosen:
            cells.setdefault(gene_of[name], []).append(cell_id)
    return cells
