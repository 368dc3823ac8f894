"""HiDeF's hierarchy (Zheng et al. 2021, doi 10.1186/s13059-020-02228-4) on seeded Leiden partitions.

HiDeF's own sampling forks processes, ignores weights, has no seed, and imports a package that recent setuptools broke.
Here partitions and the search for communities that persist over resolutions are ours, as its paper describes them;
HiDeF's weaver makes them a hierarchy, in which a community may have two parents.
"""

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from subcell_hf.errors import InputError
from subcell_hf.evaluation.proteome_map.hierarchy import ROOT, Cluster, Hierarchy, leiden_partition

_NEIGHBOURHOOD = 0.1  # HiDeF's default distance, in powers of ten, within which resolutions are compared
_PER_NEIGHBOURHOOD = 6


def persistent_communities(
    connectivities: Any,
    *,
    lowest: float = 0.1,
    highest: float = 10.0,
    persistence: int = 5,
    similarity: float = 0.75,
    consensus_percent: int = 75,
    min_size: int = 4,
    seed: int = 0,
) -> Hierarchy:
    """Weave the communities that persist over resolutions into a hierarchy.

    Args:
        connectivities: Symmetric weights [genes, genes], scipy sparse.
        lowest: Resolution to begin at.
        highest: Resolution to end at.
        persistence: Resolutions at which a community must be seen (HiDeF's chi).
        similarity: Jaccard index above which communities of near resolutions are the same, and containment above which
            one lies in another (HiDeF's tau).
        consensus_percent: A gene belongs where it was in more than this share of the sightings (HiDeF's p).
        min_size: Smaller communities are left out.
        seed: Same graph, same seed, same hierarchy.

    Raises:
        InputError: If HiDeF is not installed, resolutions do not rise, or nothing persists.
    """
    if not 0 < lowest < highest:
        raise InputError(f"Resolutions must be positive and rise, got {lowest} to {highest}.")
    try:
        from hidef import weaver
    except ModuleNotFoundError as error:
        raise InputError(
            f"HiDeF's hierarchy needs the extra hidef ({error.name} is missing): pip install 'subcell-hf[hidef]', or "
            "use --hierarchy leiden."
        ) from error
    logging.getLogger("hidef").setLevel(logging.WARNING)
    steps = max(int(np.ceil(np.log10(highest / lowest) / _NEIGHBOURHOOD * _PER_NEIGHBOURHOOD)), 1)
    resolutions = np.geomspace(lowest, highest, steps + 1)
    places, seen = _sample(connectivities, resolutions, min_size, seed)
    found = _persistent(places, seen, persistence, similarity, consensus_percent / 100, min_size)
    if not found:
        raise InputError(
            f"No community persists over {persistence} resolutions between {lowest:g} and {highest:g}; use "
            "--hierarchy leiden."
        )
    lengths = [0, *(length for _, length in found)]
    members = [np.ones(connectivities.shape[0]), *(binary.astype(float) for binary, _ in found)]
    woven = weaver.Weaver()
    woven.weave(members, boolean=True, levels=False, merge=True, cutoff=similarity)
    return _to_hierarchy(woven, lengths, connectivities.shape[0])


def _sample(
    connectivities: Any, resolutions: npt.NDArray[np.float64], min_size: int, seed: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Every community of every resolution: number of its resolution [communities], members [communities, genes]."""
    places, rows = [], []
    for place, resolution in enumerate(resolutions):
        membership = leiden_partition(connectivities, float(resolution), seed)
        for number in range(int(membership.max()) + 1):
            inside = membership == number
            if inside.sum() >= min_size:
                places.append(place)
                rows.append(inside)
    return np.array(places, dtype=np.intp), np.array(rows).reshape(len(rows), connectivities.shape[0])


def _persistent(
    places: npt.NDArray[np.intp],
    seen: npt.NDArray[np.bool_],
    persistence: int,
    similarity: float,
    consensus: float,
    min_size: int,
) -> list[tuple[npt.NDArray[np.bool_], int]]:
    """Communities seen again and again: their consensus members and how often they were seen, larger ones first."""
    import networkx

    weights = csr_array(seen.astype(np.float64))
    common = (weights @ weights.T).tocoo()
    sizes = seen.sum(axis=1)
    jaccard = common.data / (sizes[common.row] + sizes[common.col] - common.data)
    alike = (jaccard > similarity) & (common.row < common.col)
    rows, columns = common.row[alike], common.col[alike]
    near = np.abs(places[rows] - places[columns]) < _PER_NEIGHBOURHOOD
    graph = networkx.Graph(zip(rows[near].tolist(), columns[near].tolist(), strict=True))
    whole = networkx.Graph(zip(rows.tolist(), columns.tolist(), strict=True))
    found = []
    for component in networkx.connected_components(graph):
        for sightings in networkx.community.k_clique_communities(whole.subgraph(component), persistence):
            members = seen[sorted(sightings)].mean(axis=0) > consensus
            if members.sum() >= min_size:
                found.append((members, len(sightings)))
    return sorted(found, key=lambda item: (-int(item[0].sum()), np.flatnonzero(item[0]).tolist()))


def _to_hierarchy(woven: Any, lengths: list[int], genes: int) -> Hierarchy:
    """HiDeF's graph as clusters; names by size."""
    members: dict[Any, npt.NDArray[np.intp]] = {}
    seen: dict[Any, int] = {}
    for node, data in woven.hier.nodes(data=True):
        if isinstance(node, tuple):
            indices = data["index"] if isinstance(data["index"], tuple) else (data["index"],)
            members[node] = np.flatnonzero(woven._assignment[indices[0]])
            seen[node] = sum(lengths[index] for index in indices)
    order = sorted(members, key=lambda node: (-len(members[node]), members[node].tolist()))
    if len(members[order[0]]) != genes:
        raise InputError("HiDeF's hierarchy has no root that holds every gene; use --hierarchy leiden.")
    names = {node: ROOT if place == 0 else f"H{place}" for place, node in enumerate(order)}
    clusters = [
        Cluster(
            name=names[node],
            parents=tuple(sorted((names[above] for above in woven.hier.predecessors(node)), key=_place)),
            members=members[node],
            resolution=0.0,
            persistence=seen[node],
        )
        for node in order
    ]
    return Hierarchy(tuple(clusters), np.zeros((0, genes), dtype=np.int64), ())


def _place(name: str) -> int:
    """Rank by size."""
    return 0 if name == ROOT else int(name[1:])
